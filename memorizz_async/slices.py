"""Long work in slices, with a turn for the event loop between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

_SLICE = 250
"""Rows between two turns of the loop: at some 10 to 20 microseconds a row, a few milliseconds."""


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """The items, in order; other tasks run after every 250 of them."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % _SLICE == 0:
            await asyncio.sleep(0)
