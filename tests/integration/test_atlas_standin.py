"""The Atlas stand-in itself: what it lets through, what it answers, what it refuses and how."""

from __future__ import annotations

import asyncio
import inspect
import math
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from atlas_standin import AtlasStandin
from bson.binary import Binary, BinaryVectorDtype
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure
from pymongo.operations import SearchIndexModel

ENVELOPE = "PlanExecutor error during aggregation :: caused by :: "
SCORE = {"$meta": "vectorSearchScore"}
FILTERS = ("_id", "user", "n", "tags", "when", "key", "flag", "uid", "a.b")
DEFINITION = {
    "fields": [
        {"type": "vector", "path": "v", "numDimensions": 3, "similarity": "cosine"},
        *({"type": "filter", "path": path} for path in FILTERS),
    ]
}


async def rows(collection: Any, pipeline: list[Any], **options: Any) -> list[dict[str, Any]]:
    """All of an aggregate's documents, by either driver."""
    cursor = collection.aggregate(pipeline, **options)
    if inspect.isawaitable(cursor):
        cursor = await cursor
    found: list[dict[str, Any]] = await cursor.to_list(None)
    return found


async def failure(work: Any) -> OperationFailure:
    with pytest.raises(OperationFailure) as caught:
        await work
    return caught.value


def stage(**given: Any) -> dict[str, Any]:
    """A good `$vectorSearch` with some fields changed; None takes a field away."""
    fields = {
        "index": "vectors",
        "path": "v",
        "queryVector": [1.0, 0.0, 0.0],
        "numCandidates": 100,
        "limit": 10,
        **given,
    }
    return {"$vectorSearch": {key: value for key, value in fields.items() if value is not None}}


async def ids(collection: Any, **given: Any) -> list[Any]:
    return [row["_id"] for row in await rows(collection, [stage(**given)])]


async def index(collection: Any, definition: dict[str, Any] = DEFINITION) -> None:
    await collection.create_search_index(
        SearchIndexModel(definition, name="vectors", type="vectorSearch")
    )


async def listed(collection: Any, name: str = "vectors") -> dict[str, Any]:
    (found,) = await rows(collection, [{"$listSearchIndexes": {"name": name}}])
    return found


@asynccontextmanager
async def client_of(driver: str, uri: str) -> AsyncIterator[Any]:
    if driver == "motor":
        motor: Any = AsyncIOMotorClient(uri)
        yield motor
        motor.close()
    else:
        client: AsyncMongoClient[Any]
        async with AsyncMongoClient(uri) as client:
            yield client


@asynccontextmanager
async def collection_in(standin: AtlasStandin, driver: str = "pymongo") -> AsyncIterator[Any]:
    """A collection of a database that is dropped afterwards."""
    async with client_of(driver, standin.uri) as client:
        db = client[f"standin_{uuid.uuid4().hex[:12]}"]
        await db.create_collection("memories")
        yield db.memories
        # One by one: the server takes 0.1 s to drop a database that still has collections.
        for name in await db.list_collection_names():
            await db.drop_collection(name)
        await client.drop_database(db.name)


