"""What an address says holds on a real server, on both drivers."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pymongo
import pytest
from atlas_standin import WireProxy
from pymongo import monitoring
from support.embedder import CountingEmbedder
from support.errors import everything_shown

from memorizz_async import (
    AsyncMongoDBProvider,
    ConfigurationError,
    MemoryType,
    MongoDBConfig,
    OperationTimeoutError,
    ServerUnavailableError,
)

# Both drivers leave the socket of a connect that is cut half-way to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)

KB = MemoryType.LONG_TERM_MEMORY
DRIVERS = pytest.mark.parametrize("driver", ["pymongo", "motor"])


@pytest.fixture(autouse=True)
def _collect_sockets() -> Iterator[None]:
    """Here and not in a later module."""
    yield
    gc.collect()


class Listener(monitoring.CommandListener, monitoring.ConnectionPoolListener):
    """The commands that a client sends, and the options of its pools."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.pools: list[dict[str, Any]] = []

    def started(self, event: Any) -> None:
        self.commands.append(dict(event.command))

    def pool_created(self, event: Any) -> None:
        self.pools.append(event.options)

    def ignore(self, event: Any) -> None:
        """Nothing to keep."""

    succeeded = failed = pool_ready = pool_cleared = pool_closed = ignore
    connection_created = connection_ready = connection_closed = ignore
    connection_check_out_started = connection_check_out_failed = ignore
    connection_checked_out = connection_checked_in = ignore

    def sent(self, name: str) -> list[dict[str, Any]]:
        return [command for command in self.commands if next(iter(command)) == name]


def provider_at(uri: str, driver: Any, **settings: Any) -> AsyncMongoDBProvider:
    config = MongoDBConfig(uri, driver=driver, **settings)
    return AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())


async def use_everything(provider: AsyncMongoDBProvider) -> None:
    """Write and read in all the ways that there are."""
    await provider.ensure_indexes_async()
    row_id = await provider.store_async("bees", KB, memory_id="m")
    await provider.store_conversation_async(["Ada: hello"], session_id="s", memory_id="m")
    await provider.store_conversation_async(["Ben: hi"], session_id="s", memory_id="m")
    await provider.update_async(row_id, KB, {"content": "nuts"}, memory_id="m")
    for mode in ("vector", "text", "hybrid"):
        hits = await provider.retrieve_memory_units_by_query_async(
            "nuts", memory_id="m", memory_type=KB, mode=mode
        )
        assert [hit["_id"] for hit in hits] == [row_id]
    assert await provider.get_async(row_id, KB, memory_id="m")
    assert await provider.list_async(KB, memory_id="m")
    assert await provider.delete_async(row_id, KB, memory_id="m")


@DRIVERS
async def test_options_of_the_address_reach_the_driver(
    mongod: Any, db_name: str, driver: Any
) -> None:
    """Pool, concerns, name of the application, and listeners from client_options."""
    listener = Listener()
    address = (
        f"{mongod.uri}&maxPoolSize=3&minPoolSize=1&appName=mine&w=1&journal=true"
        "&readConcernLevel=majority&retryWrites=false&compressors=zlib"
    )
    options = {"event_listeners": [listener], "server_api": pymongo.server_api.ServerApi("1")}
    async with provider_at(
        address, driver, db_name=db_name, client_options=options, search_strategy="scan"
    ) as provider:
        await provider.store_async("bees", KB, memory_id="m")
        await provider.retrieve_memory_units_by_query_async("q", memory_id="m", memory_type=KB)
    [pool] = [pool for pool in listener.pools if "maxPoolSize" in pool]
    assert (pool["maxPoolSize"], pool["minPoolSize"]) == (3, 1)
    assert pool.get("appName", "mine") == "mine"
    [insert] = listener.sent("insert")
    assert insert["writeConcern"] == {"w": 1, "j": True}
    assert insert["apiVersion"] == "1"
    assert "txnNumber" not in insert
    assert {find["readConcern"]["level"] for find in listener.sent("find")} == {"majority"}


