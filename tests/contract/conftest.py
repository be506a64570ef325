"""The same tests over every driver: a contract that each of them keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.embedder import CountingEmbedder

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig

BACKENDS = ("pymongo", "motor", "memory", "pymongo-resident", "motor-resident")
"""Drivers, searching by scan; `-resident`: in memory."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Which driver a test runs on."""
    return str(request.param)


@pytest.fixture
def config(backend: str, request: pytest.FixtureRequest) -> MongoDBConfig:
    """A database of the test's own, on that driver."""
    if backend == "memory":
        return MongoDBConfig("memory://", db_name="test")
    uri = request.getfixturevalue("mongod").uri
    driver, _, strategy = backend.partition("-")
    return MongoDBConfig(
        uri,
        db_name=request.getfixturevalue("db_name"),
        driver=driver,  # type: ignore[arg-type]
        search_strategy=strategy or "scan",  # type: ignore[arg-type]
    )


@pytest.fixture
def embedder() -> CountingEmbedder:
    """What the providers of a test embed with."""
    return CountingEmbedder()


@pytest.fixture
async def provider(
    config: MongoDBConfig, embedder: CountingEmbedder
) -> AsyncIterator[AsyncMongoDBProvider]:
    """An open provider, closed afterwards."""
    async with AsyncMongoDBProvider(config, embedding_provider=embedder) as opened:
        yield opened


@pytest.fixture
def insert_raw(provider: AsyncMongoDBProvider) -> Callable[..., Any]:
    """Writes rows as another program would: past every check of ours."""

    async def insert(collection: str, *rows: dict[str, Any]) -> None:
        from bson import ObjectId

        from memorizz_async.deadline import Deadline

        session = await provider._connection.session()
        outcome = await session.driver.insert_many(
            collection,
            [{"_id": ObjectId(), **row} for row in rows],
            deadline=Deadline.after(10_000),
        )
        assert not outcome.refused

    return insert
