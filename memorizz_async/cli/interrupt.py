"""Ctrl-C: print one line and end the process within a second, whatever its threads do."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
_GRACE_S = 0.8
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def bounded_interrupt() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, and end the process where that does not end it soon.

    A thread that loads a model cannot be interrupted, and Python waits for its threads at its end.
    What is left open then is closed by others: a local server by its watchdog, sockets by the
    system.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # a second one ends it now
        timer = threading.Timer(_GRACE_S, _leave)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def print_interrupted() -> None:
    """Print one line, once, even if two threads call this."""
    with _lock:
        if not _printed.is_set():
            _printed.set()
            print("\ninterrupted", file=sys.stderr, flush=True)


def _leave() -> None:
    if sys.stderr.isatty():
        sys.stderr.write(_SHOW_CURSOR)  # a spinner had hidden it
    print_interrupted()
    os._exit(INTERRUPTED)


_lock, _printed = threading.Lock(), threading.Event()
