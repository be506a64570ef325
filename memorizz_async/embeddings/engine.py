"""Continuous batching for one model, shared by every event loop and thread of the process.

Texts that come while the model is busy form the next batch; a text that comes while it is idle
starts at once. There is no timer and no task: a few worker threads take from the queue, and those
who wait are woken on their own loops. All state is under one lock, which is held for microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from memorizz_async.embeddings.cache import Key, VectorCache, text_key
from memorizz_async.embeddings.calls import Call, wake, wake_futures
from memorizz_async.embeddings.execution import Execution, Outcome, as_our_error
from memorizz_async.embeddings.ledger import Ledger, decide
from memorizz_async.embeddings.protocol import Backend, Kind, ModelInfo, Vector
from memorizz_async.embeddings.stats import Counters, EmbeddingStats, snapshot
from memorizz_async.embeddings.tier import PatientTier
from memorizz_async.embeddings.work_queue import Item, WorkQueue, padded_tokens
from memorizz_async.embeddings.workers import Workers
from memorizz_async.errors import ClosedError, MemorizzAsyncError, OverloadedError
from memorizz_async.fork import ProcessBound, reset_in_child

logger = logging.getLogger("memorizz_async.embeddings")

# So many texts are admitted under the lock in one go; the loop gets its turn between two.
_ADMIT_AT_ONCE = 256
# So many texts are counted between two batches: a query that comes meanwhile waits for a fraction
# of a batch.
_COUNT_AT_ONCE = 256


class Engine(ProcessBound):
    """Admits texts, batches them, answers.

    identity: whatever changes a vector besides prompt and text; part of every cache key.
    max_queue: texts that may wait.
    is_in_use: False once whoever made the engine is gone without having closed it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        identity: str,
        queue: WorkQueue,
        cache: VectorCache,
        max_workers: int,
        max_queue: int,
        dimensions: int | None,
        normalize: bool,
        idle_seconds: float,
        is_in_use: Callable[[], bool] = lambda: True,
    ) -> None:
        self._backend = backend
        self._is_in_use = is_in_use
        self._identity = identity
        self._max_workers = max_workers
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._counters = Counters()
        self._ledger = Ledger(queue, cache, self._counters, max_queue)
        self._load_calls: list[Call] = []
        self._loading = False
        self._closed = False
        self._info: ModelInfo | None = None
        self._execution = Execution(
            backend,
            dimensions=dimensions,
            normalize=normalize,
            loops=self._loops_of,
            still_wanted=self._still_wanted,
            too_large=self._too_large,
            tried_again=self._tried_again,
        )
        self._workers = self._new_workers()
        reset_in_child(self)

    def _new_workers(self) -> Workers:
        return Workers(
            self._lock,
            limit=self._max_workers,
            idle_seconds=self._idle_seconds,
            has_work=self._has_work,
            work=self._work,
            at_end=self._close_backend,
            at_exit=self.shutdown,
            is_in_use=self._is_in_use,
        )

    def reset_after_fork(self) -> None:
        """Begin with an empty queue and without threads; the parent computes what it was asked.

        The cache is emptied, too: another thread may have been changing it.
        """
        self._lock = threading.Lock()
        self._load_calls, self._loading = [], False
        self._ledger.reset()
        self._counters.running = 0
        self._workers = self._new_workers()

    @property
    def info(self) -> ModelInfo | None:
        """What is known of the model; None before it is loaded."""
        return self._info

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def dimensions(self) -> int | None:
        """Of the vectors that leave here; None before it is known."""
        return self._execution.dimensions

    # --- on event loops ---------------------------------------------------------------------

    async def load(self) -> ModelInfo:
        """Open the backend where that has not been done yet."""
        self._check_open()
        while (info := self._info) is None:
            call = Call()
            try:
                with self._lock:
                    self._check_open()
                    self._load_calls.append(call)
                    self._workers.call_one()
                await call.future
            finally:
                self._leave(call)
        return info

    async def embed(
        self, texts: Sequence[str], kind: Kind, *, wait: bool, tier: PatientTier | None = None
    ) -> list[Vector]:
        """One read-only vector a text.

        wait: where the queue is full, wait for room; False raises OverloadedError.
        tier: where to look behind the cache, and to keep what it did not have.
        """
        info = await self.load()
        call = Call(len(texts), kind, info.prompts.of(kind))
        fresh: dict[Key, int] = {}
        try:
            for start in range(0, len(texts), _ADMIT_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                part = texts[start : start + _ADMIT_AT_ONCE]
                keys = [text_key(self._identity, call.prompt, text) for text in part]
                known: Mapping[Key, Vector] = {}
                if tier is not None:
                    known = await self._in_tier(tier, start, keys, fresh)
                await self._admit(call, start, part, keys, known, wait=wait)
            if call.missing:
                await call.future
        finally:
            self._leave(call)
        vectors = call.result()
        if fresh and tier is not None:
            kept = await tier.keep({key: vectors[position] for key, position in fresh.items()})
            with self._lock:
                self._counters.tier_failures += not kept
        return vectors

    async def _in_tier(
        self, tier: PatientTier, start: int, keys: Sequence[Key], fresh: dict[Key, int]
    ) -> Mapping[Key, Vector]:
        """What the tier has of what the cache has not; `fresh` gains what neither has."""
        with self._lock:
            wanted = self._ledger.unknown(keys)
        if not wanted:
            return {}
        found = await tier.look(wanted, self.dimensions)
        with self._lock:
            self._counters.tier_failures += found is None
            self._counters.tier_hits += len(found or ())
            self._counters.tier_misses += len(wanted) - len(found or ())
        missing = {key for key in wanted if key not in (found or {})}
        fresh.update((key, start + position) for position, key in enumerate(keys) if key in missing)
        return found or {}

    async def _admit(
        self,
        call: Call,
        start: int,
        texts: Sequence[str],
        keys: Sequence[Key],
        known: Mapping[Key, Vector],
        *,
        wait: bool,
    ) -> None:
        done = 0
        while done < len(texts):
            room: asyncio.Future[None] | None = None
            with self._lock:
                self._check_open()
                if call.answered:
                    return  # a text of this call has failed meanwhile; its future says so
                while done < len(texts):
                    key = keys[done]
                    if not self._ledger.place(call, start + done, key, texts[done], known.get(key)):
                        room = self._no_room(call, wait=wait)
                        break
                    done += 1
                if self._ledger.queue:
                    self._workers.call_one()
            if room is not None:
                await self._wait_for(room)

    def _no_room(self, call: Call, *, wait: bool) -> asyncio.Future[None]:
        if wait:
            return self._ledger.wait_for_room(call)
        self._counters.overloaded += 1
        raise OverloadedError(
            "The embedding queue is full",
            seen=f"{len(self._ledger.queue)} texts wait, the limit is {self._ledger.max_queue}",
            fix="try again later, pass wait=True, or raise max_queue",
        )

    async def _wait_for(self, room: asyncio.Future[None]) -> None:
        try:
            await room
        finally:
            with self._lock:
                self._ledger.forget_room(room)

    def _leave(self, call: Call) -> None:
        """The caller goes, with its answer or without: what only it wanted is not computed."""
        with self._lock:
            self._counters.calls += bool(call.rows)
            if not call.answered:
                call.answered = True
                self._counters.abandoned += 1
                if call in self._load_calls:
                    self._load_calls.remove(call)
            self._ledger.leave(call)
            room = self._ledger.freed_room()
        wake_futures(room)
        call.settle()

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    # --- in worker threads ------------------------------------------------------------------

    def _has_work(self) -> bool:
        return (bool(self._load_calls) and not self._loading) or bool(self._ledger.queue)

    def _work(self) -> None:
        """One turn of a worker: load the model, or run one batch."""
        with self._lock:
            if self._load_calls and not self._loading:
                self._loading = True
                items = None
            else:
                self._count_tokens()
                items = self._ledger.take()
                if self._ledger.queue:
                    self._workers.call_one()
                room = self._ledger.freed_room()
        if items is None:
            self._load()
        elif items:
            wake_futures(room)
            self._run(items)

    def _count_tokens(self) -> None:
        """Count what the next batch is cut from. Under the lock, which is let go meanwhile."""
        waiting = self._ledger.queue.uncounted(_COUNT_AT_ONCE)
        if not waiting or not self._execution.counts_tokens:
            return
        self._lock.release()
        try:
            counts = self._execution.count_tokens(waiting)
        finally:
            self._lock.acquire()
        for item, tokens in zip(waiting, counts, strict=True):
            item.counted = True
            item.tokens = tokens or item.tokens

    def _load(self) -> None:
        error: MemorizzAsyncError | None = None
        try:
            if self._info is None:
                info = self._backend.open()
                try:
                    self._execution.expect(info.dimensions)
                except MemorizzAsyncError:
                    self._backend.close()
                    raise
                with self._lock:
                    self._ledger.max_tokens = info.max_tokens
                    self._ledger.queue.suit(info.batch_texts, info.batch_tokens)
                self._info = info
        except BaseException as raised:  # noqa: BLE001 - those who wait must hear of any of them
            error = as_our_error(raised)
        with self._lock:
            self._loading = False
            calls, self._load_calls = self._load_calls, []
            answers = decide(calls, error)
        wake(answers)

    def _run(self, items: list[Item]) -> None:
        started = time.perf_counter()
        left = dict.fromkeys(items)
        try:
            for outcomes in self._execution.run(items):
                self._deliver(outcomes)
                for item, _ in outcomes:
                    del left[item]
        except BaseException as error:
            # Not the backend's failure, but ours; those who wait must hear of that too.
            logger.exception("The embedding engine failed.")
            self._deliver([(item, as_our_error(error)) for item in left])
            left.clear()
        finally:
            with self._lock:
                self._counters.running -= len(left)  # those that nobody wanted any more
                self._counters.computes.append(time.perf_counter() - started)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        with self._lock:
            answers = self._ledger.settle(outcomes)
            room = self._ledger.freed_room()
        wake(answers)
        wake_futures(room)

    def _loops_of(self, items: list[Item]) -> list[asyncio.AbstractEventLoop]:
        with self._lock:
            return self._ledger.loops_of(items)

    def _still_wanted(self, item: Item) -> bool:
        with self._lock:
            return self._ledger.still_wanted(item)

    def _too_large(self, items: list[Item]) -> None:
        with self._lock:
            self._counters.halved += 1
            self._ledger.queue.shrink(padded_tokens(items))

    def _tried_again(self, count: int) -> None:
        with self._lock:
            self._counters.retried += count

    # --- the end ----------------------------------------------------------------------------

    def shutdown(self, timeout: float) -> None:
        """Fail those who wait with ClosedError, end the threads; never blocks an event loop."""
        self._stop()
        self._workers.join(timeout)

    async def close(self, timeout: float) -> None:
        """As `shutdown`, and wait for the threads without blocking the loop."""
        self._stop()
        await self._workers.join_async(timeout)

    def _stop(self) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
            answers, room = self._ledger.fail_all(closed_error())
            answers += decide(self._load_calls, closed_error())
            self._load_calls.clear()
        wake(answers)
        wake_futures(room)
        if first:
            self._backend.cancel()
            self._workers.stop()

    def _close_backend(self) -> None:
        if self._info is not None:
            self._backend.close()

    def stats(self) -> EmbeddingStats:
        with self._lock:
            return snapshot(
                self._backend,
                self._info,
                self._counters,
                self._ledger.cache,
                self._ledger.queue,
                dimensions=self._execution.dimensions,
                workers=self._workers.count,
            )


def closed_error() -> ClosedError:
    return ClosedError(
        "The embedding provider is closed",
        fix="make a new one, or close it after its last use",
    )
