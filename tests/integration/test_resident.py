"""Search in memory, kept fresh by a change stream: what it follows, and what it survives."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
import pytest
from atlas_standin import WireProxy
from support.embedder import CountingEmbedder, vector_of
from support.internals import session_of

from memorizz_async import (
    AsyncMongoDBProvider,
    DatabaseError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.driver import blocking_command, change_stream
from memorizz_async.memory_provider.mongodb.local_server import LocalServer
from memorizz_async.memory_provider.mongodb.local_server.binary import find_mongod
from memorizz_async.memory_provider.mongodb.vector_search import (
    held_scopes,
    resident_ranking,
)

KB = MemoryType.LONG_TERM_MEMORY
QUERY = vector_of("query")


@pytest.fixture(params=["pymongo", "motor"])
def config(request: pytest.FixtureRequest, mongod: Any, db_name: str) -> MongoDBConfig:
    """A database of the test's own, on each driver."""
    return MongoDBConfig(mongod.uri, db_name, driver=request.param)


@pytest.fixture
async def provider(config: MongoDBConfig) -> AsyncIterator[AsyncMongoDBProvider]:
    """An open provider."""
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as opened:
        yield opened


@pytest.fixture
def other(mongod: Any, db_name: str) -> Iterator[Any]:
    """Another program, at the same database."""
    with pymongo.MongoClient(mongod.uri) as client:
        yield client[db_name]


@pytest.fixture(autouse=True)
def _quick_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a quiet server a test need not wait a second to know that nothing more comes."""
    monkeypatch.setattr(change_stream, "CHANGES_WAIT_MS", 50)


async def search(provider: AsyncMongoDBProvider, limit: int = 5, memory_id: str = "m") -> Any:
    return await provider.retrieve_memory_units_by_query_async(None, QUERY, memory_id, KB, limit)


async def caught_up(provider: AsyncMongoDBProvider) -> None:
    store = (await session_of(provider)).residents
    assert await store.caught_up(Deadline.after(20_000))


async def store_of(provider: AsyncMongoDBProvider) -> Any:
    return (await session_of(provider)).residents


async def test_auto_keeps_a_scope_in_memory_and_asks_the_server_for_hits_only(
    mongod: Any, db_name: str
) -> None:
    """After the first search a recall is one find of the hits, with the scope's filter."""
    with WireProxy(mongod.host, mongod.port).in_thread() as proxy:
        config = MongoDBConfig(proxy.uri, db_name)
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
            await provider.store_many_async([f"n{n}" for n in range(40)], KB, memory_id="m")
            assert (await search(provider)).strategy == "resident"
            before = proxy.counts["find"]
            hits = await search(provider)
            assert proxy.counts["find"] == before + 1
            asked = [command for command in proxy.seen if command.name == "find"][-1].body
        assert {"memory_id": "m"} in asked["filter"]["$and"]
        assert len(hits) == 5


async def test_strong_consistency_asks_the_server(provider: AsyncMongoDBProvider) -> None:
    """`strong` scans; the unit passes it on; another word is refused."""
    await provider.store_async("a", KB, memory_id="m")
    hits = await provider.retrieve_memory_units_by_query_async(
        None, QUERY, "m", KB, consistency="strong"
    )
    assert (hits.strategy, len(hits)) == ("scan", 1)
    unit = MemoryUnit(memory_provider=provider, memory_id="m")
    results = await unit.retrieve_all_memory_types_async("a", limits={KB: 3}, consistency="strong")
    assert results[KB].strategy == "scan"
    with pytest.raises(ValueError, match="strong"):
        await provider.retrieve_memory_units_by_query_async(
            None,
            QUERY,
            "m",
            KB,
            consistency="eventual",  # type: ignore[arg-type]
        )


async def test_own_writes_are_seen_at_once(provider: AsyncMongoDBProvider) -> None:
    """Each search after a write knows of it, from the very first on, without a scan."""
    for number in range(60):
        row_id = await provider.store_async({"content": "x", "embedding": QUERY}, KB, memory_id="m")
        hits = await search(provider, limit=1000)
        assert len(hits) == number + 1
        assert row_id in {hit["_id"] for hit in hits}
        assert hits.strategy == "resident"


