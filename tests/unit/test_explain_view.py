"""The view of `recall --explain`."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from memorizz_async.results import Explanation, FoundBy, HitExplanation
from memorizz_async.terminal.explain_view import explain_view


@pytest.mark.parametrize("row_id", ["65f0", 7, {"part": 1}, "[red]"])
def test_the_id_of_a_hit_is_shown_whatever_its_type(row_id: Any) -> None:
    """As the database holds it, never as markup of the terminal."""
    hit = HitExplanation(id=row_id, rank=1, score=0.5, found_by=(FoundBy("scan", 1, 0.5),))
    told = Explanation(
        strategy="scan", why="the only way", index=None, exact=True, scope={}, filter={},
        hits=[hit], problems={}, steps_ms={},
    )  # fmt: skip
    screen = Console(file=io.StringIO(), width=100)
    screen.print(explain_view("SUMMARIES", told))
    assert str(row_id) in screen.file.getvalue()  # type: ignore[attr-defined]
