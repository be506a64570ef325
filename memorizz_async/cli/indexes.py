"""`memorizz-async indexes`."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable
from dataclasses import asdict
from typing import TYPE_CHECKING

from memorizz_async.cli.arguments import Commands, Shared
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.running import on_provider

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
    from memorizz_async.memory_provider.mongodb.indexes import IndexReport
    from memorizz_async.memory_provider.mongodb.search_index import IndexProgress


_INDEX_TIMEOUT_MS = 600_000
"""A large collection takes minutes."""


def add(commands: Commands, shared: Shared) -> None:
    """Register the `indexes` subcommand."""
    indexes = commands.add_parser(
        "indexes",
        parents=[shared.database, shared.machine, shared.everywhere],
        help="create the indexes that are missing",
        description="Creates every index that is missing, search indexes too where the server has "
        "vector search, and waits until they answer. Safe to run again.",
    )
    indexes.add_argument(
        "--db", metavar="NAME", help="default: the database that the URI names, else memorizz"
    )
    indexes.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    standing: dict[str, str] = {}

    def ensure(provider: AsyncMongoDBProvider) -> Awaitable[IndexReport]:
        return provider.ensure_indexes_async(progress=show, timeout_ms=_INDEX_TIMEOUT_MS)

    def show(told: IndexProgress) -> None:
        standing[told.collection] = told.status
        ready = sum(status == "READY" for status in standing.values())
        spinner.update(
            f"search indexes: {ready} of {len(standing)} ready; "
            f"{told.collection} is {told.status} after {told.waited_s:.0f} s …"
        )

    with console(stderr=True).status("looking at the indexes …") as spinner:
        report = on_provider(options, ensure, spins=False)
    if options.json:
        print_json(asdict(report))
        return
    for collection, names in report.ordinary.items():
        search, text = report.search.get(collection), report.text.get(collection)
        shown = ", ".join(names) or "no ordinary index"
        print(f"{collection}: {shown}, vector search {search}, text search {text}")
        for name, reason in report.skipped.get(collection, {}).items():
            print(f"{collection}: index {name} was skipped: {reason}")
    if not report.search:
        print("No search indexes: this server has no vector search, and is searched exactly.")
