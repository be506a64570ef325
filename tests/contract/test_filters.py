"""The caller's filter: the same rows on every kind of server, inside the tenant, or an error."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from support.embedder import DIMENSIONS, CountingEmbedder

from memorizz_async import (
    AsyncMongoDBProvider,
    Explanation,
    InvalidFilterError,
    InvalidInputError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
    UnsupportedOperationError,
)

KB = MemoryType.LONG_TERM_MEMORY
QUERY = [1.0] * DIMENSIONS
Settle = Callable[[], Awaitable[None]]

STEPS = {"atlas": "$vectorSearch", "resident": "search in memory", "scan": "scan"}
OLD, NEW = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
ROWS: dict[str, dict[str, Any]] = {
    "a": {"role": "user", "importance": 0.1, "session_id": "s1", "created_at": OLD},
    "b": {"role": "assistant", "importance": 0.5, "session_id": "s1", "created_at": NEW},
    "c": {"role": ["user", "admin"], "importance": 1, "created_at": NEW},
    "d": {"importance": 0.9, "session_id": None, "agent_id": uuid.UUID(int=7)},
    "e": {"role": "User", "metadata": {"topic": "tea"}, "timestamp": 7},
}


@pytest.fixture
async def found(
    config: MongoDBConfig,
    embedder: CountingEmbedder,
    strategy: str,
    settle: Settle,
) -> Any:
    """The contents that a filter finds among ROWS, of two tenants of which one asks."""
    from bson import Binary

    declared = replace(config, filter_fields=["metadata.topic"])
    async with AsyncMongoDBProvider(declared, embedding_provider=embedder) as provider:
        await provider.ensure_indexes_async([KB])
        for tenant in ("m", "other"):
            rows = []
            for name, fields in ROWS.items():
                row = {"content": name, "embedding": QUERY, **fields}
                if "agent_id" in row:
                    row["agent_id"] = Binary.from_uuid(row["agent_id"])
                rows.append(row)
            await provider.store_many_async(rows, KB, memory_id=tenant)
        await settle()

        async def find(wanted: Any, **options: Any) -> str:
            hits = await provider.retrieve_memory_units_by_query_async(
                None, QUERY, "m", KB, 20, filter=wanted, **options
            )
            assert {hit["memory_id"] for hit in hits} <= {"m"}
            assert hits.strategy == (strategy if wanted != {"role": {"$in": []}} else "none")
            return "".join(sorted(hit["content"] for hit in hits))

        yield find


@pytest.mark.parametrize(
    ("wanted", "contents"),
    [
        (None, "abcde"),
        ({}, "abcde"),
        ({"role": "user"}, "ac"),
        ({"role": {"$ne": "user"}}, "bde"),
        ({"role": {"$in": ["assistant", "admin"]}}, "bc"),
        ({"role": {"$nin": ["assistant", "admin"]}}, "ade"),
        ({"role": {"$in": []}}, ""),
        ({"role": {"$nin": []}}, "abcde"),
        ({"importance": {"$gte": 0.5}}, "bcde"),  # e has the default
        ({"importance": {"$gt": 0.1, "$lt": 1}}, "bde"),
        ({"importance": 1.0}, "c"),
        ({"session_id": {"$ne": "s1"}}, "cde"),
        ({"agent_id": uuid.UUID(int=7)}, "d"),
        ({"created_at": {"$lt": NEW}}, "a"),
        ({"timestamp": {"$gte": "6"}}, ""),
        ({"timestamp": {"$gte": 6}}, "e"),
        ({"metadata.topic": "tea"}, "e"),
        ({"$or": [{"role": "user"}, {"metadata.topic": "tea"}]}, "ace"),
        ({"$and": [{"role": "user"}, {"session_id": "s1"}]}, "a"),
        ({"$or": [{"session_id": "s1"}, {"role": "admin"}], "importance": {"$gt": 0.2}}, "bc"),
    ],
    ids=repr,
)
async def test_a_filter_finds_the_same_rows_everywhere(
    found: Any, wanted: Any, contents: str
) -> None:
    """Missing fields, lists, int beside float, types that do not compare, empty lists."""
    assert await found(wanted) == contents


async def test_null_is_a_stored_null_and_not_a_missing_field(found: Any, backend: str) -> None:
    """`d` stores one; the others have none. mongomock cannot tell, and says so."""
    if backend == "memory":
        with pytest.raises(UnsupportedOperationError):
            await found({"session_id": None})
        return
    assert await found({"session_id": None}) == "d"
    assert await found({"session_id": {"$ne": None}}) == "abce"


async def test_a_filter_never_widens_the_tenant(found: Any) -> None:
    """Naming another tenant, or any, finds nobody else's rows."""
    assert await found({"memory_id": "other"}) == ""
    assert await found({"$or": [{"memory_id": "other"}, {"memory_id": "m"}]}) == "abcde"
    assert await found({"memory_id": {"$ne": "m"}}) == ""
    assert await found({"user_id": {"$nin": ["x"]}}) == "abcde"


