"""The output of the demo: a table of hits for each question, and a table of times."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from memorizz_async.demo.environment import Database, Model
from memorizz_async.demo.evaluation import Evaluation
from memorizz_async.demo.screen import Screen
from memorizz_async.enums import MemoryType
from memorizz_async.redaction import redact_uri
from memorizz_async.terminal.memory_table import empty_table, label, memories_table, times_line

_STRATEGIES = {
    "scan": "exact, over every vector of the memory_id",
    "resident": "exact, in memory, kept fresh by a change stream",
    "atlas": "$vectorSearch",
}


def question_view(evaluation: Evaluation, number: int, count: int, screen: Screen) -> Group:
    """A question, what was recalled for it, and how long that took."""
    marks = {
        hit["_id"]: screen.star
        for hits in evaluation.results.values()
        for hit in hits
        if evaluation.is_evidence(hit)
    }
    heading = Text.assemble(
        (f"{number}/{count}  ", "dim"), (evaluation.question.text, "bold"), overflow="fold"
    )
    about = Text.assemble(
        ("memory_id ", "dim"),
        evaluation.conversation.name,
        ("   expected answer ", "dim"),
        evaluation.question.answer or "none is known",
    )
    below = times_line(evaluation.timings).append(
        f". One by one: {evaluation.sequential_ms:.1f} ms."
    )
    return Group(heading, about, memories_table(evaluation.results, marks), below, "")


def times_table(evaluations: Sequence[Evaluation], screen: Screen) -> Table:
    """Where the time went: every part as its median over the questions, with a bar."""
    table = empty_table()
    table.add_column("milliseconds", no_wrap=True)
    for name in ("median", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", ratio=1, no_wrap=True)
    parts = parts_of(evaluations)
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


def parts_of(evaluations: Sequence[Evaluation]) -> dict[str, list[float]]:
    """Milliseconds of each part of a recall, one number a question."""
    parts: dict[str, list[float]] = {"embedding the query": []}
    for one in evaluations:
        parts["embedding the query"].append(one.timings.embedding_ms)
        for type_name in one.results:
            took = one.timings.queries_ms[type_name]
            parts.setdefault(f"query: {label(type_name)}", []).append(took)
    parts["recall"] = [one.timings.total_ms for one in evaluations]
    parts["one after another"] = [one.sequential_ms for one in evaluations]
    return parts


def figures(
    evaluations: Sequence[Evaluation],
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
        "questions": [_figures_of(one) for one in evaluations],
        "median_ms": {
            name: round(median(values), 3) for name, values in parts_of(evaluations).items()
        },
        "times_faster": round(times_faster(evaluations), 2),
    }


def conclusion(evaluations: Sequence[Evaluation], database: Database, model: Model) -> Group:
    """What it comes to, and what served it."""
    strategies = {hits.strategy for one in evaluations for hits in one.results.values()}
    modes = {hits.mode for one in evaluations for hits in one.results.values()}
    found = sum(one.found for one in evaluations)
    vectors = ", ".join(sorted(_STRATEGIES.get(name, name) for name in strategies))
    served = {
        "server": str(database),
        "data": f"database {database.name}" + (f" in {database.folder}" if database.folder else ""),
        "search": f"{', '.join(sorted(modes))}; vectors: {vectors}",
        "model": f"{model.name} on {model.device}",
    }
    return Group(
        Text.assemble(
            (f"{times_faster(evaluations):.1f} times faster", "bold green"),
            f" than one type after another. The memory with the answer was found for {found} of "
            f"{len(evaluations)} questions.",
        ),
        "",
        *(Text.assemble((f"{name:8}", "dim"), value) for name, value in served.items()),
        "",
    )


def what_next(evaluations: Sequence[Evaluation], database: Database, uri: str | None) -> str:
    """Return three commands to run next. uri: the `--uri` of this run, if any."""
    if database.address is None:
        return "memory:// is forgotten now. Leave --uri out, and a real MongoDB keeps what it has."
    first = evaluations[0]
    place = f" --uri {shlex.quote(redact_uri(uri))}" if uri else ""
    program = command_name()
    return (
        "What next\n"
        f"  {program} recall {shlex.quote(first.question.text)} --memory-id "
        f"{shlex.quote(first.conversation.name)} --db {database.name}{place}\n"
        f'  {program} store "I like my coffee black" --memory-id me{place}\n'
        f"  {program} --help"
    )


def command_name() -> str:
    """What the reader's shell calls this program.

    A session of nox puts its own environment on the PATH, which the reader's shell does not have.
    """
    script = Path(sys.executable).with_name("memorizz-async")
    on_path = shutil.which("memorizz-async")
    if on_path is not None and "NOX_CURRENT_SESSION" not in os.environ:
        return "memorizz-async"
    if script.is_file():
        with contextlib.suppress(ValueError):
            script = script.relative_to(Path.cwd())
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m memorizz_async"


def times_faster(evaluations: Sequence[Evaluation]) -> float:
    """The sequential way over the parallel one, both as medians."""
    parts = parts_of(evaluations)
    return median(parts["one after another"]) / median(parts["recall"])


def _figures_of(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "memory_id": evaluation.conversation.name,
        "category": evaluation.question.category,
        "evidence_found": evaluation.found,
        "strategy": sorted({hits.strategy for hits in evaluation.results.values()}),
        "found": {
            name: [
                {"score": round(hit["score"], 4), "memory_signal": round(hit["memory_signal"], 4)}
                for hit in hits
            ]
            for name, hits in evaluation.results.items()
        },
        "embedding_ms": round(evaluation.timings.embedding_ms, 3),
        "queries_ms": {k: round(took, 3) for k, took in evaluation.timings.queries_ms.items()},
        "total_ms": round(evaluation.timings.total_ms, 3),
        "sequential_ms": round(evaluation.sequential_ms, 3),
    }
