"""Search finds the nearest rows of the scope, scores them as Atlas does, and hides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from support.embedder import DIMENSIONS, CountingEmbedder, vector_of

from memorizz_async import (
    AsyncMongoDBProvider,
    DatabaseError,
    EmbeddingError,
    InvalidEmbeddingError,
    InvalidInputError,
    InvalidLimitError,
    InvalidQueryError,
    MemoryType,
    MongoDBConfig,
    ScopeError,
    StoredEmbeddingError,
    UnknownMemoryTypeError,
    UnsupportedOperationError,
)

KB = MemoryType.LONG_TERM_MEMORY
Settle = Callable[[], Awaitable[None]]


def atlas_score(similarity: str, rows: Any, query: Any) -> Any:
    """The documented formulas in float64, written out a second time."""
    rows, query = np.asarray(rows, np.float64), np.asarray(query, np.float64)
    if similarity == "euclidean":
        return 1 / (1 + ((rows - query) ** 2).sum(axis=1))
    if similarity == "dotProduct":
        return (1 + rows @ query) / 2
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    return (1 + rows @ query / lengths) / 2


@pytest.mark.parametrize("similarity", ["cosine", "dotProduct", "euclidean"])
async def test_the_nearest_rows_come_first_with_atlas_scores(
    config: MongoDBConfig, similarity: str, settle: Settle, strategy: str
) -> None:
    """Ids and scores agree with numpy in float64, over more rows than one batch holds."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(3000, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[17] + 0.01 * rng.normal(size=64)
    query /= np.linalg.norm(query)
    expected = atlas_score(similarity, vectors, query)
    best = np.argsort(-expected)[:25]
    wanted = replace(config, similarity=similarity, dimensions=64)
    async with AsyncMongoDBProvider(wanted) as provider:
        await provider.ensure_indexes_async([KB])
        ids = await provider.store_many_async(
            [
                {"content": str(number), "embedding": vector}
                for number, vector in enumerate(vectors)
            ],
            KB,
            memory_id="m",
        )
        await settle()
        hits = await provider.retrieve_memory_units_by_query_async(
            query_embedding=query, memory_id="m", memory_type=KB, limit=25
        )
    assert hits.strategy == strategy
    assert [hit["_id"] for hit in hits] == [ids[number] for number in best]
    assert np.abs([hit["score"] for hit in hits] - expected[best]).max() < 1e-5


async def test_arrays_and_bindata_are_read_alike(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], settle: Settle
) -> None:
    """Rows as memorizz writes them, arrays of doubles, are found among ours, in the right order."""
    query = vector_of("query")
    vectors = [query + 0.1 * number * vector_of(f"n{number}") for number in range(1, 41)]
    scores = atlas_score("cosine", vectors, query)
    ours = [{"content": str(n), "embedding": v} for n, v in enumerate(vectors) if n % 2]
    theirs = [
        {"content": str(n), "memory_id": "m", "embedding": [float(x) for x in v]}
        for n, v in enumerate(vectors)
        if not n % 2
    ]
    await provider.store_many_async(ours, KB, memory_id="m")
    await insert_raw("knowledge_base", *theirs)
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async(None, query, "m", KB, 40)
    assert [int(hit["content"]) for hit in hits] == np.argsort(-scores).tolist()


async def test_a_row_of_another_dimension_is_reported_and_the_others_are_found(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], settle: Settle, on_atlas: bool
) -> None:
    """A row that cannot be compared is named in `.errors`; the hits beside it still come.

    An index leaves such rows out silently, so that on Atlas nobody can name them.
    """
    await provider.store_async("good", KB, memory_id="m")
    bad = {"memory_id": "m", "content": "bad"}
    await insert_raw(
        "knowledge_base",
        {**bad, "_id": "short", "embedding": [1.0, 2.0, 3.0]},
        {**bad, "_id": "text", "embedding": "not a vector"},
        {**bad, "_id": "zeros", "embedding": [0.0] * DIMENSIONS},
    )
    await settle()
    results = await provider.batch_retrieve_async(
        [{"key": "k", "query": "good", "memory_id": "m", "memory_type": KB}]
    )
    assert [hit["content"] for hit in results["k"]] == ["good"]
    if on_atlas:
        assert results["k"].strategy == "atlas"
        assert results.errors == {}
        return
    error = results.errors["k"]
    assert isinstance(error, StoredEmbeddingError)
    assert error.count == 3
    assert error.rows["short"] == "3 numbers, not 8"
    assert set(error.rows) == {"short", "text", "zeros"}


