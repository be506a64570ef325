"""`memorizz-async recall`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memorizz_async.cli.arguments import (
    Commands,
    Shared,
    json_filter,
    limit,
    memory_type,
    query,
    tenant_of,
)
from memorizz_async.cli.output import console, error_as_json, print_error, print_json
from memorizz_async.cli.running import on_provider

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
    from memorizz_async.results import RecallResults


def add(commands: Commands, shared: Shared) -> None:
    """Register the `recall` subcommand."""
    recall = commands.add_parser(
        "recall",
        parents=[shared.tenant, shared.database, shared.machine, shared.everywhere],
        help="find memories, in several types at once",
        description="Finds the memories that are closest to a text, in several types at once.",
    )
    recall.add_argument(
        "query", type=query, metavar="QUERY", help="the text to recall memories for"
    )
    recall.add_argument(
        "--type",
        dest="types",
        action="append",
        type=memory_type,
        metavar="TYPE",
        help="a memory type; may be given several times (default: those of a conversation)",
    )
    recall.add_argument(
        "--limit", type=limit, default=5, metavar="N", help="hits a type (default: %(default)s)"
    )
    recall.add_argument(
        "--filter",
        type=json_filter,
        metavar="JSON",
        help='only memories that match, as \'{"role": "user"}\'; a date is ISO text or '
        '{"$date": "2026-01-31T00:00:00Z"}',
    )
    recall.add_argument(
        "--mode",
        choices=("hybrid", "vector", "text"),
        help="how to search (default: hybrid where there is a text index, which `memorizz-async "
        "indexes` makes; else vector)",
    )
    recall.add_argument(
        "--explain", action="store_true", help="show how each memory was found, and by what search"
    )
    recall.set_defaults(run=run, usage=recall)


def run(options: argparse.Namespace) -> None:
    from memorizz_async.demo.explained import explained_view
    from memorizz_async.demo.report import memories_table, times_line
    from memorizz_async.enums import ApplicationMode
    from memorizz_async.memory_unit import MemoryUnit

    tenant = tenant_of(options)
    types = options.types or [kind.name for kind in ApplicationMode.CONVERSATIONAL.memory_types]
    _check(options, types, tenant)

    async def recall(provider: AsyncMongoDBProvider) -> tuple[RecallResults, bool]:
        unit = MemoryUnit(memory_provider=provider)
        found = await unit.retrieve_all_memory_types_async(
            options.query,
            limits=dict.fromkeys(types, options.limit),
            filter=options.filter,
            explain=options.explain,
            mode=options.mode,
            **tenant,
        )
        known = any(found.values()) or bool(found.errors) or await _is_known(provider, tenant)
        return found, known

    results, known = on_provider(options, recall, warm=True)
    for name, error in results.errors.items():
        print_error(error, f"{name}: ")
    if not known:
        whose = " and ".join(f"{name} {value!r}" for name, value in tenant.items())
        print(
            f"note: no memory of {whose} is stored in the database {options.db!r}; check the "
            "spelling, --db and --uri",
            file=sys.stderr,
        )
    if options.json:
        shown: dict[str, Any] = {"results": results, "timings": asdict(results.timings)}
        shown["errors"] = {name: error_as_json(error) for name, error in results.errors.items()}
        shown["tenant_known"] = known
        if options.explain:
            shown["explain"] = {key: asdict(told) for key, told in results.explain.items()}
        print_json(shown)
        return
    screen = console()
    screen.print(memories_table(results), times_line(results.timings))
    for name, told in results.explain.items():
        screen.print(explained_view(name, told))


def _check(options: argparse.Namespace, types: list[str], tenant: dict[str, Any]) -> None:
    """Raise InvalidInputError for what a recall would refuse, before a model is loaded for it."""
    from memorizz_async.memory_provider.mongodb.queries import queries_of

    shared = {"query": options.query, "limit": options.limit, "filter": options.filter}
    queries_of(
        [{"key": kind, "memory_type": kind, **shared, **tenant} for kind in types], dimensions=None
    )


async def _is_known(provider: AsyncMongoDBProvider, tenant: dict[str, Any]) -> bool:
    """Whether the database has any memory of the tenant, of whatever type."""
    from memorizz_async.enums import MemoryType

    for kind in MemoryType:
        if await provider.list_async(kind, limit=1, **tenant):
            return True
    return False
