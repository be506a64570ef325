"""`memorizz-async recall`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from memorizz_async.cli.arguments import (
    Commands,
    Shared,
    json_filter,
    limit,
    memory_type,
    tenant_of,
)
from memorizz_async.cli.output import console, print_error, print_json
from memorizz_async.cli.running import on_provider


def add(commands: Commands, shared: Shared) -> None:
    """The command's words."""
    recall = commands.add_parser(
        "recall",
        parents=[shared.tenant, shared.database, shared.machine, shared.everywhere],
        help="find memories, in several types at once",
        description="Finds the memories that are closest to a text, in several types at once.",
    )
    recall.add_argument("query", metavar="QUERY", help="the text to recall memories for")
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
    results = on_provider(
        options,
        lambda provider: MemoryUnit(memory_provider=provider).retrieve_all_memory_types_async(
            options.query,
            limits=dict.fromkeys(types, options.limit),
            filter=options.filter,
            explain=options.explain,
            mode=options.mode,
            **tenant,
        ),
    )
    for name, error in results.errors.items():
        print_error(error, f"{name}: ")
    if options.json:
        shown = {"results": results, "timings": asdict(results.timings)}
        if options.explain:
            shown["explain"] = {key: asdict(told) for key, told in results.explain.items()}
        print_json(shown)
        return
    screen = console()
    screen.print(memories_table(results), times_line(results.timings))
    for name, told in results.explain.items():
        screen.print(explained_view(name, told))
