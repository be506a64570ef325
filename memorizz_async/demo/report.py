"""What the demo shows: a table of what was found for each question, and one of the time."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from memorizz_async.demo.asking import Asked
from memorizz_async.demo.screen import Screen
from memorizz_async.demo.serving import Database, Model
from memorizz_async.enums import MemoryType
from memorizz_async.memory_provider.mongodb.spoken import text_of
from memorizz_async.redaction import redact_uri
from memorizz_async.results import Timings
from memorizz_async.retrieval.memory_signal import moment

_STRATEGIES = {
    "scan": "exact, over every vector of the memory_id",
    "resident": "exact, in memory, kept fresh by a change stream",
    "atlas": "$vectorSearch",
}
_LONGEST = 110  # characters of a memory that are shown


def label(type_name: str) -> str:
    """The short name of a memory type: `LONG_TERM_MEMORY` is `long-term`."""
    return type_name.upper().removesuffix("_MEMORY").lower().replace("_", "-")


def _table() -> Table:
    return Table(
        box=SIMPLE_HEAD, pad_edge=False, expand=True, header_style="dim", padding=(0, 1, 0, 0)
    )


def memories_table(
    results: Mapping[str, Sequence[Mapping[str, Any]]], marks: Mapping[str, str] | None = None
) -> Table:
    """What was found, type by type. marks: row id -> a sign in front of its text."""
    table = _table()
    table.add_column("found in", style="cyan", no_wrap=True)
    table.add_column("memory", ratio=1)
    table.add_column("from", style="dim", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("signal", justify="right", no_wrap=True)
    for type_name, hits in results.items():
        if not hits:
            table.add_row(label(type_name), Text("nothing", style="dim"), "", "", "")
        for position, hit in enumerate(hits):
            at = moment(hit.get("timestamp")) or moment(hit.get("created_at"))
            sign = (marks or {}).get(hit["_id"], "")
            text = Text(f"{sign} " if sign else "", style="bold yellow" if sign else "")
            shown = textwrap.shorten(text_of(hit["content"]), _LONGEST, placeholder=" …")
            text.append(shown, style="bold" if sign else "")
            table.add_row(
                label(type_name) if position == 0 else "",
                text,
                f"{at:%Y-%m-%d}" if at else "",
                f"{hit['score']:.3f}",
                f"{hit['memory_signal']:.3f}",
            )
    return table


def times_line(timings: Timings) -> Text:
    """Where the time of one recall went."""
    in_order = sorted(timings.queries_ms.items(), key=lambda query: query[1], reverse=True)
    queries = ", ".join(f"{label(name)} {took:.1f}" for name, took in in_order)
    return Text(
        f"{timings.total_ms:.1f} ms: embedding {timings.embedding_ms:.1f}, then together {queries}",
        style="dim",
    )


def question_view(asked: Asked, number: int, count: int, screen: Screen) -> Group:
    """A question, what was recalled for it, and how long that took."""
    marks = {
        hit["_id"]: screen.star
        for hits in asked.results.values()
        for hit in hits
        if asked.is_evidence(hit)
    }
    heading = Text.assemble(
        (f"{number}/{count}  ", "dim"), (asked.question.text, "bold"), overflow="fold"
    )
    about = Text.assemble(
        ("memory_id ", "dim"),
        asked.conversation.name,
        ("   expected answer ", "dim"),
        asked.question.answer or "none is known",
    )
    below = times_line(asked.timings).append(f". One by one: {asked.sequential_ms:.1f} ms.")
    return Group(heading, about, memories_table(asked.results, marks), below, "")


def times_table(asked: Sequence[Asked], screen: Screen) -> Table:
    """Where the time went: every part as its median over the questions, with a bar."""
    table = _table()
    table.add_column("milliseconds", no_wrap=True)
    for name in ("median", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True)
    parts = parts_of(asked)
    longest = max(median(values) for values in parts.values())
    width = max(8, screen.console.width - 55)
    for name, values in parts.items():
        bar = screen.block * max(1, round(width * median(values) / longest))
        style = {"recall": "bold green", "one after another": "bold"}.get(name, "")
        table.add_row(
            name,
            *(f"{figure:.1f}" for figure in (median(values), min(values), max(values))),
            bar,
            style=style,
            end_section=name.startswith("query") and name == list(parts)[-3],
        )
    return table


def parts_of(asked: Sequence[Asked]) -> dict[str, list[float]]:
    """Milliseconds of each part of a recall, one number a question."""
    parts: dict[str, list[float]] = {"embedding the query": []}
    for one in asked:
        parts["embedding the query"].append(one.timings.embedding_ms)
        for type_name in one.results:
            took = one.timings.queries_ms[type_name]
            parts.setdefault(f"query: {label(type_name)}", []).append(took)
    parts["recall"] = [one.timings.total_ms for one in asked]
    parts["one after another"] = [one.sequential_ms for one in asked]
    return parts


def figures(
    asked: Sequence[Asked],
    *,
    database: Database,
    model: Model,
    conversations: int,
    stored: Mapping[MemoryType, int],
    written: int,
    ingest_s: float,
) -> dict[str, Any]:
    """Everything as numbers and names, for `--json`; no memory's text."""
    return {
        "database": asdict(database),
        "model": asdict(model),
        "conversations": conversations,
        "stored": {kind.name: count for kind, count in stored.items()},
        "written": written,
        "ingest_seconds": round(ingest_s, 3),
        "questions": [_figures_of(one) for one in asked],
        "median_ms": {name: round(median(values), 3) for name, values in parts_of(asked).items()},
        "times_faster": round(times_faster(asked), 2),
    }


