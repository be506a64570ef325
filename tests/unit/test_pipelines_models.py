"""What is asked about the models of collections and their rows, as plain documents."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import Binary, Timestamp

from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState, state_of
from memorizz_async.memory_provider.mongodb.pipelines import models as q

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VECTOR = Binary(b"\x27\x00\x00\x00\x80\x3f", 9)
EMBEDDED = {
    "$or": [{"embedding": {"$exists": True, "$ne": None}}, {"embedding": {"$type": "array"}}]
}
ANOTHER = {"$and": [EMBEDDED, {"embedding_model": {"$ne": "m"}}]}
HOLDS = {"$expr": {"$eq": ["$content", "$embedding_next.text"]}}
HAS_TEXT = [{"content": {"$regex": r"\S"}}, {"content": {"$type": "array"}}]
TO_EMBED = [
    ANOTHER,
    {"$or": HAS_TEXT},
    {
        "$or": [
            {"embedding_next.model": {"$ne": "m"}},
            {"$expr": {"$ne": ["$content", "$embedding_next.text"]}},
        ]
    },
]

SNAPSHOTS: list[tuple[Callable[..., Any], Callable[[], Any], Any]] = [
    (q.states_filter, lambda: q.states_filter(["b", "a"]), {"_id": {"$in": ["a", "b"]}}),
    (q.one_state, lambda: q.one_state("a"), {"_id": "a"}),
    (
        q.first_state,
        lambda: q.first_state("m", 3, NOW),
        {
            "$setOnInsert": {
                "model": "m",
                "dimensions": 3,
                "phase": "active",
                "target": None,
                "lease": None,
                "lease_token": 0,
                "switched_at": None,
                "changed_at": NOW,
            }
        },
    ),
    (
        q.as_it_was,
        lambda: q.as_it_was(ModelState("a", None, 3)),
        {"_id": "a", "model": None, "dimensions": 3, "phase": "active", "lease": None},
    ),
    (
        q.other_model,
        lambda: q.other_model("m", 3, NOW),
        {"$set": {"model": "m", "dimensions": 3, "changed_at": NOW}},
    ),
    (q.model_projection, q.model_projection, {"embedding": 1, "embedding_model": 1}),
    (
        q.free_lease,
        lambda: q.free_lease("a", NOW),
        {"_id": "a", "$or": [{"lease": None}, {"lease.expires_at": {"$lte": NOW}}]},
    ),
    (
        q.take_lease,
        lambda: q.take_lease("me", NOW),
        {
            "$set": {"lease": {"owner": "me", "expires_at": NOW}},
            "$inc": {"lease_token": 1},
        },
    ),
    (q.held_lease, lambda: q.held_lease("a", 7), {"_id": "a", "lease_token": 7}),
    (q.renew_lease, lambda: q.renew_lease(NOW), {"$set": {"lease.expires_at": NOW}}),
    (q.release_lease, q.release_lease, {"$set": {"lease": None}}),
    (
        q.begin_migrating,
        lambda: q.begin_migrating("m", 3, NOW),
        {
            "$set": {
                "phase": "migrating",
                "target": {"model": "m", "dimensions": 3},
                "changed_at": NOW,
            }
        },
    ),
    (
        q.begin_switching,
        lambda: q.begin_switching(NOW),
        {"$set": {"phase": "switching", "changed_at": NOW}},
    ),
    (
        q.end_switching,
        lambda: q.end_switching("m", 3, Timestamp(5, 1), NOW),
        {
            "$set": {
                "model": "m",
                "dimensions": 3,
                "phase": "active",
                "target": None,
                "switched_at": Timestamp(5, 1),
                "changed_at": NOW,
            }
        },
    ),
    (q.of_model, lambda: q.of_model("m"), {"embedding_model": "m"}),
    (q.not_of_model, lambda: q.not_of_model("m"), {"embedding_model": {"$ne": "m"}}),
    (
        q.comparable_with,
        lambda: q.comparable_with("m"),
        {"embedding_model": {"$in": ["m", None]}},
    ),
    (
        q.not_comparable_with,
        lambda: q.not_comparable_with("m"),
        {"embedding_model": {"$nin": ["m", None]}},
    ),
    (q.model_alone_projection, q.model_alone_projection, {"embedding_model": 1}),
    (q.with_vector_of_another, lambda: q.with_vector_of_another("m"), ANOTHER),
    (q.to_embed_filter, lambda: q.to_embed_filter("m"), {"$and": TO_EMBED}),
    (
        q.to_embed_filter,
        lambda: q.to_embed_filter("m", [1]),
        {"$and": [*TO_EMBED, {"_id": {"$nin": [1]}}]},
    ),
    (
        q.without_text_filter,
        lambda: q.without_text_filter("m"),
        {"$and": [ANOTHER, {"$nor": HAS_TEXT}]},
    ),
    (
        q.to_embed_projection,
        q.to_embed_projection,
        {
            "content": 1,
            "tool_calls": 1,
            "function_call": 1,
            "refusal": 1,
            "audio": 1,
            "context": 1,
            "memory_id": 1,
            "user_id": 1,
            "session_id": 1,
            "turn": 1,
            "expires_at": 1,
            "embedding_model": 1,
        },
    ),
    (
        q.count_pipeline,
        lambda: q.count_pipeline({"a": 1}),
        [{"$match": {"a": 1}}, {"$count": "rows"}],
    ),
    (
        q.stage_filter,
        lambda: q.stage_filter(1, "text", "m"),
        {"_id": 1, "content": "text", "embedding_model": {"$ne": "m"}},
    ),
    (
        q.stage_filter,
        lambda: q.stage_filter(1, "text", "m", {"context": "before"}),
        {"_id": 1, "content": "text", "context": "before", "embedding_model": {"$ne": "m"}},
    ),
    (
        q.stage_update,
        lambda: q.stage_update("m", VECTOR, "text"),
        {"$set": {"embedding_next": {"model": "m", "embedding": VECTOR, "text": "text"}}},
    ),
    (
        q.staged_filter,
        lambda: q.staged_filter("m"),
        {"$and": [{"embedding_next.model": "m"}, HOLDS]},
    ),
    (
        q.staged_filter,
        lambda: q.staged_filter("m", [1]),
        {"$and": [{"_id": {"$in": [1]}}, {"embedding_next.model": "m"}, HOLDS]},
    ),
    (
        q.flip_update,
        q.flip_update,
        [
            {
                "$set": {
                    "embedding": "$embedding_next.embedding",
                    "embedding_model": "$embedding_next.model",
                }
            },
            {"$unset": "embedding_next"},
        ],
    ),
    (
        q.flip_one,
        lambda: q.flip_one({"embedding": VECTOR, "model": "m", "text": "text"}),
        {
            "$set": {"embedding": VECTOR, "embedding_model": "m"},
            "$unset": {"embedding_next": ""},
        },
    ),
    (q.any_staged_filter, q.any_staged_filter, {"embedding_next": {"$exists": True}}),
    (q.unstage_update, q.unstage_update, {"$unset": {"embedding_next": ""}}),
    (
        q.drop_vector_update,
        q.drop_vector_update,
        {"$unset": {"embedding": "", "embedding_model": "", "embedding_next": ""}},
    ),
]


@pytest.mark.parametrize(
    ("made", "expected"),
    [(make, expected) for _, make, expected in SNAPSHOTS],
    ids=[f"{number}-{function.__name__}" for number, (function, _, _) in enumerate(SNAPSHOTS)],
)
def test_the_document_is_as_written_here(made: Callable[[], Any], expected: Any) -> None:
    """Equal, also in the order of its keys; made anew each time."""
    document = made()
    assert bson.encode({"": document}) == bson.encode({"": expected})
    assert made() is not document


def test_every_query_has_a_snapshot() -> None:
    """A new function in the module without a document here fails this test."""
    public = {
        function
        for name, function in inspect.getmembers(q, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == q.__name__
    }
    assert public == {function for function, _, _ in SNAPSHOTS}


def test_a_state_is_read_as_it_was_written() -> None:
    """What the first write makes of a collection is what a reader understands."""
    document = {"_id": "a", **q.first_state("m", 3, NOW)["$setOnInsert"]}
    assert state_of(document) == ModelState("a", "m", 3)
    document |= q.begin_migrating("n", 4, NOW)["$set"] | q.take_lease("me", NOW)["$set"]
    migrating = state_of(document)
    assert (migrating.written_model, migrating.written_dimensions) == ("m", 3)
    assert (migrating.lease_owner, migrating.lease_until) == ("me", NOW)
    switching = state_of(document | q.begin_switching(NOW)["$set"])
    assert (switching.written_model, switching.written_dimensions) == ("n", 4)
