"""What goes wrong on the way to the server is an error of ours, in time, and without secrets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from atlas_standin import WireProxy
from support.embedder import CountingEmbedder

from memorizz_async import (
    AsyncMongoDBProvider,
    AuthenticationError,
    InvalidURIError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
    OperationTimeoutError,
    ServerUnavailableError,
    WriteError,
)
from memorizz_async.memory_provider.mongodb.driver import blocking_command

# Both drivers leave the socket of a connect that is cut half-way to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

KB = MemoryType.LONG_TERM_MEMORY
THREE = {
    MemoryType.LONG_TERM_MEMORY: 5,
    MemoryType.CONVERSATION_MEMORY: 5,
    MemoryType.WORKFLOW_MEMORY: 5,
}
DRIVERS = pytest.mark.parametrize("driver", ["pymongo", "motor"])


@pytest.fixture
async def proxy(mongod: Any) -> AsyncIterator[WireProxy]:
    """A wire to the server that a test can slow, cut and freeze."""
    with WireProxy(mongod.host, mongod.port).in_thread() as wire:
        yield wire


def through(proxy: WireProxy, db_name: str, driver: Any) -> MongoDBConfig:
    return MongoDBConfig(proxy.uri, db_name=db_name, driver=driver)


@DRIVERS
async def test_no_server_is_said_within_the_selection_timeout(
    driver: Any, unused_tcp_port: int
) -> None:
    """The error names the address, comes in time, and never shows the password."""
    config = MongoDBConfig(
        f"mongodb://user:s3cret@127.0.0.1:{unused_tcp_port}/?authSource=admin",
        driver=driver,
        server_selection_timeout_ms=300,
    )
    started = time.monotonic()
    embedder = CountingEmbedder()
    provider = AsyncMongoDBProvider(config, embedding_provider=embedder)
    with pytest.raises(ServerUnavailableError) as caught:
        await provider.retrieve_memory_units_by_query_async("q", None, "m", KB)
    with pytest.raises(ServerUnavailableError):
        async with provider:
            pass
    assert embedder.texts == []  # no model is loaded for a server that is not there
    assert "s3cret" not in repr(provider)
    await provider.close_async()
    assert time.monotonic() - started < 5
    assert f"127.0.0.1:{unused_tcp_port}" in str(caught.value)
    assert "300 ms" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@DRIVERS
@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://",
        "mongodb://host:notaport",
        "mongodb://user:s3cret@x:y@host",
        "mongodb://user:s3c/ret@host",
        "postgres://user:s3cret@host/db",
        "localhost:27017",
        "memorys3cret",
    ],
)
async def test_a_bad_address_says_what_is_taken(uri: str, driver: Any) -> None:
    """An address that cannot be read is refused on use, with the forms that can."""
    async with asyncio.timeout(10):
        with pytest.raises(InvalidURIError, match="memory://") as caught:
            async with AsyncMongoDBProvider(MongoDBConfig(uri, driver=driver)):
                pass
    if "@" in uri:
        assert "s3c" not in str(caught.value)


@DRIVERS
async def test_wrong_credentials_are_an_authentication_error(mongod: Any, driver: Any) -> None:
    """The server's refusal is named, without the password."""
    uri = f"mongodb://nobody:s3cret@{mongod.host}:{mongod.port}/?directConnection=true"
    with pytest.raises(AuthenticationError) as caught:
        async with AsyncMongoDBProvider(MongoDBConfig(uri, driver=driver)):
            pass
    assert "s3cret" not in str(caught.value)


@DRIVERS
async def test_queries_of_a_recall_overlap_in_time(
    proxy: WireProxy, db_name: str, driver: Any
) -> None:
    """With a server that answers each query late, three types take little longer than one."""
    async with AsyncMongoDBProvider(
        through(proxy, db_name, driver), embedding_provider=CountingEmbedder()
    ) as provider:
        unit = MemoryUnit("conversational", provider)
        for kind in THREE:
            await provider.store_async("a", kind, memory_id="m")
        await unit.retrieve_all_memory_types_async("warm up", "m", THREE)
        proxy.delay_commands = ("find", "aggregate")
        proxy.delay_s = 0.3
        results = await unit.retrieve_all_memory_types_async("q", "m", THREE)
        proxy.delay_s = 0.0
    slowest = max(results.timings.queries_ms.values())
    assert min(results.timings.queries_ms.values()) > 300
    assert results.timings.total_ms < 1.5 * slowest


