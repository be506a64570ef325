"""One database, two writers: memorizz's own MongoDBProvider (0.17.16) and ours, on the same rows.

memorizz's side is the real one. It has no vector search without Atlas, so where it reads it stands
before the stand-in, which runs on the same mongod.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from bson import Binary, ObjectId
from memorizz import EntityMemory, KnowledgeBase, Persona, RoleType
from memorizz import MemoryType as TheirType
from memorizz.long_term.episodic.conversational_memory_unit import ConversationMemoryUnit
from memorizz.long_term.procedural.workflow import Workflow
from support.embedder import DIMENSIONS, CountingEmbedder, vector_of
from support.internals import session_of
from support.memorizz_side import CountingManager, memorizz_provider

from memorizz_async import AsyncMongoDBProvider, MemoryType, MongoDBConfig
from memorizz_async.deadline import Deadline

KB, TURNS, STEPS = "KNOWLEDGE_BASE", "CONVERSATION_MEMORY", "WORKFLOW_MEMORY"
SHARED = [
    KB, TURNS, STEPS, "SUMMARIES", "ENTITY_MEMORY", "PERSONAS", "TOOLBOX", "SHORT_TERM_MEMORY",
]  # fmt: skip
DAY = "2026-03-01T09:00:00+00:00"
embedded = CountingManager().get_embedding


@pytest.fixture(scope="module")
def atlas(mongod: Any) -> Iterator[AtlasStandin]:
    """Atlas before the mongod of the session; indexes are built at once."""
    standin = AtlasStandin(mongod.host, mongod.port, pending_s=0, building_s=0)
    with standin.in_thread():
        yield standin
    assert standin.failures == []


@pytest.fixture
def theirs(atlas: AtlasStandin, db_name: str) -> Iterator[Any]:
    """The provider of memorizz, which has made its collections and its search indexes."""
    with memorizz_provider(atlas.uri, db_name) as provider:
        yield provider


@pytest.fixture(params=["scan", "resident", "atlas"])
def config(
    request: pytest.FixtureRequest, mongod: Any, atlas: AtlasStandin, db_name: str
) -> MongoDBConfig:
    """The same database by each of our strategies."""
    uri = atlas.uri if request.param == "atlas" else mongod.uri
    fields = {KB: ["knowledge_base_id", "long_term_memory_id"]}
    return MongoDBConfig(
        uri,
        db_name,
        dimensions=DIMENSIONS,
        search_strategy=request.param,
        filter_fields=fields,
    )


@pytest.fixture
async def ours(config: MongoDBConfig, theirs: Any) -> AsyncIterator[AsyncMongoDBProvider]:
    """Our provider on the database that memorizz has set up, with our indexes added to its own."""
    searching = replace(config, uri=theirs.config.uri, search_strategy="auto")
    async with AsyncMongoDBProvider(searching, embedding_provider=CountingEmbedder()) as provider:
        await provider.ensure_indexes_async(SHARED)
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
        yield provider


Found = Callable[..., Awaitable[list[str]]]


@pytest.fixture
def found(ours: AsyncMongoDBProvider, atlas: AtlasStandin, config: MongoDBConfig) -> Found:
    """What our provider recalls in a scope, as sorted contents; whole, and by that strategy."""

    async def recalled(memory_type: str, **scope: Any) -> list[str]:
        await atlas.sync()
        hits = await ours.retrieve_memory_units_by_query_async(
            "anything", None, memory_type=memory_type, limit=50, mode="vector", **scope
        )
        # Where nothing was found a scan has looked a second time.
        assert not hits or "filter" in scope or hits.strategy == config.search_strategy
        return sorted(hit["content"] for hit in hits)

    return recalled


def turn(content: str, memory_id: str, user_id: str | None, **more: Any) -> Any:
    """A turn as memorizz makes it."""
    return ConversationMemoryUnit(
        role="user",
        content=content,
        timestamp=more.pop("timestamp", DAY),
        memory_id=memory_id,
        thread_id="t1",
        embedding=embedded(content),
        agent_id="a1",
        user_id=user_id,
    )


# Their rows, recalled by us -----------------------------------------------------------------------


async def test_their_turns_are_recalled_in_the_three_states_of_a_user(
    theirs: Any, found: Found
) -> None:
    """A user left out is everybody, None is the rows that belong to none, a name is that user."""
    for memory_id, user_id in (("m1", "ada"), ("m1", "ben"), ("m1", None), ("m2", "ada")):
        theirs.store(
            memory_id=memory_id,
            memory_unit=turn(f"{user_id} in {memory_id}", memory_id, user_id),
        )
    assert await found(TURNS, memory_id="m1") == ["None in m1", "ada in m1", "ben in m1"]
    assert await found(TURNS, memory_id="m1", user_id="ada") == ["ada in m1"]
    assert await found(TURNS, memory_id="m1", user_id=None) == ["None in m1"]
    assert await found(TURNS, user_id="ada") == ["ada in m1", "ada in m2"]
    assert await found(TURNS, memory_id="m1", user_id="eve") == []
    assert await found(TURNS, memory_id=None) == []


async def test_their_knowledge_without_a_user_serves_every_user_of_its_memory(
    theirs: Any, found: Found
) -> None:
    """Rows with a null and rows that lack the field alike: memorizz writes both."""
    for content, owner in (
        ("of ada", {"user_id": "ada"}),
        ("of nobody", {"user_id": None}),
        ("of no field", {}),
    ):
        row = {"content": content, "embedding": embedded(content), "memory_id": "m1", **owner}
        theirs.store(row, TheirType.KNOWLEDGE_BASE)
    nobodys = ["of no field", "of nobody"]
    assert await found(KB, memory_id="m1") == sorted(["of ada", *nobodys])
    assert await found(KB, memory_id="m1", user_id="ada") == sorted(["of ada", *nobodys])
    assert await found(KB, memory_id="m1", user_id="ben") == nobodys
    assert await found(KB, memory_id="m1", user_id=None) == nobodys
    assert await found(KB, user_id="ada") == ["of ada"]
    assert await found(KB, memory_id="m2") == []


async def test_their_ingested_knowledge_is_recalled_by_its_knowledge_base(
    theirs: Any, found: Found
) -> None:
    """It has no memory_id at all: `memory_id=None` reaches it, a filter says which base."""
    bees = KnowledgeBase(theirs).ingest_knowledge("Ada keeps bees.", namespace="facts")
    KnowledgeBase(theirs).ingest_knowledge("Ben sails.", namespace="boats", user_id="ben")
    assert await found(KB, memory_id=None) == ["Ada keeps bees.", "Ben sails."]
    assert await found(KB, memory_id=None, filter={"knowledge_base_id": bees}) == [
        "Ada keeps bees."
    ]
    assert await found(KB, memory_id=None, filter={"namespace": "boats"}) == ["Ben sails."]
    assert await found(KB, memory_id=None, user_id="ada") == ["Ada keeps bees."]
    assert await found(KB, user_id="ben") == ["Ben sails."]


async def test_what_memorizz_takes_the_memory_id_from_is_recalled_by_its_user_or_by_none(
    theirs: Any, found: Found
) -> None:
    """Workflows, summaries, personas, tools, short-term rows: their memory_id is stripped."""
    for name, owner in (("deploy", "ada"), ("restore", None)):
        Workflow(
            name=name, description=f"how to {name}", memory_id="m1", user_id=owner
        ).store_workflow(theirs)
    assert await found(STEPS, memory_id="m1") == []
    assert await found(STEPS, user_id="ada") == ["deploy. how to deploy"]
    assert await found(STEPS, user_id=None) == ["restore. how to restore"]
    assert await found(STEPS, memory_id=None) == [
        "deploy. how to deploy",
        "restore. how to restore",
    ]

    for kind in (TheirType.SUMMARIES, TheirType.SHORT_TERM_MEMORY, TheirType.TOOLBOX):
        row = {"content": "gist", "embedding": embedded("gist"), "memory_id": "m1"}
        theirs.store({**row, "user_id": "ada"}, kind)
        theirs.store(row, kind)
        stored = theirs.list_all(kind)
        assert [("memory_id" in row, "user_id" in row) for row in stored] == [
            (False, True),
            (False, False),
        ]
        assert await found(kind.name, memory_id="m1") == []
        assert await found(kind.name, user_id="ada") == ["gist"]
        assert await found(kind.name, memory_id=None) == ["gist", "gist"]
        assert await found(kind.name, memory_id=None, user_id=None) == ["gist"]

    persona = Persona(name="Bo", role=RoleType.GENERAL, goals="Be kind.", background="A bear.")
    persona.store_persona(theirs)
    (bo,) = await found("PERSONAS", memory_id=None)
    assert bo.startswith("Bo. ")
    assert "Be kind." in bo


async def test_their_entities_say_what_is_known_of_them(theirs: Any, found: Found) -> None:
    """An entity has attributes and no content: recalled, it says them."""
    EntityMemory(theirs).upsert_entity(
        name="Ada",
        attributes=[{"name": "allergy", "value": "hazelnuts"}],
        memory_id="m1",
        user_id="ada",
    )
    assert await found("ENTITY_MEMORY", memory_id="m1", user_id="ada") == [
        "Ada. allergy: hazelnuts"
    ]
    assert await found("ENTITY_MEMORY", memory_id="m1", user_id="ben") == []


# Our rows, recalled by memorizz -------------------------------------------------------------------


async def test_our_rows_are_recalled_by_memorizz(
    theirs: Any, ours: AsyncMongoDBProvider, atlas: AtlasStandin
) -> None:
    """By meaning through its index, by id, and as a history, beside its own."""
    row_id = await ours.store_async(
        {"content": "Ada sails.", "role": "user", "timestamp": DAY, "thread_id": "t1"},
        TURNS,
        memory_id="m1",
        user_id="ada",
    )
    later = DAY.replace("09:", "10:")
    theirs.store(memory_id="m1", memory_unit=turn("Where?", "m1", "ada", timestamp=later))
    await ours.store_async("Ben rows.", TURNS, memory_id="m1", user_id="ben")
    await ours.store_async("Lisbon has hills.", KB, memory_id="m1")
    await ours.store_async("drain, then deploy", STEPS, memory_id="m1", user_id="ada")
    await atlas.sync()

    def asked(kind: Any, text: str, **scope: Any) -> list[tuple[str, float]]:
        rows = theirs.retrieve_by_query(text, memory_type=kind, limit=5, **scope)
        return [(row["content"], row["score"]) for row in rows]

    of_ada = asked(TheirType.CONVERSATION_MEMORY, "Ada sails.", memory_id="m1", user_id="ada")
    assert [content for content, _ in of_ada] == ["Ada sails.", "Where?"]
    assert of_ada[0][1] == pytest.approx(1.0)
    ((hills, score),) = asked(TheirType.KNOWLEDGE_BASE, "Lisbon has hills.", memory_id="m1")
    assert (hills, score) == ("Lisbon has hills.", pytest.approx(1.0))
    steps = asked(TheirType.WORKFLOW_MEMORY, "deploy", memory_id="m1", user_id="ada")
    assert [content for content, _ in steps] == ["drain, then deploy"]
    assert theirs.retrieve_by_id(row_id, TheirType.CONVERSATION_MEMORY)["content"] == "Ada sails."
    history = theirs.retrieve_conversation_history_ordered_by_timestamp("m1", user_id="ada")
    assert [row["content"] for row in history] == ["Ada sails.", "Where?"]


# Both forms of a vector in one collection ---------------------------------------------------------


async def test_arrays_and_bindata_in_one_collection_score_alike(
    theirs: Any, ours: AsyncMongoDBProvider, atlas: AtlasStandin
) -> None:
    """Equal texts tie whoever wrote them, and a score is cosine's on every strategy, memorizz's
    own search included.
    """
    texts = [f"fact {number}" for number in range(12)]
    for text in texts:
        row = {"content": text, "embedding": embedded(text), "memory_id": "m1", "user_id": None}
        theirs.store(row, TheirType.KNOWLEDGE_BASE)
    await ours.store_many_async(texts, KB, memory_id="m1")
    forms = {type(row["embedding"]) for row in theirs.list_all(TheirType.KNOWLEDGE_BASE, True)}
    assert forms == {list, Binary}
    await atlas.sync()

    hits = await ours.retrieve_memory_units_by_query_async(
        "fact 3", None, "m1", KB, 24, mode="vector"
    )
    assert len(hits) == 24
    query = vector_of("fact 3").astype(float)
    for hit in hits:
        vector = vector_of(hit["content"]).astype(float)
        cosine = query @ vector / ((query @ query) * (vector @ vector)) ** 0.5
        assert hit["score"] == pytest.approx((1 + cosine) / 2, abs=1e-6)
    by_text: dict[str, list[float]] = {}
    for hit in hits:
        by_text.setdefault(hit["content"], []).append(hit["score"])
    assert all(len(pair) == 2 and pair[0] == pytest.approx(pair[1]) for pair in by_text.values())
    for row in theirs.retrieve_by_query(
        "fact 3", memory_type=TheirType.KNOWLEDGE_BASE, memory_id="m1", limit=24
    ):
        assert row["score"] == pytest.approx(by_text[row["content"]][0], abs=1e-6)


# Indexes ------------------------------------------------------------------------------------------


def fields_of(theirs: Any, collection: str) -> dict[str, dict[str, Any]]:
    """The fields of a collection's `vector_index`, by path."""
    (index,) = theirs.db[collection].list_search_indexes("vector_index")
    assert index["queryable"]
    return {field["path"]: field for field in index["latestDefinition"]["fields"]}


