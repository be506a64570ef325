"""The view of `recall --explain`: the search strategy, how each hit was found, and the time."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from memorizz_async.results import Explanation, HitExplanation


def explain_view(type_name: str, explanation: Explanation) -> Group:
    """Return what a terminal shows of the explanation of one memory type.

    Args:
        type_name: The memory type, as the caller named it.
        explanation: How its search ran.
    """
    exactness = "exact" if explanation.exact else "approximate"
    heading = Text.assemble(
        (type_name, "cyan"),
        f": {explanation.strategy}, {exactness}; ",
        (explanation.why, "dim"),
        overflow="fold",
    )
    query = f"scope {dict(explanation.scope)}"
    if explanation.filter is None:
        query += ", a filter that no row can match"
    elif explanation.filter:
        query += f", filter {dict(explanation.filter)}"
    steps = ", ".join(f"{step} {took:.1f}" for step, took in explanation.steps_ms.items())
    hits = [_hits_table(explanation)] if explanation.hits else []
    return Group(
        heading,
        Text(query, style="dim", overflow="fold"),
        *hits,
        Text(f"milliseconds: {steps}", style="dim", overflow="fold"),
        "",
    )


def _hits_table(explanation: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("rank", justify="right")
    table.add_column("_id", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("found by")
    for hit in explanation.hits:
        table.add_row(str(hit.rank), Text(str(hit.id)), f"{hit.score:.4f}", _found_by(hit))
    return table


def _found_by(hit: HitExplanation) -> str:
    return "; ".join(f"{way.how}: rank {way.rank}, {way.score:.4f}" for way in hit.found_by)
