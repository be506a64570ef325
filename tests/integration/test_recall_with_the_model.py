"""The main job with the real model: one embedding, every type at once, a loop that ticks on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from support.heartbeat import heartbeat

from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)

FACTS = [
    "Ada keeps bees on the roof of her flat in Lisbon.",
    "The quarterly report is due on the second Friday of January.",
    "Ada is allergic to hazelnuts.",
]
TURNS = ["Ada: I moved to Lisbon last spring.", "Ben: How are the bees doing?"]
STEPS = ["To restart the billing service, drain the queue first, then roll the pods."]


@pytest.fixture(scope="module")
def model() -> Any:
    """One loaded model for the module."""
    provider = AsyncEmbeddingProvider()
    yield provider
    provider.shutdown()


@pytest.fixture
async def provider(
    mongod: Any, db_name: str, model: AsyncEmbeddingProvider
) -> AsyncIterator[AsyncMongoDBProvider]:
    """A provider on the real server, with the real model."""
    config = MongoDBConfig(mongod.uri, db_name=db_name)
    async with AsyncMongoDBProvider(config, embedding_provider=model) as opened:
        yield opened


async def test_recall_finds_what_is_meant_in_every_type_with_one_embedding(
    provider: AsyncMongoDBProvider, model: AsyncEmbeddingProvider
) -> None:
    """The right memory of each type comes first, and the model ran once for the query."""
    await provider.store_many_async(FACTS, MemoryType.LONG_TERM_MEMORY, memory_id="ada")
    await provider.store_many_async(TURNS, MemoryType.CONVERSATION_MEMORY, memory_id="ada")
    await provider.store_many_async(STEPS, MemoryType.WORKFLOW_MEMORY, memory_id="ada")
    unit = MemoryUnit("conversational", memory_provider=provider)
    before = model.stats()
    results = await unit.retrieve_all_memory_types_async(
        "Which nuts must Ada avoid?",
        "ada",
        {
            MemoryType.LONG_TERM_MEMORY: 2,
            MemoryType.CONVERSATION_MEMORY: 2,
            MemoryType.WORKFLOW_MEMORY: 2,
        },
        async_memory_provider=provider,
    )
    after = model.stats()
    assert after.computed - before.computed == 1
    assert list(results) == ["LONG_TERM_MEMORY", "CONVERSATION_MEMORY", "WORKFLOW_MEMORY"]
    assert results[MemoryType.LONG_TERM_MEMORY][0]["content"] == FACTS[2]
    for name, hits in results.items():
        assert [hit["score"] for hit in hits] == sorted(
            (hit["score"] for hit in hits), reverse=True
        )
        for hit in hits:
            assert hit["memory_type"] == name
            assert hit["memory_id"] == "ada"
            assert 0 <= hit["memory_signal"] <= 1
            assert hit["embedding_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert results.timings.embedding_ms > 0
    assert set(results.timings.queries_ms) == set(results)
    assert results.timings.total_ms >= max(results.timings.queries_ms.values())
    assert results.errors == {}


async def test_generate_memory_unit_writes_one_that_is_recalled(
    provider: AsyncMongoDBProvider,
) -> None:
    """A unit bound to a tenant writes and recalls without naming it again."""
    unit = MemoryUnit("assistant", provider, memory_id="ada", user_id="u")
    row_id = await unit.generate_memory_unit_async("Ada plays the cello.")
    results = await unit.retrieve_all_memory_types_async("Which instrument does Ada play?")
    assert results[MemoryType.LONG_TERM_MEMORY][0]["_id"] == row_id
    assert results["conversation_memory"] == []


async def test_the_loop_keeps_ticking_while_texts_are_embedded_and_vectors_scanned(
    provider: AsyncMongoDBProvider,
) -> None:
    """64 texts in the model and 10,000 vectors in a scan: 99 of 100 ticks are on time by 250 ms."""
    rng = np.random.default_rng(1)
    rows = [
        {"content": str(n), "embedding": vector}
        for n, vector in enumerate(rng.normal(size=(10_000, 384)))
    ]
    await provider.store_many_async(rows, MemoryType.LONG_TERM_MEMORY, memory_id="many")
    await provider.embedder.encode_query_async("load the model")
    async with heartbeat() as late:
        await asyncio.gather(
            provider.embedder.encode_documents_async([f"text {n} " * 20 for n in range(64)]),
            *(
                provider.retrieve_memory_units_by_query_async(
                    None, rng.normal(size=384), "many", MemoryType.LONG_TERM_MEMORY, 10
                )
                for _ in range(3)
            ),
        )
    assert len(late) > 10
    assert np.percentile(late, 99) < 0.25
