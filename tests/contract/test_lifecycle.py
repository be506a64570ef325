"""Opening, closing, several loops, cancellation: usable throughout, nothing left behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.embedder import CountingEmbedder
from support.internals import session_of

from memorizz_async import (
    AsyncMongoDBProvider,
    ClosedError,
    MemoryType,
    MongoDBConfig,
    UnsupportedOperationError,
)
from memorizz_async.deadline import Deadline

KB = MemoryType.LONG_TERM_MEMORY


def test_constructing_does_no_io(config: MongoDBConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket is made and no name looked up before the first use."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a constructor went to the network")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", refuse)
        patched.setattr(socket, "getaddrinfo", refuse)
        AsyncMongoDBProvider(config)


def test_a_second_event_loop_works(config: MongoDBConfig) -> None:
    """asyncio.run twice with one provider: the second loop sees what the first wrote."""
    provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())

    async def write() -> str:
        return await provider.store_async("first loop", KB, memory_id="m")

    async def read(row_id: str) -> Any:
        try:
            return await provider.get_async(row_id, KB, memory_id="m")
        finally:
            await provider.close_async()

    row_id = asyncio.run(write())
    assert asyncio.run(read(row_id))["content"] == "first loop"


async def test_loops_in_threads_work_at_the_same_time(provider: AsyncMongoDBProvider) -> None:
    """Each thread's loop has a client of its own; all see one database."""

    async def use(number: int) -> str:
        return await provider.store_async(f"thread {number}", KB, memory_id="m")

    ids = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, use(number)) for number in range(4))
    )
    for row_id in ids:
        assert await provider.get_async(row_id, KB, memory_id="m") is not None


async def test_closing_twice_is_fine_and_later_use_is_an_error(config: MongoDBConfig) -> None:
    """After close every call says that the provider is closed."""
    provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())
    await provider.store_async("a", KB, memory_id="m")
    await provider.close_async()
    await provider.close_async()
    with pytest.raises(ClosedError):
        await provider.store_async("b", KB, memory_id="m")
    with pytest.raises(ClosedError):
        await provider.retrieve_memory_units_by_query_async("a", None, "m", KB, 5)
    with pytest.raises(ClosedError):
        async with provider:
            pass


async def test_closing_what_was_never_opened_is_fine(config: MongoDBConfig) -> None:
    """Close without use does nothing."""
    await AsyncMongoDBProvider(config).close_async()


# PyMongo leaves the socket of a connect that is cancelled half-way to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
async def test_cancelled_calls_leave_the_provider_usable(
    provider: AsyncMongoDBProvider, settle: Callable[[], Awaitable[None]]
) -> None:
    """Cancelling at many different moments breaks neither the next call nor a call beside it."""
    await provider.store_many_async([f"memory {n}" for n in range(300)], KB, memory_id="m")
    await settle()

    async def search() -> Any:
        return await provider.retrieve_memory_units_by_query_async("q", None, "m", KB, 300)

    for steps in range(0, 40, 2):
        beside = asyncio.create_task(search())
        task = asyncio.create_task(search())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(await beside) == 300
    assert len(await search()) == 300


async def test_a_call_cancelled_before_it_starts_leaves_nothing_unawaited(
    provider: AsyncMongoDBProvider,
) -> None:
    """Cancelling at once, with and without a bound, makes no warning (warnings are errors here)."""
    for timeout_ms in (None, 5000):
        for steps in range(4):
            task = asyncio.create_task(
                provider.retrieve_memory_units_by_query_async(
                    f"q{steps}", None, "m", KB, timeout_ms=timeout_ms
                )
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_close_that_is_cancelled_goes_on(config: MongoDBConfig) -> None:
    """Whoever closes next waits for the same close."""
    provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())
    await provider.store_async("a", KB, memory_id="m")
    closing = asyncio.create_task(provider.close_async())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await provider.close_async()
    with pytest.raises(ClosedError):
        await provider.store_async("b", KB, memory_id="m")


