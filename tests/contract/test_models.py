"""Vectors of two embedding models never meet: not in a search, not in a collection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from support.internals import session_of
from support.models import Model

from memorizz_async import (
    AsyncMongoDBProvider,
    EmbeddingModelMismatchError,
    InvalidEmbeddingError,
    MemoryType,
    MongoDBConfig,
    StoredEmbeddingError,
)
from memorizz_async.deadline import Deadline

from .conftest import SEARCHED, Settle

KB = MemoryType.LONG_TERM_MEMORY
OLD, OTHER = Model("old/8"), Model("new/8")

Opened = Callable[..., Any]


@pytest.fixture
async def opened(config: MongoDBConfig, on_atlas: bool) -> AsyncIterator[Opened]:
    """Opens providers on one database; with the indexes that searches need.

    One after the other: `memory://` keeps its data for as long as a provider has it.
    """
    if config.uri == "memory://":
        config = MongoDBConfig("memory://models-" + str(ObjectId()), db_name="test")

    @asynccontextmanager
    async def provider(model: Model, **others: Any) -> AsyncIterator[AsyncMongoDBProvider]:
        async with AsyncMongoDBProvider(config, embedding_provider=model, **others) as made:
            if on_atlas and model is OLD:
                await made.ensure_indexes_async(SEARCHED)
            yield made

    return provider


async def raw(provider: AsyncMongoDBProvider, collection: str) -> list[dict[str, Any]]:
    """The rows as they are stored."""
    session = await session_of(provider)
    return await session.driver.find(collection, {}, deadline=Deadline.after(10_000))


async def put(provider: AsyncMongoDBProvider, collection: str, *rows: dict[str, Any]) -> None:
    """Write rows as another program would."""
    session = await session_of(provider)
    rows = tuple({"_id": ObjectId(), **row} for row in rows)
    outcome = await session.driver.insert_many(collection, rows, deadline=Deadline.after(10_000))
    assert not outcome.refused


async def contents(provider: AsyncMongoDBProvider, query: str, **more: Any) -> list[str]:
    hits = await provider.retrieve_memory_units_by_query_async(
        query, memory_id="m", memory_type=KB, mode="vector", **more
    )
    return [hit["content"] for hit in hits]


@pytest.mark.parametrize("dimensions", [8, 12])
async def test_recall_with_another_model_is_an_error_that_says_what_to_do(
    opened: Opened, settle: Settle, dimensions: int
) -> None:
    """Of the same dimension, where nothing else would show it, and of another."""
    async with opened(OLD) as provider:
        await provider.store_many_async(["red", "blue"], KB, memory_id="m")
        await settle()
        assert (await contents(provider, "red"))[0] == "red"
    async with opened(Model("new/x", dimensions)) as provider:
        with pytest.raises(EmbeddingModelMismatchError) as caught:
            await contents(provider, "red")
        error = caught.value
        assert isinstance(error, StoredEmbeddingError)
        assert (error.stored_model, error.model) == ("old/8", "new/x")
        assert (error.stored_dimensions, error.dimensions) == (8, dimensions)
        for words in ("old/8", "new/x", "8 numbers", f"{dimensions} numbers"):
            assert words in str(error)
        assert "memorizz-async reembed --type LONG_TERM_MEMORY --model new/x" in str(error)


async def test_a_model_that_only_rows_name_is_seen_too(opened: Opened, settle: Settle) -> None:
    """A database from before, without any word on its models: the hits themselves tell."""
    async with opened(OLD) as provider:
        await put(
            provider,
            "knowledge_base",
            {
                "memory_id": "m",
                "content": "red",
                "embedding": [float(x) for x in OTHER.vector("red")],
                "embedding_model": OTHER.model_name,
            },
        )
        await settle()
        with pytest.raises(EmbeddingModelMismatchError, match=r"new/8.*old/8"):
            await contents(provider, "red")
    async with opened(OTHER) as provider:
        assert await contents(provider, "red") == ["red"]


async def test_rows_of_another_model_among_many_are_named_and_not_returned(
    opened: Opened, settle: Settle
) -> None:
    """A row that slipped in neither spoils the recall of others nor vanishes silently."""
    async with opened(OLD) as provider:
        await provider.store_many_async(["red", "blue"], KB, memory_id="m")
        stray = {"memory_id": "m", "embedding_model": "third/8", "_id": "stray"}
        vector = [float(x) for x in OLD.vector("red")]  # as near to the query as can be
        await put(provider, "knowledge_base", {**stray, "content": "green", "embedding": vector})
        await settle()
        results = await provider.batch_retrieve_async(
            [{"key": "k", "query": "red", "memory_id": "m", "memory_type": KB, "mode": "vector"}]
        )
        assert [hit["content"] for hit in results["k"]] == ["red", "blue"]
        error = results.errors["k"]
        assert isinstance(error, EmbeddingModelMismatchError)
        assert error.rows == {"stray": "of the model third/8"}
        assert "third/8" in str(error)


async def test_a_write_with_another_model_is_refused_and_nothing_is_written(
    opened: Opened,
) -> None:
    """Also where only one of many rows is of it, and by whoever embedded it."""
    async with opened(OLD) as provider:
        await provider.store_async("red", KB, memory_id="m")
        theirs = {"content": "x", "embedding": OTHER.vector("x"), "embedding_model": "new/8"}
        with pytest.raises(EmbeddingModelMismatchError, match=r"nothing was written.*reembed"):
            await provider.store_many_async(["blue", theirs], KB, memory_id="m")
    async with opened(OTHER) as provider:
        for write in (
            provider.store_async("blue", KB, memory_id="m"),
            provider.store_conversation_async(["hi"], KB, session_id="s", memory_id="m"),
        ):
            with pytest.raises(EmbeddingModelMismatchError, match=r"old/8.*new/8.*reembed"):
                await write
        assert [row["content"] for row in await raw(provider, "knowledge_base")] == ["red"]
        await provider.store_async("blue", MemoryType.SUMMARIES, memory_id="m")  # not theirs


async def test_a_vector_without_a_model_is_taken_by_its_dimension(
    opened: Opened, settle: Settle
) -> None:
    """Of a caller who brings vectors nobody knows the model; memorizz's rows name none."""
    async with opened(OLD) as provider:
        await provider.store_async("red", KB, memory_id="m")
        await provider.store_async("own", KB, memory_id="m", embedding=OTHER.vector("own"))
        with pytest.raises(InvalidEmbeddingError, match=r"3 numbers, not 8.*reembed"):
            await provider.store_async("x", KB, memory_id="m", embedding=[1.0, 2.0, 3.0])
        await settle()
        query = OTHER.vector("own")
        assert (await contents(provider, "q", query_embedding=query))[0] == "own"
        assert set(await contents(provider, "red")) == {"red", "own"}


