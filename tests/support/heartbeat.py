"""Whether the event loop is free: a task that should tick, and by how much it came late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TICK_S = 0.005


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """Ticks every 5 ms; collects by how much each tick came late, in seconds."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(TICK_S)
            late.append(time.perf_counter() - started - TICK_S)

    task = asyncio.create_task(tick())
    try:
        yield late
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