@pytest.fixture(params=["pymongo", "motor"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def standin(mongod: Any) -> Iterator[AtlasStandin]:
    """No waiting for builds or drops, and what is written is seen after `sync()` only."""
    made = AtlasStandin(
        mongod.host, mongod.port, pending_s=0, building_s=0, dropping_s=0, lag_s=math.inf
    )
    # In a thread: Motor's `close()` waits for the server with the test's loop in its hands.
    with made.in_thread() as opened:
        yield opened
    assert opened.failures == []


@pytest.fixture
async def memories(standin: AtlasStandin) -> AsyncIterator[Any]:
    async with collection_in(standin) as collection:
        yield collection


# The two drivers ----------------------------------------------------------------------------------


async def test_both_drivers_manage_indexes_and_search(standin: AtlasStandin, driver: str) -> None:
    """Create, wait, search, update, list and drop by the drivers' own helpers."""
    async with collection_in(standin, driver) as memories:
        await memories.insert_many([{"_id": 1, "v": [1, 0, 0]}, {"_id": 2, "v": [0, 1.0, 0]}])
        await index(memories)
        search = [stage(), {"$project": {"score": SCORE}}]
        assert await rows(memories, search) == [{"_id": 1, "score": 1.0}, {"_id": 2, "score": 0.5}]

        await memories.update_search_index("vectors", DEFINITION)
        cursor = memories.list_search_indexes("vectors")
        found = await (await cursor if inspect.isawaitable(cursor) else cursor).to_list(None)
        assert [row["latestDefinitionVersion"]["version"] for row in found] == [1]

        await memories.drop_search_index("vectors")
        assert await rows(memories, search) == []


async def test_in_a_thread_it_serves_many_loops(mongod: Any) -> None:
    """One stand-in for a session: tests on loops of their own use it, and its switches, alike."""

    async def once(standin: AtlasStandin) -> list[Any]:
        async with collection_in(standin) as memories:
            await index(memories)
            await memories.insert_one({"_id": 1, "v": [1, 0, 0]})
            await standin.finish_builds()
            await standin.sync()
            return await ids(memories)

    def twice() -> None:
        with AtlasStandin(mongod.host, mongod.port, lag_s=math.inf).in_thread() as standin:
            assert [asyncio.run(once(standin)) for _ in range(2)] == [[1], [1]]
            standin.blocking(standin.sync())

    await asyncio.to_thread(twice)


# Searching ----------------------------------------------------------------------------------------

FORMULAS: dict[str, Callable[[Any, Any], float]] = {
    "cosine": lambda a, b: (1 + a @ b / np.linalg.norm(a) / np.linalg.norm(b)) / 2,
    "dotProduct": lambda a, b: max((1 + a @ b) / 2, 0),
    "euclidean": lambda a, b: 1 / (1 + np.sum((a - b) ** 2)),
}


@pytest.mark.parametrize("similarity", FORMULAS)
async def test_scores_are_lucenes(memories: Any, similarity: str) -> None:
    """Best first, by the formula of the similarity; arrays and BinData are one kind of vector."""
    vectors = np.random.default_rng(1).normal(size=(40, 3)) / 2
    await memories.insert_many(
        {
            "_id": number,
            "v": Binary.from_vector(vector.tolist(), BinaryVectorDtype.FLOAT32)
            if number % 2
            else vector.tolist(),
        }
        for number, vector in enumerate(vectors)
    )
    field = {"type": "vector", "path": "v", "numDimensions": 3, "similarity": similarity}
    await index(memories, {"fields": [field]})
    query = [0.3, -0.2, 0.5]
    expected = {
        number: FORMULAS[similarity](np.array(query), vector)
        for number, vector in enumerate(vectors)
    }
    best = sorted(expected, key=lambda number: -expected[number])[:10]
    for given in (query, Binary.from_vector(query, BinaryVectorDtype.FLOAT32)):
        found = await rows(memories, [stage(queryVector=given), {"$project": {"score": SCORE}}])
        assert [row["_id"] for row in found] == best
        assert [row["score"] for row in found] == pytest.approx(
            [expected[number] for number in best], abs=1e-6
        )


async def test_vectors_that_cannot_be_indexed_are_skipped_in_silence(
    standin: AtlasStandin, memories: Any
) -> None:
    """Wrong dimensions, zeros, words: the insert succeeds, the document is never found."""
    await index(memories)
    bad = [[1, 0], [1, 0, 0, 0], [0, 0, 0], ["1", 0, 0], [math.nan, 0, 0], "v", None, [], b"v"]
    await memories.insert_many([{"_id": number, "v": v} for number, v in enumerate(bad)])
    await memories.insert_one({"_id": "none"})
    await memories.insert_one({"_id": "good", "v": [1, 0, 0]})
    await standin.sync()
    assert await ids(memories) == ["good"]


async def test_int8_vectors_are_not_found_by_float_queries(memories: Any) -> None:
    """Each element type is a field of its own in the index."""
    int8 = Binary.from_vector([1, 2, 3], BinaryVectorDtype.INT8)
    await memories.insert_many([{"_id": "int8", "v": int8}, {"_id": "float", "v": [1, 2, 3]}])
    await index(memories)
    assert await ids(memories) == ["float"]
    assert await ids(memories, queryVector=int8) == ["int8"]


async def test_bit_vectors_want_euclidean(memories: Any) -> None:
    """They are scored by the bits that agree, and refused under any other similarity."""
    near, far = (Binary.from_vector([x], BinaryVectorDtype.PACKED_BIT) for x in (0x0F, 0xF0))
    fields = [
        {"type": "vector", "path": path, "numDimensions": 8, "similarity": similarity}
        for path, similarity in (("v", "euclidean"), ("w", "cosine"))
    ]
    await memories.insert_many([{"_id": 1, "v": far}, {"_id": 2, "v": near}])
    await index(memories, {"fields": fields})
    found = await rows(memories, [stage(queryVector=near), {"$project": {"score": SCORE}}])
    assert found == [{"_id": 2, "score": 1.0}, {"_id": 1, "score": 0.0}]
    error = await failure(ids(memories, queryVector=near, path="w"))
    assert "but indexed similarity is cosine" in str(error)


async def test_results_are_current_and_deleted_ones_drop_out(memories: Any) -> None:
    """The index lags, what comes back does not: fewer than limit, values the filter refuses."""
    await memories.insert_many([{"_id": i, "v": [1, i, 0], "user": "ann"} for i in range(4)])
    await index(memories)
    await memories.delete_one({"_id": 0})
    await memories.update_one({"_id": 1}, {"$set": {"user": "bob"}})
    found = await rows(memories, [stage(limit=3, filter={"user": "ann"})])
    assert [(row["_id"], row["user"]) for row in found] == [(1, "bob"), (2, "ann")]


async def test_writes_are_seen_late(standin: AtlasStandin, memories: Any) -> None:
    """Inserts, updates and deletes reach the index after the lag, or by `sync()`."""
    await index(memories)
    await memories.insert_one({"_id": 1, "v": [1, 0, 0], "user": "ann"})
    assert await ids(memories) == []
    await standin.sync()
    assert await ids(memories, filter={"user": "ann"}) == [1]
    await memories.update_one({"_id": 1}, {"$set": {"user": "bob"}})
    assert await ids(memories, filter={"user": "bob"}) == []
    await standin.sync()
    assert await ids(memories, filter={"user": "bob"}) == [1]
    await memories.delete_one({"_id": 1})
    await memories.insert_one({"_id": 2, "v": [0, 1, 0]})
    # The deleted one still takes the only place.
    assert await ids(memories, limit=1, numCandidates=1) == []
    standin.lag_s = 0.05
    async with asyncio.timeout(5):
        while await ids(memories, limit=1, numCandidates=1) != [2]:  # noqa: ASYNC110 - time itself
            await asyncio.sleep(0.01)


async def test_a_missing_index_or_collection_is_no_error(memories: Any) -> None:
    """Nothing found, like an empty memory: Atlas does not tell them apart."""
    await memories.insert_one({"v": [1, 0, 0]})
    assert await ids(memories) == []
    await index(memories)
    assert await ids(memories, index="vector") == []
    assert await ids(memories.database.nowhere) == []


async def test_results_come_in_batches(standin: AtlasStandin, memories: Any) -> None:
    """`batchSize` is honoured, and the rest fetched by getMore from the server itself."""
    await memories.insert_many([{"_id": i, "v": [1, i, 0]} for i in range(25)])
    await index(memories)
    found = await rows(memories, [stage(limit=25)], batchSize=10)
    assert [row["_id"] for row in found] == list(range(25))
    assert standin.counts["getMore"] == 2


async def test_a_slow_search_ends_by_max_time(standin: AtlasStandin, memories: Any) -> None:
    """`maxTimeMS` reaches the search engine."""
    await index(memories)
    standin.search_delay_s = 30
    error = await failure(rows(memories, [stage()], maxTimeMS=20))
    assert error.code == 50


# The score in later stages ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([{"$project": {"score": SCORE}}], {"_id": 1, "score": 1.0}),
        ([{"$project": {"_id": 0, "score": SCORE}}], {"score": 1.0}),
        ([{"$project": {"v": 0, "score": SCORE}}], {"_id": 1, "user": "ann", "score": 1.0}),
        ([{"$project": {"v": 0, "m": {"s": SCORE}}}], {"_id": 1, "user": "ann", "m": {"s": 1.0}}),
        ([{"$project": {"user": 1}}, {"$set": {"s": SCORE}}], {"_id": 1, "user": "ann", "s": 1.0}),
        ([{"$unset": "v"}, {"$addFields": {"s": SCORE}}], {"_id": 1, "user": "ann", "s": 1.0}),
        ([{"$set": {"s": SCORE}}, {"$match": {"s": {"$gt": 0.9}}}, {"$unset": ["v", "user"]}],
         {"_id": 1, "s": 1.0}),
        ([{"$match": {"$expr": {"$gte": [SCORE, 0.5]}}}, {"$project": {"_id": 1}}], {"_id": 1}),
        ([{"$project": {"user": 1}}], {"_id": 1, "user": "ann"}),
        ([{"$replaceWith": {"of": "$$ROOT"}}, {"$set": {"s": SCORE}}],
         {"of": {"_id": 1, "v": [1, 0, 0], "user": "ann"}, "s": 1.0}),
        ([{"$sort": {"s": SCORE, "user": 1}}, {"$project": {"s": SCORE}}], {"_id": 1, "s": 1.0}),
        ([{"$sort": {"user": 1}}, {"$project": {"s": SCORE}}], {"_id": 1, "s": 1.0}),
        ([{"$group": {"_id": None, "best": {"$max": SCORE}, "all": {"$push": "$$ROOT.user"}}}],
         {"_id": None, "best": 1.0, "all": ["ann", "zoe"]}),
        ([{"$group": {"_id": "$user"}}, {"$sort": {"_id": 1}}, {"$set": {"s": SCORE}}],
         {"_id": "ann"}),
        ([{"$set": {"s": {"$literal": SCORE}}}, {"$unset": ["v", "user"]}],
         {"_id": 1, "s": SCORE}),
        ([{"$facet": {"x": [{"$limit": 1}, {"$project": {"s": SCORE}}]}}],
         {"x": [{"_id": 1, "s": 1.0}]}),
        ([{"$lookup": {"from": "memories", "let": {"s": SCORE}, "as": "l",
                       "pipeline": [{"$limit": 1}, {"$project": {"_id": 0, "s": "$$s"}}]}},
          {"$project": {"l": 1}}], {"_id": 1, "l": [{"s": 1.0}]}),
    ],
)  # fmt: skip
async def test_the_score_can_be_asked_for_later(
    memories: Any, stages: list[Any], expected: dict[str, Any]
) -> None:
    """`$meta` works wherever metadata lives on, and leaves nothing of ours in the documents."""
    await memories.insert_many(
        [{"_id": 1, "v": [1, 0, 0], "user": "ann"}, {"_id": 2, "v": [0, 1, 0], "user": "zoe"}]
    )
    await index(memories)
    assert (await rows(memories, [stage(), *stages]))[0] == expected


