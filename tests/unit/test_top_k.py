"""The best k of a stream against sorting all of it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.memory_provider.mongodb.vector_search.ordering import best_first
from memorizz_async.memory_provider.mongodb.vector_search.top_k import TopK

few_values = st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0, math.nan])  # so that there are ties
any_value = st.one_of(few_values, st.floats(0, 1, width=32))
streams = st.lists(st.lists(any_value, max_size=12), max_size=8)
seeds = st.integers(0, 3)


def ids_of(count: int, seed: int) -> list[int]:
    """Ids in the order in which rows come, which is not their own."""
    return np.random.default_rng(seed).permutation(count).tolist()


def reference(scores: list[float], ids: list[int], k: int) -> list[tuple[int, float]]:
    """Sort everything by score, then by id."""
    rows = [pair for pair in zip(ids, scores, strict=True) if not math.isnan(pair[1])]
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:k]


@given(streams, st.integers(1, 30), seeds)
def test_it_is_the_head_of_the_sorted_stream(stream: list[list[float]], k: int, seed: int) -> None:
    """The same rows in the same order: of equal scores the lower id; NaN never."""
    whole = [score for block in stream for score in block]
    ids = ids_of(len(whole), seed)
    best, offset = TopK(k), 0
    for block in stream:
        here = ids[offset : offset + len(block)]
        best.offer(np.array(block, dtype=np.float32), here.__getitem__)
        offset += len(block)
    assert best.best() == reference(whole, ids, k)


@given(st.lists(any_value, max_size=60), st.integers(1, 30), seeds)
def test_of_equal_scores_those_with_the_lowest_ids_are_selected(
    scores: list[float], limit: int, seed: int
) -> None:
    """Before the cut at the limit, whether few rows are equal or many."""
    ids = ids_of(len(scores), seed)
    found = best_first(np.array(scores), limit, ids.__getitem__)
    assert [(ids[at], scores[at]) for at in found] == reference(scores, ids, limit)


@given(streams, st.integers(1, 5))
def test_only_rows_that_may_get_in_are_asked_for_their_id(
    stream: list[list[float]], k: int
) -> None:
    """An id costs decoding a document: of those that do not get in, only at a score of those."""
    best = TopK(k)
    for block in stream:
        asked: Counter[int] = Counter()

        def id_at(at: int, asked: Counter[int] = asked) -> int:
            asked[at] += 1
            return at

        best.offer(np.array(block, dtype=np.float32), id_at)
        least = best.best()[-1][1] if best.best() else 0.0
        assert all(block[at] >= np.float32(least) for at in asked)
        assert set(asked.values()) <= {1}


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
