"""Event listeners of the user: a failure is logged, without its words."""

from __future__ import annotations

import logging
from typing import Any, Literal

import pytest
from pymongo import monitoring
from support.embedder import CountingEmbedder

from memorizz_async import AsyncMongoDBProvider, ConfigurationError, MongoDBConfig


class Failing(monitoring.CommandListener, monitoring.ConnectionPoolListener):
    """Fails at every event, naming what it saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def _fail(self, event: Any) -> None:
        self.seen.append(event)
        raise ValueError("a user's text")

    started = succeeded = failed = _fail
    pool_created = pool_ready = pool_cleared = pool_closed = _fail
    connection_created = connection_ready = connection_closed = _fail
    connection_check_out_started = connection_check_out_failed = _fail
    connection_checked_out = connection_checked_in = _fail


@pytest.fixture(params=["an option", "registered for every client"])
def listening(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Failing, dict[str, Any]]:
    """A listener, and the options of a client that has it."""
    listener = Failing()
    if request.param == "an option":
        return listener, {"event_listeners": [listener]}
    monkeypatch.setattr(monitoring, "_LISTENERS", monitoring._Listeners([], [], [], [], []))
    monitoring.register(listener)
    return listener, {}


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_listener_that_fails_is_logged_and_not_printed(
    mongod: Any,
    driver: Literal["pymongo", "motor"],
    listening: tuple[Failing, dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The command goes on, and the listener gets every event."""
    listener, options = listening
    config = MongoDBConfig(mongod.uri, driver=driver, client_options=options)
    with caplog.at_level(logging.WARNING):
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
            assert await provider.list_async("SUMMARIES", memory_id="nobody's") == []
    kinds = {type(event).__name__ for event in listener.seen}
    assert {"CommandStartedEvent", "CommandSucceededEvent", "PoolCreatedEvent"} <= kinds
    assert "Failing" in caplog.text
    assert "a user's text" not in caplog.text
    assert capfd.readouterr().err == ""


async def test_what_is_no_listener_is_refused() -> None:
    config = MongoDBConfig("mongodb://localhost:1", client_options={"event_listeners": [5]})
    provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())
    with pytest.raises(ConfigurationError, match="event_listeners"):
        await provider.list_async("SUMMARIES", memory_id="m")
    await provider.close_async()
