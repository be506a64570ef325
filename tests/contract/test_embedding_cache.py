"""The second tier of the embedding cache, on every driver and kind of server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from support.internals import session_of
from support.models import Model

from memorizz_async import AsyncMongoDBProvider, ConfigurationError, MemoryType, MongoDBConfig
from memorizz_async.deadline import Deadline

KB = MemoryType.LONG_TERM_MEMORY


@pytest.fixture
def cached(config: MongoDBConfig) -> MongoDBConfig:
    """A database that several providers share, one after the other, and its cache."""
    if config.uri == "memory://":
        config = MongoDBConfig(f"memory://cache-{ObjectId()}", "test")
    return replace(config, embedding_cache=True)


async def driver_of(provider: AsyncMongoDBProvider) -> Any:
    return (await session_of(provider)).driver


async def test_what_was_embedded_once_is_not_computed_again(cached: MongoDBConfig) -> None:
    """Not by another provider with a cache of its own: documents and queries, where they agree."""
    texts = [f"text {number}" for number in range(700)]
    async with AsyncMongoDBProvider(cached, embedding_provider=Model("m/8")) as provider:
        await provider.store_many_async(texts, KB, memory_id="m")
    second = Model("m/8")
    async with AsyncMongoDBProvider(cached, embedding_provider=second) as provider:
        hits = await provider.retrieve_memory_units_by_query_async(
            texts[7], memory_id="m", memory_type=KB
        )
        assert hits[0]["content"] == texts[7]
        again = [f"text {number}" for number in range(690, 710)]
        await provider.store_many_async(again, MemoryType.SUMMARIES, memory_id="m")
        assert sorted(second.texts) == again[10:]
        stats = provider.embedder.stats()  # type: ignore[attr-defined]
        assert (stats.tier_hits, stats.tier_misses, stats.tier_failures) == (11, 10, 0)
    other = Model("other/8")
    async with AsyncMongoDBProvider(cached, embedding_provider=other) as provider:
        await provider.store_async(texts[7], MemoryType.PERSONAS, memory_id="m")
        assert other.texts == [texts[7]]  # the model is a part of the key


async def test_a_row_holds_a_digest_and_no_text_and_expires(cached: MongoDBConfig) -> None:
    """A vector that has expired is computed again, whether the server has removed it or not."""
    config = replace(cached, embedding_cache_ttl_s=3600)
    async with AsyncMongoDBProvider(config, embedding_provider=Model("m/8")) as provider:
        await provider.store_async("a secret", KB, memory_id="m")
        session = await session_of(provider)
        await session.cache.close()
        driver = session.driver
        [row] = await driver.find("embedding_cache", {}, deadline=Deadline.after(10_000))
        assert set(row) == {"_id", "vector", "expires_at"}
        assert len(row["_id"]) == 16
        left = row["expires_at"] - datetime.now(UTC)
        assert timedelta(minutes=59) < left <= timedelta(hours=1)
        await driver.update_many(
            "embedding_cache",
            {},
            {"$set": {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}},
            deadline=Deadline.after(10_000),
        )
    second = Model("m/8")
    async with AsyncMongoDBProvider(config, embedding_provider=second) as provider:
        await provider.store_async("a secret", KB, memory_id="m")
        assert second.texts == ["a secret"]


async def test_an_odd_row_of_the_tier_is_computed_again(
    cached: MongoDBConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program's vector there costs one computation and one line; the others are used."""
    model = Model("m/8")
    async with AsyncMongoDBProvider(cached, embedding_provider=model) as provider:
        await provider.store_async("a", KB, memory_id="m")
        session = await session_of(provider)
        await session.cache.close()
        await session.driver.update_many(
            "embedding_cache", {}, {"$set": {"vector": "broken"}}, deadline=Deadline.after(10_000)
        )
        await provider.store_async("kept", KB, memory_id="m")
    second = Model("m/8")
    async with AsyncMongoDBProvider(cached, embedding_provider=second) as provider:
        await provider.store_async("a", KB, memory_id="m")
        await provider.store_async("kept", KB, memory_id="m")
        await provider.store_async("b", KB, memory_id="m")
        assert second.texts == ["a", "b"]
        stats = provider.embedder.stats()  # type: ignore[attr-defined]
        assert stats.tier_failures == 0
    said = [record for record in caplog.records if "'embedding_cache'" in record.message]
    assert len(said) == 1


async def test_only_what_has_a_lasting_name_is_kept(cached: MongoDBConfig) -> None:
    """A nameless function would be taken for another one; a foreign embedder has no keys."""

    class Foreign:
        async def encode_query_async(self, text: str) -> Any: ...
        async def encode_documents_async(self, texts: Any) -> Any: ...
        def get_model_name(self) -> str:
            return "foreign"

        def get_dimensions(self) -> int:
            return 8

    for embedder in (lambda texts: [[1.0] * 8 for _ in texts], Foreign()):
        async with AsyncMongoDBProvider(cached, embedding_provider=embedder) as provider:
            with pytest.raises(ConfigurationError):
                await provider.store_async("a", KB, memory_id="m")


async def test_it_is_off_unless_asked_for(config: MongoDBConfig) -> None:
    """No collection comes to be by itself."""
    async with AsyncMongoDBProvider(config, embedding_provider=Model("m/8")) as provider:
        await provider.store_async("a", KB, memory_id="m")
        driver = await driver_of(provider)
        assert await driver.find("embedding_cache", {}, deadline=Deadline.after(10_000)) == []