async def test_it_may_stand_first_in_a_union(memories: Any) -> None:
    """`$unionWith` takes a search as its sub-pipeline, with scores of its own."""
    await memories.insert_one({"_id": 1, "v": [1, 0, 0]})
    await memories.database.other.insert_one({"_id": 2, "v": [0, 1, 0]})
    for collection in (memories, memories.database.other):
        await index(collection)
    scored = [stage(), {"$project": {"s": SCORE}}]
    union = {"$unionWith": {"coll": "other", "pipeline": scored}}
    both = [{"_id": 1, "s": 1.0}, {"_id": 2, "s": 0.5}]
    assert await rows(memories, [*scored, union]) == both
    outer = {"$unionWith": {"coll": "other", "pipeline": [stage()]}}
    assert await rows(memories, [stage(), outer, {"$project": {"s": SCORE}}]) == both
    assert await rows(memories, [{"$match": {"_id": 0}}, union]) == both[1:]


# Filters ------------------------------------------------------------------------------------------

OID = ObjectId("64b7f0f0f0f0f0f0f0f0f0f0")
UID = Binary(bytes(range(16)), 4)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "abcdef"),
        ({"user": "ann"}, "ab"),
        ({"user": {"$eq": "Ann"}}, ""),
        ({"user": "ann", "n": 2}, "b"),
        ({"$and": [{"user": "ann"}, {"n": {"$lt": 2}}]}, "a"),
        ({"$or": [{"user": "bob"}, {"n": 2.0}]}, "bc"),
        ({"$nor": [{"user": "ann"}, {"user": "bob"}]}, "def"),
        ({"n": {"$gt": 1, "$lte": 3}}, "bc"),
        ({"n": {"$in": [1, 3]}}, "ac"),
        ({"n": {"$nin": [1, 3]}}, "bdef"),
        ({"n": {"$not": {"$gte": 2}}}, "adef"),
        ({"n": {"$gt": "1"}}, "d"),
        # Missing is not null here, unlike in find: only d says null.
        ({"user": None}, "d"),
        ({"user": {"$ne": None}}, "abcef"),
        ({"user": {"$ne": "ann"}}, "cdef"),
        ({"user": {"$nin": ["ann", "bob"]}}, "def"),
        ({"user": {"$exists": False}}, "ef"),
        ({"tags": "x"}, "ab"),
        ({"tags": {"$ne": "x"}}, "cdef"),
        ({"tags": {"$in": ["y", "z"]}}, "bc"),
        ({"a.b": {"$gte": 1}}, "ef"),
        ({"flag": True}, "a"),
        ({"key": OID}, "b"),
        ({"uid": UID}, "c"),
        ({"_id": {"$in": ["a", "f"]}}, "af"),
    ],
)
async def test_filters(memories: Any, wanted: dict[str, Any], expected: str) -> None:
    """The grammar of `$vectorSearch.filter`, which is not that of find."""
    documents: list[dict[str, Any]] = [
        {"_id": "a", "user": "ann", "n": 1, "tags": ["x"], "flag": True},
        {"_id": "b", "user": "ann", "n": 2.0, "tags": ["x", "y"], "key": OID},
        {"_id": "c", "user": "bob", "n": 3, "tags": "z", "uid": UID},
        {"_id": "d", "user": None, "n": "2"},
        {"_id": "e", "a": {"b": 1}},
        {"_id": "f", "a": [{"b": 0}, {"b": 5}], "tags": []},
    ]
    await memories.insert_many([{**document, "v": [1, 0, 0]} for document in documents])
    await index(memories)
    assert "".join(sorted(await ids(memories, filter=wanted))) == expected


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("ann", "filter must be a document"),
        ({"name": "ann"}, "Path 'name' needs to be indexed as filter"),
        ({"$or": [{"user": "a"}, {"v": 1}]}, "Path 'v' needs to be indexed as filter"),
        ({"user": {"$in": []}}, '"filter.user.$in" cannot be empty'),
        ({"user": {"$in": ["a", 1]}}, '"filter.user.$in" must have elements of the same type'),
        ({"user": {"$nin": [None]}}, '"filter.user.$nin" value type cannot be null'),
        ({"user": {"$regex": "a"}}, '"filter.user" unrecognized field "$regex"'),
        ({"user": {}}, '"filter.user" at least one of ['),
        ({"user": ["a"]}, '"filter.user" must be a boolean, objectId, number, string, date, uuid,'),
        ({"n": {"$gt": Decimal128("1")}}, '"filter.n.$gt" must be a boolean, objectId, number'),
        ({"user": b"a"}, "binary value must be UUID subtype 4"),
        ({"user": {"$exists": 1}}, '"filter.user.$exists" must be a boolean'),
        ({"$and": []}, '"filter.$and" cannot be empty'),
        ({"$and": [{"user": {"$in": []}}]}, '"filter.$and[0].user.$in" cannot be empty'),
        ({"$where": "1"}, '"filter" unrecognized field "$where"'),
    ],
)
async def test_filters_that_are_refused(memories: Any, wanted: Any, text: str) -> None:
    """The texts of mongot in the envelope of mongod."""
    await index(memories)
    error = await failure(ids(memories, filter=wanted))
    assert error.code == 8
    assert text in str(error)
    assert str(error).startswith(ENVELOPE)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [({"n": {"$exists": True}}, 7828300), ({"$or": [{"n": {"$in": [None]}}]}, 7828302)],
)
async def test_old_servers_refused_more(
    standin: AtlasStandin, memories: Any, wanted: Any, code: int
) -> None:
    """With `old_filters`, mongod's own validator of 6.0 and 7.0 speaks first."""
    await index(memories)
    standin.old_filters = True
    assert (await failure(ids(memories, filter=wanted))).code == code


