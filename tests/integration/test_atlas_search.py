"""`$vectorSearch`, over a stand-in that follows Atlas's documented rules before a real mongod."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from atlas_standin import AtlasStandin
from support.embedder import DIMENSIONS, CountingEmbedder, vector_of
from support.internals import session_of

from memorizz_async import (
    AsyncMongoDBProvider,
    ConfigurationError,
    DatabaseError,
    MemoryType,
    MongoDBConfig,
    OperationTimeoutError,
)
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb import vector_search
from memorizz_async.memory_provider.mongodb.filters import DEFAULT_FIELDS
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress
from memorizz_async.memory_provider.mongodb.vector_search.index_state import look

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


async def test_words_and_the_index_answer_together(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """`$text` is an ordinary feature: on Atlas hybrid recall joins it with `$vectorSearch`."""
    await provider.ensure_indexes_async([KB])
    await provider.store_many_async([f"memory {n}" for n in range(80)], KB, memory_id="m")
    await provider.store_async(
        {"content": "a zebra", "embedding": -vector_of("z")}, KB, memory_id="m"
    )
    await standin.sync()
    hits = await provider.retrieve_memory_units_by_query_async(
        "zebra", vector_of("z"), "m", KB, 60, mode="hybrid"
    )
    assert (hits.mode, hits.strategy, len(hits)) == ("hybrid", "atlas", 60)
    by_words = [hit for hit in hits if hit["text_score"] > 0]
    assert [hit["content"] for hit in by_words] == ["a zebra"]
    assert by_words[0]["score"] == pytest.approx(0.0, abs=1e-5)


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
    session = await session_of(provider)
    deadline = Deadline.after(20_000)
    vector = {"type": "vector", "path": "embedding", "numDimensions": 8, "similarity": "cosine"}
    theirs = [vector, {"type": "filter", "path": "embedded_by"}]
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
    assert paths == {"embedding", "embedded_by", *DEFAULT_FIELDS}


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


async def command(provider: AsyncMongoDBProvider, **body: Any) -> None:
    """What somebody else does to the indexes, behind our back."""
    session = await session_of(provider)
    await session.driver.command(body, deadline=Deadline.after(20_000))


async def recall(provider: AsyncMongoDBProvider, **options: Any) -> Any:
    return await provider.retrieve_memory_units_by_query_async("a", None, "m", KB, **options)


async def test_the_definition_is_as_configured(config: MongoDBConfig) -> None:
    """Dimension, similarity, quantization, name, and the filter fields of this type."""
    chosen = replace(
        config,
        similarity="dotProduct",
        quantization="scalar",
        vector_index_name="mine",
        filter_fields={"KNOWLEDGE_BASE": ["metadata.topic"]},
    )
    async with AsyncMongoDBProvider(chosen) as provider:
        await provider.ensure_indexes_async([KB, "summaries"])
        session = await session_of(provider)
        fields = {}
        for collection in ("knowledge_base", "summaries"):
            state = await look(session.driver, collection, "mine", Deadline.after(10_000))
            assert state is not None
            fields[collection] = state.definition["fields"]
    vector = {
        "type": "vector",
        "path": "embedding",
        "numDimensions": DIMENSIONS,
        "similarity": "dotProduct",
        "quantization": "scalar",
    }
    filters = [{"type": "filter", "path": path} for path in DEFAULT_FIELDS]
    assert fields["summaries"] == [vector, *filters]
    assert fields["knowledge_base"] == [
        vector,
        *filters,
        {"type": "filter", "path": "metadata.topic"},
    ]


async def test_binary_quantization_of_other_dimensions_is_refused_before_it_is_sent(
    config: MongoDBConfig,
) -> None:
    """Where the dimension is configured, and where the embedder has it."""
    with pytest.raises(ConfigurationError, match="multiple of 8"):
        replace(config, dimensions=12, quantization="binary")

    async def twelve(texts: list[str]) -> list[list[float]]:
        return [[1.0] * 12 for _ in texts]

    unsaid = replace(config, dimensions=None, quantization="binary")
    async with AsyncMongoDBProvider(unsaid, embedding_provider=twelve) as provider:
        with pytest.raises(ConfigurationError, match="12 dimensions"):
            await provider.ensure_indexes_async([KB])


async def test_progress_is_told_while_an_index_is_awaited(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """Each change of how it stands, once, from missing to ready."""
    standin.pace.manual = True
    seen: list[IndexProgress] = []
    building = asyncio.create_task(provider.ensure_indexes_async([KB], progress=seen.append))
    for status in ("PENDING", "BUILDING"):
        while not seen or seen[-1].status != status:
            assert not building.done()
            await asyncio.wait([building], timeout=0.01)
        await standin.step_builds()
    await building
    assert [told.status for told in seen] == ["MISSING", "PENDING", "BUILDING", "READY"]
    assert [told.queryable for told in seen] == [False, False, False, True]
    assert {(told.collection, told.index) for told in seen} == {("knowledge_base", "vector_index")}


async def test_a_failed_build_is_an_error_at_once_with_the_servers_words(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """Nobody waits out a deadline for an index that will never be ready."""
    standin.pace.manual = True
    building = asyncio.create_task(provider.ensure_indexes_async([KB], timeout_ms=60_000))
    while not list(standin.indexes.named("vector_index")):
        await asyncio.wait([building], timeout=0.01)
    await standin.fail_build("vector_index", "out of disk")
    with pytest.raises(DatabaseError, match="out of disk") as caught:
        await building
    assert not isinstance(caught.value, OperationTimeoutError)


@pytest.mark.parametrize("duplicates", ["different", "always"])
async def test_programs_that_make_the_same_indexes_at_once_all_succeed(
    mongod: Any, db_name: str, duplicates: Any
) -> None:
    """Also where a second creation is always a "Duplicate Index", and with other filter fields."""
    with AtlasStandin(mongod.host, mongod.port, duplicates=duplicates).in_thread() as standin:
        base = MongoDBConfig(standin.uri, db_name, driver="pymongo", dimensions=DIMENSIONS)
        configs = [replace(base, filter_fields=[f"field{n % 3}"]) for n in range(5)]
        providers = [AsyncMongoDBProvider(config) for config in configs]
        reports = await asyncio.gather(
            *(provider.ensure_indexes_async([KB, "summaries"]) for provider in providers)
        )
        session = await session_of(providers[0])
        state = await look(session.driver, "knowledge_base", "vector_index", Deadline.after(10_000))
        assert state is not None
        paths = {field["path"] for field in state.definition["fields"]}
        assert {"field0", "field1", "field2"} <= paths
        assert all(set(report.search) == {"knowledge_base", "summaries"} for report in reports)
        for provider in providers:
            await provider.close_async()


async def test_an_index_that_is_still_being_dropped_is_made_anew(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """Its name is free a moment later."""
    await provider.ensure_indexes_async([KB])
    standin.pace.dropping_s = 0.5
    await command(provider, dropSearchIndex="knowledge_base", name="vector_index")
    report = await provider.ensure_indexes_async([KB])
    assert report.search == {"knowledge_base": "created"}


async def test_a_cluster_without_room_says_what_to_do(mongod: Any, db_name: str) -> None:
    """A free cluster holds three search indexes: name the types that are used."""
    with AtlasStandin(mongod.host, mongod.port, max_indexes=3).in_thread() as standin:
        config = MongoDBConfig(standin.uri, db_name, driver="pymongo", dimensions=DIMENSIONS)
        async with AsyncMongoDBProvider(config) as provider:
            with pytest.raises(DatabaseError, match=r"M0.*ensure_indexes_async"):
                await provider.ensure_indexes_async()


async def test_another_kind_of_index_by_that_name_is_left_alone(
    provider: AsyncMongoDBProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """An Atlas Search index of that name cannot serve, an exact search does; ensuring says so."""
    await provider.store_async("a", KB, memory_id="m")
    index = {"name": "vector_index", "definition": {"mappings": {"dynamic": True}}}
    await command(provider, createSearchIndexes="knowledge_base", indexes=[index])
    assert (await recall(provider)).strategy == "resident"
    with pytest.raises(DatabaseError, match="vector_index_name"):
        await provider.ensure_indexes_async([KB])


async def test_a_dropped_index_never_looks_like_no_memories(
    provider: AsyncMongoDBProvider,
    config: MongoDBConfig,
    standin: AtlasStandin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would answer with nothing and no error: an exact search finds the rows; the log has it."""
    await provider.ensure_indexes_async([KB])
    await provider.store_async("a", KB, memory_id="m")
    await standin.sync()
    strict = replace(config, search_strategy="atlas")
    async with AsyncMongoDBProvider(strict, embedding_provider=CountingEmbedder()) as insisting:
        for asked in (provider, insisting):
            assert (await recall(asked)).strategy == "atlas"
        await command(provider, dropSearchIndex="knowledge_base", name="vector_index")
        hits = await recall(provider)
        assert ([hit["content"] for hit in hits], hits.strategy) == (["a"], "resident")
        with pytest.raises(DatabaseError, match="cannot serve"):
            await recall(insisting)
    assert [r for r in caplog.records if "searching without it" in r.getMessage()]


