"""Event listeners of the user: a failure is logged, without its words."""

from __future__ import annotations

import logging
from typing import Any

import pymongo
import pytest
from pymongo import monitoring

from memorizz_async.memory_provider.mongodb.driver.listeners import with_logged_listeners


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


def test_a_listener_that_fails_is_logged_and_not_printed(
    mongod: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command goes on, and the listener gets every event."""
    listener = Failing()
    options = with_logged_listeners({"event_listeners": [listener]})
    with caplog.at_level(logging.WARNING), pymongo.MongoClient(mongod.uri, **options) as client:
        assert client.admin.command("ping")["ok"] == 1
    kinds = {type(event).__name__ for event in listener.seen}
    assert {"CommandStartedEvent", "CommandSucceededEvent", "PoolCreatedEvent"} <= kinds
    assert "Failing" in caplog.text
    assert "a user's text" not in caplog.text
    assert capfd.readouterr().err == ""


def test_what_is_no_listener_is_left_to_the_driver() -> None:
    options = with_logged_listeners({"event_listeners": [5], "appname": "a"})
    assert options == {"event_listeners": [5], "appname": "a"}
