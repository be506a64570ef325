"""Hybrid recall of what is in memory: only winners are read, and they are those of a scan."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pymongo
import pytest
from atlas_standin import WireProxy
from bson import ObjectId
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.embedder import CountingEmbedder, vector_of
from support.internals import session_of

from memorizz_async import (
    AsyncMongoDBProvider,
    DatabaseError,
    EmbeddingModelMismatchError,
    FoundBy,
    MemoryType,
    MongoDBConfig,
    StoredEmbeddingError,
)
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb import hybrid
from memorizz_async.vectors import to_bson

KB = MemoryType.LONG_TERM_MEMORY
QUERY = vector_of("query")
ASIDE = vector_of("aside") - QUERY * (vector_of("aside") @ QUERY) / (QUERY @ QUERY)


@pytest.fixture
async def provider(mongod: Any, db_name: str) -> AsyncIterator[AsyncMongoDBProvider]:
    """An open provider of a database with the text index of the knowledge base."""
    config = MongoDBConfig(mongod.uri, db_name)
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as opened:
        await opened.ensure_indexes_async([KB])
        yield opened


@pytest.fixture
def other(mongod: Any, db_name: str) -> Iterator[Any]:
    """Another program, at the same collection."""
    with pymongo.MongoClient(mongod.uri) as client:
        yield client[db_name][KB.collection]


async def ask(provider: AsyncMongoDBProvider, words: str = "zebra", **more: Any) -> Any:
    arguments = {"memory_id": "m", "memory_type": KB, "query_embedding": QUERY, **more}
    return await provider.retrieve_memory_units_by_query_async(words, **arguments)


async def deaf(provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on its stream is late."""
    store = (await session_of(provider)).residents
    monkeypatch.setattr(store, "_apply", lambda event: None)


async def test_both_searches_bring_ids_and_one_find_the_winners(mongod: Any, db_name: str) -> None:
    """Of 200 candidates five rows cross the wire, found inside the tenant once more."""
    with WireProxy(mongod.host, mongod.port).in_thread() as proxy:
        config = MongoDBConfig(proxy.uri, db_name)
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
            await provider.ensure_indexes_async([KB])
            await provider.store_many_async([f"zebra {n}" for n in range(200)], KB, memory_id="m")
            await ask(provider)
            proxy.seen.clear()
            hits = await ask(provider)
            asked = {command.name: command.body for command in proxy.seen}
            assert [command.name for command in proxy.seen] == ["aggregate", "find"]
    assert (hits.mode, hits.strategy, len(hits)) == ("hybrid", "resident", 5)
    assert "embedding_model" in asked["aggregate"]["pipeline"][-1]["$project"]
    conditions = asked["find"]["filter"]["$and"]
    assert {"memory_id": "m"} in conditions
    assert [len(one["_id"]["$in"]) for one in conditions if "_id" in one] == [5]


