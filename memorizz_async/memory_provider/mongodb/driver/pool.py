"""A connection pool for PyMongo Async that loses no socket when a call is cancelled."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

try:
    from pymongo.asynchronous.pool import Pool
    from pymongo.lock import Condition, Lock
except ImportError:  # pragma: no cover - a later PyMongo may have moved what is not public
    Pool = Lock = Condition = None  # type: ignore[assignment, misc]


def pool_options() -> dict[str, Any]:
    """Options of `AsyncMongoClient` that make it use a `CancelSafePool`.

    `_pool_class` is PyMongo's own hook for another pool. Empty where this PyMongo has another pool
    than the one that `CancelSafePool` corrects: cancelled calls may then leave sockets behind.
    """
    if Pool is None:  # pragma: no cover - see above
        return {}
    return {"_pool_class": CancelSafePool}


if Pool is not None:

    class _UninterruptedLock(Lock):
        """A lock whose `acquire` always gets the lock, and delivers a cancellation afterwards.

        The pool opens a socket and then waits for its lock before the socket is registered anywhere
        (`Pool.connect`). A task that is cancelled at that place forgets the socket, and the event
        loop keeps it open for ever. With `pymongo.timeout` it happens often, because waiting with a
        timeout holds the lock for several turns of the loop. The lock is never held while something
        waits for the network, so that a cancellation is delayed by microseconds.
        """

        async def acquire(self) -> Literal[True]:
            cancelled = False
            while True:
                try:
                    await super().acquire()
                    break
                except asyncio.CancelledError:
                    cancelled = True
            task = asyncio.current_task()
            if cancelled and task is not None:
                task.cancel()  # raised at the next await, where the pool closes the socket
                task.uncancel()  # it is the same request: `asyncio.timeout` counts them
            return True

    class CancelSafePool(Pool):
        """PyMongo's pool with a lock that cannot be interrupted."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            lock = _UninterruptedLock()
            if {"lock", "size_cond", "_max_connecting_cond"} <= self.__dict__.keys():
                self.lock = lock
                self.size_cond = Condition(lock)
                self._max_connecting_cond = Condition(lock)
