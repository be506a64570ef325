"""The wire proxy alone: real drivers through it, and each fault that it can make."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pymongo
import pytest
from pymongo import AsyncMongoClient, CursorType, WriteConcern
from pymongo.errors import (
    AutoReconnect,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)

from . import Answer, Command, Forward, WireProxy


@pytest.fixture
async def proxy(mongod: Any) -> AsyncIterator[WireProxy]:
    async with WireProxy(mongod.host, mongod.port) as opened:
        yield opened


@contextlib.asynccontextmanager
async def collection_at(uri: str, **options: Any) -> AsyncIterator[Any]:
    async with AsyncMongoClient(uri, **options) as client:
        db = client[f"wire_{uuid.uuid4().hex[:12]}"]
        yield db.things
        await db.drop_collection("things")
        await client.drop_database(db.name)


class Heartbeats(ServerHeartbeatListener):
    """Notes the hello replies that were streamed, not asked for."""

    def __init__(self) -> None:
        self.streamed: asyncio.Queue[Any] = asyncio.Queue()

    def started(self, event: ServerHeartbeatStartedEvent) -> None: ...

    def failed(self, event: ServerHeartbeatFailedEvent) -> None: ...

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        if event.awaited:
            self.streamed.put_nowait(event.reply.document)


async def test_discovery_ends_at_the_proxy(mongod: Any, proxy: WireProxy) -> None:
    """A client that follows the replica set finds the proxy as its one member, also later on."""
    beats = Heartbeats()
    direct: AsyncMongoClient[Any]
    client: AsyncMongoClient[Any]
    async with AsyncMongoClient(mongod.uri) as direct:
        set_name = (await direct.admin.command("hello"))["setName"]
    async with AsyncMongoClient(
        proxy.replica_set_uri,
        replicaSet=set_name,
        heartbeatFrequencyMS=500,
        event_listeners=[beats],
    ) as client:
        await client.admin.command("ping")
        assert client.nodes == {(proxy.host, proxy.port)}
        # Hello replies of the monitor come in an exhaust stream, each answering the one before.
        for _ in range(2):
            async with asyncio.timeout(15):
                hello = await beats.streamed.get()
            assert hello["me"] == hello["primary"] == proxy.address
            assert hello["hosts"] == [proxy.address]
        assert await client.primary == (proxy.host, proxy.port)


async def test_everything_passes_through(proxy: WireProxy) -> None:
    """Bulk writes in document sequences, batches, exhaust cursors, unacknowledged writes."""
    async with collection_at(proxy.uri, compressors="zlib") as things:
        await things.insert_many([{"_id": i, "text": "x" * 1000} for i in range(3000)])
        assert len(await things.find({}, batch_size=500).to_list()) == 3000
        assert proxy.counts["getMore"] == 6
        exhaust = things.find({}, batch_size=500, cursor_type=CursorType.EXHAUST)
        assert len(await exhaust.to_list()) == 3000
        assert proxy.counts["getMore"] == 7  # asked once, answered six times
        unacknowledged = things.with_options(write_concern=WriteConcern(w=0))
        async with await things.watch() as changes:
            await unacknowledged.insert_one({"_id": "w0"})
            assert (await changes.next())["documentKey"] == {"_id": "w0"}
        (bulk,) = proxy.sent("insert")[:1]
        assert [document["_id"] for document in bulk["documents"]] == list(range(3000))


async def test_an_intercept_answers_or_rewrites(mongod: Any) -> None:
    """It sees every command, and its own failure reaches the client."""

    async def intercept(command: Command) -> Answer | Forward | None:
        if command.name == "ping":
            return Answer({"ok": 1.0, "said": "pong"})
        if command.name == "find":
            return Forward({**command.body, "filter": {"_id": 1}})
        if command.name == "count":
            raise ValueError("a bug")
        return None

    async with (
        WireProxy(mongod.host, mongod.port, intercept=intercept) as proxy,
        collection_at(proxy.uri) as things,
    ):
        assert (await things.database.command("ping"))["said"] == "pong"
        await things.insert_many([{"_id": 1}, {"_id": 2}])
        assert await things.find({"_id": 2}).to_list() == [{"_id": 1}]
        with pytest.raises(OperationFailure, match="ValueError: a bug"):
            await things.estimated_document_count()
        assert [str(error) for error in proxy.failures] == ["a bug"]


async def test_replies_can_be_delayed(proxy: WireProxy) -> None:
    """Only those of the chosen commands, side by side on different connections."""
    loop = asyncio.get_running_loop()
    async with collection_at(proxy.uri) as things:
        proxy.delay_s = 0.3
        began = loop.time()
        await things.insert_one({"_id": 1})
        assert loop.time() - began < 0.3
        began = loop.time()
        found = await asyncio.gather(*(things.find_one({"_id": 1}) for _ in range(5)))
        assert found == [{"_id": 1}] * 5
        assert 0.3 <= loop.time() - began < 1.2
        proxy.delay_commands = ("insert",)
        began = loop.time()
        await things.find_one({})
        assert loop.time() - began < 0.3


async def test_connections_can_be_cut(proxy: WireProxy) -> None:
    """The client sees a lost connection once, and finds the server again."""
    async with collection_at(proxy.uri, retryReads=False) as things:
        await things.insert_one({"_id": 1})
        proxy.delay_s = 30
        waiting = asyncio.create_task(things.find_one({}))
        async with asyncio.timeout(5):
            await proxy.arrived("find")
        await proxy.cut()
        with pytest.raises(AutoReconnect):
            await waiting
        proxy.delay_s = 0
        assert await things.find_one({}) == {"_id": 1}


async def test_new_connections_can_be_refused(proxy: WireProxy) -> None:
    """A server that is gone, and comes back."""
    async with collection_at(proxy.uri, serverSelectionTimeoutMS=100) as things:
        await things.insert_one({"_id": 1})
        await proxy.cut(refuse=True)
        with pytest.raises((ServerSelectionTimeoutError, AutoReconnect)):
            await things.find_one({})
        await proxy.accept()
        with pymongo.timeout(10):
            assert await things.find_one({}) == {"_id": 1}


@pytest.mark.parametrize(("when", "stored"), [("before", 0), ("after", 1)])
async def test_a_connection_is_cut_around_a_command(
    mongod: Any, proxy: WireProxy, when: Any, stored: int
) -> None:
    """Before the server sees it, or with only the reply lost."""
    direct: AsyncMongoClient[Any]
    async with (
        AsyncMongoClient(mongod.uri) as direct,
        collection_at(proxy.uri, retryWrites=False) as things,
    ):
        await things.database.command("ping")
        await proxy.cut_next("insert", when=when)
        with pytest.raises(AutoReconnect):
            await things.insert_one({"_id": 1})
        real: Any = direct[things.database.name].things
        assert await real.count_documents({}) == stored


async def test_a_frozen_server_answers_when_thawed(proxy: WireProxy) -> None:
    """Connections stay open and silent: only a deadline ends the wait."""
    async with collection_at(proxy.uri, retryReads=False) as things:
        await things.insert_one({"_id": 1})
        await proxy.freeze()
        with pytest.raises((NetworkTimeout, PyMongoError)), pymongo.timeout(0.1):
            await things.find_one({})
        waiting = asyncio.create_task(things.database.command("ping"))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        await proxy.thaw()
        async with asyncio.timeout(10):
            assert (await waiting)["ok"] == 1
            assert await things.find_one({}) == {"_id": 1}


async def test_in_a_thread_its_switches_work_from_any_loop(mongod: Any) -> None:
    """The proxy outlives the loops of the tests that use it."""

    async def once(proxy: WireProxy) -> None:
        async with collection_at(proxy.uri) as things:
            await proxy.freeze()
            await proxy.thaw()
            await things.insert_one({"_id": 1})

    def twice() -> None:
        with WireProxy(mongod.host, mongod.port).in_thread() as proxy:
            asyncio.run(once(proxy))
            asyncio.run(once(proxy))
            proxy.blocking(proxy.cut())
        assert proxy.counts["insert"] == 2
        with pytest.raises(RuntimeError, match="not open"):
            proxy.blocking(proxy.cut())

    await asyncio.to_thread(twice)


async def test_a_port_in_use_is_told(mongod: Any, proxy: WireProxy) -> None:
    """An error of the thread's start is raised where it was started."""

    def start() -> None:
        with WireProxy(mongod.host, mongod.port, port=proxy.port).in_thread():
            pytest.fail("it cannot have started")

    with pytest.raises(OSError, match="in use"):
        await asyncio.to_thread(start)