@DRIVERS
async def test_a_deadline_holds_on_a_server_that_does_not_answer(
    proxy: WireProxy, db_name: str, driver: Any
) -> None:
    """A frozen wire ends the call within its deadline, and the provider works again afterwards."""
    async with AsyncMongoDBProvider(
        through(proxy, db_name, driver), embedding_provider=CountingEmbedder()
    ) as provider:
        await provider.store_async("a", KB, memory_id="m")
        await proxy.freeze()
        started = time.monotonic()
        with pytest.raises(OperationTimeoutError, match="400 ms"):
            await provider.retrieve_memory_units_by_query_async(
                "a", None, "m", KB, 5, timeout_ms=400
            )
        assert time.monotonic() - started < 5
        await proxy.thaw()
        assert len(await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)) == 1


@DRIVERS
async def test_the_deadline_reaches_the_server(proxy: WireProxy, db_name: str, driver: Any) -> None:
    """Every query carries maxTimeMS, so that the server stops working too."""
    async with AsyncMongoDBProvider(
        through(proxy, db_name, driver), embedding_provider=CountingEmbedder()
    ) as provider:
        await provider.store_async("a", KB, memory_id="m")
        await provider.retrieve_memory_units_by_query_async("a", None, "m", KB, timeout_ms=5000)
    finds = list(proxy.sent("find"))
    assert finds
    assert all(0 < find["maxTimeMS"] <= 30_000 for find in finds)
    assert finds[-1]["maxTimeMS"] <= 5000


@DRIVERS
async def test_a_cut_connection_is_retried_or_an_error_and_never_silence(
    proxy: WireProxy, db_name: str, driver: Any
) -> None:
    """While the wire is down calls say so; when it is back the same provider works."""
    config = replace(
        through(proxy, db_name, driver), server_selection_timeout_ms=1500, timeout_ms=4000
    )
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
        await provider.store_async("a", KB, memory_id="m")
        await proxy.cut(refuse=True)
        with pytest.raises(ServerUnavailableError):
            await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)
        await proxy.accept()
        assert len(await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)) == 1


@DRIVERS
async def test_a_write_whose_reply_is_lost_can_be_repeated(
    proxy: WireProxy, db_name: str, driver: Any
) -> None:
    """With a dedup_key a write that was done, but not heard of, makes no second row."""
    async with AsyncMongoDBProvider(
        through(proxy, db_name, driver), embedding_provider=CountingEmbedder()
    ) as provider:
        memory = {"content": "a", "dedup_key": "once"}
        await proxy.cut_next("insert", when="after", times=1)
        try:
            first = await provider.store_async(memory, KB, memory_id="m")
        except ServerUnavailableError:
            first = None
        second = await provider.store_async(memory, KB, memory_id="m")
        assert first in (None, second)
        hits = await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)
    assert [hit["_id"] for hit in hits] == [second]


@DRIVERS
async def test_partial_recall_says_which_type_failed(
    proxy: WireProxy, db_name: str, driver: Any
) -> None:
    """With the server gone, partial results are empty of hits and full of errors."""
    config = replace(
        through(proxy, db_name, driver), server_selection_timeout_ms=300, timeout_ms=2000
    )
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
        unit = MemoryUnit("conversational", provider)
        await unit.retrieve_all_memory_types_async("q", "m", THREE)
        await proxy.cut(refuse=True)
        results = await unit.retrieve_all_memory_types_async("q", "m", THREE, on_error="partial")
        await proxy.accept()
    assert dict(results) == {}
    assert set(results.errors) == {kind.name for kind in THREE}
    assert all(isinstance(error, ServerUnavailableError) for error in results.errors.values())
    with pytest.raises(KeyError, match="failed"):
        results["LONG_TERM_MEMORY"]


async def test_a_change_that_the_server_refuses_is_not_a_row_that_is_missing(
    mongod: Any, db_name: str
) -> None:
    """A view can be read and not written: 0 and False would say that there was nothing to do."""
    view = {"create": "summaries", "viewOn": "rows", "pipeline": []}
    blocking_command(mongod.uri, view, timeout_s=30, database=db_name)
    whose: Any = {"memory_type": "SUMMARIES", "memory_id": "m"}
    async with AsyncMongoDBProvider(MongoDBConfig(mongod.uri, db_name)) as provider:
        for call in (
            provider.delete_async("r", **whose),
            provider.delete_many_async(**whose),
            provider.delete_expired_async(**whose),
            provider.update_async("r", changes={"n": 1}, **whose),
            provider.update_many_async(changes={"n": 1}, **whose),
            provider.touch_many_async(["r"], **whose),
        ):
            with pytest.raises(WriteError, match="view"):
                await call