async def test_the_next_best_stands_in_for_winners_that_have_left(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were deleted between the searches and the reading are made up for, in order."""
    rows = [{"content": "a zebra", "embedding": QUERY + n / 10 * ASIDE} for n in range(9)]
    ids = await provider.store_many_async(rows, KB, memory_id="m")
    assert [hit["_id"] for hit in await ask(provider)] == ids[:5]
    await deaf(provider, monkeypatch)
    real = hybrid.rows_of_the_best

    async def after_a_deletion(*arguments: Any) -> Any:
        other.delete_many({"_id": {"$in": [ObjectId(ids[0]), ObjectId(ids[3])]}})
        return await real(*arguments)

    monkeypatch.setattr(hybrid, "rows_of_the_best", after_a_deletion)
    hits = await ask(provider, explain=True)
    left = [ids[1], ids[2], ids[4], ids[5], ids[6]]
    assert [hit["_id"] for hit in hits] == left == [told.id for told in hits.explain.hits]
    assert [told.found_by[0].rank for told in hits.explain.hits] == [2, 3, 5, 6, 7]
    assert hits.strategy == "resident"


async def test_where_the_winners_are_gone_time_and_again_both_searches_bring_rows(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Much changes in that moment: none of those that are left is missing."""
    rows = [{"content": "a zebra", "embedding": QUERY + n / 10 * ASIDE} for n in range(40)]
    ids = await provider.store_many_async(rows, KB, memory_id="m")
    await ask(provider)
    await deaf(provider, monkeypatch)
    outcomes: list[Any] = []
    real = hybrid.rows_of_the_best

    async def after_a_deletion(*arguments: Any) -> Any:
        other.delete_many({"_id": {"$in": [ObjectId(row_id) for row_id in ids[:30]]}})
        outcomes.append(await real(*arguments))
        return outcomes[-1]

    monkeypatch.setattr(hybrid, "rows_of_the_best", after_a_deletion)
    hits = await ask(provider)
    assert outcomes == [None]
    assert [hit["_id"] for hit in hits] == ids[30:35]
    assert all(hit["text_score"] > 0 for hit in hits)


async def test_a_row_of_another_model_that_its_words_find_is_not_compared(
    provider: AsyncMongoDBProvider, other: Any
) -> None:
    """It has score 0, as nothing says how similar it is; the rows that were compared stay."""
    near = [{"content": f"n{n}", "embedding": QUERY + n / 40 * ASIDE} for n in range(60)]
    await provider.store_many_async(near, KB, memory_id="m")
    stray = {"content": "a zebra", "embedding": to_bson(ASIDE), "memory_id": "m"}
    row_id = other.insert_one({**stray, "embedding_model": "third/8"}).inserted_id
    session = await session_of(provider)
    assert await session.residents.caught_up(Deadline.after(20_000))
    hits = await ask(provider, query_embedding=None)  # embedded here: the model is known
    assert (hits.mode, hits.strategy, hits.unsearchable) == ("hybrid", "resident", None)
    found = next(hit for hit in hits if hit["_id"] == str(row_id))
    assert found["score"] == 0.0
    assert found["text_score"] > 0


async def test_a_winner_of_another_model_is_named_and_not_returned(
    provider: AsyncMongoDBProvider, other: Any
) -> None:
    """Its vector was compared with a query that it has nothing to do with."""
    await provider.store_many_async(["a zebra", "a boat"], KB, memory_id="m")
    vector = to_bson(vector_of("zebra"))  # as near to the query as can be
    stray = {"_id": "stray", "content": "x", "embedding": vector, "embedding_model": "third/8"}
    other.insert_one({**stray, "memory_id": "m"})
    session = await session_of(provider)
    assert await session.residents.caught_up(Deadline.after(20_000))
    hits = await ask(provider, query_embedding=None)
    assert {hit["content"] for hit in hits} == {"a zebra", "a boat"}
    assert isinstance(hits.unsearchable, EmbeddingModelMismatchError)
    assert hits.unsearchable.rows == {"stray": "of the model third/8"}


async def test_candidates_of_another_model_are_named_though_none_of_them_wins(
    provider: AsyncMongoDBProvider, other: Any, mongod: Any, db_name: str
) -> None:
    """Their scores mean nothing, and would shift those of the others: the order is the scan's."""
    asked, names = vector_of("zebra"), ["zebra", "boat zebra", "zebra red", "door", "boat", "red"]
    away = ASIDE - asked * (ASIDE @ asked) / (asked @ asked)
    own = [{"content": f"{name} {n}", "embedding": asked + n / 9 * away} for n, name in
           enumerate(names * 2)]  # fmt: skip
    await provider.store_many_async(own, KB, memory_id="m")
    stray = {"content": "x", "embedding": to_bson(away), "memory_id": "m"}
    other.insert_many([{**stray, "_id": n, "embedding_model": "third/8"} for n in range(30)])
    session = await session_of(provider)
    assert await session.residents.caught_up(Deadline.after(20_000))
    scanning = MongoDBConfig(mongod.uri, db_name, search_strategy="scan")
    async with AsyncMongoDBProvider(scanning, embedding_provider=CountingEmbedder()) as scanner:
        answers = [await ask(each, query_embedding=None) for each in (provider, scanner)]
    first, second = ([(hit["_id"], hit["fused_score"]) for hit in hits] for hits in answers)
    assert len(first) == 5
    assert first == second
    for hits in answers:
        assert isinstance(hits.unsearchable, EmbeddingModelMismatchError)
        assert hits.unsearchable.count == 30


async def test_a_type_without_rows_costs_no_second_question(mongod: Any, db_name: str) -> None:
    """Words and vectors are asked once each, side by side: an agent's types are often empty."""
    with WireProxy(mongod.host, mongod.port).in_thread() as proxy:
        config = MongoDBConfig(proxy.uri, db_name)
        async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
            await provider.ensure_indexes_async([KB])
            await ask(provider)
            proxy.seen.clear()
            hits = await ask(provider)
            assert sorted(command.name for command in proxy.seen) == ["aggregate", "find"]
    assert (hits.mode, list(hits)) == ("hybrid", [])


async def test_where_all_that_can_be_compared_is_gone_the_server_says_what_is_left(
    provider: AsyncMongoDBProvider, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, which has yet to hear of it, gives no empty answer of its own."""
    ids = await provider.store_many_async(["a zebra", "a boat"], KB, memory_id="m")
    other.insert_one({"content": "x", "embedding": [1.0, 2.0], "memory_id": "m"})
    session = await session_of(provider)
    assert await session.residents.caught_up(Deadline.after(20_000))
    assert len(await ask(provider)) == 2
    await deaf(provider, monkeypatch)
    real = hybrid.rows_of_the_best

    async def after_a_deletion(*arguments: Any) -> Any:
        other.delete_many({"_id": {"$in": [ObjectId(row_id) for row_id in ids]}})
        return await real(*arguments)

    monkeypatch.setattr(hybrid, "rows_of_the_best", after_a_deletion)
    with pytest.raises(StoredEmbeddingError, match="2 numbers"):
        await ask(provider)


async def test_a_lost_server_is_an_error_and_no_empty_answer(
    provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors in memory alone are no answer where the words failed."""
    await provider.store_async("a zebra", KB, memory_id="m")
    await ask(provider)
    session = await session_of(provider)

    async def gone(*_: Any, **__: Any) -> Any:
        raise DatabaseError("the server is gone")

    monkeypatch.setattr(session.driver, "aggregate", gone)
    with pytest.raises(DatabaseError, match="gone"):
        await ask(provider)


# -- the same as a scan, whatever the rows ------------------------------------------------------

numbers = st.integers(-2, 2)
good = st.tuples(numbers, numbers, numbers).filter(any).map(list)
odd = st.sampled_from([[0, 0, 0], [1.0, 2.0], "no vector", None])
words = st.lists(st.sampled_from(["zebra", "boat", "door", "red"]), max_size=4).map(" ".join)


def some_rows(vectors: Any, memories: Any) -> Any:
    roles = st.sampled_from("ab")
    row = {"content": words, "embedding": vectors, "memory_id": memories, "role": roles}
    return st.fixed_dictionaries(row)


many = st.lists(some_rows(good, st.just("m")), min_size=5, max_size=14)
"""More than are candidates, so that words find rows that vectors do not."""
few = st.lists(some_rows(st.one_of(good, odd), st.sampled_from(["m", "n", None])), max_size=4)
collections = st.one_of(few, st.builds(lambda some, more: some[:2] + more + some[2:], few, many))


class Pair:
    """A provider that searches in memory and one that scans, on one loop."""

    def __init__(self, uri: str) -> None:
        self.runner = asyncio.Runner()
        self.db_name = f"test_{uuid.uuid4().hex[:12]}"
        self.client: pymongo.MongoClient[Any] = pymongo.MongoClient(uri)
        strategies: tuple[Any, ...] = ("resident", "scan")
        self.providers = [
            AsyncMongoDBProvider(
                MongoDBConfig(uri, self.db_name, dimensions=3, search_strategy=strategy)
            )
            for strategy in strategies
        ]
        self.runner.run(self._opened())

    async def _opened(self) -> None:
        for provider in self.providers:
            await provider.__aenter__()
        await self.providers[0].ensure_indexes_async([KB])

    def answers(self, rows: list[Any], query: Any, **options: Any) -> list[Any]:
        """What each of them finds among the rows, or which error it raises."""
        collection = self.client[self.db_name][KB.collection]
        collection.delete_many({})
        if rows:
            collection.insert_many([{"_id": n, **row} for n, row in enumerate(rows)])
        return [self.runner.run(self._answer(each, query, options)) for each in self.providers]

    async def _answer(self, provider: AsyncMongoDBProvider, query: Any, options: Any) -> Any:
        store = (await session_of(provider)).residents
        assert await store.caught_up(Deadline.after(30_000))
        vector, text = query
        try:
            hits = await provider.retrieve_memory_units_by_query_async(
                text, np.array(vector, np.float32), "m", KB, mode="hybrid", explain=True, **options
            )
        except StoredEmbeddingError as error:
            return error.rows
        assert hits.explain is not None
        # Where no vector can be compared, the words answer alone, and nothing is fused.
        assert all(("fused_score" in hit) == (hits.mode == "hybrid") for hit in hits)
        scored = [
            (hits.mode, *(hit.get(name) for name in ("_id", "score", "text_score", "fused_score")))
            for hit in hits
        ]
        ways = [[(way.rank, way.score) for way in told.found_by] for told in hits.explain.hits]
        first: FoundBy | None = next(
            (told.found_by[0] for told in hits.explain.hits if told.found_by), None
        )
        assert first is None or first.how in (hits.strategy, "text")
        unsearchable = hits.unsearchable and hits.unsearchable.rows
        return scored, ways, unsearchable

    def close(self) -> None:
        async def closed() -> None:
            for provider in self.providers:
                await provider.close_async()

        self.runner.run(closed())
        self.runner.close()
        self.client.drop_database(self.db_name)
        self.client.close()


@pytest.fixture(scope="module")
def pair(mongod: Any) -> Iterator[Pair]:
    """One pair for all examples: opening one takes longer than asking it."""
    made = Pair(mongod.uri)
    try:
        yield made
    finally:
        made.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=collections,
    query=st.tuples(
        good,
        st.sampled_from(["zebra", "red door", "boat zebra door", "nowhere"]),
    ),
    options=st.fixed_dictionaries(
        {"limit": st.integers(1, 4), "filter": st.sampled_from([None, {"role": "a"}])}
    ),
)
@example(  # no vector can be compared
    rows=[
        {"content": "", "embedding": [0, 0, 0], "memory_id": "m", "role": "a"},
        {"content": "", "embedding": [0, 0, 0], "memory_id": "m", "role": "a"},
        {"content": "zebra", "embedding": None, "memory_id": "m", "role": "a"},
    ],
    query=([0, 0, 1], "zebra"),
    options={"limit": 1, "filter": None},
)
def test_hybrid_recall_in_memory_answers_as_that_by_a_scan(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, rows: Any, query: Any, options: Any
) -> None:
    """The same rows, scores, ranks and reports, with few candidates, and rows that cannot be
    compared among them.
    """
    monkeypatch.setattr(hybrid, "_AT_LEAST", 3)
    monkeypatch.setattr(hybrid, "_TIMES_THE_LIMIT", 1)
    in_memory, scanned = pair.answers(rows, query, **options)
    assert in_memory == scanned