async def test_their_search_indexes_keep_what_they_declare_and_gain_what_we_need(
    theirs: Any, mongod: Any, atlas: AtlasStandin, db_name: str
) -> None:
    """And more works than before: memorizz's own search by user in a conversation."""
    theirs.store(memory_id="m1", memory_unit=turn("hello", "m1", "ada"))
    await atlas.sync()
    before = {kind.value: fields_of(theirs, kind.value) for kind in TheirType}
    assert theirs.retrieve_by_query(
        "hello", memory_type=TheirType.CONVERSATION_MEMORY, memory_id="m1", user_id="ada"
    ) == []  # fmt: skip
    config = MongoDBConfig(atlas.uri, db_name, dimensions=DIMENSIONS)
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as ours:
        report = await ours.ensure_indexes_async()
        assert set(report.search.values()) == {"updated"}
        assert set(report.search) == set(before)
        assert set((await ours.ensure_indexes_async()).search.values()) == {"present"}
    await atlas.sync()
    for collection, declared in before.items():
        now = fields_of(theirs, collection)
        assert declared.items() <= now.items()
        assert {"memory_id", "user_id", "agent_id", "thread_id"} <= now.keys()
    for scope in ({}, {"user_id": "ada"}, {"user_id": "ada", "thread_id": "t1"}):
        (row,) = theirs.retrieve_by_query(
            "hello", memory_type=TheirType.CONVERSATION_MEMORY, memory_id="m1", **scope
        )
        assert row["content"] == "hello"
    # memorizz starts anew on the same database, and finds all it needs.
    with memorizz_provider(atlas.uri, db_name) as again:
        assert again._vector_indexes_unavailable == set()
    assert fields_of(theirs, "knowledge_base")["knowledge_base_id"]["type"] == "filter"


