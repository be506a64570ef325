"""The time by which one public call must have ended, shared by everything that it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from memorizz_async.errors import OperationTimeoutError
from memorizz_async.validation import checked_count

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, and the budget that it came from."""

    at: float
    budget_ms: int

    @classmethod
    def after(cls, timeout_ms: int) -> Deadline:
        """A deadline so many milliseconds from now. Raises InvalidInputError below 1 ms and
        above 24 days.
        """
        checked_count("timeout_ms", timeout_ms)
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


class CallTime:
    """The time of one public call: bounded as a whole where its caller says so.

    timeout_ms: what the caller said, None for nothing. default_ms: what then bounds the work of the
    database, and that alone: starting a server or loading a model takes as long as it takes.
    """

    def __init__(self, timeout_ms: int | None, default_ms: int) -> None:
        self._whole = None if timeout_ms is None else Deadline.after(timeout_ms)
        self._default_ms = default_ms

    def for_database(self) -> Deadline:
        """The deadline of the database's work that begins now."""
        return self._whole or Deadline.after(self._default_ms)

    def bounded(self, milliseconds: int) -> Deadline:
        """The caller's bound where there is one, else one of so many milliseconds from now."""
        return self._whole or Deadline.after(milliseconds)

    async def within(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that is not the database's work, inside the caller's bound if there is one.

        work: called here and not before, so that what is cancelled early leaves no coroutine
        behind that nobody awaits.
        """
        if self._whole is None:
            return await work()
        left_s = self._whole.remaining_s(operation)
        try:
            async with asyncio.timeout(left_s) as bound:
                return await work()
        except TimeoutError as error:
            if not bound.expired():  # a time-out of the work's own
                raise
            raise self._whole.exceeded(operation) from error