async def test_an_empty_scope_is_an_empty_answer_by_the_index(
    provider: AsyncMongoDBProvider,
) -> None:
    """Nothing there is nothing found, and no reason to doubt the index."""
    await provider.ensure_indexes_async([KB])
    hits = await recall(provider)
    assert (hits, hits.strategy) == ([], "atlas")


async def test_rows_that_the_index_has_not_seen_are_found_where_it_finds_nothing(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """The first memories of a user are there at once."""
    await provider.ensure_indexes_async([KB])
    standin.lag_s = math.inf
    await provider.store_async("a", KB, memory_id="m")
    hits = await recall(provider, explain=True)
    assert ([hit["content"] for hit in hits], hits.strategy) == (["a"], "resident")
    assert "not caught up" in hits.explain.why
    await standin.sync()
    assert (await recall(provider)).strategy == "atlas"


async def test_an_index_changed_behind_our_back_leads_to_an_exact_search(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """Another dimension: the error of the search is taken for what it is."""
    await provider.ensure_indexes_async([KB])
    await provider.store_async("a", KB, memory_id="m")
    await standin.sync()
    assert (await recall(provider)).strategy == "atlas"
    vector = {"type": "vector", "path": "embedding", "numDimensions": 3, "similarity": "cosine"}
    fields = [vector, {"type": "filter", "path": "memory_id"}]
    await command(
        provider,
        updateSearchIndex="knowledge_base",
        name="vector_index",
        definition={"fields": fields},
    )
    await standin.finish_builds()
    hits = await recall(provider, explain=True)
    assert ([hit["content"] for hit in hits], hits.strategy) == (["a"], "resident")
    assert "another dimension" in hits.explain.why


async def test_while_a_filter_field_is_being_added_rows_are_compared_exactly(
    config: MongoDBConfig, standin: AtlasStandin
) -> None:
    """The old definition answers until the new one is built; it cannot filter by the new field."""
    embedder = CountingEmbedder()
    async with AsyncMongoDBProvider(config, embedding_provider=embedder) as before:
        await before.ensure_indexes_async([KB])
        await before.store_async({"content": "a", "mood": "good"}, KB, memory_id="m")
    await standin.sync()
    await standin.finish_builds()  # by steps, so that it stays so when time no longer counts
    standin.pace.manual = True
    more = replace(config, filter_fields=["mood"])
    async with AsyncMongoDBProvider(more, embedding_provider=embedder) as provider:
        with pytest.raises(OperationTimeoutError, match=r"BUILDING|PENDING"):
            await provider.ensure_indexes_async([KB], timeout_ms=700)
        hits = await recall(provider, filter={"mood": "good"})
        assert (len(hits), hits.strategy) == (1, "resident")
        assert (await recall(provider)).strategy == "atlas"
        await standin.finish_builds()
        await provider.ensure_indexes_async([KB])
        hits = await recall(provider, filter={"mood": "good"})
        assert (len(hits), hits.strategy) == (1, "atlas")


async def test_a_search_service_that_is_gone_leads_to_an_exact_search_and_back(
    provider: AsyncMongoDBProvider, standin: AtlasStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mongod without its mongot still has every row; the index is tried again later."""
    await provider.ensure_indexes_async([KB])
    await provider.store_async("a", KB, memory_id="m")
    await standin.sync()
    assert (await recall(provider)).strategy == "atlas"
    monkeypatch.setattr(vector_search, "_ASK_AGAIN_S", 0.0)
    standin.mode = "unreachable"
    for _ in range(2):
        hits = await recall(provider)
        assert (len(hits), hits.strategy) == (1, "resident")
    standin.mode = "atlas"
    assert (await recall(provider)).strategy == "atlas"


async def test_waiting_for_rows_ends_at_the_deadline_and_names_them(
    provider: AsyncMongoDBProvider, standin: AtlasStandin
) -> None:
    """Those that the index has not seen."""
    await provider.ensure_indexes_async([KB])
    seen = await provider.store_async("a", KB, memory_id="m")
    await standin.sync()
    standin.lag_s = math.inf
    late = await provider.store_async("b", KB, memory_id="m")
    with pytest.raises(OperationTimeoutError, match=late) as caught:
        await provider.wait_until_searchable_async([seen, late], KB, memory_id="m", timeout_ms=500)
    assert seen not in str(caught.value)


async def test_exact_and_candidates_reach_the_server(
    provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`exact` without candidates, the caller's number, or 20 times the limit; no fewer than the
    rows that hybrid recall wants of it.
    """
    await provider.ensure_indexes_async([KB])
    session = await session_of(provider)
    stages = []
    aggregate = session.driver.aggregate

    async def watched(collection: str, pipeline: Any, **options: Any) -> Any:
        stages.append(pipeline[0].get("$vectorSearch"))
        return await aggregate(collection, pipeline, **options)

    monkeypatch.setattr(session.driver, "aggregate", watched)
    for options in ({"exact": True}, {"num_candidates": 999}, {"limit": 100}):
        await recall(provider, mode="vector", **options)
    for number in (5, 999):
        await recall(provider, mode="hybrid", num_candidates=number)
    exact, chosen, by_rule, *both = (stage for stage in stages if stage)
    assert exact["exact"] is True
    assert "numCandidates" not in exact
    assert (chosen["numCandidates"], by_rule["numCandidates"]) == (999, 2000)
    assert [(stage["limit"], stage["numCandidates"]) for stage in both] == [(50, 50), (50, 999)]