def conclusion(asked: Sequence[Asked], database: Database, model: Model) -> Group:
    """What it comes to, and what served it."""
    strategies = {hits.strategy for one in asked for hits in one.results.values()}
    modes = {hits.mode for one in asked for hits in one.results.values()}
    found = sum(one.found for one in asked)
    vectors = ", ".join(sorted(_STRATEGIES.get(name, name) for name in strategies))
    served = {
        "server": str(database),
        "data": f"database {database.name}" + (f" in {database.folder}" if database.folder else ""),
        "search": f"{', '.join(sorted(modes))}; vectors: {vectors}",
        "model": f"{model.name} on {model.device}",
    }
    return Group(
        Text.assemble(
            (f"{times_faster(asked):.1f} times faster", "bold green"),
            f" than one type after another. The memory with the answer was found for {found} of "
            f"{len(asked)} questions.",
        ),
        "",
        *(Text.assemble((f"{name:8}", "dim"), said) for name, said in served.items()),
        "",
    )


def what_next(asked: Sequence[Asked], database: Database, uri: str | None) -> str:
    """Three lines to go on with. uri: the one that was asked for, if any."""
    if database.address is None:
        return "memory:// is forgotten now. Leave --uri out, and a real MongoDB keeps what it has."
    first = asked[0]
    place = f" --uri '{redact_uri(uri)}'" if uri else ""
    return (
        "What next\n"
        f'  memorizz-async recall "{first.question.text}" --memory-id {first.conversation.name} '
        f"--db {database.name}{place}\n"
        f'  memorizz-async store "I like my coffee black" --memory-id me{place}\n'
        "  memorizz-async --help"
    )


def times_faster(asked: Sequence[Asked]) -> float:
    """The sequential way over the parallel one, both as medians."""
    parts = parts_of(asked)
    return median(parts["one after another"]) / median(parts["recall"])


def _figures_of(asked: Asked) -> dict[str, Any]:
    return {
        "memory_id": asked.conversation.name,
        "category": asked.question.category,
        "evidence_found": asked.found,
        "strategy": sorted({hits.strategy for hits in asked.results.values()}),
        "found": {
            name: [
                {"score": round(hit["score"], 4), "memory_signal": round(hit["memory_signal"], 4)}
                for hit in hits
            ]
            for name, hits in asked.results.items()
        },
        "embedding_ms": round(asked.timings.embedding_ms, 3),
        "queries_ms": {k: round(took, 3) for k, took in asked.timings.queries_ms.items()},
        "total_ms": round(asked.timings.total_ms, 3),
        "sequential_ms": round(asked.sequential_ms, 3),
    }
