"""The second tier of the embedding cache: vectors in MongoDB, so that a restart stays warm.

A row is a digest, a vector and an end. No text is stored, and none can be had from a digest but by
guessing it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from memorizz_async.deadline import Deadline
from memorizz_async.errors import AuthenticationError, DatabaseError, MemorizzAsyncError
from memorizz_async.memory_provider.mongodb.indexes import OrdinaryIndex, ensure_index
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines import (
    cached_vector,
    cached_vectors_filter,
    vector_projection,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.row_problems import RowProblems
from memorizz_async.vectors import Vector, stored_vector

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb.connection import LoopSession

log = logging.getLogger(__name__)

COLLECTION = "embedding_cache"

_EXPIRY = OrdinaryIndex("expiry", (("expires_at", 1),), {"expireAfterSeconds": 0})
_PATIENCE_MS = 1_000
_ROWS_A_WRITE = 500
_MOST_WAITING = 20_000
"""So many vectors may wait to be written; more are not kept."""


class CacheWriter:
    """Writes vectors in the background; `close` awaits it. It belongs to one event loop."""

    def __init__(self, driver: Driver, notices: Notices, *, ttl_s: int, timeout_ms: int) -> None:
        self._driver = driver
        self._notices = notices
        self._ttl_s = ttl_s
        self._timeout_ms = timeout_ms
        self._waiting: dict[bytes, Vector] = {}
        self._task: asyncio.Task[None] | None = None
        self._indexed = False
        self._not_allowed = False

    def note(self, vectors: Mapping[bytes, Vector]) -> None:
        """Write these soon. Does not wait."""
        if self._not_allowed:
            return
        if len(self._waiting) + len(vectors) > _MOST_WAITING:
            log.info("%d vectors were not kept: too many wait to be written", len(vectors))
            return
        self._waiting.update(vectors)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._write_all(), name="memorizz-async embedding cache"
            )

    async def close(self) -> None:
        """Write what waits, and end."""
        if self._task is not None:
            await asyncio.wait([self._task])
        await self._write_all()

    async def _write_all(self) -> None:
        while self._waiting:
            some = dict(list(self._waiting.items())[:_ROWS_A_WRITE])
            for key in some:
                del self._waiting[key]
            try:
                await self._write(some)
            except MemorizzAsyncError as error:
                self._refused(len(some), error)
            except asyncio.CancelledError:
                # asyncio.run cancels every task before it shuts the loop down; close comes after.
                self._waiting.update(some)
                raise

    async def _write(self, vectors: Mapping[bytes, Vector]) -> None:
        deadline = Deadline.after(self._timeout_ms)
        if not self._indexed:
            await ensure_index(self._driver, COLLECTION, _EXPIRY, deadline)
            self._indexed = True
        until = datetime.now(UTC) + timedelta(seconds=self._ttl_s)
        rows = [cached_vector(key, vector, until) for key, vector in vectors.items()]
        # A key that is there already is refused, and is as good.
        await self._driver.insert_many(COLLECTION, rows, deadline=deadline)

    def _refused(self, count: int, error: MemorizzAsyncError) -> None:
        """Log why vectors were not kept; stop where the user may not keep any."""
        self._not_allowed = isinstance(error, AuthenticationError)
        if self._not_allowed:  # nor without the index that removes what has expired
            self._waiting.clear()
        code = error.code if isinstance(error, DatabaseError) else None
        self._notices.warn(
            log,
            (COLLECTION, type(error), code),
            "%d vectors were not kept in %r: %s (code %s)",
            count,
            COLLECTION,
            error.what,
            code,
        )


class MongoDBEmbeddingCache:
    """What a provider's embedder looks into behind its own cache; see `embeddings.CacheBackend`."""

    def __init__(
        self, session: Callable[[], Awaitable[LoopSession]], problems: RowProblems
    ) -> None:
        self._session = session
        self._problems = problems

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """The vectors that are there, can be read, and have not expired. Raises DatabaseError."""
        driver = (await self._session()).driver
        rows = await driver.find(
            COLLECTION,
            cached_vectors_filter(keys, datetime.now(UTC)),
            projection=vector_projection(),
            deadline=Deadline.after(_PATIENCE_MS),
        )
        found: dict[bytes, Vector] = {}
        for row in rows:
            try:
                found[bytes(row["_id"])] = stored_vector(row.get("vector"))
            except (TypeError, ValueError) as error:
                key = bytes(row["_id"]).hex()
                problem = f"its vector cannot be read ({error}): delete it"
                self._problems.name(COLLECTION, {key: problem})
        return found

    async def put_many(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors; they are written in the background."""
        (await self._session()).cache.note(vectors)
