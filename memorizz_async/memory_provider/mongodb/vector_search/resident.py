"""Exact search in memory: the vectors of a scope are loaded once and kept fresh by a change stream.

A search is a matrix product and one `find` of the hits, which asks for scope and filter again: a
row that left a moment ago does not come back. Where the stream is not there, has not brought this
provider's own last write in time, or the scope does not fit into memory, it says so, and a scan it
is.

The fields that a caller's filter names are kept beside the vectors from the first such filter on:
that search reads the scope once more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import bson
from bson import Timestamp

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError, OperationTimeoutError, ServerUnavailableError
from memorizz_async.memory_provider.mongodb.filters import fields_by_type, paths_of
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines import (
    list_collection,
    resident_projection,
    scan_filter,
)
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.memory_provider.mongodb.vector_search.change_feed import ChangeFeed
from memorizz_async.memory_provider.mongodb.vector_search.held_scopes import HeldScopes, Paths
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of, may_be_another
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest, step
from memorizz_async.memory_provider.mongodb.vector_search.resident_ranking import (
    ResidentRanking,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident_scope import (
    ResidentScope,
    ScopeName,
)
from memorizz_async.memory_provider.mongodb.vector_search.scan import batch_size

log = logging.getLogger(__name__)

_OWN_WRITE_S = 0.25
"""How long a search waits for the stream to bring this provider's own last write."""
_AT_A_STRETCH_S = 0.002
_SLOWER = 4
"""So many times longer a row takes to load with fields beside the vector: they are decoded."""
_BEGINNING = Timestamp(1, 1)
_LOOK_AGAIN_S = 60.0
"""How long a collection whose changes cannot be followed is not looked at again."""


