"""Two searches become one order: by their formulas, whatever the scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.retrieval.fusion import (
    FUSIONS,
    Scores,
    reciprocal_rank_fusion,
    z_score_fusion,
)

NAN = float("nan")

numbers = st.one_of(st.just(NAN), st.floats(0, 1e6, allow_subnormal=False))
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40)


def sides_of(rows: list[tuple[float, float]]) -> tuple[Scores, Scores]:
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1]


def test_standard_scores_are_added() -> None:
    """The formula, by hand: what one side says twice as clearly weighs no more than the other's."""
    vector, text = np.array([0.5, 0.7, 0.9]), np.array([8.0, 2.0, 5.0])
    expected = (vector - 0.7) / vector.std() + (text - 5.0) / text.std()
    assert np.allclose(z_score_fusion(vector, text), expected)


def test_reciprocal_ranks_are_added() -> None:
    """1/61 for the best of a side, 1/62 for the next, nothing for what it did not find."""
    fused = reciprocal_rank_fusion(np.array([0.2, 0.9, NAN]), np.array([NAN, 3.0, 7.0]))
    assert np.allclose(fused, [1 / 62, 1 / 61 + 1 / 62, 1 / 61])


def test_what_a_side_does_not_know_is_its_lowest() -> None:
    """A candidate that one search did not bring is no better there than those that it brought."""
    known = z_score_fusion(np.array([0.9, 0.5, 0.5]), np.array([1.0, 1.0, 1.0]))
    assert np.allclose(z_score_fusion(np.array([0.9, 0.5, NAN]), np.array([1.0, NAN, NAN])), known)


def test_a_side_that_tells_nothing_apart_changes_nothing() -> None:
    """Equal scores, of whatever size, and a side that knows nobody."""
    vector = np.array([0.1, 0.4, 0.3])
    alone = z_score_fusion(vector)
    for flat in ([0.0] * 3, [0.1] * 3, [NAN] * 3, [1e300] * 3):
        assert np.allclose(z_score_fusion(vector, np.array(flat)), alone)
    for number in (8.7042391506444e-193, 0.1, 5e-324):  # the mean of eight is not always the number
        assert not z_score_fusion(np.full(8, number)).any()


@pytest.mark.parametrize("name", FUSIONS)
@given(rows=pairs)
def test_fused_scores_are_numbers_one_a_candidate(
    name: str, rows: list[tuple[float, float]]
) -> None:
    """Finite, whatever comes in; and the order of the candidates does not matter."""
    fuse = FUSIONS[name]  # type: ignore[index]
    fused = fuse(*sides_of(rows))
    assert fused.shape == (len(rows),)
    assert np.isfinite(fused).all()
    if name == "zscore":
        assert np.allclose(fuse(*sides_of(rows[::-1]))[::-1], fused, atol=1e-6)


@given(rows=pairs, scale=st.floats(0.5, 2), shift=st.floats(0, 10))
def test_units_do_not_matter(rows: list[tuple[float, float]], scale: float, shift: float) -> None:
    """Text scores in other units give the same order of clearly different candidates."""
    vector, text = sides_of([(round(a, 2), round(b, 2)) for a, b in rows])
    fused, other = z_score_fusion(vector, text), z_score_fusion(vector, text * scale + shift)
    assert np.allclose(fused, other, atol=1e-4)


@given(rows=pairs)
def test_better_on_both_sides_is_better(rows: list[tuple[float, float]]) -> None:
    """A candidate that both sides prefer to another never comes behind it."""
    vector, text = sides_of(rows)
    for fuse in FUSIONS.values():
        fused = fuse(vector, text)
        for one in range(len(rows)):
            worse = (vector < vector[one]) & (text < text[one])
            assert (fused[worse] <= fused[one] + 1e-9).all()