async def test_where_no_row_can_be_compared_it_is_an_error(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], settle: Settle
) -> None:
    """Vectors that no query can meet are never an empty list."""
    await insert_raw("knowledge_base", {"memory_id": "m", "embedding": [1.0, 2.0, 3.0]})
    await settle()
    with pytest.raises(StoredEmbeddingError, match="3 numbers, not 8"):
        await provider.retrieve_memory_units_by_query_async("q", None, "m", KB, 5)


async def test_a_bad_row_of_another_tenant_disturbs_nobody(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], settle: Settle
) -> None:
    """Only rows of the caller's own scope are reported."""
    await provider.store_async("good", KB, memory_id="m")
    await insert_raw("knowledge_base", {"memory_id": "n", "embedding": [1.0]})
    await settle()
    results = await provider.batch_retrieve_async(
        [{"key": "k", "query": "good", "memory_id": "m", "memory_type": KB}]
    )
    assert results.errors == {}


async def test_no_row_of_another_tenant_ever_comes_back(
    provider: AsyncMongoDBProvider, settle: Settle, strategy: str
) -> None:
    """Over every pair of memory and user, a search returns the rows of its own and no other."""
    memories, users = ["m", "m2", "M", None], ["u", "u2", None]
    kind = MemoryType.CONVERSATION_MEMORY
    for memory in memories:
        for user in users:
            await provider.store_many_async(
                [f"{memory} {user} {n}" for n in range(3)], kind, memory_id=memory, user_id=user
            )
    await settle()
    for memory in memories:
        for user in users:
            hits = await provider.retrieve_memory_units_by_query_async(
                "x", None, memory, kind, 100, user_id=user
            )
            assert {(hit["memory_id"], hit["user_id"]) for hit in hits} == {(memory, user)}
            assert len(hits) == 3
            assert hits.strategy == strategy
        whole = await provider.retrieve_memory_units_by_query_async("x", None, memory, kind, 100)
        assert {hit["memory_id"] for hit in whole} == {memory}
        assert len(whole) == 9


async def test_a_row_by_id_stays_inside_its_tenant(provider: AsyncMongoDBProvider) -> None:
    """Knowing an id is not enough to read another tenant's row."""
    row_id = await provider.store_async("mine", KB, memory_id="m", user_id="u")
    assert await provider.get_async(row_id, KB, memory_id="n") is None
    assert await provider.get_async(row_id, KB, memory_id="m", user_id="v") is None
    assert await provider.get_async(row_id, KB, user_id="u") is not None
    with pytest.raises(ScopeError):
        await provider.get_async(row_id, KB)


async def test_agent_wide_rows_serve_every_user(
    provider: AsyncMongoDBProvider, settle: Settle
) -> None:
    """In the knowledge base a row without a user is everybody's; in conversations it is not."""
    for kind in (KB, MemoryType.CONVERSATION_MEMORY):
        await provider.store_async("of nobody", kind, memory_id="m", user_id=None)
        await provider.store_async("of another", kind, memory_id="m", user_id="v")
    await settle()
    shared = await provider.retrieve_memory_units_by_query_async("x", None, "m", KB, 5, user_id="u")
    assert [hit["content"] for hit in shared] == ["of nobody"]
    private = await provider.retrieve_memory_units_by_query_async(
        "x", None, "m", MemoryType.CONVERSATION_MEMORY, 5, user_id="u"
    )
    assert private == []


