"""What `recall --explain` shows: which search answered, how each hit was found, the time."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from memorizz_async.results import Explanation, HitExplanation


def explained_view(name: str, told: Explanation) -> Group:
    """The explanation of one memory type. name: the type, as the caller called it."""
    exactness = "exact" if told.exact else "approximate"
    heading = Text.assemble(
        (name, "cyan"), f": {told.strategy}, {exactness}; ", (told.why, "dim"), overflow="fold"
    )
    asked = f"scope {dict(told.scope)}"
    if told.filter is None:
        asked += ", a filter that no row can match"
    elif told.filter:
        asked += f", filter {dict(told.filter)}"
    steps = ", ".join(f"{step} {took:.1f}" for step, took in told.steps_ms.items())
    parts = [heading, Text(asked, style="dim", overflow="fold")]
    hits = [_hits(told)] if told.hits else []
    return Group(*parts, *hits, Text(f"milliseconds: {steps}", style="dim", overflow="fold"), "")


def _hits(told: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("_id", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("found by")
    for hit in told.hits:
        table.add_row(str(hit.rank), hit.id, f"{hit.score:.4f}", _ways(hit))
    return table


def _ways(hit: HitExplanation) -> str:
    return "; ".join(f"{way.how}: rank {way.rank}, {way.score:.4f}" for way in hit.found_by)
