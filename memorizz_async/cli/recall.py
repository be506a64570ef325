"""`memorizz-async recall`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from memorizz_async.cli import options
from memorizz_async.cli.errors import error_as_json, print_error
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.runtime import (
    check_recall,
    default_types,
    has_memories,
    print_note,
    run_on_provider,
)

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
    from memorizz_async.results import RecallResults


@click.command(epilog=options.TYPES_AND_EXIT_CODES)
@click.argument("query", type=options.QUERY)
@options.tenant_options
@options.types_option("those of a conversation")
@click.option(
    "--limit",
    type=options.LIMIT,
    default=5,
    show_default=True,
    metavar="N",
    help="Maximum results per memory type.",
)
@click.option(
    "--filter",
    "condition",
    type=options.JSON_FILTER,
    metavar="JSON",
    help="""Return only memories that match, as '{"role": "user"}'; a date is ISO text or """
    """{"$date": "2026-01-31T00:00:00Z"}.""",
)
@click.option(
    "--mode",
    type=click.Choice(("hybrid", "vector", "text")),
    help="How to search (default: hybrid if there is a text index, which `memorizz-async indexes` "
    "creates, else vector).",
)
@click.option("--explain", is_flag=True, help="Show how each memory was found.")
@options.database_options()
@options.output_options
def command(
    *,
    query: str,
    memory_id: str | None,
    user_id: str | None,
    types: tuple[str, ...],
    limit: int,
    condition: Any,
    mode: Any,
    explain: bool,
    uri: str | None,
    db: str | None,
    as_json: bool,
) -> None:
    """Find the memories closest to QUERY, in several memory types at once."""
    from memorizz_async.memory_unit import MemoryUnit

    tenant = options.tenant_of(memory_id, user_id)
    kinds = types or default_types()
    check_recall(query, kinds, limit=limit, condition=condition, tenant=tenant)

    async def recall(provider: AsyncMongoDBProvider) -> tuple[RecallResults, bool, str]:
        found = await MemoryUnit(memory_provider=provider).retrieve_all_memory_types_async(
            query,
            limits=dict.fromkeys(kinds, limit),
            filter=condition,
            explain=explain,
            mode=mode,
            **tenant,
        )
        known = any(found.values()) or bool(found.errors) or await has_memories(provider, tenant)
        return found, known, provider.config.db_name

    results, known, db_name = run_on_provider(recall, uri=uri, db=db, warm=True)
    for name, error in results.errors.items():
        print_error(error, f"{name}: ")
    if not known:
        owner = " and ".join(f"{name} {value!r}" for name, value in tenant.items())
        print_note(
            f"no memory of {owner} is stored in the database {db_name!r}; check the spelling, "
            "--db and --uri"
        )
    if as_json:
        shown: dict[str, Any] = {"results": results, "timings": asdict(results.timings)}
        shown["errors"] = {name: error_as_json(error) for name, error in results.errors.items()}
        shown["tenant_known"] = known
        if explain:
            shown["explain"] = {name: asdict(one) for name, one in results.explain.items()}
        print_json(shown)
    else:
        _show(results)


def _show(results: RecallResults) -> None:
    from memorizz_async.terminal.explain_view import explain_view
    from memorizz_async.terminal.memory_table import memories_table, times_line

    screen = console()
    screen.print(memories_table(results), times_line(results.timings))
    for name, explanation in results.explain.items():
        screen.print(explain_view(name, explanation))
