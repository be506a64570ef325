"""Rows of equal score come by `_id`, on every strategy and before every cut, whatever happened to
them before.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pymongo
import pytest
from bson import ObjectId
from support.internals import session_of

from memorizz_async import AsyncMongoDBProvider, MemoryType, MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb import hybrid
from memorizz_async.memory_provider.mongodb.vector_search import halves
from memorizz_async.memory_provider.mongodb.vector_search.request import Changing, SearchRequest

KB = MemoryType.LONG_TERM_MEMORY
VECTOR = [1.0, 0.0, 0.0]
LATER = datetime.now(UTC) + timedelta(days=1)
EARLIER = LATER - timedelta(days=2)


class EqualReranker:
    """Gives every text the same score, and remembers the texts."""

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.texts = list(texts)
        return [0.0] * len(texts)


class Rows:
    """Writes rows of one vector, and recalls them from memory and by the server."""

    def __init__(self, provider: AsyncMongoDBProvider, collection: Any) -> None:
        self.provider, self.other = provider, collection

    async def store(self, content: str, **more: Any) -> ObjectId:
        user = more.pop("user", None)
        unit = {"content": content, "embedding": VECTOR, **more}
        return ObjectId(await self.provider.store_async(unit, KB, memory_id="m", user_id=user))

    def insert(self, row_id: Any, content: str, **more: Any) -> None:
        """Another program inserts a row."""
        row = {"_id": row_id, "memory_id": "m", "user_id": None, "embedding": VECTOR, **more}
        self.other.insert_one({"content": content, **row})

    async def settle(self) -> None:
        session = await session_of(self.provider)
        assert await session.residents.caught_up(Deadline.after(30_000))

    async def recall(self, consistency: str = "session", **more: Any) -> Any:
        options = {"mode": "vector", "query": None, "limit": 20, **more}
        return await self.provider.retrieve_memory_units_by_query_async(
            query_embedding=VECTOR, memory_id="m", memory_type=KB, consistency=consistency,
            **options,
        )  # fmt: skip

    async def check(self, **more: Any) -> list[str]:
        """The contents in their order; of memory and server the same, from the same ids."""
        await self.settle()
        await self.recall(**more)  # reads the scope
        in_memory, by_server = await self.recall(**more), await self.recall("strong", **more)
        assert in_memory.strategy in ("resident", "text")
        assert [hit["_id"] for hit in in_memory] == [hit["_id"] for hit in by_server]
        return [hit["content"] for hit in in_memory]


@pytest.fixture
async def rows(mongod: Any, db_name: str) -> AsyncIterator[Rows]:
    """Rows of one tenant, whose scan reads by the index of tenants."""
    with pymongo.MongoClient(mongod.uri) as client:
        collection = client[db_name][KB.collection]
        collection.create_index([("memory_id", 1), ("user_id", 1)])
        config = MongoDBConfig(mongod.uri, db_name, dimensions=3)
        async with AsyncMongoDBProvider(config, reranker=EqualReranker()) as provider:
            yield Rows(provider, collection)


async def expiring(rows: Rows) -> Any:
    """Some expire and others do not: their rows have two layouts."""
    for n in range(4):
        await rows.store(str(n), **({"expires_at": LATER} if n % 2 else {}))
    await rows.settle()
    await rows.recall()
    await rows.store("4")


async def of_two_forms(rows: Rows) -> Any:
    """Memorizz's arrays beside ours, read for a filter."""
    for n in range(8):
        if n % 2:
            rows.insert(ObjectId(), str(n))
        else:
            await rows.store(str(n))
    return {"filter": {"role": {"$ne": "system"}}}


async def of_users(rows: Rows) -> Any:
    """The index of tenants has them user by user."""
    await rows.store("0", user="ada")
    await rows.settle()
    await rows.recall()
    await rows.store("1")


async def of_the_agent(rows: Rows) -> Any:
    """A user's rows and those of no user."""
    await rows.store("0", user="ada")
    await rows.settle()
    await rows.recall(user_id="ada")
    await rows.store("1")
    return {"user_id": "ada"}


def changed(*changes: Any) -> Callable[[Rows], Awaitable[Any]]:
    """The first of three rows is changed, and changed back, after it was read into memory."""

    async def way(rows: Rows) -> Any:
        ids = [await rows.store(str(n)) for n in range(3)]
        rows.other.update_one({"_id": ids[0]}, {"$set": {"expires_at": None}})
        await rows.settle()
        await rows.recall()
        for change in changes:
            rows.other.update_one({"_id": ids[0]}, change)

    return way


async def in_a_transaction(rows: Rows) -> Any:
    """Written first, committed last."""
    await rows.store("0")
    await rows.settle()
    await rows.recall()
    client = rows.other.database.client
    row = {"memory_id": "m", "user_id": None, "embedding": VECTOR}
    with client.start_session() as session, session.start_transaction():
        rows.other.insert_one({"_id": ObjectId(), "content": "1", **row}, session=session)
        rows.insert(ObjectId(), "2")


async def by_id_of_any_type(rows: Rows) -> Any:
    """Written in another order than that of their ids."""
    ids = [2**53 + 1, float(2**53), 10, 9.5, "a", "B", {"a": 1}, b"bb", b"b", ObjectId(), True,
           uuid.uuid4().bytes]  # fmt: skip
    order = [9.5, 10, float(2**53), 2**53 + 1, "B", "a", {"a": 1}, b"b", b"bb", ids[11], ids[9],
             True]  # fmt: skip
    for row_id in ids:
        rows.insert(row_id, str(order.index(row_id)).zfill(2))