@pytest.mark.parametrize(
    "kind", [MemoryType.LONG_TERM_MEMORY, MemoryType.TOOLBOX, MemoryType.SKILLBOX]
)
async def test_a_user_alone_sees_no_other_memorys_rows(
    provider: AsyncMongoDBProvider, kind: MemoryType, settle: Any
) -> None:
    """Without a memory_id, rows of nobody are other tenants' rows, in the agent-wide stores too."""
    row_id = await provider.store_async("alice's secret", kind, memory_id="alice")
    await provider.store_async("mine", kind, memory_id="m", user_id="u")
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async(
        "x", None, memory_type=kind, user_id="u"
    )
    assert [hit["content"] for hit in hits] == ["mine"]
    assert await provider.get_async(row_id, kind, user_id="u") is None


async def test_an_embedding_that_fails_is_a_failure_of_its_query_alone(
    config: MongoDBConfig,
) -> None:
    """With partial results, queries that brought their own vector are answered."""

    async def broken(texts: list[str]) -> Any:
        raise RuntimeError("no model today")

    async with AsyncMongoDBProvider(config, embedding_provider=broken) as provider:
        await provider.store_async("a", KB, memory_id="m", embedding=[1.0] * DIMENSIONS)
        common = {"memory_id": "m", "memory_type": KB}
        results = await provider.batch_retrieve_async(
            [
                {"key": "own", "embedding": [1.0] * DIMENSIONS, **common},
                {"key": "text", "query": "q", **common},
            ],
            on_error="partial",
        )
    assert "own" in results
    assert isinstance(results.errors["text"], EmbeddingError)


async def test_rows_of_another_programs_odd_ids_are_found(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], backend: str, settle: Any
) -> None:
    """An `_id` may be a document."""
    await insert_raw(
        "knowledge_base", {"_id": {"a": 1}, "memory_id": "m", "embedding": [1.0] * DIMENSIONS}
    )
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async("x", None, "m", KB)
    assert [hit["_id"] for hit in hits] == [{"a": 1}]


async def test_expired_rows_do_not_come_back(
    provider: AsyncMongoDBProvider, settle: Settle
) -> None:
    """A row whose time is over is gone at once, though MongoDB deletes it later."""
    now = datetime.now(UTC)
    gone = await provider.store_async(
        {"content": "a", "expires_at": now - timedelta(seconds=1)}, KB, memory_id="m"
    )
    await provider.store_async(
        {"content": "b", "expires_at": now + timedelta(hours=1)}, KB, memory_id="m"
    )
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async("a", None, "m", KB, 5)
    assert [hit["content"] for hit in hits] == ["b"]
    assert await provider.get_async(gone, KB, memory_id="m") is None


async def test_a_batch_embeds_each_text_once_and_answers_under_the_keys(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder, settle: Settle
) -> None:
    """The guide's list of dicts: one answer a key, in the order of the batch."""
    kinds = [KB, MemoryType.CONVERSATION_MEMORY, MemoryType.WORKFLOW_MEMORY]
    for kind in kinds:
        await provider.store_async(f"in {kind.name}", kind, memory_id="m")
    await settle()
    embedder.texts.clear()
    results = await provider.batch_retrieve_async(
        [
            {"key": f"k{n}", "query": "one text", "memory_id": "m", "memory_type": kind}
            for n, kind in enumerate(kinds)
        ]
    )
    assert embedder.texts == ["one text"]
    assert list(results) == ["k0", "k1", "k2"]
    assert [hits[0]["content"] for hits in results.values()] == [f"in {k.name}" for k in kinds]
    assert set(results.queries_ms) == set(results)