# The stage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"index": None}, '"index" is required'),
        ({"index": ""}, '"index" cannot be empty'),
        ({"index": 1}, '"index" must be a string'),
        ({"path": None}, '"path" is required'),
        ({"path": "user"}, "user is not indexed as vector"),
        ({"limit": None}, '"limit" is required'),
        ({"limit": 1.5}, '"limit" must be an integer'),
        ({"limit": 2**40}, '"limit" overflowed, must fit in a 32 bit integer'),
        ({"limit": 101}, "limit should be less than or equal to numCandidates"),
        ({"numCandidates": None}, "numCandidates is required for approximate vector search"),
        ({"numCandidates": 0}, '"numCandidates" must be within bounds'),
        ({"numCandidates": 10_001}, '"numCandidates" must be within bounds'),
        ({"exact": True}, '"numCandidates" must be omitted when "exact" is set to true'),
        ({"exact": 1}, '"exact" must be a boolean'),
        ({"queryVector": None}, "Exactly one and only one of query and queryVector can be present"),
        ({"query": "x"}, "Exactly one and only one of query and queryVector can be present"),
        ({"queryVector": "x"}, '"queryVector" Unexpected type found when parsing vector'),
        ({"queryVector": [[1.0, 0.0, 0.0]]}, "Unsupported BsonValue type: ARRAY"),
        ({"queryVector": [1.0, "a", 0.0]}, "Unsupported BsonValue type: STRING"),
        ({"queryVector": [1.0, math.inf, 0.0]}, "(Infinity or NaN) at position [1]"),
        ({"queryVector": [0, 0, 0]}, "Cosine similarity cannot be calculated against a zero vec"),
        ({"queryVector": [1, 0]}, "vector field is indexed with 3 dimensions but queried with 2"),
        ({"queryVector": b"abc"}, "BSON binary subtype should be vector(0x09) but got 0"),
        ({"returnStoredSource": True}, "storedSource is not configured for this index."),
        ({"explainOptions": {}}, "Query must be run in explain mode"),
        ({"numCandidate": 5}, 'unrecognized field "numCandidate"'),
    ],
)
async def test_a_bad_stage_is_refused(memories: Any, given: dict[str, Any], text: str) -> None:
    """By mongot's texts, as 8 UnknownError in mongod's envelope."""
    await index(memories)
    error = await failure(ids(memories, **given))
    assert (error.code, (error.details or {})["codeName"]) == (8, "UnknownError")
    assert str(error).startswith(ENVELOPE)
    assert text in str(error)


