"""One loop for many threads: results, errors, cancellation, and the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from memorizz_async.errors import ClosedError, LifecycleError
from memorizz_async.integrations.memorizz.background import BackgroundLoop

actor: ContextVar[str] = ContextVar("actor", default="nobody")


async def nothing() -> None:
    """What close runs last, where there is nothing to close."""


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    made = BackgroundLoop()
    yield made
    made.close(nothing)


def test_many_threads_share_one_loop(loop: BackgroundLoop) -> None:
    """Each gets its own answer."""

    async def double(number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return number * 2, threading.get_ident()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: loop.run(lambda: double(n)), range(400)))
    assert [number for number, _ in answers] == [2 * n for n in range(400)]
    assert len({thread for _, thread in answers}) == 1


def test_errors_and_context_cross_over(loop: BackgroundLoop) -> None:
    """What is raised there is raised here; context variables of the caller are seen there."""

    async def fail() -> None:
        raise KeyError(actor.get())

    token = actor.set("ada")
    try:
        with pytest.raises(KeyError, match="ada"):
            loop.run(fail)
        with pytest.raises(KeyError, match="ada"):
            asyncio.run(loop.run_async(fail))
    finally:
        actor.reset(token)


def test_on_its_own_loop_it_awaits_and_refuses_to_block(loop: BackgroundLoop) -> None:
    """Awaiting there needs no hop; blocking there would wait for ever."""

    async def seven() -> int:
        return 7

    async def awaiting() -> int:
        return await loop.run_async(seven)

    async def blocking() -> int:
        return loop.run(seven)

    assert loop.run(awaiting) == 7
    with pytest.raises(LifecycleError, match="have to serve it"):
        loop.run(blocking)


def test_cancelling_the_caller_cancels_the_work(loop: BackgroundLoop) -> None:
    """And the caller sees a cancellation, not a closed provider."""
    begun, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def caller() -> None:
        task = asyncio.create_task(loop.run_async(wait))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(caller())
    assert cancelled.wait(10)


@pytest.mark.parametrize("awaited", [False, True])
def test_work_that_does_not_end_is_cancelled_by_close(
    monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    """Its callers, blocked or awaiting, learn that the provider is closed."""
    from memorizz_async.integrations.memorizz import background

    monkeypatch.setattr(background, "_FINISH_S", 0.05)
    loop, begun = BackgroundLoop(), threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    def call() -> Any:
        return asyncio.run(loop.run_async(wait)) if awaited else loop.run(wait)

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call)
        begun.wait()
        loop.close(nothing)
        with pytest.raises(ClosedError):
            calling.result()


def test_closed_means_that_no_coroutine_is_made() -> None:
    """One that nobody runs would be a warning; here the maker is not even called."""
    loop = BackgroundLoop()
    loop.run(nothing)
    ended: list[str] = []

    async def last() -> None:
        ended.append("last")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: loop.close(last), range(8)))
    assert ended == ["last"]

    def never() -> Any:
        raise AssertionError("a coroutine was made after close")

    with pytest.raises(ClosedError):
        loop.run(never)
    with pytest.raises(ClosedError):
        asyncio.run(loop.run_async(never))


def test_a_failing_close_still_ends_the_thread() -> None:
    """The error of the last coroutine reaches whoever closes."""
    loop = BackgroundLoop()
    loop.run(nothing)
    thread = loop._thread
    assert thread is not None

    async def fail() -> None:
        raise RuntimeError("cannot close")

    with pytest.raises(RuntimeError, match="cannot close"):
        loop.close(fail)
    assert not thread.is_alive()


def test_a_loop_that_is_forgotten_ends_its_thread() -> None:
    """Nobody closed it: the thread does not stay for ever."""
    loop = BackgroundLoop()
    loop.run(nothing)
    thread, gone = loop._thread, weakref.ref(loop)
    assert thread is not None
    del loop
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_forked_process_is_told_and_does_not_wait(loop: BackgroundLoop) -> None:
    """The thread stays with the parent: there a call would wait for ever, and so would close."""
    loop.run(nothing)
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            signal.alarm(10)  # ends the child where it hangs
            try:
                loop.run(nothing)
            except LifecycleError as error:
                loop.close(nothing)
                code = 0 if "forked" in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.run(lambda: asyncio.sleep(0, 7)) == 7


def test_work_that_cancels_itself_is_not_a_closed_provider(loop: BackgroundLoop) -> None:
    """Nobody closed anything."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError):
        loop.run(cancelled)
