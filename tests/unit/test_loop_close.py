"""`loop.close()` runs what was left to be done on the loop."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import threading

import pytest

from memorizz_async.loop_close import run_before_close


async def nothing() -> None:
    """Nothing."""


@pytest.fixture
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def test_the_work_is_done_once_and_said_in_one_debug_line(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[object] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(asyncio.get_running_loop())

    for _ in range(2):
        run_before_close(loop, work)
    with caplog.at_level(logging.DEBUG, "memorizz_async"):
        loop.close()
        loop.close()
    assert loop.is_closed()
    assert done == [loop, loop]
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_work_that_was_withdrawn_is_not_done(loop: asyncio.AbstractEventLoop) -> None:
    async def work() -> None:
        raise AssertionError

    withdraw = run_before_close(loop, work)
    withdraw()
    withdraw()
    loop.close()
    assert loop.is_closed()


def test_a_loop_can_be_closed_from_a_coroutine_of_another(loop: asyncio.AbstractEventLoop) -> None:
    threads: list[threading.Thread] = []

    async def work() -> None:
        threads.append(threading.current_thread())

    run_before_close(loop, work)

    async def close() -> None:
        loop.close()

    asyncio.run(close())
    assert loop.is_closed()
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize("failure", [ValueError("secret"), asyncio.CancelledError()])
def test_work_that_fails_does_not_keep_the_loop_open(
    loop: asyncio.AbstractEventLoop,
    caplog: pytest.LogCaptureFixture,
    failure: BaseException,
) -> None:
    others: list[str] = []

    async def fail() -> None:
        raise failure

    async def other() -> None:
        others.append("done")

    run_before_close(loop, fail)
    run_before_close(loop, other)
    with caplog.at_level(logging.DEBUG):
        loop.close()
    assert loop.is_closed()
    assert others == ["done"]
    assert "secret" not in caplog.text


def test_a_running_loop_refuses_as_ever(loop: asyncio.AbstractEventLoop) -> None:
    run_before_close(loop, nothing)

    async def close() -> None:
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    loop.run_until_complete(close())
    loop.close()
    assert loop.is_closed()


def test_a_loop_that_is_never_closed_is_closed_in_the_same_way_at_the_end_of_the_program() -> None:
    """While executors still work: drivers do their work in threads."""
    program = """
        import asyncio
        from memorizz_async.loop_close import run_before_close

        async def work():
            await asyncio.to_thread(print, "done")

        loop = asyncio.new_event_loop()
        run_before_close(loop, work)
        """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("done\n", "")