@pytest.mark.parametrize(
    ("value", "code"), [(5, 9), ({"limit": "1"}, 8575100), ({"limit": 0}, 7912700)]
)
async def test_mongod_checks_first(memories: Any, value: Any, code: int) -> None:
    """What mongod sees itself has a code of its own, even where there is no index."""
    assert (await failure(rows(memories, [{"$vectorSearch": value}]))).code == code


async def test_options_that_are_accepted(standin: AtlasStandin, memories: Any) -> None:
    """Exact without candidates, whole doubles as integers, a node preference, a parent filter."""
    await memories.insert_many([{"_id": i, "v": [1, i, 0], "user": "ab"[i % 2]} for i in range(4)])
    await index(memories)
    assert await ids(memories, exact=True, numCandidates=None, limit=2.0) == [0, 1]
    assert await ids(memories, searchNodePreference={"key": "k"}, exact=False, limit=1) == [0]
    narrowed = await ids(memories, filter={"user": "a"}, parentFilter={"_id": {"$gt": 0}})
    assert narrowed == [2]
    standin.strict = False  # as the real one: an unknown field is nothing
    assert await ids(memories, numCandidate=1, limit=1) == [0]


@pytest.mark.parametrize(
    ("pipeline", "code", "text"),
    [
        ([{"$limit": 1}, stage()], 40602, "is only valid as the first stage in a pipeline"),
        ([stage(), stage()], 40602, "$vectorSearch is only valid as the first stage"),
        ([{"$facet": {"a": [stage()]}}], 40600, "not allowed to be used within a $facet stage"),
        (
            [{"$lookup": {"from": "x", "pipeline": [stage()], "as": "y"}}],
            51047,
            "$vectorSearch is not allowed within a $lookup's sub-pipeline",
        ),
        (
            [{"$unionWith": {"coll": "x", "pipeline": [{"$limit": 1}, stage()]}}],
            40602,
            "$vectorSearch is only valid as the first stage",
        ),
        ([{"$limit": 1}, {"$listSearchIndexes": {}}], 40602, "$listSearchIndexes is only valid"),
        ([{"$facet": {"a": [{"$listSearchIndexes": {}}]}}], 40600, "within a $facet stage"),
        ([{"$listSearchIndexes": {"name": "a", "id": "b"}}], 72, "Cannot set both 'name' and 'id'"),
    ],
)
async def test_search_stages_stand_first(
    memories: Any, pipeline: list[Any], code: int, text: str
) -> None:
    """Anywhere else they are refused, by mongod's codes."""
    error = await failure(rows(memories, pipeline))
    assert error.code == code
    assert text in str(error)


