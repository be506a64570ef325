"""One event loop in a thread of its own, which serves calls from every other thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from memorizz_async.errors import ClosedError, LifecycleError
from memorizz_async.fork import ProcessBound, keep_in_child, reset_in_child
from memorizz_async.threaded_loop import start_loop, stop_loop

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
"""Makes the coroutine: called only once it is certain that somebody will run it."""

_FINISH_S = 10.0
"""How long close waits for calls that are under way before it cancels them."""


class BackgroundLoop(ProcessBound):
    """Runs coroutines for other threads (`run`) and for other event loops (`run_async`).

    The thread starts at the first call, and is joined by `close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._closed = False
        self._ended = threading.Event()
        self._process: int | None = None
        """Where the thread runs: a fork takes the object along, and not the thread."""
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Only the lock: what a forked process may do is decided by `_is_forked`."""
        self._lock = threading.Lock()
        keep_in_child(self._loop)

    @property
    def closed(self) -> bool:
        return self._closed

    def run(self, work: Work[T]) -> T:
        """Run it there and wait for it here.

        Raises ClosedError after close, and LifecycleError on the background loop itself, which
        would wait for itself for ever, and in a process that was forked from the loop's.
        """
        if self._is_here():
            raise LifecycleError(
                "A blocking call was made on the event loop that would have to serve it",
                fix="await the method of provider.aio instead, or call from another thread",
            )
        future = self._submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            if not self._closed:
                raise  # the work cancelled itself
            raise self._closed_error() from error
        except BaseException:
            future.cancel()  # an interrupted caller does not leave its work behind
            raise

    async def run_async(self, work: Work[T]) -> T:
        """Run it there and await it here, on whichever loop that is. Raises ClosedError."""
        if self._is_here():
            return await work()
        future = self._submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if self._closed and not _is_cancelling():
                raise self._closed_error() from None
            raise

    def close(self, last: Work[object]) -> None:
        """Let calls that are under way end, run one last coroutine, and join the thread.

        Any number of times and from any thread but the loop's own (LifecycleError); whoever comes
        second waits for the first. In a forked process it closes nothing: all is the parent's.
        """
        if self._is_forked():
            self._closed = True
            return
        if self._is_here():
            raise LifecycleError(
                "The provider was closed on the event loop that it would have to wait for",
                fix="close it from another thread",
            )
        with self._lock:
            first, self._closed = not self._closed, True
            loop, thread, running = self._loop, self._thread, list(self._running)
        if not first:
            self._ended.wait()
            return
        try:
            if loop is not None and thread is not None:
                concurrent.futures.wait(running, timeout=_FINISH_S)
                try:
                    asyncio.run_coroutine_threadsafe(last(), loop).result()
                finally:
                    stop_loop(loop)
                    thread.join()
        finally:
            self._ended.set()

    def _is_here(self) -> bool:
        return self._thread is not None and threading.current_thread() is self._thread

    def _is_forked(self) -> bool:
        return self._process not in (None, os.getpid())

    def _submit(self, work: Work[T]) -> concurrent.futures.Future[T]:
        if self._is_forked():  # before the lock, which may have been held at the fork
            raise LifecycleError(
                "The process was forked after the provider was used: its event loop is not here",
                fix="make a provider in each process, or use it for the first time after the fork",
            )
        with self._lock:
            if self._closed:
                raise self._closed_error()
            future = asyncio.run_coroutine_threadsafe(work(), self._started())
            self._running.add(future)
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._running.discard(future)

    def _started(self) -> asyncio.AbstractEventLoop:
        """The loop, running; the lock is held."""
        if self._loop is None:
            self._process = os.getpid()
            self._loop, self._thread = start_loop(self, "memorizz-async loop")
        return self._loop

    @staticmethod
    def _closed_error() -> ClosedError:
        return ClosedError("The provider is closed", fix="make a new one, or close later")


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
