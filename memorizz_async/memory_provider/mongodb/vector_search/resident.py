"""Exact search in memory: the vectors of a scope are loaded once and kept fresh by a change stream.

A search is a matrix product and one `find` of the hits, which asks for the scope again: a row that
left a moment ago does not come back. Where the stream is not there, has not brought this provider's
own last write in time, the scope does not fit into memory, or the caller has a filter, it says so,
and a scan it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import bson
from bson import Timestamp

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError
from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW
from memorizz_async.memory_provider.mongodb.pipelines import resident_projection, scan_filter
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.memory_provider.mongodb.vector_search.change_feed import ChangeFeed
from memorizz_async.memory_provider.mongodb.vector_search.hits import hit_rows, key_of
from memorizz_async.memory_provider.mongodb.vector_search.raw_vectors import read_vectors
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    step,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident_scope import ResidentScope
from memorizz_async.memory_provider.mongodb.vector_search.scan import batch_size

log = logging.getLogger(__name__)

NAME = "resident"

_ON_THE_LOOP = 8_000_000
"""So many numbers take a millisecond, and the detour through a thread as long on a busy machine.
More go to a worker thread; numpy lets the loop run meanwhile.
"""
_OWN_WRITE_S = 0.25
"""How long a search waits for the stream to bring this provider's own last write."""
_TOO_LARGE_S = 600.0
"""How long a scope that did not fit is scanned before it is tried again."""
_AT_A_STRETCH_S = 0.002
_ROUNDS = 3
_BEGINNING = Timestamp(1, 1)

_Name = tuple[str, bytes]


