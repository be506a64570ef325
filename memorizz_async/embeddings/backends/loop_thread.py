"""An event loop in a thread of its own, for an async client that several threads use."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from memorizz_async.fork import ProcessBound, keep_in_child, reset_in_child
from memorizz_async.threaded_loop import start_loop, stop_loop

T = TypeVar("T")


class LoopThread(ProcessBound):
    """Runs coroutines for other threads, and can cancel them all at once.

    Started at the first `run`. `cancel` may come from any thread and any number of times; after it,
    `run` raises concurrent.futures.CancelledError.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._cancelled = False
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """The thread is the parent's: the next `run` starts another."""
        keep_in_child(self._loop)
        self._lock, self._running = threading.Lock(), set()
        self._loop = self._thread = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there, wait for it here."""
        with self._lock:
            if self._cancelled:
                coroutine.close()
                raise concurrent.futures.CancelledError
            future = asyncio.run_coroutine_threadsafe(coroutine, self._started())
            self._running.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._running.discard(future)

    def cancel(self) -> None:
        """End what runs; nothing more is begun."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Cancel, run one last coroutine (to close the client) and end the thread."""
        self.cancel()
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            last.close()
            return
        asyncio.run_coroutine_threadsafe(last, loop).result()
        stop_loop(loop)
        thread.join()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop, self._thread = start_loop(self, self._name)
        return self._loop
