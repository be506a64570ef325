"""Every query that is sent, as plain documents: a change of any of them is seen here first."""

from __future__ import annotations

import copy
import inspect
import pkgutil
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import bson
import numpy as np
import pytest
from bson import Binary, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.memory_provider.mongodb import pipelines as p

EMBEDDED = {
    "$or": [{"embedding": {"$exists": True, "$ne": None}}, {"embedding": {"$type": "array"}}]
}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
A, B = ObjectId("0123456789abcdef01234567"), "turn-2"
QUERY = Binary(b"\x27\x00\x00\x00\x80\x3f", 9)
SCOPE = {"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]}

VECTOR_SEARCH = {
    "$vectorSearch": {
        "index": "vector_index",
        "path": "embedding",
        "queryVector": QUERY,
        "filter": {"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]},
        "numCandidates": 100,
        "limit": 5,
    }
}
STILL_IN_SCOPE = {
    "$match": {
        "$and": [
            {"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]},
            {"expires_at": {"$not": {"$lte": NOW}}},
        ]
    }
}
SCORE = {"$set": {"_memorizz_score": {"$meta": "vectorSearchScore"}}}
DEFINITION = {
    "fields": [
        {"type": "vector", "path": "embedding", "numDimensions": 384, "similarity": "cosine"},
        {"type": "filter", "path": "memory_id"},
        {"type": "filter", "path": "user_id"},
    ]
}
CHANGED_FIELDS = {
    "$concatArrays": [
        {
            "$map": {
                "input": {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}},
                "in": "$$this.k",
            }
        },
        {"$ifNull": ["$updateDescription.removedFields", []]},
        {
            "$map": {
                "input": {"$ifNull": ["$updateDescription.truncatedArrays", []]},
                "in": "$$this.field",
            }
        },
    ]
}
CHANGES = [
    {
        "$match": {
            "$or": [
                {"operationType": {"$in": ["drop", "rename", "dropDatabase", "invalidate"]}},
                {
                    "operationType": {"$in": ["insert", "replace", "delete"]},
                    "ns.coll": {"$in": ["a", "b"]},
                },
                {
                    "operationType": "update",
                    "ns.coll": {"$in": ["a", "b"]},
                    "$expr": {
                        "$anyElementTrue": [
                            {
                                "$map": {
                                    "input": CHANGED_FIELDS,
                                    "in": {
                                        "$in": [
                                            {"$arrayElemAt": [{"$split": ["$$this", "."]}, 0]},
                                            ["embedding", "memory_id", "user_id", "expires_at"],
                                        ]
                                    },
                                }
                            }
                        ]
                    },
                },
            ]
        }
    },
    {
        "$project": {
            "operationType": 1,
            "clusterTime": 1,
            "ns": 1,
            "to": 1,
            "documentKey": 1,
            "fullDocument.embedding": 1,
            "fullDocument.memory_id": 1,
            "fullDocument.user_id": 1,
            "fullDocument.expires_at": 1,
        }
    },
]

CHANGES_OF_FIELDS = copy.deepcopy(CHANGES)
_NAMES = CHANGES_OF_FIELDS[0]["$match"]["$or"][2]["$expr"]["$anyElementTrue"][0]["$map"]["in"][
    "$in"
][1]
_NAMES += ["_id", "deep"]
CHANGES_OF_FIELDS[1]["$project"] |= {
    "fullDocument._id": 1,
    "fullDocument.deep.f": 1,
    "fullDocument.deep.g": 1,
}


def search(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "index": "vector_index",
        "query_vector": QUERY,
        "scope": SCOPE,
        "limit": 5,
        "now": NOW,
        "include_embedding": False,
    }
    return p.vector_search_pipeline(**{**arguments, **changes})


SNAPSHOTS: list[tuple[Callable[..., Any], Callable[[], Any], Any]] = [
    (
        p.alive,
        lambda: p.alive(NOW),
        {"expires_at": {"$not": {"$lte": NOW}}},
    ),
    (p.all_of, p.all_of, {}),
    (p.all_of, lambda: p.all_of({}, {"a": 1}, {}), {"a": 1}),
    (
        p.all_of,
        lambda: p.all_of({"$or": [1]}, {"$or": [2]}),
        {"$and": [{"$or": [1]}, {"$or": [2]}]},
    ),
    (
        p.scan_filter,
        lambda: p.scan_filter(SCOPE, NOW),
        {
            "$and": [
                {"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]},
                EMBEDDED,
                {"expires_at": {"$not": {"$lte": NOW}}},
            ]
        },
    ),
    (p.scan_projection, p.scan_projection, {"embedding": 1}),
    (p.resident_projection, p.resident_projection, {"_id": 1, "embedding": 1, "expires_at": 1}),
    (
        p.resident_projection,
        lambda: p.resident_projection(["_id.x", "role", "deep.f", "deep", "deeper"]),
        {"_id": 1, "embedding": 1, "expires_at": 1, "role": 1, "deep": 1, "deeper": 1},
    ),
    (p.changes_pipeline, lambda: p.changes_pipeline(["a", "b"]), CHANGES),
    (
        p.changes_pipeline,
        lambda: p.changes_pipeline(["a", "b"], ["_id", "user_id", "deep.f", "deep.g"]),
        CHANGES_OF_FIELDS,
    ),
    (
        p.rows_by_id_filter,
        lambda: p.rows_by_id_filter([A, B], {"memory_id": "m"}, NOW),
        {
            "$and": [
                {"_id": {"$in": [ObjectId("0123456789abcdef01234567"), "turn-2"]}},
                {"memory_id": "m"},
                {"expires_at": {"$not": {"$lte": NOW}}},
            ]
        },
    ),
    (p.row_projection, lambda: p.row_projection(False), {"embedding": 0, "embedding_next": 0}),
    (p.row_projection, lambda: p.row_projection(True), {"embedding_next": 0}),
    (
        p.vector_search_pipeline,
        search,
        [VECTOR_SEARCH, STILL_IN_SCOPE, SCORE, {"$unset": ["embedding", "embedding_next"]}],
    ),
    (
        p.vector_search_pipeline,
        lambda: search(include_embedding=True),
        [VECTOR_SEARCH, STILL_IN_SCOPE, SCORE, {"$unset": "embedding_next"}],
    ),
    (
        p.vector_search_pipeline,
        lambda: search(
            scope={"$and": [SCOPE, {"role": {"$type": "null"}}]},
            search_filter={"$and": [SCOPE, {"role": {"$eq": None}}]},
            exact=True,
        ),
        [
            {
                "$vectorSearch": {
                    "index": "vector_index",
                    "path": "embedding",
                    "queryVector": QUERY,
                    "filter": {"$and": [SCOPE, {"role": {"$eq": None}}]},
                    "exact": True,
                    "limit": 5,
                }
            },
            {
                "$match": {
                    "$and": [
                        {"$and": [SCOPE, {"role": {"$type": "null"}}]},
                        {"expires_at": {"$not": {"$lte": NOW}}},
                    ]
                }
            },
            SCORE,
            {"$unset": ["embedding", "embedding_next"]},
        ],
    ),
    (p.id_projection, p.id_projection, {"_id": 1}),
    (
        p.search_indexes_pipeline,
        lambda: p.search_indexes_pipeline("vector_index"),
        [{"$listSearchIndexes": {"name": "vector_index"}}],
    ),
    (
        p.search_index_definition,
        lambda: p.search_index_definition(
            dimensions=384, similarity="cosine", filter_paths=["memory_id", "user_id"]
        ),
        DEFINITION,
    ),
    (
        p.search_index_definition,
        lambda: p.search_index_definition(
            dimensions=8, similarity="dotProduct", filter_paths=[], quantization="binary"
        ),
        {
            "fields": [
                {
                    "type": "vector",
                    "path": "embedding",
                    "numDimensions": 8,
                    "similarity": "dotProduct",
                    "quantization": "binary",
                }
            ]
        },
    ),
    (
        p.touch_filter,
        lambda: p.touch_filter((A, B)),
        {
            "_id": {"$in": [A, B]},
            "$or": [
                {"recall_count": {"$exists": False}},
                {"recall_count": {"$lt": 2**62, "$not": {"$type": "array"}}},
            ],
        },
    ),
    (
        p.touch_update,
        lambda: p.touch_update(3, NOW),
        {"$inc": {"recall_count": 3}, "$set": {"last_recalled_at": NOW}},
    ),
    (
        p.expired_filter,
        lambda: p.expired_filter(["a", "b"], NOW),
        {"_id": {"$in": ["a", "b"]}, "expires_at": {"$lte": NOW}},
    ),
    (
        p.any_embedded_filter,
        p.any_embedded_filter,
        EMBEDDED,
    ),
    (
        p.list_collection,
        lambda: p.list_collection("facts"),
        {
            "listCollections": 1,
            "filter": {"name": "facts"},
            "nameOnly": True,
            "authorizedCollections": True,
        },
    ),
    (
        p.other_vectors_filter,
        lambda: p.other_vectors_filter({"memory_id": "m"}, 3, NOW),
        {
            "$and": [
                p.scan_filter({"memory_id": "m"}, NOW),
                {
                    "$nor": [
                        {"embedding": {"$size": 3}},
                        {
                            "$expr": {
                                "$cond": [
                                    {"$eq": [{"$type": "$embedding"}, "binData"]},
                                    {"$eq": [{"$binarySize": "$embedding"}, 14]},
                                    False,
                                ]
                            }
                        },
                    ],
                },
            ]
        },
    ),
    (
        p.create_search_index,
        lambda: p.create_search_index("summaries", "vector_index", DEFINITION),
        {
            "createSearchIndexes": "summaries",
            "indexes": [{"name": "vector_index", "type": "vectorSearch", "definition": DEFINITION}],
        },
    ),
    (
        p.update_search_index,
        lambda: p.update_search_index("summaries", "vector_index", DEFINITION),
        {"updateSearchIndex": "summaries", "name": "vector_index", "definition": DEFINITION},
    ),
    (
        p.text_query,
        lambda: p.text_query('What did "Ada" say -\nwell-known?'),
        "What did Ada say well known?",
    ),
    (
        p.text_index_keys,
        p.text_index_keys,
        [("memory_id", 1), ("content", "text"), ("context", "text")],
    ),
    (
        p.text_search_pipeline,
        lambda: p.text_search_pipeline(
            words="red door", scope=SCOPE, limit=50, now=NOW, include_embedding=False
        ),
        [
            {
                "$match": {
                    "$and": [
                        {"$text": {"$search": "red door"}},
                        {"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]},
                        {"expires_at": {"$not": {"$lte": NOW}}},
                    ]
                }
            },
            {"$sort": {"_memorizz_score": {"$meta": "textScore"}, "_id": 1}},
            {"$limit": 50},
            {"$set": {"_memorizz_score": {"$meta": "textScore"}}},
            {"$unset": ["embedding", "embedding_next"]},
        ],
    ),
    (
        p.text_search_pipeline,
        lambda: p.text_search_pipeline(
            words="red",
            scope={"memory_id": "m"},
            limit=5,
            now=NOW,
            include_embedding=True,
            row_filter={"role": {"$eq": "user"}},
        ),
        [
            {
                "$match": {
                    "$and": [
                        {"$text": {"$search": "red"}},
                        {"memory_id": "m"},
                        {"role": {"$eq": "user"}},
                        {"expires_at": {"$not": {"$lte": NOW}}},
                    ]
                }
            },
            {"$sort": {"_memorizz_score": {"$meta": "textScore"}, "_id": 1}},
            {"$limit": 5},
            {"$set": {"_memorizz_score": {"$meta": "textScore"}}},
            {"$unset": "embedding_next"},
        ],
    ),
    (
        p.text_search_pipeline,
        lambda: p.text_search_pipeline(
            words="red",
            scope={"memory_id": "m"},
            limit=5,
            now=NOW,
            include_embedding=False,
            order_only=True,
        ),
        [
            {
                "$match": {
                    "$and": [
                        {"$text": {"$search": "red"}},
                        {"memory_id": "m"},
                        {"expires_at": {"$not": {"$lte": NOW}}},
                    ]
                }
            },
            {"$sort": {"_memorizz_score": {"$meta": "textScore"}, "_id": 1}},
            {"$limit": 5},
            {"$project": {"embedding_model": 1, "_memorizz_score": {"$meta": "textScore"}}},
        ],
    ),
    (
        p.memory_ids_pipeline,
        lambda: p.memory_ids_pipeline({"user_id": "u"}, 17),
        [
            {"$match": {"user_id": "u"}},
            {"$group": {"_id": {"$ifNull": ["$memory_id", None]}}},
            {"$limit": 17},
        ],
    ),
    (p.list_indexes, lambda: p.list_indexes("summaries"), {"listIndexes": "summaries"}),
    (
        p.index_scope,
        lambda: p.index_scope({"memory_id": "m", "user_id": "u"}),
        {"memory_id": "m", "user_id": "u"},
    ),
    (
        p.index_scope,
        lambda: p.index_scope({"memory_id": None}),
        {"$or": [{"memory_id": None}, {"memory_id": {"$exists": False}}]},
    ),
    (
        p.index_scope,
        lambda: p.index_scope(SCOPE),
        {
            "$and": [
                {"memory_id": "m"},
                {
                    "$or": [
                        {"user_id": "u"},
                        {"$or": [{"user_id": None}, {"user_id": {"$exists": False}}]},
                    ]
                },
            ]
        },
    ),
    (
        p.cached_vectors_filter,
        lambda: p.cached_vectors_filter([b"key"], NOW),
        {"_id": {"$in": [Binary(b"key")]}, "expires_at": {"$gt": NOW}},
    ),
    (p.vector_projection, p.vector_projection, {"vector": 1}),
    (
        p.cached_vector,
        lambda: p.cached_vector(b"key", np.array([1.0], np.float32), NOW),
        {"_id": Binary(b"key"), "vector": QUERY, "expires_at": NOW},
    ),
]


@pytest.mark.parametrize(
    ("made", "expected"),
    [(make, expected) for _, make, expected in SNAPSHOTS],
    ids=[f"{number}-{function.__name__}" for number, (function, _, _) in enumerate(SNAPSHOTS)],
)
def test_the_document_is_as_written_here(made: Callable[[], Any], expected: Any) -> None:
    """Equal, also in the order of its keys, which counts for commands; made anew each time."""
    document = made()
    assert document == expected
    if isinstance(document, dict | list):
        assert bson.encode({"": document}) == bson.encode({"": expected})
        again = made()
        assert again == document
        assert again is not document


def test_every_query_has_a_snapshot() -> None:
    """A new function in the module without a document here fails this test."""
    public = {
        function
        for name, function in inspect.getmembers(p, inspect.isfunction)
        if name in p.__all__
    }
    apart = {"editing", "models", "sessions"}  # which have tests of their own
    for module in pkgutil.iter_modules(p.__path__, f"{p.__name__}."):
        if module.name.rpartition(".")[2] not in apart:
            for name, function in inspect.getmembers(
                import_module(module.name), inspect.isfunction
            ):
                mine = function.__module__ == module.name and not name.startswith("_")
                assert not mine or function in public, f"{module.name}.{name} has no snapshot"
    assert public == {function for function, _, _ in SNAPSHOTS}


@pytest.mark.parametrize(
    ("limit", "candidates"),
    [(1, 100), (5, 100), (6, 120), (100, 2_000), (500, 10_000), (501, 10_000), (10_000, 10_000)],
)
def test_candidates_are_20_times_the_limit_within_the_bounds(limit: int, candidates: int) -> None:
    """The documented advice, and the documented maximum; never fewer than the limit."""
    stage = search(limit=limit)[0]["$vectorSearch"]
    assert stage["numCandidates"] == candidates
    assert stage["limit"] == limit
    assert search(num_candidates=777)[0]["$vectorSearch"]["numCandidates"] == 777


def test_the_tenant_is_inside_the_search_and_first_in_the_pipeline() -> None:
    """A filter after the search would leave a small tenant with nothing."""
    pipeline = search()
    assert next(iter(pipeline[0])) == "$vectorSearch"
    assert pipeline[0]["$vectorSearch"]["filter"] == SCOPE
    assert "exact" not in pipeline[0]["$vectorSearch"]


def test_a_search_of_every_tenant_has_no_filter() -> None:
    """An empty one is none; what is left says who may be found."""
    stage, still, *_ = search(scope={})
    assert "filter" not in stage["$vectorSearch"]
    assert still == {"$match": {"expires_at": {"$not": {"$lte": NOW}}}}


def test_what_goes_in_is_not_changed_or_shared() -> None:
    """Filters are copied: one caller's changes never reach another's query."""
    scope = {"memory_id": "m"}
    made = search(scope=scope)
    made[0]["$vectorSearch"]["filter"]["user_id"] = "other"
    p.all_of(scope)["user_id"] = "other"
    p.row_projection(False)["content"] = 0
    assert scope == {"memory_id": "m"}
    assert p.row_projection(False) == {"embedding": 0, "embedding_next": 0}


@given(st.text(max_size=400))
def test_a_users_text_has_no_operators(text: str) -> None:
    """No phrase and no negation is left, every word is, and blanks are single."""
    words = p.text_query(text)
    assert '"' not in words
    assert "-" not in words
    wanted = text.replace('"', " ").replace("-", " ").split()
    assert set(words.split()) <= set(wanted)
    if len(set(wanted)) <= 64:
        assert set(words.split()) == set(wanted)
    assert words == " ".join(words.split())


def test_a_long_text_asks_for_64_words() -> None:
    """The first 64 different ones: a pasted page does not walk through the whole index."""
    text = " ".join(f"word{number // 2}" for number in range(1000))
    assert p.text_query(text).split() == [f"word{number}" for number in range(64)]