async def test_not_in_a_transaction(memories: Any) -> None:
    """Search is outside of transactions; the transaction is aborted by the driver's session."""
    async with (
        memories.database.client.start_session() as session,
        await session.start_transaction(),
    ):
        cursor = memories.aggregate([stage()], session=session)
        assert (await failure(cursor)).code == 263
        await session.abort_transaction()


# Indexes ------------------------------------------------------------------------------------------


async def test_an_index_is_built_for_a_while(standin: AtlasStandin, memories: Any) -> None:
    """PENDING, BUILDING, READY; until then a query is an error that names the state."""
    standin.pace.manual = True
    await memories.insert_one({"_id": 1, "v": [1, 0, 0]})
    await index(memories)
    for status, state in (("PENDING", "NOT_STARTED"), ("BUILDING", "INITIAL_SYNC")):
        found = await listed(memories)
        assert (found["status"], found["queryable"]) == (status, False)
        error = await failure(ids(memories))
        assert error.code == 8
        assert "cannot query vector index" in str(error)
        assert f"while in state {state}" in str(error)
        await standin.step_builds()
    found = await listed(memories)
    assert (found["status"], found["queryable"]) == ("READY", True)
    assert await ids(memories) == [1]


async def test_building_takes_time(standin: AtlasStandin, memories: Any) -> None:
    """By the clock, where no test steps it."""
    standin.pace.pending_s = standin.pace.building_s = 0.03
    await index(memories)
    seen = [(await listed(memories))["status"]]
    async with asyncio.timeout(5):
        while seen[-1] != "READY":
            seen.append((await listed(memories))["status"])
    assert list(dict.fromkeys(seen)) == ["PENDING", "BUILDING", "READY"]


