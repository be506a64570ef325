"""Executes batches: the rules of failure, and the worker threads.

A batch that does not fit is split in half. A batch that fails is retried text by text, so that an
invalid text fails alone. Vectors are validated before any caller gets them.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TypeAlias

from memorizz_async.embeddings.batching import Item, resolve_futures
from memorizz_async.embeddings.protocol import (
    Backend,
    Batch,
    BatchTooLargeError,
    Matrix,
    Vector,
    WholeBatchError,
)
from memorizz_async.embeddings.validation import (
    as_matrix,
    invalid_rows,
    invalid_vector_error,
    read_only_copy,
    truncate,
)
from memorizz_async.errors import EmbeddingError, MemorizzAsyncError
from memorizz_async.fork import ForkSafeLock
from memorizz_async.redaction import outline

logger = logging.getLogger("memorizz_async.embeddings")

Outcome: TypeAlias = tuple[Item, Vector | MemorizzAsyncError]
Loops: TypeAlias = Callable[[list[Item]], list[asyncio.AbstractEventLoop]]

_EXIT_SECONDS = 5.0
"""How long the end of the process waits for a running batch: an interpreter that ends while a
thread is inside torch can crash."""
_IDLE_CHECK_SECONDS = 0.25
"""How often an idle thread checks whether it may still get work."""


class BatchExecutor:
    """Executes batches on one backend. From worker threads.

    Args:
        backend: Computes the vectors.
        dimensions: Length to truncate vectors to; None keeps the model's.
        normalize: Whether vectors are scaled to length 1.
        loops: Returns the event loops of the calls that wait for some texts.
        still_wanted: Returns whether a call still waits for a text that is to be retried.
        on_split: Called with the texts of a batch that was too large.
        on_retry: Called with the number of texts that are retried alone.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        dimensions: int | None,
        normalize: bool,
        loops: Loops,
        still_wanted: Callable[[Item], bool],
        on_split: Callable[[list[Item]], None],
        on_retry: Callable[[int], None],
    ) -> None:
        self._backend = backend
        self._target_dimensions = dimensions
        self._normalize = normalize
        self._loops = loops
        self._still_wanted = still_wanted
        self._on_split = on_split
        self._on_retry = on_retry
        self._lock = ForkSafeLock()
        self.model_dimensions: int | None = None
        """Length of the model's vectors before they are truncated; the same in every batch."""

    @property
    def dimensions(self) -> int | None:
        """Length of the vectors that callers get; None before it is known."""
        if self.model_dimensions is None:
            return None
        return min(self.model_dimensions, self._target_dimensions or self.model_dimensions)

    def set_model_dimensions(self, dimensions: int | None) -> None:
        """Record the length of the model's vectors; None if the backend does not know it yet.

        Raises:
            EmbeddingError: The requested dimensions exceed the model's.
        """
        if dimensions is None:
            return
        if self._target_dimensions is not None and self._target_dimensions > dimensions:
            raise EmbeddingError(
                "The model's vectors are shorter than the requested dimensions",
                seen=f"{dimensions} instead of {self._target_dimensions}",
                fix="leave dimensions out, or request fewer",
            )
        with self._lock:
            if self.model_dimensions is None:
                self.model_dimensions = dimensions

    @property
    def counts_tokens(self) -> bool:
        """Whether the backend can count the tokens of texts."""
        return hasattr(self._backend, "count_tokens")

    def count_tokens(self, items: list[Item]) -> list[int]:
        """Return the tokens of each text, 0 if unknown. Never raises: estimates suffice."""
        counts: list[int] = []
        try:
            counts = self._backend.count_tokens([item.prompt + item.text for item in items])  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - an estimate suffices
            logger.debug("tokens were not counted: %s", outline(error))
        return counts if len(counts) == len(items) else [0] * len(items)

    def run(self, items: list[Item]) -> Iterator[list[Outcome]]:
        """Execute a batch.

        Yields:
            Outcomes as they are known, each text exactly once, except retried texts that no call
            waits for any more.
        """
        parts = [items]
        while parts:
            part = parts.pop()
            if part is not items:
                part = [item for item in part if self._still_wanted(item)]
                if not part:
                    continue
            try:
                matrix = self._embed(part)
            except BatchTooLargeError as error:
                self._on_split(part)
                if len(part) == 1:
                    yield [(part[0], _too_large_error(error))]
                    continue
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            except WholeBatchError as error:
                reason = as_our_error(error.__cause__ or error)
                yield [(item, reason) for item in part]
            # Any exception: a thread that ended with it would leave its calls without an answer.
            except BaseException as error:  # noqa: BLE001
                if len(part) == 1:
                    yield [(part[0], as_our_error(error))]
                    continue
                self._on_retry(len(part))
                parts += [[item] for item in reversed(part)]
            else:
                valid, invalid = _split_by_validity(part, matrix)
                yield valid
                if len(part) == 1:
                    yield [(part[0], invalid_vector_error(matrix[0]))] if invalid else []
                elif invalid:
                    self._on_retry(len(invalid))
                    parts += [[item] for item in reversed(invalid)]

    def _embed(self, part: list[Item]) -> Matrix:
        first = part[0]
        batch = Batch(
            texts=[item.text for item in part],
            prompt=first.prompt,
            kind=first.kind,
            loops=lambda: self._loops(part),
        )
        values = self._backend.embed(batch)
        matrix = as_matrix(values, len(part), self.model_dimensions)
        self.set_model_dimensions(matrix.shape[1])
        return truncate(matrix, self._target_dimensions, normalize=self._normalize)