@DRIVERS
@pytest.mark.parametrize("strategy", ["scan", "resident"])
async def test_the_primary_is_read_whatever_the_read_preference(
    mongod: Any, db_name: str, driver: Any, strategy: Any
) -> None:
    """So a provider reads its own writes, and decides by what is so."""
    listener = Listener()
    async with provider_at(
        f"{mongod.uri}&readPreference=secondaryPreferred".replace("directConnection=true", ""),
        driver,
        db_name=db_name,
        client_options={"event_listeners": [listener]},
        search_strategy=strategy,
    ) as provider:
        await use_everything(provider)
    preferences = [
        c["$readPreference"]["mode"] for c in listener.commands if "$readPreference" in c
    ]
    assert set(preferences) <= {"primary", "primaryPreferred"}
    assert len(listener.commands) > 10


@DRIVERS
async def test_the_selection_timeout_of_the_address_holds(
    driver: Any, unused_tcp_port: int
) -> None:
    """Without a server the error comes within it, and names it."""
    started = time.monotonic()
    uri = f"mongodb://127.0.0.1:{unused_tcp_port}/?serverSelectionTimeoutMS=300"
    with pytest.raises(ServerUnavailableError, match="300 ms"):
        async with provider_at(uri, driver):
            pass
    assert time.monotonic() - started < 2


@DRIVERS
@pytest.mark.parametrize("option", ["timeoutMS", "socketTimeoutMS"])
async def test_the_timeouts_of_the_address_hold(
    mongod: Any, db_name: str, driver: Any, option: str
) -> None:
    """A server that does not answer is given up in that time."""
    with WireProxy(mongod.host, mongod.port).in_thread() as proxy:
        separator = "&" if "?" in proxy.uri else "/?"
        uri = f"{proxy.uri}{separator}{option}=400"
        async with provider_at(uri, driver, db_name=db_name) as provider:
            await provider.store_async("bees", KB, memory_id="m")
            await proxy.freeze()
            started = time.monotonic()
            with pytest.raises(OperationTimeoutError, match="400 ms"):
                await provider.get_async("x", KB, memory_id="m")
            assert time.monotonic() - started < 3
            await proxy.thaw()


@DRIVERS
async def test_the_database_of_the_address_holds_the_rows(
    mongod: Any, db_name: str, driver: Any
) -> None:
    """Not `memorizz`; and it is where a user of the address is looked for, as ever."""
    async with provider_at(mongod.uri.replace("/?", f"/{db_name}?"), driver) as provider:
        assert provider.config.db_name == db_name
        await provider.store_async("bees", KB, memory_id="m")
    with pymongo.MongoClient[Any](mongod.uri) as client:
        assert client[db_name][KB.collection].count_documents({}) == 1
    admin = mongod.with_password.replace("/?", "/admin?")
    async with provider_at(admin, driver, db_name=db_name) as provider:
        assert await provider.list_async(KB, memory_id="m")


@DRIVERS
@pytest.mark.parametrize("by", ["address", "client_options"])
async def test_unacknowledged_writes_are_refused_when_the_address_is_opened(
    mongod: Any, driver: Any, by: str
) -> None:
    """Nothing could tell whether a memory was stored."""
    settings: Any = {"client_options": {"w": 0}} if by == "client_options" else {}
    uri = f"{mongod.uri}&w=0" if by == "address" else mongod.uri
    with pytest.raises(ConfigurationError, match="w=0"):
        async with provider_at(uri, driver, **settings):
            pass


@DRIVERS
async def test_a_wrong_password_is_in_no_part_of_the_error(
    mongod: Any, driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor in what our loggers say."""
    secret = f"Zq7{uuid4().hex}"
    uri = f"mongodb://nobody:{secret}@{mongod.host}:{mongod.port}/?directConnection=true"
    with caplog.at_level("DEBUG", "memorizz_async"), pytest.raises(Exception) as caught:
        async with provider_at(uri, driver):
            pass
    assert "AuthenticationFailed" in str(caught.value)
    assert not any(secret in said for said in everything_shown(caught.value))
    assert not any(secret in record.getMessage() for record in caplog.records)
