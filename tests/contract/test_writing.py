"""What is written comes back as it was meant, or is refused as a whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from bson import ObjectId
from support.embedder import DIMENSIONS, CountingEmbedder, vector_of

from memorizz_async import (
    AsyncMongoDBProvider,
    DuplicateMemoryError,
    InvalidEmbeddingError,
    InvalidInputError,
    MemoryType,
    ScopeError,
    UnknownMemoryTypeError,
    WriteError,
)

KB = MemoryType.LONG_TERM_MEMORY


async def test_a_stored_memory_comes_back_whole(provider: AsyncMongoDBProvider) -> None:
    """Every field of the caller's is there again, beside ours."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    row_id = await provider.store_async(
        {"content": "tea at five", "importance": 0.9, "metadata": {"a": [1]}, "mood": "good"},
        KB,
        memory_id="m",
        user_id="u",
    )
    row = await provider.get_async(row_id, KB, memory_id="m", user_id="u", include_embedding=True)
    assert row is not None
    assert row["_id"] == row_id
    assert (row["content"], row["importance"], row["mood"]) == ("tea at five", 0.9, "good")
    assert row["metadata"] == {"a": [1]}
    assert (row["memory_id"], row["user_id"]) == ("m", "u")
    assert before < row["created_at"] < datetime.now(UTC) + timedelta(seconds=1)
    assert isinstance(row["embedding"], list)
    assert np.allclose(row["embedding"], vector_of("tea at five"))


async def test_embeddings_leave_only_when_asked_for(provider: AsyncMongoDBProvider) -> None:
    """Neither a read nor a search shows a vector that was not asked for."""
    row_id = await provider.store_async("a", KB, memory_id="m")
    row = await provider.get_async(row_id, KB, memory_id="m")
    assert row is not None
    assert "embedding" not in row
    hits = await provider.retrieve_memory_units_by_query_async("a", None, "m", KB, 5)
    assert "embedding" not in hits[0]
    with_vector = await provider.retrieve_memory_units_by_query_async(
        "a", None, "m", KB, 5, include_embedding=True
    )
    assert all(isinstance(number, float) for number in with_vector[0]["embedding"])


