"""The time by which one public call must have ended, shared by everything that it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from memorizz_async.errors import InvalidInputError, OperationTimeoutError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, and the budget that it came from."""

    at: float
    budget_ms: int

    @classmethod
    def after(cls, timeout_ms: int) -> Deadline:
        """A deadline so many milliseconds from now. Raises InvalidInputError below 1 ms."""
        if not isinstance(timeout_ms, int) or isinstance(timeout_ms, bool) or timeout_ms < 1:
            raise InvalidInputError(
                "timeout_ms must be a whole number of at least 1", seen=repr(timeout_ms)
            )
        return cls(time.monotonic() + timeout_ms / 1000, timeout_ms)

    def remaining_s(self, operation: str) -> float:
        """Seconds left. Raises OperationTimeoutError where none are."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.exceeded(operation)
        return left

    def exceeded(self, operation: str, seen: str | None = None) -> OperationTimeoutError:
        """The error of an operation that did not make it."""
        return OperationTimeoutError(
            f"{operation} did not end within {self.budget_ms} ms",
            seen=seen,
            fix="raise timeout_ms, or ask for less",
        )


def bound_of(timeout_ms: int | None) -> Deadline | None:
    """The deadline that a caller set; None where none was."""
    return None if timeout_ms is None else Deadline.after(timeout_ms)


async def within(bound: Deadline | None, work: Awaitable[T], operation: str = "embedding") -> T:
    """The result of a model's work, within the deadline of the call where it has one.

    Giving up here does not disturb the model: a waiter that leaves takes nobody with it.
    """
    if bound is None:
        return await work
    try:
        async with asyncio.timeout(bound.remaining_s(operation)):
            return await work
    except TimeoutError as error:
        raise bound.exceeded(operation) from error