async def test_exactness_can_be_asked_for_everywhere(found: Any) -> None:
    """On Atlas it changes the search; elsewhere it is so anyway."""
    assert await found({"role": "user"}, exact=True) == "ac"
    assert await found({"role": "user"}, num_candidates=500) == "ac"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"filter": {"mood": "good"}}, InvalidFilterError),
        ({"filter": {"role": {"$regex": "u"}}}, InvalidFilterError),
        ({"filter": {"$where": "1"}}, InvalidFilterError),
        ({"num_candidates": 4}, InvalidInputError),
        ({"num_candidates": 10_001}, InvalidInputError),
        ({"num_candidates": 100, "exact": True}, InvalidInputError),
    ],
)
async def test_a_bad_filter_is_refused_before_anything_is_sent(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder, wrong: Any, error: Any
) -> None:
    """Nothing is embedded, nothing asked."""
    with pytest.raises(error):
        await provider.retrieve_memory_units_by_query_async("q", None, "m", KB, 5, **wrong)
    assert embedder.texts == []


async def test_what_no_row_can_match_is_not_even_embedded(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """An empty `$in` is no rows, at no cost, and the explanation says so."""
    hits = await provider.retrieve_memory_units_by_query_async(
        "q", None, "m", KB, 5, filter={"role": {"$in": []}}, explain=True
    )
    assert (hits, hits.strategy, embedder.texts) == ([], "none", [])
    assert hits.explain is not None
    assert hits.explain.filter is None


async def test_a_unit_filters_every_type(provider: AsyncMongoDBProvider, settle: Settle) -> None:
    """One filter for all the types of a recall."""
    kinds = [KB, MemoryType.CONVERSATION_MEMORY]
    for kind in kinds:
        await provider.store_many_async(
            [{"content": "yes", "role": "user"}, {"content": "no"}], kind, memory_id="m"
        )
    await settle()
    results = await MemoryUnit(memory_provider=provider).retrieve_all_memory_types_async(
        "q", "m", dict.fromkeys(kinds, 5), filter={"role": "user"}
    )
    assert [[hit["content"] for hit in hits] for hits in results.values()] == [["yes"], ["yes"]]
    assert results.explain == {}


async def test_an_explanation_says_how_each_hit_was_found(
    provider: AsyncMongoDBProvider, settle: Settle, on_atlas: bool, strategy: str
) -> None:
    """Strategy and why, filter, rank and score of every hit, and where the time went."""
    await provider.store_many_async(["tea", "coffee"], KB, memory_id="m")
    await settle()
    results = await MemoryUnit(memory_provider=provider).retrieve_all_memory_types_async(
        "tea", "m", {KB: 5}, filter={"role": {"$ne": "user"}}, explain=True
    )
    [explained] = results.explain.values()
    hits = results[KB]
    assert isinstance(explained, Explanation)
    assert explained is hits.explain
    assert explained.strategy == hits.strategy == strategy
    assert explained.index == ("vector_index" if on_atlas else None)
    assert explained.exact is not on_atlas
    assert explained.why
    assert explained.filter == {"role": {"$ne": "user"}}
    assert explained.scope == {"memory_id": "m"}
    assert [(hit.id, hit.rank, hit.score) for hit in explained.hits] == [
        (hit["_id"], rank, hit["score"]) for rank, hit in enumerate(hits, start=1)
    ]
    assert {hit.found_by[0].how for hit in explained.hits} == {hits.strategy}
    search = STEPS[strategy]
    assert {"embedding", search, "the whole query"} <= set(explained.steps_ms)
    assert explained.steps_ms["the whole query"] >= explained.steps_ms[search] > 0


async def test_a_search_without_a_filter_is_explained_too(
    provider: AsyncMongoDBProvider, settle: Settle, strategy: str
) -> None:
    """The strategy, the reason, and the step that it took; `strong` is a scan, and says so."""
    await provider.store_many_async(["tea", "coffee"], KB, memory_id="m")
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async("tea", None, "m", KB, explain=True)
    assert hits.explain is not None
    assert hits.explain.strategy == strategy
    assert hits.explain.why
    step = STEPS[strategy]
    assert hits.explain.steps_ms["the whole query"] >= hits.explain.steps_ms[step] > 0
    hits = await provider.retrieve_memory_units_by_query_async(
        "tea", None, "m", KB, consistency="strong", explain=True
    )
    assert hits.explain is not None
    assert (len(hits), hits.strategy, hits.explain.index) == (2, "scan", None)
    assert "strong" in hits.explain.why


async def test_waiting_for_rows_to_be_found(
    provider: AsyncMongoDBProvider, settle: Settle, strategy: str
) -> None:
    """After it a search finds them, by the index where there is one."""
    ids = await provider.store_many_async(["a", "b", "c"], KB, memory_id="m")
    ids.append(await provider.store_async({"_id": "own", "content": "d"}, KB, memory_id="m"))
    await provider.wait_until_searchable_async(ids, KB, memory_id="m")
    hits = await provider.retrieve_memory_units_by_query_async("a", None, "m", KB, 10)
    assert {hit["_id"] for hit in hits} == set(ids)
    assert hits.strategy == strategy
    with pytest.raises(InvalidInputError, match="no such rows"):
        await provider.wait_until_searchable_async(ids, KB, memory_id="n")
