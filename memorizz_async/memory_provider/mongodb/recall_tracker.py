"""Counts what was recalled, in the background: no recall waits for it, and close awaits it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.errors import LifecycleError, MemorizzAsyncError
from memorizz_async.memory_provider.mongodb.pipelines import touch_filter, touch_update
from memorizz_async.memory_provider.mongodb.protocol import Driver

log = logging.getLogger(__name__)

_GATHER_S = 0.25
"""How long recalls are gathered before one write: hundreds a second cost a few writes."""


class RecallTracker:
    """Adds up recalled ids and writes `recall_count` and `last_recalled_at` now and then.

    It belongs to one event loop. A failed write is logged and its counts are lost: they are a
    statistic, and no recall may fail for them.
    """

    def __init__(self, driver: Driver, *, timeout_ms: int) -> None:
        self._driver = driver
        self._timeout_ms = timeout_ms
        self._counts: defaultdict[str, Counter[Any]] = defaultdict(Counter)
        self._last_recall = datetime.now(UTC)
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def note(self, collection: str, ids: Iterable[Any]) -> None:
        """Remember that these rows were recalled just now. Does not wait."""
        self._counts[collection].update(ids)
        self._last_recall = datetime.now(UTC)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._write_soon(), name="memorizz-async recall tracker"
            )

    async def close(self) -> None:
        """Write what is still to be written, and end."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._write()

    async def _write_soon(self) -> None:
        try:
            while self._counts and not self._closing.is_set():
                try:
                    await asyncio.wait_for(self._closing.wait(), _GATHER_S)
                except TimeoutError:
                    await self._write()
        except asyncio.CancelledError:
            # asyncio.run cancels every task before it shuts the loop down: the last moment at which
            # the database can still be used.
            await self._write()
            raise

    async def _write(self) -> None:
        counts, self._counts = self._counts, defaultdict(Counter)
        deadline = Deadline.after(self._timeout_ms)
        for collection, counter in counts.items():
            by_count: defaultdict[int, list[Any]] = defaultdict(list)
            for row_id, count in counter.items():
                by_count[count].append(row_id)
            for count, ids in by_count.items():
                try:
                    await self._driver.update_many(
                        collection,
                        touch_filter(ids),
                        touch_update(count, self._last_recall),
                        deadline=deadline,
                    )
                except LifecycleError:
                    return  # in a forked child: the parent counts its recalls itself
                except MemorizzAsyncError as error:
                    log.warning("recall counts of %d rows were not written: %s", len(ids), error)
