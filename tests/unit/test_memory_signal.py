"""How much a memory weighs: relevance, recency and importance, by the documented formula."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Decimal128
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async import ConfigurationError, MemorySignal, memory_signal
from memorizz_async.retrieval.memory_signal import age_days

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
unit = st.floats(0, 1)
anything = st.floats(allow_nan=False)
ages = st.one_of(st.none(), st.floats(0, 1e6))
weights = st.builds(
    MemorySignal,
    half_life_days=st.floats(0.01, 1e5),
    relevance=st.floats(0.01, 10),
    recency=st.floats(0, 10),
    importance=st.floats(0, 10),
)


@given(unit, ages, unit, weights)
def test_it_is_the_weighted_mean_of_the_formula(
    relevance: float, age: float | None, importance: float, by: MemorySignal
) -> None:
    """As its docstring has it; an age that is not known leaves recency out."""
    parts = [(by.relevance, relevance), (by.importance, importance)]
    if age is not None:
        parts.append((by.recency, 0.5 ** (age / by.half_life_days)))
    expected = sum(w * v for w, v in parts) / sum(w for w, _ in parts)
    got = memory_signal(relevance, age_days=age, importance=importance, weights=by)
    assert got == pytest.approx(expected, abs=1e-9)


@given(anything, st.one_of(st.none(), anything), anything)
def test_it_stays_between_0_and_1(relevance: float, age: float | None, importance: float) -> None:
    """Whatever comes in: what is out of range is taken as the nearest bound."""
    assert 0.0 <= memory_signal(relevance, age_days=age, importance=importance) <= 1.0


@given(unit, unit, st.floats(0, 1000), st.floats(0, 1000), unit)
def test_more_of_anything_never_weighs_less(
    low: float, high: float, a: float, b: float, rest: float
) -> None:
    """More similar, more important, younger."""
    low, high, young, old = *sorted((low, high)), *sorted((a, b))

    def signal(relevance: float, age: float, importance: float) -> float:
        return memory_signal(relevance, age_days=age, importance=importance)

    hair = 1e-12
    assert signal(low, old, rest) <= signal(high, old, rest) + hair
    assert signal(rest, old, low) <= signal(rest, old, high) + hair
    assert signal(rest, old, rest) <= signal(rest, young, rest) + hair


def test_after_one_half_life_half_of_the_recency_is_left() -> None:
    """Only recency weighs here."""
    by = MemorySignal(half_life_days=10, relevance=0, recency=1, importance=0)
    for age, expected in ((0, 1.0), (10, 0.5), (20, 0.25), (-5, 1.0), (1e9, 0.0)):
        assert memory_signal(0.3, age_days=age, weights=by) == pytest.approx(expected)
    assert memory_signal(0.3, age_days=None, weights=by) == 0.0


def test_only_the_proportions_of_the_weights_matter() -> None:
    """Twice all weights is the same signal."""
    one = MemorySignal(relevance=0.7, recency=0.2, importance=0.1)
    two = MemorySignal(relevance=1.4, recency=0.4, importance=0.2)
    results = [memory_signal(0.9, age_days=3, importance=0.2, weights=w) for w in (one, two)]
    assert results[0] == pytest.approx(results[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"half_life_days": 0},
        {"half_life_days": -1},
        {"half_life_days": math.nan},
        {"half_life_days": math.inf},
        {"relevance": -0.1},
        {"recency": math.nan},
        {"importance": math.inf},
        {"relevance": 0, "recency": 0, "importance": 0},
        {"relevance": "0.7"},
        {"recency": None},
    ],
    ids=str,
)
def test_weights_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    """When they are set, not in the middle of a recall."""
    with pytest.raises(ConfigurationError, match="half_life_days"):
        MemorySignal(**settings)


def test_a_row_tells_its_importance_and_age() -> None:
    """The signal of a hit; without importance the middle one counts."""
    row = {"created_at": NOW - timedelta(days=30), "importance": 1.0}
    assert MemorySignal().of_row(row, 0.8, NOW) == pytest.approx(0.7 * 0.8 + 0.15 * 0.5 + 0.15)
    for importance in (None, "high", True, float("nan"), Decimal128("NaN"), [1]):
        row = {"created_at": NOW, "importance": importance}
        expected = 0.7 * 0.8 + 0.15 + 0.15 * 0.5
        assert MemorySignal().of_row(row, 0.8, NOW) == pytest.approx(expected)


def test_the_turns_own_time_counts_before_the_rows() -> None:
    """`timestamp`, as memorizz writes for conversations, else `created_at`, else not known."""
    row = {"timestamp": "2026-05-31T12:00:00+00:00", "created_at": NOW}
    assert age_days(row, NOW) == pytest.approx(1.0)
    assert age_days({"timestamp": "no moment", "created_at": NOW}, NOW) == 0.0
    assert age_days({"created_at": NOW + timedelta(days=2)}, NOW) == pytest.approx(-2.0)
    assert age_days({}, NOW) is None


def test_a_time_in_seconds_is_as_old_as_the_same_date() -> None:
    """Another program's numbers, and a far date, which is in the future."""
    then = datetime(2010, 1, 1, tzinfo=UTC)
    old = age_days({"timestamp": then, "created_at": NOW}, NOW)
    for seconds in (then.timestamp(), int(then.timestamp()), Decimal128("1262304000")):
        assert age_days({"timestamp": seconds, "created_at": NOW}, NOW) == old
    far = {"timestamp": DatetimeMS(2**62), "created_at": NOW}
    assert MemorySignal().of_row(far, 0.8, NOW) == MemorySignal().of_row(
        {"timestamp": NOW}, 0.8, NOW
    )