async def test_large_writes_and_answers_let_the_loop_go_on(
    provider: AsyncMongoDBProvider, backend: str, settle: Any
) -> None:
    """Thousands of rows go in and come out with other tasks running in between."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counter = asyncio.create_task(count())
    rows = [{"content": str(n), "embedding": [1.0, float(n + 1)]} for n in range(2000)]
    await provider.store_many_async(rows, KB, memory_id="many")
    after_write = turns
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async(None, [1.0, 1.0], "many", KB, 2000)
    counter.cancel()
    await asyncio.gather(counter, return_exceptions=True)
    assert len(hits) == 2000
    assert after_write >= 6
    if backend != "memory":  # mongomock, a toy for tests, reads them in one go
        assert turns - after_write >= 6


async def test_an_index_of_another_name_is_left_as_it_is(
    provider: AsyncMongoDBProvider, backend: str
) -> None:
    """Somebody's own index over the same fields is no reason to fail."""
    session = await session_of(provider)
    await session.driver.create_index(
        "knowledge_base", [("user_id", 1)], name="theirs", deadline=Deadline.after(10_000)
    )
    report = await provider.ensure_indexes_async([KB])
    assert list(report.ordinary) == ["knowledge_base"]


async def test_many_first_calls_open_one_client(config: MongoDBConfig) -> None:
    """Concurrent first use, with the first of them cancelled, still opens once and works."""
    provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())
    calls = [
        asyncio.create_task(provider.store_async(f"memory {n}", KB, memory_id="m"))
        for n in range(10)
    ]
    await asyncio.sleep(0)
    calls[0].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(outcome, str) for outcome in outcomes[1:])
    await provider.close_async()


async def test_recalls_are_counted_in_the_background_and_written_at_close(
    config: MongoDBConfig, provider: AsyncMongoDBProvider
) -> None:
    """What was recalled has its count after close, each hit once a recall."""
    memory = MongoDBConfig("memory://recall-counts", db_name="t")
    shared = memory if config.uri == "memory://" else config
    async with AsyncMongoDBProvider(shared, embedding_provider=CountingEmbedder()) as first:
        row_id = await first.store_async("a", KB, memory_id="m")
        for _ in range(3):
            await first.retrieve_memory_units_by_query_async("a", None, "m", KB, 5)
    async with AsyncMongoDBProvider(shared) as second:
        row = await second.get_async(row_id, KB, memory_id="m")
    assert row is not None
    assert row["recall_count"] == 3
    assert row["last_recalled_at"] >= row["created_at"]


async def test_a_loop_that_ends_without_close_writes_the_counts_too(
    config: MongoDBConfig, provider: AsyncMongoDBProvider
) -> None:
    """The end of a loop closes its client properly, so that nothing is lost or left open."""
    mine = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())

    async def recall() -> str:
        row_id = await mine.store_async("a", KB, memory_id="m")
        await mine.retrieve_memory_units_by_query_async("a", None, "m", KB, 5)
        return row_id

    row_id = await asyncio.to_thread(asyncio.run, recall())
    row = await mine.get_async(row_id, KB, memory_id="m")
    await mine.close_async()
    assert row is not None
    assert row["recall_count"] == 1


async def test_indexes_can_be_ensured_again_and_again(
    provider: AsyncMongoDBProvider, on_atlas: bool
) -> None:
    """A second run changes nothing and is no error; also for some types only."""
    first = await provider.ensure_indexes_async()
    again = await provider.ensure_indexes_async([KB, "knowledge_base"])
    assert "knowledge_base" in first.ordinary
    assert list(again.ordinary) == ["knowledge_base"]
    assert again.search == ({"knowledge_base": "present"} if on_atlas else {})


async def test_what_this_server_cannot_do_is_a_clear_error(
    provider: AsyncMongoDBProvider, backend: str
) -> None:
    """memory:// has no commands; a server answers them."""
    session = await session_of(provider)
    deadline = Deadline.after(10_000)
    if backend == "memory":
        with pytest.raises(UnsupportedOperationError, match="local"):
            await session.driver.command({"ping": 1}, deadline=deadline)
    else:
        assert (await session.driver.command({"ping": 1}, deadline=deadline))["ok"] == 1


async def test_the_repr_says_the_state_and_no_more(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any]
) -> None:
    """A provider shows whether it is open."""
    assert "open" in repr(provider)
