"""The best k of a stream against sorting all of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.memory_provider.mongodb.vector_search.top_k import TopK

few_values = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0, math.nan])  # so that there are ties
any_value = st.one_of(few_values, st.floats(0, 1, width=32))
streams = st.lists(st.lists(any_value, max_size=12), max_size=8)


def reference(stream: list[list[float]], k: int) -> list[tuple[int, float]]:
    """Sort everything, stably; rows are named by their position in the whole stream."""
    whole = [score for block in stream for score in block]
    order = sorted(
        (n for n, score in enumerate(whole) if not math.isnan(score)), key=lambda n: -whole[n]
    )
    return [(n, whole[n]) for n in order[:k]]


@given(streams, st.integers(1, 30))
def test_it_is_the_head_of_the_sorted_stream(stream: list[list[float]], k: int) -> None:
    """The same rows in the same order: of equal scores the earlier one; NaN never."""
    best, offset = TopK(k), 0
    for block in stream:
        base = offset
        best.offer(np.array(block, dtype=np.float32), lambda position, base=base: base + position)
        offset += len(block)
    assert best.best() == reference(stream, k)


@given(streams, st.integers(1, 5))
def test_only_rows_that_got_in_are_asked_for_their_id(stream: list[list[float]], k: int) -> None:
    """An id costs decoding a document: never more of them than k a block."""
    best, seen = TopK(k), 0
    for block in stream:
        asked: list[int] = []
        better = [s for s in block if not math.isnan(s)]
        best.offer(np.array(block, dtype=np.float32), lambda n, to=asked: to.append(n) or n)
        assert len(asked) <= min(k, len(better))
        assert len(set(asked)) == len(asked)
        seen += len(better)
        assert len(best.best()) == min(k, seen)


def test_a_long_stream_stays_small() -> None:
    """A hundred thousand rows through k = 10 are the ten best."""
    values = np.random.default_rng(3).random(100_000, dtype=np.float32)
    best = TopK(10)
    for start in range(0, len(values), 997):
        block = values[start : start + 997]
        best.offer(block, lambda n, start=start: start + n)
    assert [row for row, _ in best.best()] == np.argsort(-values, kind="stable")[:10].tolist()


@pytest.mark.parametrize("block", [[], [math.nan], [math.nan, math.nan]])
def test_nothing_to_keep(block: list[float]) -> None:
    """Empty blocks and blocks without a score leave it empty."""
    best = TopK(3)
    best.offer(np.array(block, dtype=np.float32), lambda n: n)
    assert best.best() == []