async def test_memorizz_adds_to_search_indexes_that_we_made(
    atlas: AtlasStandin, db_name: str
) -> None:
    """The other way round: we were first, and both have what they need afterwards."""
    config = MongoDBConfig(atlas.uri, db_name, dimensions=DIMENSIONS)
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as ours:
        await ours.store_async("Ada keeps bees.", KB, memory_id="m1")
        made = await ours.ensure_indexes_async(SHARED)
        assert set(made.search.values()) == {"created"}
        with memorizz_provider(atlas.uri, db_name) as theirs:
            await atlas.sync()
            declared = fields_of(theirs, "knowledge_base")
            assert {"knowledge_base_id", "session_id", "role"} <= declared.keys()
            (row,) = theirs.retrieve_by_query(
                "bees", memory_type=TheirType.KNOWLEDGE_BASE, memory_id="m1"
            )
            assert row["content"] == "Ada keeps bees."
        again = await ours.ensure_indexes_async(SHARED)
        assert set(again.search.values()) == {"present"}


async def test_on_servers_whose_filters_know_no_missing_field_an_exact_search_answers(
    theirs: Any, atlas: AtlasStandin, db_name: str
) -> None:
    """MongoDB 6 and 7 refuse `$exists` there; rows without an owner are found all the same."""
    row = {"content": "of no field", "embedding": embedded("x"), "memory_id": "m1"}
    theirs.store(row, TheirType.KNOWLEDGE_BASE)
    config = MongoDBConfig(atlas.uri, db_name, dimensions=DIMENSIONS)
    atlas.old_filters = True
    try:
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as ours:
            await ours.ensure_indexes_async([KB])
            written = await ours.store_async("of a null", KB, memory_id="m1")
            await ours.wait_until_searchable_async([written], KB, memory_id="m1", user_id=None)
            await atlas.sync()
            for strategy, scope in (
                ("resident", {"user_id": "ada"}),
                ("resident", {"user_id": None}),
                ("atlas", {}),
            ):
                hits = await ours.retrieve_memory_units_by_query_async(
                    "x", None, "m1", KB, mode="vector", **scope
                )
                assert hits.strategy == strategy
                assert {hit["content"] for hit in hits} == {"of no field", "of a null"}
        strict = replace(config, search_strategy="atlas")
        async with AsyncMongoDBProvider(strict, embedding_provider=CountingEmbedder()) as ours:
            hits = await ours.retrieve_memory_units_by_query_async(
                "x", None, "m1", KB, mode="vector", user_id="ada"
            )
            assert (hits.strategy, [hit["content"] for hit in hits]) == ("atlas", ["of a null"])
    finally:
        atlas.old_filters = False


