"""Counts what was recalled, in the background: no recall waits for it, and close awaits it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from datetime import UTC, datetime
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.errors import (
    ClosedError,
    DatabaseError,
    LifecycleError,
    MemorizzAsyncError,
    OperationTimeoutError,
    ServerUnavailableError,
)
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines import touch_filter, touch_update
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.hits import id_of

log = logging.getLogger(__name__)

_GATHER_S = 0.25
"""How long recalls are gathered before one write: hundreds a second cost a few writes."""
_LEAVE_ALONE_S = 600.0
"""How long no counts are written to a collection that refused them."""


class RecallTracker:
    """Adds up recalled ids and writes `recall_count` and `last_recalled_at` now and then.

    It belongs to one event loop. A failed write is logged and its counts are lost: they are a
    statistic, and no recall may fail for them.
    """

    def __init__(self, driver: Driver, notices: Notices, *, timeout_ms: int) -> None:
        self._driver = driver
        self._notices = notices
        self._timeout_ms = timeout_ms
        self._counts: defaultdict[str, Counter[Hashable]] = defaultdict(Counter)
        self._left_alone: dict[str, float] = {}
        self._last_recall = datetime.now(UTC)
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def note(self, collection: str, keys: Iterable[Hashable]) -> None:
        """Remember that rows were recalled just now, by the keys of their ids. Does not wait."""
        if self._left_alone and time.monotonic() < self._left_alone.get(collection, 0.0):
            return
        self._counts[collection].update(keys)
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
            for key, count in counter.items():
                by_count[count].append(id_of(key))
            try:
                for count, ids in by_count.items():
                    await self._driver.update_many(
                        collection,
                        touch_filter(ids),
                        touch_update(count, self._last_recall),
                        deadline=deadline,
                    )
            except ClosedError as error:
                self._refused(collection, error)
            except LifecycleError:
                return  # in a forked child: the parent counts its recalls itself
            except MemorizzAsyncError as error:
                self._refused(collection, error)

    def _refused(self, collection: str, error: MemorizzAsyncError) -> None:
        """Log why counts were not written; stop where the next ones would be refused as well."""
        code = error.code if isinstance(error, DatabaseError) else None
        self._notices.warn(
            log,
            ("recall counts", collection, type(error), code),
            "recall counts of %r are not written: %s (code %s)",
            collection,
            error.what,
            code,
        )
        passing = ServerUnavailableError | OperationTimeoutError | ClosedError
        if not isinstance(error, passing):
            self._left_alone[collection] = time.monotonic() + _LEAVE_ALONE_S
