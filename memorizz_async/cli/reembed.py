"""`memorizz-async reembed`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

import click

from memorizz_async.cli import options
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.runtime import run_on_provider
from memorizz_async.errors import ReembedError

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
    from memorizz_async.memory_provider.mongodb.reembedding.report import ReembedReport


@click.command(epilog=options.TYPES_AND_EXIT_CODES)
@options.types_option("all that have memories")
@click.option(
    "--model",
    type=options.TEXT,
    metavar="NAME",
    help="The new model (default: EMB_MODEL, else all-MiniLM-L6-v2).",
)
@click.option(
    "--batch-size",
    type=options.LIMIT,
    default=256,
    show_default=True,
    metavar="N",
    help="Memories per batch.",
)
@click.option(
    "--drop-vectors",
    is_flag=True,
    help="Remove the vectors of memories that have no text (default: do not switch their type).",
)
@options.database_options()
@options.output_options
def command(
    *,
    types: tuple[str, ...],
    model: str | None,
    batch_size: int,
    drop_vectors: bool,
    uri: str | None,
    db: str | None,
    as_json: bool,
) -> None:
    """Embed memories again, with another model, while recall goes on.

    Recall uses the old vectors until a memory type is switched over. After an interruption, the
    next run continues where this one stopped.
    """
    from memorizz_async.terminal.reembed_view import progress_view

    def reembed(provider: AsyncMongoDBProvider) -> Awaitable[ReembedReport]:
        return provider.reembed_async(
            list(types) or None,
            batch_size=batch_size,
            on_unembeddable="drop_vector" if drop_vectors else "raise",
            progress=view.update,
        )

    with progress_view(console(stderr=True)) as view:
        try:
            report = run_on_provider(reembed, uri=uri, db=db, spinner=False, model=model)
        except ReembedError as error:
            if error.report is not None:
                _show(error.report, as_json=as_json)
            raise
    _show(report, as_json=as_json)


def _show(report: ReembedReport, *, as_json: bool) -> None:
    from memorizz_async.terminal.reembed_view import report_as_json, report_table

    if as_json:
        print_json(report_as_json(report))
    else:
        console().print(report_table(report))
