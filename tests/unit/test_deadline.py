"""One deadline for all that a call does."""

from __future__ import annotations

import time
from typing import Any

import pytest

from memorizz_async import InvalidInputError, OperationTimeoutError
from memorizz_async.deadline import CallTime, Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A monotonic clock that stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_is_left_shrinks_with_the_clock(clock: list[float]) -> None:
    """Seconds left, of a budget in milliseconds."""
    deadline = Deadline.after(1500)
    assert deadline.remaining_s("find") == pytest.approx(1.5)
    clock[0] += 1.0
    assert deadline.remaining_s("find") == pytest.approx(0.5)


@pytest.mark.parametrize("late", [0.0, 0.001, 60.0])
def test_at_the_deadline_nothing_is_left(clock: list[float], late: float) -> None:
    """An error of ours and a TimeoutError, which names the operation and the whole budget."""
    deadline = Deadline.after(250)
    clock[0] += 0.25 + late
    with pytest.raises(OperationTimeoutError, match="scan of 'x' did not end within 250 ms") as got:
        deadline.remaining_s("scan of 'x'")
    assert isinstance(got.value, TimeoutError)
    assert got.value.fix


@pytest.mark.parametrize("value", [0, -1, 1.5, "10", None, True])
def test_a_budget_is_a_whole_number_of_at_least_one(value: Any) -> None:
    """Nothing was sent: a deadline is made before anything else."""
    with pytest.raises(InvalidInputError, match="timeout_ms"):
        Deadline.after(value)


def test_what_was_seen_last_is_in_the_message() -> None:
    """Waiting for an index says how far it got."""
    error = Deadline.after(10).exceeded("building", "status BUILDING")
    assert "Seen: status BUILDING." in str(error)


async def test_work_that_is_not_the_databases_does_not_begin_after_the_callers_bound(
    clock: list[float],
) -> None:
    """The same error as anywhere else, which is a TimeoutError, too."""

    async def work() -> None:
        raise AssertionError

    call = CallTime(250, 1000)
    clock[0] += 1
    with pytest.raises(OperationTimeoutError, match="embedding did not end within 250 ms"):
        await call.within("embedding", work)
