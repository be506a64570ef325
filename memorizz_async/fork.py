"""What an object does in a child process that `os.fork` has made from its own.

A child has a copy of every object, but none of the threads, and a lock that another thread held at
the moment of the fork stays locked in the child for ever. Objects that own threads, locks or
connections therefore make them afresh.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from typing import NoReturn, Protocol, Self

from memorizz_async.errors import LifecycleError

log = logging.getLogger(__name__)

_objects: weakref.WeakSet[Resettable] = weakref.WeakSet()
_kept: list[object] = []
_model_processes: list[int] = []
"""The process that first used a model, if one did: a child inherits the list."""


class Resettable(Protocol):
    """An object that can be used in a forked child after a reset."""

    def reset_after_fork(self) -> None:
        """Replace locks, forget threads and connections. Runs in the child, before anything else.

        It must not wait, take a lock, or close anything: what was open belongs to the parent.
        """


def reset_in_child(resettable: Resettable) -> None:
    """Call `reset_after_fork` of this object in every child; the object is held weakly."""
    _objects.add(resettable)


class ProcessBound:
    """Base of what belongs to one process: it cannot be pickled or copied deeply."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Raise LifecycleError: connections, threads and locks cannot be copied."""
        raise LifecycleError(
            f"Objects of {type(self).__name__} cannot be pickled or copied deeply",
            seen="connections, threads or locks of this process",
            fix="pass what it is made from, such as the MongoDBConfig, and make another one there",
        )

    def __copy__(self) -> Self:
        """Another object that shares everything, and so is closed together with this one."""
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(self.__dict__)
        return other


class ForkSafeLock(ProcessBound):
    """A lock that is free in a child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Another lock in its place."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def running_loop() -> asyncio.AbstractEventLoop:
    """The running event loop of this process.

    Raises LifecycleError where none runs: in a child that was forked inside a coroutine the
    parent's loop does not run, and under another library (Trio) there is none.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise LifecycleError(
        "No asyncio event loop runs here",
        seen="a call inside a forked child of a coroutine, or under another library than asyncio",
        fix="call it by asyncio.run(…) in this process; in a child, in a function of its own",
    )


def keep_in_child(*inherited: object) -> None:
    """Never let the garbage collector have what belongs to the parent.

    Finalizers of an event loop, a transport or a client would write to sockets, and change an epoll
    set, that the parent still uses.
    """
    _kept.extend(inherited)


def inherits_models() -> bool:
    """Whether this process was forked from one that had used a model."""
    return bool(_model_processes) and _model_processes[0] != os.getpid()


def use_models_here() -> None:
    """Note that this process uses a model with native threads (PyTorch, OpenMP, CUDA).

    Raises LifecycleError in a child that was forked afterwards: those threads are not there, and
    the first computation would wait for them for ever, also with a model that is loaded anew.
    """
    if not _model_processes:
        _model_processes.append(os.getpid())
    elif inherits_models():
        raise LifecycleError(
            "The process was forked after a local model had been used: computing would hang",
            seen=f"the model was used by process {_model_processes[0]}",
            fix="use models only after the fork, or start processes by 'spawn' "
            "(gunicorn: without --preload)",
        )


def _reset_all() -> None:
    for resettable in list(_objects):
        try:
            resettable.reset_after_fork()
        except Exception:  # the others must be reset all the same
            log.exception("A %s was not reset after a fork.", type(resettable).__name__)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset_all)
