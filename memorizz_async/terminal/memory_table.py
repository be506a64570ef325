"""The table of recalled memories, and the line that says where the time of the recall went."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from memorizz_async.memory_provider.mongodb.spoken import text_of
from memorizz_async.results import Timings
from memorizz_async.timestamps import row_datetime

_MAX_CHARACTERS = 110
"""Characters of a memory that a row of the table shows."""


def label(type_name: str) -> str:
    """Return the short name of a memory type: `LONG_TERM_MEMORY` is `long-term`."""
    return type_name.upper().removesuffix("_MEMORY").lower().replace("_", "-")


def empty_table() -> Table:
    """Return a table in the style that all tables of results have."""
    return Table(
        box=SIMPLE_HEAD, pad_edge=False, expand=True, header_style="dim", padding=(0, 1, 0, 0)
    )


def memories_table(
    results: Mapping[str, Sequence[Mapping[str, Any]]], marks: Mapping[str, str] | None = None
) -> Table:
    """Return a table of the hits, grouped by memory type.

    Args:
        results: Hits by the name of their memory type.
        marks: A sign by row id, shown in front of the text of that row.
    """
    table = empty_table()
    table.add_column("found in", style="cyan", no_wrap=True)
    table.add_column("memory", ratio=1)
    table.add_column("from", style="dim", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("signal", justify="right", no_wrap=True)
    for type_name, hits in results.items():
        if not hits:
            table.add_row(label(type_name), Text("nothing", style="dim"), "", "", "")
        for position, hit in enumerate(hits):
            at = row_datetime(hit)
            sign = (marks or {}).get(hit["_id"], "")
            text = Text(f"{sign} " if sign else "", style="bold yellow" if sign else "")
            shown = textwrap.shorten(text_of(hit["content"]), _MAX_CHARACTERS, placeholder=" …")
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
    """Return one line with the milliseconds of each part of a recall."""
    in_order = sorted(timings.queries_ms.items(), key=lambda query: query[1], reverse=True)
    queries = ", ".join(f"{label(name)} {took:.1f}" for name, took in in_order)
    return Text(
        f"{timings.total_ms:.1f} ms: embedding {timings.embedding_ms:.1f}, then together {queries}",
        style="dim",
    )