def _split_by_validity(part: list[Item], matrix: Matrix) -> tuple[list[Outcome], list[Item]]:
    valid: list[Outcome] = []
    invalid: list[Item] = []
    for item, row, is_invalid in zip(part, matrix, invalid_rows(matrix), strict=True):
        if is_invalid:
            invalid.append(item)
        else:
            valid.append((item, read_only_copy(row)))
    return valid, invalid


def _too_large_error(error: BaseException) -> EmbeddingError:
    wrapped = EmbeddingError(
        "One text alone is too large for the embedding device or service",
        seen=str(error),
        fix="split the text, use a smaller model, or free memory on the device",
    )
    wrapped.__cause__ = error
    return wrapped


def as_our_error(error: BaseException) -> MemorizzAsyncError:
    """Return any failure of a backend as an error of this package.

    The message of a foreign error is not repeated, since it may hold a text or a key; the error
    itself is the cause.
    """
    if isinstance(error, MemorizzAsyncError):
        return error
    wrapped = EmbeddingError(
        "The embedding backend failed",
        seen=type(error).__name__,
        fix="see the error that this one was raised from",
    )
    wrapped.__cause__ = error
    return wrapped


class WorkerThreads:
    """Up to `limit` threads, which share the engine's lock.

    A thread without work ends after `idle_seconds`, and soon once `is_in_use` returns False: an
    engine that was never closed is then collected together with its model.

    Args:
        lock: The engine's lock.
        limit: Maximum number of threads.
        idle_seconds: How long a thread waits for work before it ends.
        has_work: Returns whether there is work. Called under the lock.
        work: Does one unit of work. Called without the lock; must not raise.
        on_stopped: Called once after `stop`, by the last thread, or by `stop` if there is none.
        on_exit: Called with a timeout in seconds if the interpreter ends before `stop`.
        is_in_use: Returns False once no caller can submit work any more.
    """

    def __init__(
        self,
        lock: threading.Lock,
        *,
        limit: int,
        idle_seconds: float,
        has_work: Callable[[], bool],
        work: Callable[[], None],
        on_stopped: Callable[[], None],
        on_exit: Callable[[float], None],
        is_in_use: Callable[[], bool] = lambda: True,
    ) -> None:
        self._lock = lock
        self._ready = threading.Condition(lock)
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._has_work = has_work
        self._work = work
        self._on_stopped = on_stopped
        self._on_exit = on_exit
        self._is_in_use = is_in_use
        self._registered = False
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopped = False
        self._ended = False
        self._join_waiters: list[asyncio.Future[None]] = []

    @property
    def count(self) -> int:
        """Number of running threads."""
        return len(self._threads)

    def notify(self) -> None:
        """Wake an idle thread, or start one, for new work. Under the lock."""
        if self._idle:
            self._ready.notify()
        elif len(self._threads) < self._limit:
            thread = threading.Thread(target=self._loop, name="memorizz-embedding", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return  # the system has no more threads: the running ones suffice
            # The new thread first waits for the lock, so it always finds itself in the set.
            self._threads.add(thread)
            self._register_exit()

    def _register_exit(self) -> None:
        if self._registered:
            return
        self._registered = True
        reference = weakref.ref(self)

        def end() -> None:
            if (workers := reference()) is not None and workers._threads:
                workers._on_exit(_EXIT_SECONDS)

        atexit.register(end)
        weakref.finalize(self, atexit.unregister, end).atexit = False

    def _loop(self) -> None:
        me = threading.current_thread()
        while True:
            with self._lock:
                if not self._wait():
                    self._threads.discard(me)
                    last = self._stopped and not self._threads and not self._ended
                    self._ended = self._ended or last
                    joined = [] if self._threads else self._join_waiters
                    break
            self._work()
        if last:
            self._end()
        resolve_futures(joined)

    def _wait(self) -> bool:
        """Wait for work; returns False if the thread shall end. Under the lock."""
        idle_until = time.monotonic() + self._idle_seconds
        while not self._stopped and not self._has_work():
            left = idle_until - time.monotonic()
            if left <= 0 or not self._is_in_use():
                return False
            self._idle += 1
            # In steps: a finalizer may run under any lock, so it must not notify.
            self._ready.wait(min(left, _IDLE_CHECK_SECONDS))
            self._idle -= 1
        return not self._stopped

    def stop(self) -> None:
        """Start no more work. From any thread, without waiting."""
        with self._lock:
            self._stopped = True
            self._ready.notify_all()
            alone = not self._threads and not self._ended
            self._ended = self._ended or alone
        if alone:
            self._end()

    def _end(self) -> None:
        try:
            self._on_stopped()
        except Exception:
            logger.exception("The embedding backend failed while it was closed.")

    def join(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the threads to end.

        Returns at once on the thread of an event loop, for which the threads may be waiting.
        """
        with self._lock:
            threads = self._threads - {threading.current_thread()}
        if not threads or _on_event_loop():
            return
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._report([thread for thread in threads if thread.is_alive()], timeout)

    async def join_async(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the threads to end, without blocking the loop."""
        with self._lock:
            threads = list(self._threads)
            if not threads:
                return
            joined: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._join_waiters.append(joined)
        await asyncio.wait([joined], timeout=timeout)
        if joined.done():
            for thread in threads:
                thread.join(0.1)  # it has nothing left to do but to end
        else:
            joined.cancel()
        self._report([thread for thread in threads if thread.is_alive()], timeout)

    def _report(self, left: list[threading.Thread], timeout: float) -> None:
        if left:
            logger.warning(
                "%d embedding thread(s) still run inside the backend, %.1f s after the close. "
                "They are daemon threads and end with their batch.",
                len(left),
                timeout,
            )


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