async def test_the_first_rows_that_name_a_model_name_it_for_the_collection(
    opened: Opened, settle: Settle
) -> None:
    """Rows of memorizz alone say nothing; ours among them do, and a second model is refused."""
    async with opened(OLD) as provider:
        vector = [float(x) for x in OLD.vector("theirs")]
        row = {"memory_id": "m", "content": "theirs", "embedding": vector}
        await put(provider, "knowledge_base", row)
        await settle()
        assert await contents(provider, "theirs") == ["theirs"]
        await provider.store_async("ours", KB, memory_id="m")
        await settle()
        assert (await contents(provider, "theirs"))[0] == "theirs"
    async with opened(OTHER) as provider:
        with pytest.raises(EmbeddingModelMismatchError):
            await provider.store_async("x", KB, memory_id="m")


async def test_a_collection_without_vectors_is_free_for_any_model(
    opened: Opened, settle: Settle
) -> None:
    """Once all its rows are gone, or their vectors, nothing binds it to the model they had."""
    async with opened(OLD) as provider:
        await provider.store_async("red", KB, memory_id="m")
        session = await session_of(provider)
        await session.driver.delete_many("knowledge_base", {}, deadline=Deadline.after(10_000))
        await settle()
    async with opened(Model("new/12", 12)) as provider:
        assert await contents(provider, "red") == []
        with pytest.raises(EmbeddingModelMismatchError):  # its first row may be on its way
            await provider.store_async("blue", KB, memory_id="m")
        session = await session_of(provider)
        await session.driver.update_many(
            "embedding_models",
            {},
            {"$set": {"changed_at": datetime.now(UTC) - timedelta(minutes=2)}},
            deadline=Deadline.after(10_000),
        )
        provider._guard.states._known.clear()
        await provider.store_async("blue", KB, memory_id="m")
        assert await contents(provider, "blue") == ["blue"]
        [state] = await raw(provider, "embedding_models")
        assert (state["_id"], state["model"], state["dimensions"]) == (
            "knowledge_base", "new/12", 12,
        )  # fmt: skip


async def test_what_is_known_of_models_costs_a_recall_no_round_trip(opened: Opened) -> None:
    """Once it is known, a second goes by before anybody asks again."""
    async with opened(OLD) as provider:
        await provider.store_async("red", KB, memory_id="m")
        await contents(provider, "red")
        states = provider._guard.states
        before = dict(states._known)
        for _ in range(20):
            await contents(provider, "red")
            if not states.is_fresh("knowledge_base"):  # a slow machine
                break
        read = {name: known.read_at for name, known in states._known.items()}
        waited = max(read.values()) - max(known.read_at for known in before.values())
        assert waited == 0 or waited > 0.5


async def test_a_row_is_not_given_a_vector_of_another_model_by_a_change(opened: Opened) -> None:
    """Neither by a new content nor by a vector of the caller's; nothing of the row is changed."""
    async with opened(OLD) as provider:
        row_id = await provider.store_async("red", KB, memory_id="m")
    async with opened(OTHER) as provider:
        for changes in (
            {"content": "blue"},
            {"embedding": OTHER.vector("x").tolist(), "embedding_model": "new/8"},
        ):
            with pytest.raises(EmbeddingModelMismatchError, match=r"nothing was written.*reembed"):
                await provider.update_async(row_id, KB, changes, memory_id="m")
        with pytest.raises(InvalidEmbeddingError, match="12 numbers, not 8"):
            await provider.update_async(row_id, KB, {"embedding": [1.0] * 12}, memory_id="m")
        assert [row["content"] for row in await raw(provider, "knowledge_base")] == ["red"]
    async with opened(OTHER, retiring_embedding_provider=OLD) as provider:
        assert await provider.update_async(row_id, KB, {"content": "blue"}, memory_id="m")
        [row] = await raw(provider, "knowledge_base")
        assert (row["content"], row["embedding_model"]) == ("blue", "old/8")