async def test_a_failed_query_is_an_error_or_in_errors_and_never_an_empty_list(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], settle: Settle
) -> None:
    """`raise` raises the query's own error; `partial` gives the others and says what failed."""
    await provider.store_async("good", MemoryType.SUMMARIES, memory_id="m")
    await insert_raw("knowledge_base", {"memory_id": "m", "embedding": [1.0, 2.0]})
    await settle()
    queries = [
        {"key": "bad", "query": "q", "memory_id": "m", "memory_type": KB},
        {"key": "good", "query": "q", "memory_id": "m", "memory_type": "summaries"},
    ]
    with pytest.raises(StoredEmbeddingError) as caught:
        await provider.batch_retrieve_async(queries)
    assert "'bad'" in caught.value.__notes__[0]
    results = await provider.batch_retrieve_async(queries, on_error="partial")
    assert list(results) == ["good"]
    assert isinstance(results.errors["bad"], StoredEmbeddingError)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"limit": 0}, InvalidLimitError),
        ({"limit": -1}, InvalidLimitError),
        ({"limit": 1.0}, InvalidLimitError),
        ({"limit": True}, InvalidLimitError),
        ({"limit": "5"}, InvalidLimitError),
        ({"limit": 10_001}, InvalidLimitError),
        ({"query": ""}, InvalidQueryError),
        ({"query": " \n"}, InvalidQueryError),
        ({"query": None}, InvalidQueryError),
        ({"query": 7}, InvalidQueryError),
        ({"query_embedding": [0.0] * DIMENSIONS}, InvalidEmbeddingError),
        ({"query_embedding": [float("nan")] * DIMENSIONS}, InvalidEmbeddingError),
        ({"query_embedding": [float("inf")] * DIMENSIONS}, InvalidEmbeddingError),
        ({"query_embedding": [[1.0]]}, InvalidEmbeddingError),
        ({"query_embedding": "text"}, InvalidEmbeddingError),
        ({"memory_type": "long_memory"}, UnknownMemoryTypeError),
        ({"memory_id": {"$ne": None}}, ScopeError),
        ({"memory_id": ""}, ScopeError),
        ({"user_id": ["u"]}, ScopeError),
        ({"timeout_ms": 0}, InvalidInputError),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    provider: AsyncMongoDBProvider,
    embedder: CountingEmbedder,
    change: dict[str, Any],
    error: type[Exception],
) -> None:
    """Each bad argument has an error of ours, and the model is not even asked."""
    arguments = {"query": "q", "memory_id": "m", "memory_type": KB, "limit": 5, **change}
    with pytest.raises(error):
        await provider.retrieve_memory_units_by_query_async(**arguments)
    assert embedder.texts == []


async def test_a_query_of_another_dimension_is_an_error(
    provider: AsyncMongoDBProvider, settle: Settle
) -> None:
    """A vector that does not fit the stored rows never looks like "no memories"."""
    await provider.store_async("a", KB, memory_id="m")
    await settle()
    with pytest.raises(StoredEmbeddingError, match="8 numbers, not 3"):
        await provider.retrieve_memory_units_by_query_async(None, [1.0, 2.0, 3.0], "m", KB, 5)


async def test_a_configured_dimension_is_kept(config: MongoDBConfig) -> None:
    """With `dimensions` set, another one is refused even where no row is stored yet."""
    async with AsyncMongoDBProvider(replace(config, dimensions=DIMENSIONS)) as provider:
        with pytest.raises(InvalidEmbeddingError, match="3 numbers, not 8"):
            await provider.retrieve_memory_units_by_query_async(None, [1.0, 2, 3], "m", KB, 5)


async def test_asking_for_vector_search_of_a_plain_server_is_a_clear_error(
    config: MongoDBConfig, on_atlas: bool
) -> None:
    """`search_strategy="atlas"` on a database without it says so and what to do.

    Where the server has it and only the index is missing, that.
    """
    error, words = (
        (DatabaseError, "ensure_indexes_async") if on_atlas else (UnsupportedOperationError, "auto")
    )
    async with AsyncMongoDBProvider(replace(config, search_strategy="atlas")) as provider:
        with pytest.raises(error, match=words):
            await provider.retrieve_memory_units_by_query_async(None, [1.0] * 8, "m", KB, 5)


async def test_equal_scores_come_in_the_order_of_their_ids(
    provider: AsyncMongoDBProvider, settle: Settle, on_atlas: bool
) -> None:
    """Whatever the order in which they were written. Which ones come, Atlas's index chooses."""
    await provider.store_many_async(
        [
            {"_id": f"r{n:02}", "content": str(n), "embedding": [1.0] * DIMENSIONS}
            for n in reversed(range(30))
        ],
        KB,
        memory_id="m",
    )
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async(None, [1.0] * DIMENSIONS, "m", KB, 7)
    found = [hit["_id"] for hit in hits]
    assert len(set(found)) == 7
    assert found == (sorted(found) if on_atlas else [f"r{n:02}" for n in range(7)])