class ResidentStore:
    """The scopes that are in memory, of one provider on one event loop.

    Bounded by bytes: the scope that was not searched for the longest time goes first.
    """

    def __init__(self, driver: Driver, config: MongoDBConfig, collections: Sequence[str]) -> None:
        self._driver = driver
        self._similarity = config.similarity
        self._timeout_ms = config.timeout_ms
        self._most_bytes = config.resident_memory_mb * 1_000_000
        # The stream keeps a connection to itself: of one in all, nothing would be left.
        self._possible = config.max_pool_size > 1
        self.feed = ChangeFeed(driver, collections, self)
        self._ready: OrderedDict[_Name, ResidentScope] = OrderedDict()
        self._loads: dict[_Name, asyncio.Task[ResidentScope | None]] = {}
        self._following: defaultdict[str, dict[_Name, ResidentScope]] = defaultdict(dict)
        self._sizes: dict[_Name, int] = {}
        self._too_large_until: dict[_Name, float] = {}
        self.nbytes = 0
        """About what all scopes take in memory."""

    async def search(self, request: SearchRequest, written: Timestamp | None) -> SearchAnswer | str:
        """The best rows of the scope, as a scan would find them, or why a scan has to.

        written: the logical time of the last write that the answer must know of.

        Raises StoredEmbeddingError where the scope has vectors and none can be compared with the
        query, and DatabaseError.
        """
        if request.filter != EVERY_ROW:
            return "what is in memory is searched without a filter only"
        with step(request.trace, "scope in memory"):
            scope = await self._up_to_date(request, written)
        return scope if isinstance(scope, str) else await self._answer(scope, request)

    async def caught_up(self, deadline: Deadline) -> bool:
        """Wait until all that the server has done so far is known here; False where it has no
        change streams.

        For tests and benchmarks: on a quiet server it takes up to a second. Raises
        OperationTimeoutError and DatabaseError.
        """
        operation = "waiting for changes"
        reply = await self._driver.command({"ping": 1}, deadline=deadline)
        while await self.feed.follows(deadline.remaining_s(operation)):
            if await self.feed.reached(reply["operationTime"], deadline.remaining_s(operation)):
                return True
        return False

    async def close(self) -> None:
        """Forget everything and stop following. Idempotent."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        if loads:
            await asyncio.wait(loads)
        await self.feed.close()

    async def changed(self, events: Sequence[Document]) -> None:
        """Apply changes, in order; now and then other tasks run."""
        since = time.perf_counter()
        for event in events:
            self._apply(event)
            if time.perf_counter() - since > _AT_A_STRETCH_S:
                await asyncio.sleep(0)
                since = time.perf_counter()

    def lost(self) -> None:
        """Forget everything."""
        for collection in list(self._following):
            self._drop_all(collection)

    async def _up_to_date(
        self, request: SearchRequest, written: Timestamp | None
    ) -> ResidentScope | str:
        """The scope in memory with all that it must know, or why there is none."""
        operation = f"search of {request.collection!r}"
        if not self._possible:
            return "the only connection is not for a change stream"
        if not self.feed.live and not await self.feed.open(request.deadline.remaining_s(operation)):
            return "there is no change stream"
        scope = await self._scope(request, operation)
        if scope is None:
            return "the scope is not in memory"
        if written is not None:
            patience = min(_OWN_WRITE_S, request.deadline.remaining_s(operation))
            if not await self.feed.reached(written, patience):
                return "the change stream has not brought the last write yet"
        if scope.dropped or not self.feed.live:
            return "the change stream broke"
        return scope

    async def _answer(self, scope: ResidentScope, request: SearchRequest) -> SearchAnswer | str:
        dimensions, now_ms = request.vector.size, request.now.timestamp() * 1000
        snapshot = scope.snapshot(dimensions, now_ms)
        report = scope.unsearchable(dimensions, now_ms).error(request.collection, dimensions)
        rows: dict[Hashable, tuple[dict[str, Any], float]] = {}
        gone: set[Hashable] = set()
        for _ in range(_ROUNDS):
            arguments = (request.vector, request.similarity, request.limit, gone)
            with step(request.trace, "search in memory"):
                if snapshot.numbers <= _ON_THE_LOOP:
                    found = snapshot.best(*arguments)
                else:
                    found = await asyncio.to_thread(snapshot.best, *arguments)
            if not found:
                # Nothing is said without having asked: the server may be gone. It costs little.
                return "nothing in memory, and the server was asked"
            keys = [key_of(row_id) for row_id, _ in found]
            wanted = [hit for hit, key in zip(found, keys, strict=True) if key not in rows]
            with step(request.trace, "rows of the hits"):
                rows.update(await hit_rows(self._driver, request, wanted))
            missing = {key for key in keys if key not in rows}
            if not missing:
                return SearchAnswer(NAME, [rows[key] for key in keys], report)
            gone |= missing  # the stream has yet to bring that; the next best stand in
        return "much has changed in this very moment"

    async def _scope(self, request: SearchRequest, operation: str) -> ResidentScope | None:
        """The scope in memory, loaded by whoever asks first; None where it cannot be there."""
        name = (request.collection, bson.encode(request.scope))
        scope = self._ready.get(name)
        if scope is not None:
            self._ready.move_to_end(name)
            return scope
        if time.monotonic() < self._too_large_until.get(name, 0.0):
            return None
        load = self._loads.get(name)
        if load is None:
            load = asyncio.get_running_loop().create_task(
                self._load(name, request.scope, request.vector.size), name="memorizz-async load"
            )
            self._loads[name] = load
        # The load is nobody's own: who gives up leaves it to the others that wait.
        await asyncio.wait([load], timeout=request.deadline.remaining_s(operation))
        if not load.done():
            raise request.deadline.exceeded(operation)
        return None if load.cancelled() else load.result()

    async def _load(
        self, name: _Name, conditions: Mapping[str, Any], dimensions: int
    ) -> ResidentScope | None:
        """Read the rows of a scope while changes of it are applied already."""
        try:
            scope = ResidentScope(conditions, self._similarity)
        except ValueError as error:
            log.warning("a scope cannot be kept in memory: %s", error)
            self._too_large_until[name] = float("inf")
            return None
        collection = name[0]
        self._following[collection][name] = scope
        try:
            batches = self._driver.raw_batches(
                collection,
                scan_filter(conditions, datetime.now(UTC)),
                projection=resident_projection(),
                batch_size=batch_size(dimensions),
                deadline=Deadline.after(self._timeout_ms),
                after=self.feed.position or _BEGINNING,
            )
            async with aclosing(batches):
                async for batch in batches:
                    scope.load(read_vectors(batch))
                    self._weigh(name, scope)
                    if scope.dropped:
                        return None
            if scope.dropped:
                return None
            scope.loaded()
            self._ready[name] = scope
            self._weigh(name, scope)
        except DatabaseError as error:
            log.info("a scope of %r was not loaded: %s", collection, error)
            return None  # the scan that follows says it to the caller, if it is still so
        else:
            return scope
        finally:
            del self._loads[name]
            if name not in self._ready:
                self._drop(name)

    def _apply(self, event: Document) -> None:
        collection = event.get("ns", {}).get("coll")  # an invalidate event is about no place
        kind = event["operationType"]
        if kind in ("insert", "update", "replace", "delete"):
            scopes = self._following.get(collection)
            if scopes:
                row_id = event["documentKey"]["_id"]
                key, row = key_of(row_id), event.get("fullDocument")
                for name, scope in list(scopes.items()):
                    if scope.change(key, row_id, row):
                        self._weigh(name, scope)
        elif kind == "dropDatabase":
            self.lost()
        elif kind in ("drop", "rename"):
            self._drop_all(collection)
            self._drop_all(event.get("to", {}).get("coll"))

    def _weigh(self, name: _Name, scope: ResidentScope) -> None:
        """Count a scope's bytes anew, and make room where there is too little."""
        if scope.dropped:
            return
        now = scope.nbytes
        self.nbytes += now - self._sizes.get(name, 0)
        self._sizes[name] = now
        while self.nbytes > self._most_bytes:
            others = (each for each in self._ready if each != name)
            oldest = next(others, None)
            if oldest is None:
                # Alone it is too large; beside others that are being loaded, one has to give way.
                self._too_large_until[name] = time.monotonic() + _TOO_LARGE_S
                log.info(
                    "a scope of %r does not fit into %d MB: searching it by scan",
                    name[0],
                    self._most_bytes // 1_000_000,
                )
                self._drop(name)
                return
            self._drop(oldest)

    def _drop(self, name: _Name) -> None:
        scopes = self._following[name[0]]
        scope = scopes.pop(name, None)
        if scope is not None:
            scope.dropped = True
        self._ready.pop(name, None)
        self.nbytes -= self._sizes.pop(name, 0)

    def _drop_all(self, collection: str | None) -> None:
        if collection is not None:
            for name in list(self._following.get(collection, ())):
                self._drop(name)