async def test_a_row_that_left_a_moment_ago_is_not_shown_and_the_next_best_stands_in(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the stream has said so: the filter is asked again, and the hits are as many."""
    ids = await provider.store_many_async(
        [{"content": str(n), "embedding": QUERY + n * vector_of("x")} for n in range(8)],
        KB,
        memory_id="m",
    )
    assert [hit["_id"] for hit in await search(provider)] == ids[:5]
    store = await store_of(provider)
    monkeypatch.setattr(store, "_apply", lambda event: None)  # a stream that is late
    from bson import ObjectId

    other[KB.collection].update_one({"_id": ObjectId(ids[0])}, {"$set": {"memory_id": "n"}})
    other[KB.collection].delete_one({"_id": ObjectId(ids[2])})
    hits = await search(provider)
    assert [hit["_id"] for hit in hits] == [ids[1], *ids[3:7]]
    assert hits.strategy == "resident"
    assert await search(provider, memory_id="n") != []  # not in memory yet: read now


async def test_rows_expire_in_memory_too(provider: AsyncMongoDBProvider, other: Any) -> None:
    """A row whose time comes while it is in memory is gone, without any event."""
    soon = datetime.now(UTC) + timedelta(milliseconds=400)
    await provider.store_many_async(
        [{"content": "a", "expires_at": soon}, {"content": "b"}], KB, memory_id="m"
    )
    assert {hit["content"] for hit in await search(provider)} >= {"b"}
    while datetime.now(UTC) <= soon:
        await search(provider)
    assert [hit["content"] for hit in await search(provider)] == ["b"]


async def test_recalls_do_not_wake_the_stream(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates of other fields than those that a search depends on stay on the server."""
    await provider.store_async("a", KB, memory_id="m")
    await search(provider)
    store = await store_of(provider)
    await caught_up(provider)
    events: list[Any] = []
    monkeypatch.setattr(store, "_apply", events.append)
    other[KB.collection].update_many({}, {"$inc": {"recall_count": 1}, "$set": {"content": "b"}})
    other["elsewhere"].insert_one({"embedding": [1.0]})
    await caught_up(provider)
    assert events == []


async def filtered(provider: AsyncMongoDBProvider, wanted: Any, limit: int = 10) -> Any:
    return await provider.retrieve_memory_units_by_query_async(
        None, QUERY, "m", KB, limit, filter=wanted
    )


async def test_a_filter_reads_its_field_once_and_the_stream_keeps_it_fresh(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One load with the fields asked for so far, also of tenants that come later; then none."""
    loads: list[Any] = []
    session = await session_of(provider)
    real = session.driver.raw_batches

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(options["projection"])
        return real(*arguments, **options)

    monkeypatch.setattr(session.driver, "raw_batches", counted)
    rows = [{"content": f"{n}", "role": "user" if n % 2 else "tool"} for n in range(6)]
    for tenant in ("m", "n"):
        await provider.store_many_async(rows, KB, memory_id=tenant)
    assert len(await search(provider, 10)) == 6
    hits = await filtered(provider, {"role": "user"})
    assert ({hit["content"] for hit in hits}, hits.strategy) == ({"1", "3", "5"}, "resident")
    other[KB.collection].update_one({"memory_id": "m", "content": "1"}, {"$set": {"role": "tool"}})
    other[KB.collection].update_one({"memory_id": "m", "content": "0"}, {"$unset": {"role": 1}})
    await caught_up(provider)
    hits = await filtered(provider, {"role": {"$ne": "tool"}})
    assert ({hit["content"] for hit in hits}, hits.strategy) == ({"0", "3", "5"}, "resident")
    assert [set(each) for each in loads] == [
        {"_id", "embedding", "expires_at"},
        {"_id", "embedding", "expires_at", "role"},
    ]
    hits = await filtered(provider, {"importance": {"$gte": 0.5}, "role": "user"})
    assert (len(hits), hits.strategy) == (2, "resident")
    assert len(await search(provider, 10)) == 6
    assert (await search(provider, memory_id="n")).strategy == "resident"
    assert [set(each) - {"_id", "embedding", "expires_at"} for each in loads[2:]] == [
        {"role", "importance"}
    ] * 2
    assert len(session.residents.held.following(KB.collection)) == 2


async def test_what_memory_cannot_compare_is_left_to_the_server(
    provider: AsyncMongoDBProvider, other: Any
) -> None:
    """A Decimal128, or a value too large, at the filter's field: a scan, for as long as it is
    there; other fields do not mind.
    """
    from bson import Decimal128

    rows = [{"content": str(n), "importance": n / 4} for n in range(4)]
    await provider.store_many_async(rows, KB, memory_id="m")
    assert (await filtered(provider, {"importance": {"$gt": 0.2}})).strategy == "resident"
    change = other[KB.collection].update_one
    for value, found in [(Decimal128("0.25"), 3), ("x" * 10_000, 2)]:
        change({"content": "1"}, {"$set": {"importance": value}})
        await caught_up(provider)
        hits = await provider.retrieve_memory_units_by_query_async(
            None, QUERY, "m", KB, filter={"importance": {"$gt": 0.2}}, explain=True
        )
        assert (len(hits), hits.strategy) == (found, "scan")
        assert hits.explain is not None
        assert "'importance' has values that only the server compares" in hits.explain.why
        assert (await filtered(provider, {"role": {"$ne": "x"}})).strategy == "resident"
    change({"content": "1"}, {"$set": {"importance": 0.25}})
    await caught_up(provider)
    hits = await filtered(provider, {"importance": {"$gt": 0.2}})
    assert (len(hits), hits.strategy) == (3, "resident")


async def test_nothing_that_passes_the_filter_is_an_answer_of_a_living_server_only(
    provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rows, without a scan; where the server does not answer, its error."""
    await provider.store_async({"content": "a", "embedding": QUERY}, KB, memory_id="m")
    hits = await filtered(provider, {"role": "nobody"})
    assert (list(hits), hits.strategy) == ([], "resident")
    driver = (await session_of(provider)).driver

    async def away(*_: Any, **__: Any) -> Any:
        raise DatabaseError("away")

    monkeypatch.setattr(driver, "find", away)
    with pytest.raises(DatabaseError, match="away"):
        await filtered(provider, {"role": "nobody"})


async def test_a_column_that_does_not_fit_leaves_the_vectors_in_memory(
    config: MongoDBConfig, other: Any
) -> None:
    """The fields of a filter count as memory; without them the scope is searched as before."""
    bounded = replace(config, resident_memory_mb=1, filter_fields=["note"])
    async with AsyncMongoDBProvider(bounded) as provider:
        other[KB.collection].insert_many(
            {"memory_id": "m", "embedding": [1.0, float(n)], "role": "user", "note": f"{n}" * 900}
            for n in range(600)
        )

        async def strategy(wanted: Any) -> str:
            hits = await provider.retrieve_memory_units_by_query_async(
                None, [1.0, 1.0], "m", KB, 3, filter=wanted
            )
            assert len(hits) == 3
            return str(hits.strategy)

        assert await strategy(None) == "resident"
        for _ in range(2):
            assert await strategy({"note": {"$gt": "1"}}) == "scan"
            assert await strategy(None) == "resident"
            assert await strategy({"role": "user"}) == "resident"
        store = await store_of(provider)
        assert 0 < store.held.nbytes <= 1_000_000


async def test_many_first_searches_load_once_and_cancelled_ones_disturb_nobody(
    provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single flight, at many moments of cancellation."""
    await provider.store_many_async([f"n{n}" for n in range(3000)], KB, memory_id="m")
    session = await session_of(provider)
    loads = 0
    real = session.driver.raw_batches

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal loads
        loads += 1
        return real(*arguments, **options)

    monkeypatch.setattr(session.driver, "raw_batches", counted)
    for steps in range(0, 60, 4):
        session.residents.lost()
        tasks = [asyncio.create_task(search(provider, 7)) for _ in range(5)]
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[0].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(len(hits) == 7 for hits in outcomes[1:])
        assert {hits.strategy for hits in outcomes[1:]} == {"resident"}
    assert loads == 15


async def test_memory_is_bounded_and_the_longest_unused_scope_goes_first(
    config: MongoDBConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes stay under the bound; a scope that alone is over it is scanned, and said once."""
    monkeypatch.setattr(held_scopes, "_TOO_LARGE_S", 1e9)
    bounded = replace(config, resident_memory_mb=1)
    rng = np.random.default_rng(0)
    async with AsyncMongoDBProvider(bounded) as provider:
        for tenant, count in [*((f"t{n}", 400) for n in range(6)), ("large", 4000)]:
            await provider.store_many_async(
                [{"content": "x", "embedding": v} for v in rng.normal(size=(count, 64))],
                KB,
                memory_id=tenant,
            )
        store = await store_of(provider)
        query = rng.normal(size=64)
        for tenant in [f"t{n}" for n in range(6)] * 2:
            hits = await provider.retrieve_memory_units_by_query_async(None, query, tenant, KB, 3)
            assert (len(hits), hits.strategy) == (3, "resident")
            assert 0 < store.held.nbytes <= 1_000_000
        held = [name[1] for name in store.held._serving]
        assert 1 < len(held) < 6
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                hits = await provider.retrieve_memory_units_by_query_async(
                    None, query, "large", KB, 3
                )
                assert (len(hits), hits.strategy) == (3, "scan")
        assert sum("does not fit" in record.getMessage() for record in caplog.records) == 1
        assert store.held.nbytes <= 1_000_000


async def test_searches_beside_writes_see_whole_rows_only(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While every row changes again and again, in a thread or on the loop, each search finds all of
    them, with scores that one of their versions has.
    """
    monkeypatch.setattr(resident_ranking, "_ON_THE_LOOP", 500)
    other[KB.collection].insert_many(
        [{"_id": f"r{n}", "memory_id": "m", "embedding": [1.0] * 8} for n in range(100)]
    )
    versions = [np.ones(8), -np.ones(8)]
    done = threading.Event()

    def change() -> None:
        for number in range(600):
            other[KB.collection].update_one(
                {"_id": f"r{number % 100}"},
                {"$set": {"embedding": versions[number // 100 % 2].tolist()}},
            )
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not done.is_set():
        hits = await provider.retrieve_memory_units_by_query_async(None, [1.0] * 8, "m", KB, 100)
        assert len({hit["_id"] for hit in hits}) == 100
        assert {round(hit["score"], 5) for hit in hits} <= {0.0, 1.0}
    thread.join()


async def test_a_lost_place_in_the_oplog_begins_anew(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ChangeStreamHistoryLost forgets everything, and the next search reads it again."""
    await provider.store_async("a", KB, memory_id="m")
    assert len(await search(provider)) == 1
    store = await store_of(provider)
    real = store._driver.watch
    refused = []

    async def forgotten(pipeline: Any, *, resume_after: Any) -> Any:
        if resume_after is not None:
            refused.append(resume_after)
            raise DatabaseError("Resume of change stream was not possible", code=286)
        async for batch in real(pipeline, resume_after=None):
            yield batch
            if len(refused) < 1 and batch.events:
                break

    monkeypatch.setattr(store._driver, "watch", forgotten)
    task = store.feed._task
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    other[KB.collection].insert_one({"memory_id": "m", "embedding": [1.0] * 8})
    assert len(await search(provider)) == 2
    await caught_up(provider)
    assert (await search(provider)).strategy == "resident"


async def test_two_loops_each_follow_for_themselves_and_leave_nothing(
    config: MongoDBConfig,
) -> None:
    """A second loop has a stream of its own, sees the first's writes, and ends clean."""
    provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())
    await provider.store_async("a", KB, memory_id="m")
    assert (await search(provider)).strategy == "resident"

    async def elsewhere() -> list[str]:
        await provider.store_async("b", KB, memory_id="m")
        hits = await search(provider)
        return [hits.strategy, *(hit["content"] for hit in hits)]

    strategy, *contents = await asyncio.to_thread(asyncio.run, elsewhere())
    assert (strategy, set(contents)) == ("resident", {"a", "b"})
    hits = await search(provider)
    assert {hit["content"] for hit in hits} == {"a", "b"}
    assert hits.strategy == "resident"
    await provider.close_async()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not [name for name in names if "memorizz" in name]
    for thread in threading.enumerate():
        if thread.name.startswith("memorizz-async changes"):
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()


async def test_one_connection_in_all_leaves_none_for_a_stream(config: MongoDBConfig) -> None:
    """With a pool of one it is a scan, not a standstill."""
    alone = replace(config, max_pool_size=1, search_strategy="resident")
    async with AsyncMongoDBProvider(alone, embedding_provider=CountingEmbedder()) as provider:
        await provider.store_async("a", KB, memory_id="m")
        assert (await search(provider)).strategy == "scan"


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mongod that is no replica set, and so has no change streams."""
    import socket

    folder = tmp_path_factory.mktemp("standalone")
    binary = find_mongod()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(binary.path), "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"],
        env={**os.environ, **binary.env},
        stdout=subprocess.DEVNULL,
    )
    uri = f"mongodb://127.0.0.1:{port}/"
    try:
        blocking_command(uri, {"ping": 1}, timeout_s=30)
        yield uri
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_standalone_server_is_scanned_and_said_to_be_one_once(
    standalone: str, driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No change streams: the scan answers, with one line in the log."""
    config = MongoDBConfig(standalone, f"t_{driver}", driver=driver, search_strategy="resident")
    with caplog.at_level(logging.WARNING):
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
            await provider.store_async("a", KB, memory_id="m")
            hits = [await search(provider) for _ in range(5)]
    assert [(found.strategy, len(found)) for found in hits] == [("scan", 1)] * 5
    said = [r for r in caplog.records if "no change streams" in r.getMessage()]
    assert len(said) == 1


async def test_memory_is_scanned_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """memory:// has no streams and needs none."""
    config = MongoDBConfig("memory://", search_strategy="resident")
    with caplog.at_level(logging.INFO):
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
            await provider.store_async("a", KB, memory_id="m")
            assert (await search(provider)).strategy == "scan"
    ours = [r for r in caplog.records if r.name.startswith("memorizz_async")]
    assert [r for r in ours if r.levelno >= logging.INFO] == []


# Both drivers leave the socket of a connect that is cut half-way to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_killing_and_restarting_mongod_under_load_ends_with_right_answers(
    tmp_path: Path, driver: Any
) -> None:
    """SIGKILL in the middle of writes and searches; the provider that was open goes on, and in the
    end finds exactly the rows that are there.
    """
    server = LocalServer(tmp_path)
    config = MongoDBConfig(
        await asyncio.to_thread(server.acquire), driver=driver, server_selection_timeout_ms=1000
    )
    writer = replace(config, timeout_ms=3_000)
    stop = asyncio.Event()
    noticed = asyncio.Event()  # that the server is gone
    try:
        async with (
            AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as ours,
            AsyncMongoDBProvider(writer, embedding_provider=CountingEmbedder()) as others,
        ):

            async def load(provider: AsyncMongoDBProvider, write: bool) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    try:
                        if write:
                            await provider.store_async(f"{number}", KB, memory_id="m")
                        else:
                            await search(provider)
                    except DatabaseError:
                        noticed.set()
                        await asyncio.sleep(0)

            async def writes(provider: AsyncMongoDBProvider, count: int) -> None:
                for number in range(count):
                    await provider.store_async(f"w{number}", KB, memory_id="m")
                    await search(provider)

            await writes(ours, 20)
            tasks = [
                asyncio.create_task(load(provider, write))
                for provider in (ours, others)
                for write in (True, False)
            ]
            await writes(ours, 5)
            for _ in range(2):
                pid = (await asyncio.to_thread(server.status)).pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await noticed.wait()
                await asyncio.to_thread(server.acquire)
                noticed.clear()
            stop.set()
            await asyncio.gather(*tasks)
            await ours.store_async({"content": "last", "embedding": QUERY}, KB, memory_id="m")
            await caught_up(ours)
            hits = await search(ours, 10_000)
            exact = await ours.retrieve_memory_units_by_query_async(
                None, QUERY, "m", KB, 10_000, consistency="strong"
            )
            assert hits.strategy == "resident"
            assert {hit["_id"] for hit in hits} == {hit["_id"] for hit in exact}
            assert hits[0]["content"] == "last"
            scores = [hit["score"] for hit in hits]
            assert scores == [hit["score"] for hit in exact]
    finally:
        await asyncio.to_thread(server.release)
