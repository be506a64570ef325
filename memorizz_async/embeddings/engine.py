"""Continuous batching for one model, shared by every event loop and thread of the process.

Texts that arrive while the model is busy form the next batch; a text that arrives while it is idle
starts at once. There is no timer and no task: a few worker threads take batches from the queue, and
callers are woken on their own loops. One lock guards all state and is held for microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from memorizz_async.embeddings.batching import (
    Call,
    Item,
    WorkQueue,
    conclude,
    deliver,
    padded_tokens,
    resolve_futures,
)
from memorizz_async.embeddings.cache import Key, ResilientCacheTier, VectorCache, text_key
from memorizz_async.embeddings.execution import (
    BatchExecutor,
    Outcome,
    WorkerThreads,
    as_our_error,
)
from memorizz_async.embeddings.ledger import Ledger
from memorizz_async.embeddings.protocol import Backend, Kind, ModelInfo, Vector
from memorizz_async.embeddings.stats import Counters, EmbeddingStats, snapshot
from memorizz_async.errors import ClosedError, MemorizzAsyncError, OverloadedError
from memorizz_async.fork import ProcessBound, reset_in_child

logger = logging.getLogger("memorizz_async.embeddings")

_ADMIT_AT_ONCE = 256
"""Texts that are admitted under the lock at once; the event loop runs in between."""
_COUNT_AT_ONCE = 256
"""Texts whose tokens are counted between two batches: a query that arrives meanwhile waits for a
fraction of a batch."""


class Engine(ProcessBound):
    """Admits texts, batches them and answers the calls.

    Args:
        backend: Computes the vectors.
        identity: Whatever changes a vector besides prompt and text; part of every cache key.
        queue: The waiting texts, with the limits of a batch.
        cache: Keeps the vectors computed last.
        max_workers: Maximum number of threads, and so of concurrent batches.
        max_queue: Texts that may wait.
        dimensions: Length to truncate vectors to; None keeps the model's.
        normalize: Whether vectors are scaled to length 1.
        idle_seconds: How long an idle thread lives.
        is_in_use: Returns False once the owner of the engine is gone without closing it.
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
        self._executor = BatchExecutor(
            backend,
            dimensions=dimensions,
            normalize=normalize,
            loops=self._loops_of,
            still_wanted=self._still_wanted,
            on_split=self._on_split,
            on_retry=self._on_retry,
        )
        self._workers = self._new_workers()
        reset_in_child(self)

    def _new_workers(self) -> WorkerThreads:
        return WorkerThreads(
            self._lock,
            limit=self._max_workers,
            idle_seconds=self._idle_seconds,
            has_work=self._has_work,
            work=self._work,
            on_stopped=self._close_backend,
            on_exit=self.shutdown,
            is_in_use=self._is_in_use,
        )

    def reset_after_fork(self) -> None:
        """Start with an empty queue and no threads: the parent process answers its own calls.

        The cache is emptied too, as another thread may have been changing it.
        """
        self._lock = threading.Lock()
        self._load_calls, self._loading = [], False
        self._ledger.reset()
        self._counters.running = 0
        self._workers = self._new_workers()

    @property
    def info(self) -> ModelInfo | None:
        """The loaded model; None before it is loaded."""
        return self._info

    @property
    def closed(self) -> bool:
        """Whether the engine was closed."""
        return self._closed

    @property
    def dimensions(self) -> int | None:
        """Length of the vectors that callers get; None before it is known."""
        return self._executor.dimensions

    # --- on event loops ---------------------------------------------------------------------

    async def load(self) -> ModelInfo:
        """Open the backend, unless it is open.

        Raises:
            ClosedError: The engine was closed.
            EmbeddingError: The backend failed.
        """
        self._check_open()
        while (info := self._info) is None:
            call = Call()
            try:
                with self._lock:
                    self._check_open()
                    self._load_calls.append(call)
                    self._workers.notify()
                await call.future
            finally:
                self._finish(call)
        return info

    async def embed(
        self,
        texts: Sequence[str],
        kind: Kind,
        *,
        wait: bool,
        tier: ResilientCacheTier | None = None,
    ) -> list[Vector]:
        """Embed texts.

        Args:
            texts: Validated texts, without prompt.
            kind: Which prompt and which lane of the queue they get.
            wait: Whether to wait for room in a full queue.
            tier: A second tier to look up, and to store, what the cache does not have.

        Returns:
            One read-only vector for each text, shape (dimensions,), float32.

        Raises:
            OverloadedError: The queue is full and `wait` is False.
            ClosedError: The engine was closed.
            EmbeddingError: The backend failed.
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
                    known = await self._look_up(tier, start, keys, fresh)
                await self._admit(call, start, part, keys, known, wait=wait)
            if call.missing:
                await call.future
        finally:
            self._finish(call)
        vectors = call.result()
        if fresh and tier is not None:
            kept = await tier.put_many({key: vectors[position] for key, position in fresh.items()})
            with self._lock:
                self._counters.tier_failures += not kept
        return vectors

    async def _look_up(
        self, tier: ResilientCacheTier, start: int, keys: Sequence[Key], fresh: dict[Key, int]
    ) -> Mapping[Key, Vector]:
        """Look up in the tier what the cache misses; adds to `fresh` what the tier misses too."""
        with self._lock:
            wanted = self._ledger.missing_keys(keys)
        if not wanted:
            return {}
        found = await tier.get_many(wanted, self.dimensions)
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
                    return  # a text of this call has failed meanwhile; its future has the error
                while done < len(texts):
                    key = keys[done]
                    if not self._ledger.admit(call, start + done, key, texts[done], known.get(key)):
                        room = self._wait_for_room(call, wait=wait)
                        break
                    done += 1
                if self._ledger.queue:
                    self._workers.notify()
            if room is not None:
                try:
                    await room
                finally:
                    with self._lock:
                        self._ledger.remove_room_waiter(room)

    def _wait_for_room(self, call: Call, *, wait: bool) -> asyncio.Future[None]:
        if wait:
            return self._ledger.add_room_waiter(call)
        self._counters.overloaded += 1
        raise OverloadedError(
            "The embedding queue is full",
            seen=f"{len(self._ledger.queue)} texts wait, the limit is {self._ledger.max_queue}",
            fix="try again later, pass wait=True, or raise max_queue",
        )

    def _finish(self, call: Call) -> None:
        """End a call, answered or cancelled: texts that only it waited for are not computed."""
        with self._lock:
            self._counters.calls += bool(call.rows)
            if not call.answered:
                call.answered = True
                self._counters.abandoned += 1
                if call in self._load_calls:
                    self._load_calls.remove(call)
            self._ledger.abandon(call)
            room = self._ledger.pop_room_waiters()
        resolve_futures(room)
        call.settle()

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    # --- in worker threads ------------------------------------------------------------------

    def _has_work(self) -> bool:
        return (bool(self._load_calls) and not self._loading) or bool(self._ledger.queue)

    def _work(self) -> None:
        """Load the model, or execute one batch."""
        with self._lock:
            if self._load_calls and not self._loading:
                self._loading = True
                items = None
            else:
                self._count_tokens()
                items = self._ledger.take()
                if self._ledger.queue:
                    self._workers.notify()
                room = self._ledger.pop_room_waiters()
        if items is None:
            self._load()
        elif items:
            resolve_futures(room)
            self._run(items)

    def _count_tokens(self) -> None:
        """Count tokens for the next batch. Under the lock, which is released meanwhile."""
        waiting = self._ledger.queue.uncounted(_COUNT_AT_ONCE)
        if not waiting or not self._executor.counts_tokens:
            return
        self._lock.release()
        try:
            counts = self._executor.count_tokens(waiting)
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
                    self._executor.set_model_dimensions(info.dimensions)
                except MemorizzAsyncError:
                    self._backend.close()
                    raise
                with self._lock:
                    self._ledger.max_tokens = info.max_tokens
                    self._ledger.queue.configure_limits(info.batch_texts, info.batch_tokens)
                self._info = info
        except BaseException as raised:  # noqa: BLE001 - waiting calls must get any of them
            error = as_our_error(raised)
        with self._lock:
            self._loading = False
            calls, self._load_calls = self._load_calls, []
            answers = conclude(calls, error)
        deliver(answers)

    def _run(self, items: list[Item]) -> None:
        started = time.perf_counter()
        left = dict.fromkeys(items)
        try:
            for outcomes in self._executor.run(items):
                self._deliver(outcomes)
                for item, _ in outcomes:
                    del left[item]
        except BaseException as error:
            # A defect of the engine itself; the waiting calls must get an answer all the same.
            logger.exception("The embedding engine failed.")
            self._deliver([(item, as_our_error(error)) for item in left])
            left.clear()
        finally:
            with self._lock:
                self._counters.running -= len(left)  # dropped: no call waited any more
                self._counters.computes.append(time.perf_counter() - started)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        with self._lock:
            answers = self._ledger.settle(outcomes)
            room = self._ledger.pop_room_waiters()
        deliver(answers)
        resolve_futures(room)

    def _loops_of(self, items: list[Item]) -> list[asyncio.AbstractEventLoop]:
        with self._lock:
            return self._ledger.loops_of(items)

    def _still_wanted(self, item: Item) -> bool:
        with self._lock:
            return self._ledger.still_wanted(item)

    def _on_split(self, items: list[Item]) -> None:
        with self._lock:
            self._counters.halved += 1
            self._ledger.queue.shrink(padded_tokens(items))

    def _on_retry(self, count: int) -> None:
        with self._lock:
            self._counters.retried += count

    # --- closing ----------------------------------------------------------------------------

    def shutdown(self, timeout: float) -> None:
        """Fail waiting calls with ClosedError and end the threads; never blocks an event loop."""
        self._stop()
        self._workers.join(timeout)

    async def close(self, timeout: float) -> None:
        """Like `shutdown`, and wait up to `timeout` seconds for the threads without blocking."""
        self._stop()
        await self._workers.join_async(timeout)

    def _stop(self) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
            answers, room = self._ledger.fail_all(closed_error())
            answers += conclude(self._load_calls, closed_error())
            self._load_calls.clear()
        deliver(answers)
        resolve_futures(room)
        if first:
            self._backend.cancel()
            self._workers.stop()

    def _close_backend(self) -> None:
        if self._info is not None:
            self._backend.close()

    def stats(self) -> EmbeddingStats:
        """Return a consistent snapshot of every counter."""
        with self._lock:
            return snapshot(
                self._backend,
                self._info,
                self._counters,
                self._ledger.cache,
                self._ledger.queue,
                dimensions=self._executor.dimensions,
                workers=self._workers.count,
            )


def closed_error() -> ClosedError:
    return ClosedError(
        "The embedding provider is closed",
        fix="make a new one, or close it after its last use",
    )
