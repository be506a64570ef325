"""What is asked about turns of conversations and their locks, as plain documents."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import Binary

from memorizz_async.memory_provider.mongodb.pipelines import sessions as q

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OWNER = {"memory_id": "m", "user_id": None}
NO_ARRAY = {"$not": {"$type": "array"}}
NUMBER = {"$type": "number", "$gt": -(2.0**53), "$lt": 2.0**53, **NO_ARRAY}
ALIVE = {"expires_at": {"$not": {"$lte": NOW}}}
READ = {
    "$project": {
        "content": 1,
        "tool_calls": 1,
        "function_call": 1,
        "refusal": 1,
        "audio": 1,
        "turn": 1,
        "expires_at": 1,
        "embedding_model": 1,
        "embedded_turns": 1,
    }
}
SESSION = {**OWNER, "session_id": "s"}
GROUPED = {
    "$group": {
        "_id": {
            "memory_id": {"$ifNull": ["$memory_id", None]},
            "user_id": {"$ifNull": ["$user_id", None]},
            "session_id": "$session_id",
        }
    }
}
A_TURN = {"session_id": {"$type": "string", **NO_ARRAY}, "turn": NUMBER}

SNAPSHOTS: list[tuple[Callable[..., Any], Callable[[], Any], Any]] = [
    (
        q.session_tail_pipeline,
        lambda: q.session_tail_pipeline(OWNER, "s", 4, NOW),
        [
            {"$match": {"$and": [OWNER, {"session_id": "s", "turn": NUMBER}]}},
            {"$match": ALIVE},
            {"$sort": {"turn": -1, "_id": -1}},
            {"$limit": 4},
            READ,
        ],
    ),
    (
        q.turns_around_pipelines,
        lambda: q.turns_around_pipelines(OWNER, "s", 5, 7, limit=4, now=NOW),
        [
            [{"$match": {**SESSION, "turn": {"$gte": 5, "$lte": 7, **NO_ARRAY}}}, READ],
            [
                {"$match": {"$and": [SESSION, {"turn": {**NUMBER, "$lt": 5}}, ALIVE]}},
                {"$sort": {"turn": -1, "_id": -1}},
                {"$limit": 4},
                READ,
            ],
            [
                {"$match": {"$and": [SESSION, {"turn": {**NUMBER, "$gt": 7}}, ALIVE]}},
                {"$sort": {"turn": 1, "_id": 1}},
                {"$limit": 4},
                READ,
            ],
        ],
    ),
    (
        q.turn_sessions_pipeline,
        lambda: q.turn_sessions_pipeline({"x": 1}, 10),
        [
            {"$match": {"$and": [{"x": 1}, A_TURN]}},
            GROUPED,
            {"$sort": {"_id": 1}},
            {"$limit": 10},
        ],
    ),
    (
        q.turn_sessions_pipeline,
        lambda: q.turn_sessions_pipeline({"x": 1}, 10, SESSION),
        [
            {"$match": {"$and": [{"x": 1}, A_TURN]}},
            GROUPED,
            {"$match": {"_id": {"$gt": SESSION}}},
            {"$sort": {"_id": 1}},
            {"$limit": 10},
        ],
    ),
    (
        q.turns_filter,
        lambda: q.turns_filter({"x": 1}, OWNER, "s"),
        {"$and": [{"x": 1}, OWNER, {"session_id": "s", "turn": NUMBER}]},
    ),
    (
        q.told_beside_filter,
        q.told_beside_filter,
        {"content_parts": {"$eq": None, "$exists": True}},
    ),
    (
        q.turn_projection,
        q.turn_projection,
        {"memory_id": 1, "user_id": 1, "session_id": 1, "turn": 1},
    ),
    (
        q.identity_projection,
        q.identity_projection,
        {"memory_id": 1, "user_id": 1, "dedup_key": 1, "expires_at": 1},
    ),
    (
        q.session_index_keys,
        q.session_index_keys,
        [("memory_id", 1), ("session_id", 1), ("turn", -1)],
    ),
    (
        q.context_update,
        lambda: q.context_update("a\nb", NOW),
        {"$set": {"context": "a\nb", "updated_at": NOW}},
    ),
    (
        q.vector_update,
        lambda: q.vector_update(Binary(b"v", 9), "m", 2),
        (
            {"embedding": Binary(b"v", 9), "embedding_model": "m", "embedded_turns": 2},
            ["embedding_next"],
        ),
    ),
    (
        q.vector_update,
        lambda: q.vector_update(None, None, None),
        ({}, ["embedding", "embedding_model", "embedded_turns", "embedding_next"]),
    ),
    (
        q.new_lock,
        lambda: q.new_lock("k", "me", NOW),
        {"_id": "k", "owner": "me", "until": NOW, "next": None},
    ),
    (
        q.free_lock_filter,
        lambda: q.free_lock_filter("k", NOW),
        {"_id": "k", "until": {"$lte": NOW}},
    ),
    (q.take_lock, lambda: q.take_lock("me", NOW), {"$set": {"owner": "me", "until": NOW}}),
    (
        q.own_locks_filter,
        lambda: q.own_locks_filter(["k"], "me"),
        {"_id": {"$in": ["k"]}, "owner": "me"},
    ),
    (q.renew_locks, lambda: q.renew_locks(NOW), {"$set": {"until": NOW}}),
    (q.renew_locks, lambda: q.renew_locks(NOW, 7), {"$set": {"until": NOW, "next": 7}}),
]


@pytest.mark.parametrize(
    ("made", "expected"),
    [(make, expected) for _, make, expected in SNAPSHOTS],
    ids=[f"{number}-{function.__name__}" for number, (function, _, _) in enumerate(SNAPSHOTS)],
)
def test_the_document_is_as_written_here(made: Callable[[], Any], expected: Any) -> None:
    """Equal, also in the order of its keys; made anew each time."""
    document = made()
    assert document == expected
    if isinstance(document, dict):
        assert bson.encode(document) == bson.encode(expected)
    assert made() is not document


def test_every_query_has_a_snapshot() -> None:
    """A new function in the module without a document here fails this test."""
    public = {
        function
        for name, function in inspect.getmembers(q, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == q.__name__
    }
    assert public == {function for function, _, _ in SNAPSHOTS}
