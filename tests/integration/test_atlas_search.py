"""`$vectorSearch`, over a stand-in that follows Atlas's documented rules before a real mongod."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from atlas_standin import AtlasStandin
from support.embedder import DIMENSIONS, CountingEmbedder, vector_of

from memorizz_async import (
    AsyncMongoDBProvider,
    DatabaseError,
    MemoryType,
    MongoDBConfig,
    OperationTimeoutError,
)

KB = MemoryType.LONG_TERM_MEMORY


@pytest.fixture
def standin(mongod: Any) -> Iterator[AtlasStandin]:
    """Atlas, as far as it can be here."""
    with AtlasStandin(mongod.host, mongod.port).in_thread() as running:
        yield running
    assert running.failures == []


@pytest.fixture(params=["pymongo", "motor"])
def config(request: pytest.FixtureRequest, standin: AtlasStandin, db_name: str) -> MongoDBConfig:
    """A database on the stand-in, over each driver."""
    return MongoDBConfig(standin.uri, db_name=db_name, driver=request.param, dimensions=DIMENSIONS)


@pytest.fixture
async def provider(config: MongoDBConfig) -> AsyncIterator[AsyncMongoDBProvider]:
    """An open provider."""
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as opened:
        yield opened


async def test_an_index_is_made_awaited_and_used(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """After ensure_indexes_async a search goes through the index, scoped and scored alike."""
    report = await provider.ensure_indexes_async([KB])
    assert report.search == {"knowledge_base": "created"}
    texts = [f"memory {n}" for n in range(50)]
    for user in ("u", "v"):
        await provider.store_many_async(texts, KB, memory_id="m", user_id=user)
    await standin.sync()
    hits = await provider.retrieve_memory_units_by_query_async(
        "memory 7", None, "m", KB, 10, user_id="u"
    )
    assert hits.strategy == "atlas"
    assert {hit["user_id"] for hit in hits} == {"u"}
    vectors = np.array([vector_of(text) for text in texts], np.float64)
    query = vectors[7]
    cosines = vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
    best = np.argsort(-cosines)[:10]
    assert [hit["content"] for hit in hits] == [texts[n] for n in best]
    assert np.abs([hit["score"] for hit in hits] - (1 + cosines[best]) / 2).max() < 1e-5
    assert all("_memorizz_score" not in hit and "embedding" not in hit for hit in hits)


async def test_without_an_index_an_exact_search_answers_and_the_log_says_so(
    provider: AsyncMongoDBProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing index would be an empty answer on Atlas: here the rows come."""
    await provider.store_async("a", KB, memory_id="m")
    with caplog.at_level(logging.WARNING):
        hits = await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)
        await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)
    assert [hit["content"] for hit in hits] == ["a"]
    assert hits.strategy == "resident"
    said = [record for record in caplog.records if "no search index" in record.getMessage()]
    assert len(said) == 1


async def test_insisting_on_the_index_makes_a_missing_one_an_error(config: MongoDBConfig) -> None:
    """`search_strategy="atlas"` never answers in another way."""
    strict = replace(config, search_strategy="atlas")
    async with AsyncMongoDBProvider(strict, embedding_provider=CountingEmbedder()) as provider:
        await provider.store_async("a", KB, memory_id="m")
        with pytest.raises(DatabaseError, match="ensure_indexes_async"):
            await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)


async def test_an_index_of_memorizz_is_widened_and_keeps_its_fields(
    provider: AsyncMongoDBProvider,
) -> None:
    """The `vector_index` of memorizz keeps its fields and gains the filter fields that we need."""
    await provider.store_async("a", KB, memory_id="m")
    session = await provider._connection.session()
    from memorizz_async.deadline import Deadline

    deadline = Deadline.after(20_000)
    vector = {"type": "vector", "path": "embedding", "numDimensions": 8, "similarity": "cosine"}
    theirs = [vector, {"type": "filter", "path": "namespace"}]
    await session.driver.command(
        {
            "createSearchIndexes": "knowledge_base",
            "indexes": [
                {"name": "vector_index", "type": "vectorSearch", "definition": {"fields": theirs}}
            ],
        },
        deadline=deadline,
    )
    report = await provider.ensure_indexes_async([KB])
    assert report.search == {"knowledge_base": "updated"}
    again = await provider.ensure_indexes_async([KB])
    assert again.search == {"knowledge_base": "present"}
    found = await session.driver.aggregate(
        "knowledge_base", [{"$listSearchIndexes": {"name": "vector_index"}}], deadline=deadline
    )
    paths = {field["path"] for field in found[0]["latestDefinition"]["fields"]}
    assert paths == {"embedding", "namespace", "memory_id", "user_id"}


async def test_waiting_for_an_index_ends_at_the_deadline_with_what_was_seen(
    config: MongoDBConfig, standin: AtlasStandin
) -> None:
    """An index that is never ready is an error that says its last status."""
    standin.pace.manual = True
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
        with pytest.raises(OperationTimeoutError, match="PENDING"):
            await provider.ensure_indexes_async([KB], timeout_ms=1500)


@pytest.mark.parametrize("mode", ["5.0", "6.0", "7.0", "8.x"])
async def test_every_servers_no_search_here_leads_to_an_exact_search(
    provider: AsyncMongoDBProvider, standin: AtlasStandin, mode: str
) -> None:
    """The error codes of each server version lead to an exact search and to ordinary indexes."""
    standin.mode = mode
    await provider.store_async("a", KB, memory_id="m")
    hits = await provider.retrieve_memory_units_by_query_async("a", None, "m", KB)
    assert (hits.strategy, len(hits)) == ("resident", 1)
    assert (await provider.ensure_indexes_async([KB])).search == {}
