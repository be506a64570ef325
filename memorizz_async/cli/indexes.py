"""`memorizz-async indexes`."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from memorizz_async.cli import options
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.runtime import run_on_provider

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
    from memorizz_async.memory_provider.mongodb.indexes import IndexReport

_INDEX_TIMEOUT_MS = 600_000
"""A large collection takes minutes."""


@click.command(epilog=options.EXIT_CODES)
@options.database_options()
@options.output_options
def command(uri: str | None, db: str | None, as_json: bool) -> None:
    """Create every missing index, and wait until the search indexes answer.

    Search indexes are created where the server has vector search. Running it again is safe.
    """
    from memorizz_async.terminal.index_view import IndexSpinner, report_lines

    with IndexSpinner(console(stderr=True)) as spinner:

        def ensure(provider: AsyncMongoDBProvider) -> Awaitable[IndexReport]:
            return provider.ensure_indexes_async(
                progress=spinner.update, timeout_ms=_INDEX_TIMEOUT_MS
            )

        report = run_on_provider(ensure, uri=uri, db=db, spinner=False)
    if as_json:
        print_json(asdict(report))
    else:
        print("\n".join(report_lines(report)))