async def test_the_old_definition_answers_during_an_update(
    standin: AtlasStandin, memories: Any
) -> None:
    """`queryable` stays true throughout, so it does not say that the new definition is in use."""
    await memories.insert_one({"_id": 1, "v": [1, 0, 0], "topic": "t"})
    await index(memories)
    standin.pace.manual = True
    await standin.finish_builds()
    topic = {"type": "filter", "path": "topic"}
    newer = {"fields": [*DEFINITION["fields"], topic]}
    await memories.update_search_index("vectors", newer)
    found = await listed(memories)
    assert (found["status"], found["queryable"]) == ("BUILDING", True)
    assert found["latestDefinition"] == newer
    assert found["latestDefinitionVersion"]["version"] == 1
    host = found["statusDetail"][0]
    assert host["mainIndex"]["definitionVersion"]["version"] == 0
    assert host["stagedIndex"]["definitionVersion"]["version"] == 1
    assert await ids(memories) == [1]
    assert "'topic' needs" in str(await failure(ids(memories, filter={"topic": "t"})))
    await standin.finish_builds()
    assert (await listed(memories))["status"] == "READY"
    assert await ids(memories, filter={"topic": "t"}) == [1]


async def test_a_build_can_fail(standin: AtlasStandin, memories: Any) -> None:
    """FAILED is not queryable, and the error says so."""
    await index(memories)
    await standin.fail_build("vectors", "no room")
    found = await listed(memories)
    assert (found["status"], found["queryable"]) == ("FAILED", False)
    assert found["statusDetail"][0]["mainIndex"]["message"] == "no room"
    assert "while in state FAILED" in str(await failure(ids(memories)))


async def test_a_status_can_be_shown(standin: AtlasStandin, memories: Any) -> None:
    """STALE, UPDATING: searches go on."""
    await index(memories)
    await standin.show_status("vectors", "STALE")
    found = await listed(memories)
    assert (found["status"], found["queryable"]) == ("STALE", True)
    assert await ids(memories) == []


async def test_dropping_takes_a_while(standin: AtlasStandin, memories: Any) -> None:
    """DELETING is listed, answers nothing, and keeps its name."""
    await index(memories)
    standin.pace.manual = True
    await memories.drop_search_index("vectors")
    found = await listed(memories)
    assert (found["status"], found["queryable"]) == ("DELETING", False)
    assert (await failure(index(memories))).code == 68
    assert await ids(memories) == []
    await standin.step_builds()
    assert await rows(memories, [{"$listSearchIndexes": {}}]) == []
    await index(memories)


async def test_the_documents_of_list_search_indexes(memories: Any) -> None:
    """The shape that clients wait on; what follows in the pipeline is the server's own."""
    await index(memories)
    await memories.create_search_index({"definition": {"mappings": {"dynamic": True}}})
    found = await listed(memories)
    assert list(found) == [
        "id",
        "name",
        "type",
        "status",
        "queryable",
        "latestDefinitionVersion",
        "latestDefinition",
        "statusDetail",
    ]
    assert (found["type"], found["latestDefinition"]) == ("vectorSearch", DEFINITION)
    assert ObjectId.is_valid(found["id"])
    names = [{"$listSearchIndexes": {}}, {"$project": {"name": 1, "type": 1}}]
    assert await rows(memories, names) == [
        {"name": "vectors", "type": "vectorSearch"},
        {"name": "default", "type": "search"},
    ]
    assert await rows(memories, [{"$listSearchIndexes": {"id": found["id"]}}]) == [found]
    assert await rows(memories.database.nowhere, [{"$listSearchIndexes": {}}]) == []
    error = await failure(ids(memories, index="default"))
    assert "Cannot execute $vectorSearch over search index 'default'" in str(error)


