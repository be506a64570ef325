"""Work that is done before an event loop is closed.

`asyncio.run` shuts a loop down before it closes it, which ends async generators. A program that
calls `loop.close()` itself often does not: task queues make a loop for each task, and close it.
After `close()` nothing can be ended in an orderly way any more, because nothing runs. A loop that
is never closed is treated in the same way when the interpreter ends.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - registers its end at exit, to come after ours
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[Any, Any, object]]

_CLOSE_S = 5.0
"""How long closing a loop waits for the work."""
_extended: weakref.WeakSet[_ClosingLoop] = weakref.WeakSet()


def run_before_close(loop: asyncio.AbstractEventLoop, work: Work) -> Callable[[], object]:
    """Run a coroutine on the loop when its `close()` is called, or else when the interpreter ends.

    Returns a function to withdraw it. The loop holds the work, and nothing else does. Work that
    fails, or takes longer than 5 s, is logged: the loop is closed anyway.
    """
    close: Any = loop.close
    if not isinstance(close, _ClosingLoop):
        close = _ClosingLoop(loop)
        try:
            loop.close = close  # type: ignore[method-assign]
        except AttributeError:  # a class with slots: the work is never done
            log.debug("the close of a %s cannot be extended", type(loop).__name__)
    key = object()
    close.works[key] = work
    return lambda: close.works.pop(key, None)


class _ClosingLoop:
    """The `close` of one loop: does the work, then what it did before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.works: dict[object, Work] = {}
        self._loop = weakref.ref(loop)
        self._close = loop.close
        self._process = os.getpid()
        _extended.add(self)

    def __call__(self) -> None:
        try:
            self.do_work()
        finally:
            self._close()

    def do_work(self) -> None:
        """Do the work where that is possible."""
        loop = self._loop()
        # Without a loop it is being collected, with all that belongs to it. In a forked child the
        # connections are the parent's. A running loop refuses to be closed.
        if not self.works or loop is None or self._process != os.getpid() or not _can_run(loop):
            return
        log.debug("an event loop is closed before what uses it: closing that first")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._run(loop)
        else:  # closed from a coroutine of another loop: a thread can run only one
            thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
            thread.start()
            thread.join(2 * _CLOSE_S)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        works, self.works = list(self.works.values()), {}
        try:
            loop.run_until_complete(_all_of(works))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is closed anyway
            log.debug("closing before an event loop failed: %s", type(error).__name__)


def _can_run(loop: asyncio.AbstractEventLoop) -> bool:
    return not loop.is_running() and not loop.is_closed()


async def _all_of(works: list[Work]) -> None:
    async with asyncio.timeout(_CLOSE_S):
        outcomes = await asyncio.gather(*(work() for work in works), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _at_exit() -> None:
    for closing in list(_extended):
        closing.do_work()


# Before the threads of executors end, on which closing may depend; `atexit` would be after that.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