WAYS: dict[str, Callable[[Rows], Awaitable[Any]]] = {
    "expiring": expiring,
    "of two forms": of_two_forms,
    "of users": of_users,
    "of the agent": of_the_agent,
    "moved": changed({"$set": {"memory_id": "n"}}, {"$set": {"memory_id": "m"}}),
    "embedded again": changed({"$unset": {"embedding": 1}}, {"$set": {"embedding": VECTOR}}),
    "renamed": changed({"$rename": {"embedding": "e"}}, {"$rename": {"e": "embedding"}}),
    "grown": changed(
        {"$set": {"embedding": VECTOR}}, {"$push": {"embedding": 1.0}}, {"$pop": {"embedding": 1}}
    ),
    "by a pipeline": changed(
        [{"$set": {"e": "$embedding", "embedding": "$$REMOVE"}}],
        [{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"embedding": "$e"}]}}],
    ),
    "expired": changed({"$set": {"expires_at": EARLIER}}, {"$unset": {"expires_at": 1}}),
    "in a transaction": in_a_transaction,
    "of any type": by_id_of_any_type,
}


@pytest.mark.parametrize("way", WAYS)
async def test_equal_scores_come_by_id(rows: Rows, way: str) -> None:
    """From memory and by the server, all of them and the first few."""
    more = await WAYS[way](rows) or {}
    found = await rows.check(**more)
    assert found == sorted(found)
    assert len(found) == rows.other.count_documents({})
    for limit in range(1, len(found)):
        assert await rows.check(limit=limit, **more) == found[:limit]


@pytest.fixture
async def words(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Rows of one vector and one text, written against the order of their ids; with a text index,
    and fewer candidates than rows.
    """
    monkeypatch.setattr(hybrid, "_AT_LEAST", 3)
    monkeypatch.setattr(hybrid, "_TIMES_THE_LIMIT", 1)
    await rows.provider.ensure_indexes_async([KB])
    for n in reversed(range(6)):
        rows.insert(n, f"zebra {n}", memory_id="m" if n % 2 else "n", user_id="u")
    return rows


@pytest.mark.parametrize("fusion", ["zscore", "rrf"])
@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_equal_texts_come_by_id(
    words: Rows, mongod: Any, db_name: str, mode: Any, fusion: Any
) -> None:
    """Also where the words are asked of one memory at a time, and answers are merged."""
    config = MongoDBConfig(mongod.uri, db_name, dimensions=3, fusion=fusion)
    async with AsyncMongoDBProvider(config) as provider:
        for limit in (1, 2, 6):
            for consistency in ("session", "strong"):
                hits = await provider.retrieve_memory_units_by_query_async(
                    "zebra", VECTOR, memory_type=KB, user_id="u", limit=limit, mode=mode,
                    consistency=consistency,  # type: ignore[arg-type]
                )  # fmt: skip
                assert [hit["_id"] for hit in hits] == list(range(limit))


async def test_a_reranker_sees_equals_by_id(rows: Rows) -> None:
    """Those with the lowest ids, of more than it is shown; and equals of its own stay in order."""
    for n in reversed(range(30)):
        rows.insert(n, f"{n:02}")
    reranker: Any = rows.provider._recall._reranker
    for consistency in ("session", "strong"):
        hits = await rows.recall(consistency, query="text", limit=5)
        assert reranker.texts == [f"{n:02}" for n in range(20)]
        assert [hit["content"] for hit in hits] == reranker.texts[:5]


async def test_equals_of_two_models_come_by_id(rows: Rows) -> None:
    """While rows change their model: some are compared with one query, some with another."""
    for n in range(6):
        rows.insert(n, str(n), embedding_model="new" if n % 2 else "old")
    query = np.array(VECTOR, np.float32)
    request = SearchRequest(
        collection=KB.collection, scope={"memory_id": "m"}, vector=query, limit=3,
        similarity="cosine", include_embedding=False, now=datetime.now(UTC),
        deadline=Deadline.after(20_000), model="old", changing=Changing("new", query),
    )  # fmt: skip
    session = await session_of(rows.provider)
    answer = await halves.search(session.driver, request)
    assert [row["_id"] for row, _ in answer.rows] == [0, 1, 2]


def odd_rows() -> Iterator[tuple[Any, Any]]:
    """Ids, in no order, and embeddings that cannot be compared with a query of three numbers."""
    yield "z", [0.0, 0.0, 0.0]
    yield 5, [0.0, 0.0]
    yield 3.5, "no vector"
    yield "a", [1.0, float("nan")]
    yield True, [[1.0], [2.0]]
    yield ObjectId("0" * 24), [1.0, None]  # null to the server, and odd all the same
    yield b"data", {}
    yield 2**53 + 1, [1.0, 2.0]
    for n in range(40):
        yield f"many {n}", [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("when", ["loaded", "by the stream"])
@pytest.mark.parametrize("wanted", [None, {"role": {"$ne": "b"}}])
async def test_rows_that_cannot_be_compared_are_reported_alike(
    rows: Rows, when: str, wanted: Any
) -> None:
    """As many, the same ones by the order of their ids, in the same words."""
    await rows.store("good")
    if when == "by the stream":
        await rows.settle()
        await rows.recall(filter=wanted)
    for number, (row_id, embedding) in enumerate(odd_rows()):
        rows.insert(row_id, "odd", embedding=embedding, role="ab"[number % 5 == 4])
    await rows.check(filter=wanted)
    in_memory, by_server = [
        (await rows.recall(how, filter=wanted)).unsearchable for how in ("session", "strong")
    ]
    assert (in_memory.count, str(in_memory)) == (by_server.count, str(by_server))
    assert list(in_memory.rows.items()) == list(by_server.rows.items())
    assert in_memory.count == (48 if wanted is None else 39)
    assert list(in_memory.rows)[:2] == ["3.5", "5"]
