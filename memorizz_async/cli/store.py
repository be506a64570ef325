"""`memorizz-async store`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from memorizz_async.cli.arguments import Commands, Shared, memory_type, tenant_of
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.running import on_provider
from memorizz_async.errors import DatabaseError

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider


def add(commands: Commands, shared: Shared) -> None:
    """Register the `store` subcommand."""
    store = commands.add_parser(
        "store",
        parents=[shared.tenant, shared.database, shared.machine, shared.everywhere],
        help="write one memory",
        description="Writes one memory, embedded, and prints its id. Creates the ordinary indexes "
        "and the text index of its collection where they are missing.",
    )
    store.add_argument("text", metavar="TEXT", help="the memory; - reads it from standard input")
    store.add_argument(
        "--type",
        dest="kind",
        type=memory_type,
        default="LONG_TERM_MEMORY",
        metavar="TYPE",
        help="default: %(default)s",
    )
    store.add_argument(
        "--dedup-key", metavar="KEY", help="store nothing where a memory has this key already"
    )
    store.set_defaults(run=run, usage=store)


def run(options: argparse.Namespace) -> None:
    tenant = tenant_of(options)
    text = sys.stdin.read() if options.text == "-" else options.text
    memory = {"content": text}
    if options.dedup_key is not None:
        memory["dedup_key"] = options.dedup_key

    async def store(provider: AsyncMongoDBProvider) -> str:
        row_id = await provider.store_async(memory, options.kind, **tenant)
        try:
            await provider.ensure_indexes_async([options.kind], search=False)
        except DatabaseError as error:  # the memory is stored: a missing right is no failure
            print(
                f"note: the indexes of {options.kind} were not created ({error.what}); recall goes "
                "by vectors alone until somebody who may runs `memorizz-async indexes`",
                file=sys.stderr,
            )
        return row_id

    row_id = on_provider(options, store)
    if options.json:
        print_json({"_id": row_id, "memory_type": options.kind})
    else:
        console().print(f"stored {row_id} in {options.kind}")
