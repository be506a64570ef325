"""`memorizz-async store`."""

from __future__ import annotations

import argparse
import sys

from memorizz_async.cli.arguments import Commands, Shared, memory_type, tenant_of
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.running import on_provider


def add(commands: Commands, shared: Shared) -> None:
    """The command's words."""
    store = commands.add_parser(
        "store",
        parents=[shared.tenant, shared.database, shared.machine, shared.everywhere],
        help="write one memory",
        description="Writes one memory, embedded, and prints its id.",
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
    store.set_defaults(run=run, usage=store)


def run(options: argparse.Namespace) -> None:
    tenant = tenant_of(options)
    text = sys.stdin.read() if options.text == "-" else options.text
    row_id = on_provider(
        options, lambda provider: provider.store_async(text, options.kind, **tenant)
    )
    if options.json:
        print_json({"_id": row_id, "memory_type": options.kind})
    else:
        console().print(f"stored {row_id} in {options.kind}")
