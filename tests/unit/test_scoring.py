"""Scores are Atlas's, on every strategy: checked against float64."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores

Similarity = Literal["cosine", "dotProduct", "euclidean"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dotProduct", "euclidean")


def reference(rows: Any, query: Any, similarity: Similarity) -> Any:
    """The documented formulas, in float64; NaN for a row that has no score."""
    rows, query = rows.astype(np.float64), query.astype(np.float64)
    result = np.full(len(rows), np.nan)
    for position, row in enumerate(rows):
        if not np.isfinite(row).all():
            continue
        if similarity == "euclidean":
            result[position] = 1 / (1 + ((row - query) ** 2).sum())
        elif similarity == "dotProduct":
            result[position] = max((1 + row @ query) / 2, 0.0)
        elif row.any():
            cosine = row @ query / (np.linalg.norm(row) * np.linalg.norm(query))
            result[position] = (1 + cosine) / 2
    return result


numbers = st.one_of(
    st.just(0.0),
    st.floats(0.0009765625, 2.0, width=32),
    st.floats(-2.0, -0.0009765625, width=32),
)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 40))


@st.composite
def rows_and_query(draw: st.DrawFn) -> tuple[Any, Any]:
    """Rows, some of them zero or not finite, and a query that is neither."""
    shape = draw(shapes)
    rows = draw(hnp.arrays(np.float32, shape, elements=numbers))
    query = draw(hnp.arrays(np.float32, shape[1], elements=numbers).filter(lambda q: q.any()))
    for position in draw(st.sets(st.integers(0, shape[0] - 1), max_size=3)):
        bad = draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf]))
        if bad == 0.0:
            rows[position] = 0.0
        else:
            rows[position, draw(st.integers(0, shape[1] - 1))] = bad
    return rows, query


@pytest.mark.parametrize("similarity", SIMILARITIES)
@given(case=rows_and_query())
def test_scores_agree_with_float64(similarity: Similarity, case: tuple[Any, Any]) -> None:
    """To 1e-5; rows without a score are NaN, and only those."""
    rows, query = case
    before = rows.copy(), query.copy()
    result = scores(rows, query, similarity)
    assert result.dtype == np.float32
    assert result.shape == (len(rows),)
    expected = reference(rows, query, similarity)
    if similarity == "dotProduct":  # not bounded above: relative there
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(query, before[1])


@pytest.mark.parametrize("dimensions", [384, 1536])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_of_unit_vectors_are_between_0_and_1(
    similarity: Similarity, dimensions: int
) -> None:
    """What embedding models return, at their real size; the query itself scores 1."""
    rows = np.random.default_rng(1).normal(size=(500, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    result = scores(rows, rows[7], similarity)
    np.testing.assert_allclose(result, reference(rows, rows[7], similarity), rtol=0, atol=1e-5)
    assert (result >= 0).all()
    assert (result <= 1 + 1e-6).all()
    assert int(np.argmax(result)) == 7
    assert result[7] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dimensions", [1, 3, 8, 31, 384, 1536, 9_001])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_score_does_not_depend_on_the_rows_beside_it(
    similarity: Similarity, dimensions: int
) -> None:
    """Bit for bit: alone, in any block, at any place in memory. Else equal vectors would not tie,
    and a search in memory, which scores few rows at once, would differ from a scan.
    """
    numbers = np.random.default_rng(4)
    rows = numbers.standard_normal((64, dimensions), dtype=np.float32)
    rows[40:] = rows[:24]
    query = numbers.standard_normal(dimensions, dtype=np.float32)
    whole = scores(rows, query, similarity)
    assert whole[40:].tolist() == whole[:24].tolist()
    for size in (1, 2, 7, 33):
        some = numbers.choice(64, size, replace=False)
        assert scores(rows[some], query, similarity).tolist() == whole[some].tolist()
    for offset in (1, 4, 12):
        raw = bytearray(rows[:5].nbytes + offset)
        moved = np.ndarray((5, dimensions), np.float32, buffer=raw, offset=offset)
        moved[:] = rows[:5]
        assert scores(moved, query, similarity).tolist() == whole[:5].tolist()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_finite_row_has_a_score_however_large_it_is(similarity: Similarity) -> None:
    """Products beyond float32, of both signs, are no "value that is not finite"."""
    rows = np.array([[3e38, 3e38], [3e38, -3e38], [1.0, 0.0]], dtype=np.float32)
    result = scores(rows, np.array([3e38, 3e38], dtype=np.float32), similarity)
    assert not np.isnan(result).any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_cosine_does_not_know_lengths(scale: float) -> None:
    """A row and its multiple score the same, and never above 1 or below 0 by rounding."""
    for query in np.random.default_rng(2).normal(size=(200, 64)).astype(np.float32):
        rows = np.stack([query, -query]) * np.float32(scale)
        result = scores(rows, query, "cosine")
        np.testing.assert_allclose(result, [1.0, 0.0], atol=1e-6)
        assert (result <= 1.0).all()
        assert (result >= 0.0).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_no_rows_no_scores(similarity: Similarity) -> None:
    """An empty block is an empty result, not an error."""
    nothing = scores(np.empty((0, 3), np.float32), np.ones(3, np.float32), similarity)
    assert nothing.shape == (0,)


def test_known_scores() -> None:
    """By hand, so that reference and code cannot be wrong together."""
    rows = np.array([[3.0, 4.0], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    query = np.array([1.0, 0.0], dtype=np.float32)
    np.testing.assert_allclose(scores(rows, query, "cosine"), [0.8, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(scores(rows, query, "dotProduct"), [2.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(scores(rows, query, "euclidean"), [1 / 21, 1 / 3, 1 / 5], atol=1e-6)