async def test_index_commands_that_are_refused(standin: AtlasStandin, memories: Any) -> None:
    """By the documented codes: 26, 27, 68, 197."""
    nowhere = memories.database.nowhere
    assert (await failure(index(nowhere))).code == 26
    assert "nowhere" not in await memories.database.list_collection_names()
    assert (await failure(memories.update_search_index("vectors", DEFINITION))).code == 27
    error = await failure(memories.drop_search_index("vectors"))
    assert error.code == 27
    assert f"exists in namespace {memories.full_name}" in str(error)
    await index(memories)
    await index(memories)  # an equal one is fine
    error = await failure(index(memories, {"fields": DEFINITION["fields"][:1]}))
    assert error.code == 68
    assert "already exists with a different definition" in str(error)
    command = {
        "updateSearchIndex": "memories",
        "name": "vectors",
        "type": "search",
        "definition": {"mappings": {}},
    }
    assert (await failure(memories.database.command(command))).code == 197


VECTOR = {"type": "vector", "path": "v", "numDimensions": 8, "similarity": "cosine"}


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        ({}, '.fields" is required'),
        ({"fields": []}, '.fields" cannot be empty'),
        ({"fields": [VECTOR], "mappings": {}}, 'unrecognized field "mappings"'),
        ({"fields": [{**VECTOR, "size": 1}]}, '.fields[0]" unrecognized field "size"'),
        ({"fields": [{**VECTOR, "numDimensions": 8193}]}, "must be within bounds"),
        ({"fields": [{**VECTOR, "similarity": "l2"}]}, "must be one of [cosine, dotProduct, eucl"),
        ({"fields": [VECTOR, {"type": "filter", "path": "v"}]}, "should have distinct paths"),
        (
            {"fields": [{**VECTOR, "numDimensions": 9, "quantization": "binary"}]},
            "must be a multiple of 8 for binary quantization",
        ),
        (
            {"fields": [{**VECTOR, "indexingMethod": "flat", "hnswOptions": {}}]},
            "hnswOptions is only supported",
        ),
        ({"fields": [VECTOR], "numPartitions": 3}, '.numPartitions" must be one of [1, 2, 4'),
        ({"fields": [VECTOR], "storedSource": True}, ".storedSource"),
    ],
)
async def test_bad_definitions_are_refused(
    memories: Any, definition: dict[str, Any], text: str
) -> None:
    """By mongot's texts, with the path to what is wrong."""
    assert text in str(await failure(index(memories, definition)))


async def test_a_definition_without_type_is_of_type_search(memories: Any) -> None:
    """The usual mistake: a vector definition is then refused for want of mappings."""
    error = await failure(memories.create_search_index({"definition": DEFINITION}))
    assert '.mappings" is required' in str(error)


async def test_indexes_go_with_their_collection(memories: Any) -> None:
    """Dropped and made anew, a collection has no search index, though its name is the same."""
    await index(memories)
    await memories.drop()
    assert await rows(memories, [{"$listSearchIndexes": {}}]) == []
    await memories.insert_one({"_id": 1, "v": [1, 0, 0]})
    assert await ids(memories) == []
    await index(memories)
    assert await ids(memories) == [1]


# Servers without search ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "codes"),
    [
        ("5.0", (59, 40324, 40324)),
        ("6.0", (59, 6047401, 6047401)),
        ("7.0", (115, 6047401, 6047401)),
        ("8.x", (31082, 31082, 31082)),
        ("unreachable", (125, 125, 6)),
    ],
)
async def test_servers_without_search(
    standin: AtlasStandin,
    memories: Any,
    mode: Any,
    codes: tuple[int, int, int],
) -> None:
    """Each release refuses in its own way, before it looks at anything else."""
    standin.mode = mode
    command_code, list_code, search_code = codes
    assert (await failure(index(memories))).code == command_code
    assert (await failure(rows(memories, [{"$listSearchIndexes": {}}]))).code == list_code
    for pipeline in ([stage()], [{"$limit": 1}, {"$facet": {"a": [stage(limit=0)]}}]):
        assert (await failure(rows(memories, pipeline))).code == search_code


async def test_6_0_says_what_the_real_one_says(
    mongod: Any, standin: AtlasStandin, memories: Any
) -> None:
    """The mode is checked against the server that we have."""
    standin.mode = "6.0"
    client: AsyncMongoClient[Any]
    async with AsyncMongoClient(mongod.uri) as client:
        real: Any = client[memories.database.name].memories
        version = (await client.server_info())["version"]
        if not version.startswith("6.0."):
            pytest.skip(f"the server here is {version}")
        for attempt in (
            index,
            lambda of: rows(of, [stage()]),
            lambda of: rows(of, [{"$listSearchIndexes": {}}]),
        ):
            ours, theirs = await failure(attempt(memories)), await failure(attempt(real))
            keys = ("code", "codeName", "errmsg")
            assert [(ours.details or {})[key] for key in keys] == [
                (theirs.details or {})[key] for key in keys
            ]
