"""memorizz's agents on our provider: a scripted model over real HTTP, the real MiniLM, a mongod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from memorizz import MemAgent
from memorizz.memagent.managers import memory_manager
from support.agents import NewAgent, agents_memory, close
from support.openai_server import UNKNOWN, ScriptedOpenAI

from memorizz_async import AsyncEmbeddingProvider, MongoDBConfig


@pytest.fixture(scope="module")
def model() -> Iterator[AsyncEmbeddingProvider]:
    """One loaded MiniLM for the module."""
    provider = AsyncEmbeddingProvider()
    yield provider
    provider.shutdown()


@pytest.fixture(scope="module")
def atlas(mongod: Any) -> Iterator[AtlasStandin]:
    """Atlas before the mongod of the session; indexes are built at once, rows seen after sync()."""
    standin = AtlasStandin(mongod.host, mongod.port, pending_s=0, building_s=0)
    with standin.in_thread():
        yield standin
    assert standin.failures == []


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What memorizz keeps in files (approvals, settings) is the test's own."""
    monkeypatch.setenv("MEMORIZZ_HOME", str(tmp_path / "memorizz"))


@pytest.fixture(autouse=True)
def _nothing_was_swallowed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What memorizz catches it logs: a call of our provider that failed is seen here."""
    yield
    its_own = "memorizz.memory_provider.mongodb"
    said = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name.startswith("memorizz.") and record.levelno >= logging.WARNING
        if not record.name.startswith(its_own)
    ]
    assert said == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the time that memorizz stamps turns with."""

    def at(moment: datetime) -> None:
        monkeypatch.setattr(memory_manager, "utc_now", lambda: moment)

    return at


@pytest.fixture(params=["scan", "resident", "atlas"])
def config(
    request: pytest.FixtureRequest, mongod: Any, atlas: AtlasStandin, db_name: str
) -> MongoDBConfig:
    """A database of the test's own, by each way to search it."""
    uri = atlas.uri if request.param == "atlas" else mongod.uri
    return MongoDBConfig(uri, db_name, search_strategy=request.param)


@pytest.fixture
def plain(mongod: Any, db_name: str) -> MongoDBConfig:
    """A plain mongod, as most tests take it."""
    return MongoDBConfig(mongod.uri, db_name)


@pytest.fixture
def memory(config: MongoDBConfig, model: AsyncEmbeddingProvider) -> Iterator[Any]:
    """Our provider under memorizz, by each way to search, with its indexes."""
    with agents_memory(config, model) as provider:
        asyncio.run(provider.aio.ensure_indexes_async())
        yield provider


@pytest.fixture
def plain_memory(plain: MongoDBConfig, model: AsyncEmbeddingProvider) -> Iterator[Any]:
    """Our provider under memorizz on a plain mongod."""
    with agents_memory(plain, model) as provider:
        yield provider


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    """The model's server; a test gives it its script."""
    with ScriptedOpenAI(lambda _: UNKNOWN) as running:
        yield running


@pytest.fixture
def new_agent(server: ScriptedOpenAI) -> Iterator[NewAgent]:
    """Makes or loads agents that talk to the server; all are closed afterwards."""
    made: list[Any] = []
    config = {"provider": "openai", "model": "scripted-1", "base_url": server.url}

    def new(provider: Any, **settings: Any) -> Any:
        settings = {"application_mode": "assistant", "llm_config": config, **settings}
        made.append(MemAgent(memory_provider=provider, **settings))
        return made[-1]

    yield new
    for agent in made:
        close(agent)
