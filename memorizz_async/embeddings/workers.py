"""The worker threads of an engine: started when there is work, gone after a while without any."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable

from memorizz_async.embeddings.calls import wake_futures

logger = logging.getLogger("memorizz_async.embeddings")

# At the end of the process a batch that runs gets so long: an interpreter that goes away under a
# thread inside torch can crash.
_EXIT_SECONDS = 5.0
_LOOK_SECONDS = 0.25
"""How often an idle thread looks whether it may still get work."""


class Workers:
    """At most `limit` threads, all of which share the engine's lock.

    has_work: asked under the lock. work: one turn, without the lock, must not raise.
    at_end: called once, by the last thread after `stop`, or by `stop` where there is none.
    at_exit: called with a timeout in seconds when the interpreter ends and nobody has closed.
    is_in_use: False once nobody can bring work any more.

    A thread that finds nothing to do ends after `idle_seconds`, and soon where nobody can bring
    work: an engine that was forgotten without a close is then collected with its model.
    """

    def __init__(
        self,
        lock: threading.Lock,
        *,
        limit: int,
        idle_seconds: float,
        has_work: Callable[[], bool],
        work: Callable[[], None],
        at_end: Callable[[], None],
        at_exit: Callable[[float], None],
        is_in_use: Callable[[], bool] = lambda: True,
    ) -> None:
        self._lock = lock
        self._ready = threading.Condition(lock)
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._has_work = has_work
        self._work = work
        self._at_end = at_end
        self._at_exit = at_exit
        self._is_in_use = is_in_use
        self._registered = False
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopped = False
        self._ended = False
        self._gone: list[asyncio.Future[None]] = []

    @property
    def count(self) -> int:
        return len(self._threads)

    def call_one(self) -> None:
        """There is work: wake an idle thread, or start one. Under the lock."""
        if self._idle:
            self._ready.notify()
        elif len(self._threads) < self._limit:
            thread = threading.Thread(target=self._loop, name="memorizz-embedding", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                return  # the system has no more threads for us: those that live will do
            # The thread waits for the lock that we hold: it cannot miss itself in the set.
            self._threads.add(thread)
            self._register()

    def _register(self) -> None:
        if self._registered:
            return
        self._registered = True
        reference = weakref.ref(self)

        def end() -> None:
            if (alive := reference()) is not None and alive._threads:
                alive._at_exit(_EXIT_SECONDS)

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
                    gone = [] if self._threads else self._gone
                    break
            self._work()
        if last:
            self._end()
        wake_futures(gone)

    def _wait(self) -> bool:
        """Until there is work; False: the thread ends. Under the lock."""
        idle_until = time.monotonic() + self._idle_seconds
        while not self._stopped and not self._has_work():
            left = idle_until - time.monotonic()
            if left <= 0 or not self._is_in_use():
                return False
            self._idle += 1
            # In steps: a finalizer may run under any lock, so that it must not notify.
            self._ready.wait(min(left, _LOOK_SECONDS))
            self._idle -= 1
        return not self._stopped

    def stop(self) -> None:
        """No thread takes more work. From any thread, without waiting."""
        with self._lock:
            self._stopped = True
            self._ready.notify_all()
            alone = not self._threads and not self._ended
            self._ended = self._ended or alone
        if alone:
            self._end()

    def _end(self) -> None:
        try:
            self._at_end()
        except Exception:
            logger.exception("The embedding backend failed while it was closed.")

    def join(self, timeout: float) -> None:
        """Wait for the threads, but not on an event loop's thread: it may be what they wait for."""
        with self._lock:
            threads = self._threads - {threading.current_thread()}
        if not threads or _on_a_loop():
            return
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._report([thread for thread in threads if thread.is_alive()], timeout)

    async def join_async(self, timeout: float) -> None:
        with self._lock:
            threads = list(self._threads)
            if not threads:
                return
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._gone.append(gone)
        await asyncio.wait([gone], timeout=timeout)
        if gone.done():
            for thread in threads:
                thread.join(0.1)  # it has nothing left to do but to end
        else:
            gone.cancel()
        self._report([thread for thread in threads if thread.is_alive()], timeout)

    def _report(self, left: list[threading.Thread], timeout: float) -> None:
        if left:
            logger.warning(
                "%d embedding thread(s) still run %.1f s after the close, inside the backend. "
                "They are daemon threads and end with their batch.",
                len(left),
                timeout,
            )


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