# Version 0.0.36 -----------------------------------------------------------------------------------

# What its MongoDBProvider wrote when it was run: collection -> rows, without `_id` and `embedding`.
OLD_FACT: dict[str, Any] = {
    "content": "Ada keeps bees.",
    "namespace": "facts",
    "long_term_memory_id": "ed37127f-036d-4343-95bb-7e09ab8e4002",
    "created_at": "2025-11-21T09:21:04.507476",
    "updated_at": "2025-11-21T09:21:04.507494",
}
OLD_UNIT: dict[str, Any] = {
    "content": "Ada is allergic to hazelnuts.",
    "timestamp": 1763716864.5111947,
    "component_type": "knowledge",
    "category": "general",
    "importance": 0.5,
}
OLD_TURN: dict[str, Any] = {
    "role": "user",
    "content": "I moved to Lisbon.",
    "timestamp": "2025-01-01T00:00:00",
    "memory_id": "m1",
    "conversation_id": "c1",
    "recall_recency": 1763716864.5128763,
    "associated_conversation_ids": [ObjectId("6b016280c8ff053bcd147f96")],
}


@pytest.fixture
async def insert(ours: AsyncMongoDBProvider) -> Callable[..., Awaitable[None]]:
    """Writes rows as they are, each with the vector of its content as an array of doubles."""

    async def inserted(collection: str, *rows: dict[str, Any]) -> None:
        session = await session_of(ours)
        await session.driver.insert_many(
            collection,
            [{"_id": ObjectId(), **row, "embedding": embedded(row["content"])} for row in rows],
            deadline=Deadline.after(10_000),
        )

    return inserted