class ResidentStore:
    """The scopes that are in memory, of one provider on one event loop: loads and follows them."""

    def __init__(
        self,
        driver: Driver,
        config: MongoDBConfig,
        collections: Sequence[str],
        notices: Notices,
    ) -> None:
        self._driver = driver
        self._notices = notices
        self._similarity = config.similarity
        self._timeout_ms = config.timeout_ms
        # The stream keeps a connection to itself: of one in all, nothing would be left.
        self._possible = config.max_pool_size > 1
        declared = fields_by_type(config.filter_fields).values()
        paths = sorted({path for paths in declared for path in paths})
        self.feed = ChangeFeed(driver, collections, self, notices, paths)
        self._asked_for: defaultdict[str, Paths] = defaultdict(frozenset)
        """What filters have named, by collection: those who ask of one tenant ask so of all."""
        self._loads: dict[ScopeName, asyncio.Task[ResidentScope | None]] = {}
        self.held = HeldScopes(config.resident_memory_mb)
        self._followable: set[str] = set()
        self._not_followable: dict[str, tuple[float, str]] = {}

    async def ranking(
        self, request: SearchRequest, written: Timestamp | None
    ) -> ResidentRanking | str:
        """How the rows of the scope rank by the request, or why a scan has to say.

        written: the logical time of the last write that the answer must know of.

        Raises DatabaseError.
        """
        with step(request.trace, "scope in memory"):
            scope = await self._up_to_date(request, written)
        if isinstance(scope, str):
            return scope
        path = scope.cannot_tell(request.filter, request.now_ms)
        if path is not None:
            return f"{path!r} has values that only the server compares"
        return ResidentRanking(self._driver, scope, request)

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
        self.held.clear()
        self._followable.clear()

    async def _up_to_date(
        self, request: SearchRequest, written: Timestamp | None
    ) -> ResidentScope | str:
        """The scope in memory with all that it must know, or why there is none."""
        operation = f"search of {request.collection!r}"
        reason = await self._why_not_followed(request, operation)
        if reason is not None:
            return reason
        scope = await self._scope(request, operation)
        if scope is None:
            return "the scope is not in memory"
        if written is not None:
            patience = min(_OWN_WRITE_S, request.deadline.remaining_s(operation))
            if not await self.feed.reached(written, patience):
                return "the change stream has not brought the last write yet"
        if scope.dropped or not self.feed.live or self.feed.behind:
            return "what was in memory was given up, or the change stream broke"
        return scope

    async def _why_not_followed(self, request: SearchRequest, operation: str) -> str | None:
        """Why the changes of the request's collection do not come now; None where they do."""
        feed = self.feed
        if not self._possible:
            return "the only connection is not for a change stream"
        if not feed.live and not await feed.open(request.deadline.remaining_s(operation)):
            return "there is no change stream"
        if feed.behind:
            return "the change stream is not delivering"
        if request.collection in self._followable:
            return None
        return await self._why_not_followable(request)

    async def _why_not_followable(self, request: SearchRequest) -> str | None:
        """Why the changes of a collection cannot be followed; None where they can.

        A view and a time-series collection have no changes of their own: what was loaded of them
        would never hear of a write. Raises ServerUnavailableError and OperationTimeoutError.
        """
        collection = request.collection
        until, reason = self._not_followable.get(collection, (0.0, ""))
        if time.monotonic() < until:
            return reason
        try:
            reply = await self._driver.command(
                list_collection(collection), deadline=request.deadline
            )
        except (ServerUnavailableError, OperationTimeoutError):
            raise
        except DatabaseError as error:
            reason = f"it cannot be seen whether {collection!r} is a view (code {error.code})"
        else:
            kinds = [entry.get("type", "collection") for entry in reply["cursor"]["firstBatch"]]
            if kinds in ([], ["collection"]):
                self._followable.add(collection)
                return None
            reason = f"{collection!r} is a {kinds[0]}, whose changes cannot be followed"
        self._not_followable[collection] = (time.monotonic() + _LOOK_AGAIN_S, reason)
        self._notices.warn(log, ("followable", collection), "%s: searching by scan", reason)
        return reason

    async def _scope(self, request: SearchRequest, operation: str) -> ResidentScope | None:
        """The scope in memory, loaded by whoever asks first; None where it cannot be there."""
        name = (request.collection, bson.encode(request.scope))
        paths = frozenset(paths_of(request.filter))
        while True:
            scope = self.held.ready(name, paths)
            if scope is not None:
                return scope
            load = self._loads.get(name) or self._start_load(name, request, paths)
            if load is None:
                return None
            # The load is nobody's own: who gives up leaves it to the others that wait.
            await asyncio.wait([load], timeout=request.deadline.remaining_s(operation))
            if not load.done():
                raise request.deadline.exceeded(operation)
            loaded = None if load.cancelled() else load.result()
            if loaded is None or paths.issubset(loaded.paths):
                return loaded

    def _start_load(
        self, name: ScopeName, request: SearchRequest, paths: Paths
    ) -> asyncio.Task[ResidentScope | None] | None:
        """Load a scope with all that has been asked for; None where it was too large lately."""
        self._asked_for[request.collection] |= paths
        for wanted in (self._asked_for[request.collection], paths):  # with less, it may yet fit
            if not self.held.refuses(name, wanted):
                break
        else:
            return None
        try:
            scope = ResidentScope(name, request.scope, self._similarity, wanted)
        except ValueError as error:
            log.warning("a scope cannot be kept in memory: %s", error)
            self.held.refuse(name, wanted, float("inf"))
            return None
        load = asyncio.get_running_loop().create_task(
            self._load(name, scope, request.scope, request.vector.size), name="memorizz-async load"
        )
        self._loads[name] = load
        return load

    async def _load(
        self, name: ScopeName, scope: ResidentScope, conditions: Mapping[str, Any], dimensions: int
    ) -> ResidentScope | None:
        """Read the rows of a scope while changes of it are applied already."""
        collection = name[0]
        self.held.follow(scope)
        try:
            batches = self._driver.raw_batches(
                collection,
                scan_filter(conditions, datetime.now(UTC)),
                projection=resident_projection(scope.paths),
                batch_size=batch_size(dimensions) // (_SLOWER if scope.paths else 1),
                deadline=Deadline.after(self._timeout_ms),
                after=self.feed.position or _BEGINNING,
            )
            async with aclosing(batches):
                async for batch in batches:
                    scope.load(batch)
                    self.held.weigh(scope)
                    if scope.dropped:
                        return None
            if scope.dropped:
                return None
            scope.loaded()
            self.held.serve(scope)
        except DatabaseError as error:
            log.info("a scope of %r was not loaded: %s", collection, error)
            return None  # the scan that follows says it to the caller, if it is still so
        else:
            return scope
        finally:
            del self._loads[name]
            if not self.held.serves(scope):
                self.held.drop(scope)

    def _apply(self, event: Document) -> None:
        collection = event.get("ns", {}).get("coll")  # an invalidate event is about no place
        kind = event["operationType"]
        if kind in ("insert", "update", "replace", "delete"):
            following = self.held.following(collection)
            if following:
                row_id = event["documentKey"]["_id"]
                key, row = key_of(row_id), event.get("fullDocument")
                if may_be_another(key):
                    self.held.drop_all(collection)  # a load reads its bytes
                    return
                for scope in following:
                    if scope.change(key, row_id, row):
                        self.held.weigh(scope)
        elif kind == "dropDatabase":
            self.lost()
        elif kind in ("drop", "rename"):
            for name in (collection, event.get("to", {}).get("coll")):
                self.held.drop_all(name)
                self._followable.discard(name)
