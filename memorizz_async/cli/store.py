"""`memorizz-async store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from memorizz_async.cli import options
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.runtime import print_note, read_standard_input, run_on_provider
from memorizz_async.errors import DatabaseError

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider


@click.command(epilog=options.TYPES_AND_EXIT_CODES)
@click.argument("text", type=options.TEXT)
@options.tenant_options
@click.option(
    "--type",
    "kind",
    type=options.MEMORY_TYPE,
    default="LONG_TERM_MEMORY",
    show_default=True,
    metavar="TYPE",
    help="Memory type.",
)
@click.option(
    "--dedup-key",
    type=options.TEXT,
    metavar="KEY",
    help="Store nothing if a memory of this tenant has this key already.",
)
@options.database_options()
@options.output_options
def command(
    *,
    text: str,
    memory_id: str | None,
    user_id: str | None,
    kind: str,
    dedup_key: str | None,
    uri: str | None,
    db: str | None,
    as_json: bool,
) -> None:
    """Store TEXT as one memory, with its embedding, and print its id.

    A TEXT of `-` is read from standard input. Creates the ordinary indexes and the text index of
    the collection if they are missing.
    """
    tenant = options.tenant_of(memory_id, user_id)
    memory = {"content": read_standard_input() if text == "-" else text}
    if dedup_key is not None:
        memory["dedup_key"] = dedup_key

    async def store(provider: AsyncMongoDBProvider) -> str:
        row_id = await provider.store_async(memory, kind, **tenant)
        try:
            await provider.ensure_indexes_async([kind], search=False)
        except DatabaseError as error:  # the memory is stored: a missing right is no failure
            print_note(
                f"the indexes of {kind} were not created ({error.what}); recall searches by "
                "vectors alone until a user with the right runs `memorizz-async indexes`"
            )
        return row_id

    row_id = run_on_provider(store, uri=uri, db=db)
    if as_json:
        print_json({"_id": row_id, "memory_type": kind})
    else:
        console().print(f"stored {row_id} in {kind}")