async def test_turns_of_version_0_0_36_are_recalled(
    ours: AsyncMongoDBProvider, insert: Callable[..., Awaitable[None]], found: Found, theirs: Any
) -> None:
    """By their memory, and by their conversation; their own fields come with them."""
    await insert("conversation_memory", OLD_TURN, {**OLD_TURN, "conversation_id": "c2"})
    assert await found(TURNS, memory_id="m1") == ["I moved to Lisbon."] * 2
    assert await found(TURNS, memory_id="m1", user_id=None) == ["I moved to Lisbon."] * 2
    assert await found(TURNS, memory_id="m1", user_id="ada") == []
    (hit,) = await ours.retrieve_memory_units_by_query_async(
        "Lisbon", None, "m1", TURNS, filter={"conversation_id": "c1"}, mode="vector"
    )
    assert hit["recall_recency"] == OLD_TURN["recall_recency"]
    assert hit["associated_conversation_ids"] == OLD_TURN["associated_conversation_ids"]
    assert json.dumps(hit["timestamp"]) == '"2025-01-01T00:00:00"'


async def test_the_old_long_term_memory_is_recalled_where_it_lies(
    config: MongoDBConfig, insert: Callable[..., Awaitable[None]], atlas: AtlasStandin
) -> None:
    """With the collection named; its rows had no owner, so `memory_id=None` is their scope."""
    await insert("long_term_memory", OLD_FACT, OLD_UNIT)
    old = replace(config, collections={"LONG_TERM_MEMORY": "long_term_memory"})
    async with AsyncMongoDBProvider(old, embedding_provider=CountingEmbedder()) as provider:
        await provider.ensure_indexes_async(["LONG_TERM_MEMORY"])
        await atlas.sync()
        for scope in ({"memory_id": None}, {"user_id": None}):
            hits = await provider.retrieve_memory_units_by_query_async(
                "bees", memory_type=MemoryType.LONG_TERM_MEMORY, mode="vector", **scope
            )
            assert hits.strategy == config.search_strategy
            assert {hit["content"] for hit in hits} == {OLD_FACT["content"], OLD_UNIT["content"]}
        (hit,) = await provider.retrieve_memory_units_by_query_async(
            "bees",
            memory_id=None,
            filter={"long_term_memory_id": OLD_FACT["long_term_memory_id"]},
            mode="vector",
        )
        assert hit["content"] == OLD_FACT["content"]