async def test_many_memories_are_embedded_together_and_keep_their_order(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """The ids come back in the order of the memories, and each text is embedded once."""
    texts = [f"memory {number}" for number in range(1200)]
    ids = await provider.store_many_async(texts, KB, memory_id="m")
    assert len(set(ids)) == len(texts)
    assert sorted(embedder.texts) == sorted(texts)
    for position in (0, 500, 1199):
        row = await provider.get_async(ids[position], KB, memory_id="m")
        assert row is not None
        assert row["content"] == texts[position]


async def test_no_memories_is_no_write(provider: AsyncMongoDBProvider) -> None:
    """An empty list writes nothing and is no error."""
    assert await provider.store_many_async([], KB, memory_id="m") == []


async def test_a_dedup_key_makes_a_repeated_write_harmless(
    provider: AsyncMongoDBProvider,
) -> None:
    """Writing one key twice keeps the first row and returns its id; scopes do not share keys."""
    first = await provider.store_async({"content": "a", "dedup_key": "k"}, KB, memory_id="m")
    again = await provider.store_async({"content": "b", "dedup_key": "k"}, KB, memory_id="m")
    other = await provider.store_async({"content": "c", "dedup_key": "k"}, KB, memory_id="n")
    assert first == again != other
    row = await provider.get_async(first, KB, memory_id="m")
    assert row is not None
    assert row["content"] == "a"


async def test_a_dedup_key_of_an_expired_row_writes_anew(provider: AsyncMongoDBProvider) -> None:
    """A row that nobody can see any more does not swallow its successor."""
    past = datetime.now(UTC) - timedelta(minutes=1)
    await provider.store_async(
        {"content": "old", "dedup_key": "k", "expires_at": past}, KB, memory_id="m"
    )
    row_id = await provider.store_async({"content": "new", "dedup_key": "k"}, KB, memory_id="m")
    row = await provider.get_async(row_id, KB, memory_id="m")
    assert row is not None
    assert row["content"] == "new"


async def test_a_memory_that_is_too_large_is_refused_before_anything_is_written(
    provider: AsyncMongoDBProvider,
) -> None:
    """MongoDB's limit is said in our words, and nothing of the batch is stored."""
    with pytest.raises(InvalidInputError, match="larger"):
        await provider.store_many_async(["small", "x" * 17_000_000], KB, memory_id="m")


async def test_an_id_that_exists_is_refused(provider: AsyncMongoDBProvider) -> None:
    """A second row of one `_id` is an error, and the first stays as it was."""
    row_id = str(ObjectId())
    await provider.store_async({"_id": row_id, "content": "a"}, KB, memory_id="m")
    with pytest.raises(DuplicateMemoryError, match=row_id):
        await provider.store_async({"_id": row_id, "content": "b"}, KB, memory_id="m")
    row = await provider.get_async(row_id, KB, memory_id="m")
    assert row is not None
    assert row["content"] == "a"


async def test_a_partly_refused_write_says_which_rows(provider: AsyncMongoDBProvider) -> None:
    """What could be written is written, and the error names the rest by position."""
    row_id = str(ObjectId())
    await provider.store_async({"_id": row_id, "content": "a"}, KB, memory_id="m")
    with pytest.raises(WriteError) as caught:
        await provider.store_many_async(
            [{"content": "x"}, {"_id": row_id, "content": "y"}, {"content": "z"}],
            KB,
            memory_id="m",
        )
    assert list(caught.value.failed) == [1]
    assert sorted(caught.value.written_ids) == [0, 2]
    for written in caught.value.written_ids.values():
        assert await provider.get_async(written, KB, memory_id="m") is not None


async def test_a_string_id_of_the_callers_own_works(provider: AsyncMongoDBProvider) -> None:
    """Ids need not be ObjectIds."""
    assert await provider.store_async({"_id": "mine", "content": "a"}, KB, memory_id="m") == "mine"
    row = await provider.get_async("mine", KB, memory_id="m")
    assert row is not None
    assert row["_id"] == "mine"


@pytest.mark.parametrize(
    ("memory", "error"),
    [
        ("", InvalidInputError),
        ({"content": "   "}, InvalidInputError),
        ({"text": "content is missing"}, InvalidInputError),
        ({"content": 7}, InvalidInputError),
        (7, InvalidInputError),
        ({"content": "a", "importance": 1.5}, InvalidInputError),
        ({"content": "a", "importance": "high"}, InvalidInputError),
        ({"content": "a", "$set": 1}, InvalidInputError),
        ({"content": "a", "memory_id": "another"}, InvalidInputError),
        ({"content": "a", "embedding": [0.0] * DIMENSIONS}, InvalidEmbeddingError),
        ({"content": "a", "embedding": [float("nan")] * DIMENSIONS}, InvalidEmbeddingError),
        ({"content": "a", "embedding": ["1"] * DIMENSIONS}, InvalidEmbeddingError),
        ({"content": "a", "embedding": []}, InvalidEmbeddingError),
        ({"content": "a", "dedup_key": 7}, InvalidInputError),
    ],
)
async def test_a_bad_memory_is_refused_and_nothing_is_written(
    provider: AsyncMongoDBProvider, memory: object, error: type[Exception]
) -> None:
    """One bad memory among good ones refuses them all, before anything is sent."""
    with pytest.raises(error):
        await provider.store_many_async(["good", memory], KB, memory_id="m")  # type: ignore[list-item]
    hits = await provider.retrieve_memory_units_by_query_async("good", None, "m", KB, 5)
    assert hits == []


async def test_a_vector_of_another_dimension_than_the_collections_is_refused(
    provider: AsyncMongoDBProvider,
) -> None:
    """A second provider learns the collection's dimension from its rows, and says both."""
    await provider.store_async("a", KB, memory_id="m")
    with pytest.raises(InvalidEmbeddingError, match=r"3 numbers, not 8"):
        await provider.store_async("b", KB, memory_id="m", embedding=[1.0, 2.0, 3.0])
    hits = await provider.retrieve_memory_units_by_query_async("b", None, "m", KB, 5)
    assert [hit["content"] for hit in hits] == ["a"]


async def test_a_write_names_its_tenant(provider: AsyncMongoDBProvider) -> None:
    """A memory of nobody's is refused; `None` says outright that it has no owner."""
    with pytest.raises(ScopeError):
        await provider.store_async("a", KB)
    row_id = await provider.store_async("a", KB, memory_id=None)
    assert await provider.get_async(row_id, KB, memory_id=None) is not None
    assert await provider.get_async(row_id, KB, memory_id="m") is None


async def test_an_unknown_memory_type_lists_those_that_exist(
    provider: AsyncMongoDBProvider,
) -> None:
    """The error of a mistyped memory type shows the right ones."""
    with pytest.raises(UnknownMemoryTypeError, match="CONVERSATION_MEMORY"):
        await provider.store_async("a", "conversations", memory_id="m")


async def test_one_memory_is_not_a_list(provider: AsyncMongoDBProvider) -> None:
    """A string given to store_many_async is not taken for a list of letters."""
    with pytest.raises(InvalidInputError, match="store_async"):
        await provider.store_many_async("abc", KB, memory_id="m")
