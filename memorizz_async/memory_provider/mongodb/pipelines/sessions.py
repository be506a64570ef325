"""Turns of a conversation, in their session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from memorizz_async.memory_provider.mongodb.pipelines.rows import STAGED, alive, all_of
from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.memory_provider.mongodb.spoken import BESIDE_CONTENT, PARTS

LARGEST_TURN = 2.0**53
"""Up to here all whole numbers are told apart, also where another program wrote doubles."""
_NO_ARRAY: Document = {"$not": {"$type": "array"}}
"""A condition on an array holds where it holds for one of its elements."""
A_TURN: Document = {
    "session_id": {"$type": "string", **_NO_ARRAY},
    "turn": {"$type": "number", "$gt": -LARGEST_TURN, "$lt": LARGEST_TURN, **_NO_ARRAY},
}
"""Rows that are turns of a session, as `store_conversation_async` writes them."""

NOT_A_TURN: Document = {
    "$or": [
        {"session_id": {"$not": {"$type": "string"}}},
        {"session_id": {"$type": "array"}},
        {"turn": {"$not": {"$type": "number", "$gt": -LARGEST_TURN, "$lt": LARGEST_TURN}}},
        {"turn": {"$type": "array"}},
    ]
}

_READ: Document = dict.fromkeys(
    ("content", *BESIDE_CONTENT, "turn", "expires_at", "embedding_model", "embedded_turns"), 1
)
"""What the context and the embedded text of a turn are made of, and which model embedded it."""


def session_tail_pipeline(
    scope: Mapping[str, Any], session_id: str, limit: int, now: datetime
) -> list[Document]:
    """The last turns of a session of exactly this tenant, the latest first.

    Infinity is no turn, and NaN is less than none: they would stand in the place of others.
    """
    return [
        {"$match": all_of(scope, {**A_TURN, "session_id": session_id})},
        {"$match": alive(now)},
        {"$sort": {"turn": -1, "_id": -1}},
        {"$limit": limit},
        {"$project": dict(_READ)},
    ]


def turns_around_pipelines(
    scope: Mapping[str, Any], session_id: str, first: Any, last: Any, *, limit: int, now: datetime
) -> list[list[Document]]:
    """Three: the turns of a session from one number to another, expired ones too; the last ones
    before those; and the first ones after them.
    """
    session = {**scope, "session_id": session_id}
    kind, read = A_TURN["turn"], {"$project": dict(_READ)}

    def outside(bound: Document, order: int) -> list[Document]:
        return [
            {"$match": all_of(session, {"turn": {**kind, **bound}}, alive(now))},
            {"$sort": {"turn": order, "_id": order}},
            {"$limit": limit},
            read,
        ]

    return [
        [{"$match": {**session, "turn": {"$gte": first, "$lte": last, **_NO_ARRAY}}}, read],
        outside({"$lt": first}, -1),
        outside({"$gt": last}, 1),
    ]


def turn_sessions_pipeline(
    query: Mapping[str, Any], limit: int, after: Mapping[str, Any] | None = None
) -> list[Document]:
    """The sessions that have turns among the rows of a query, in order, after one of them."""
    session: Document = {
        "memory_id": {"$ifNull": ["$memory_id", None]},
        "user_id": {"$ifNull": ["$user_id", None]},
        "session_id": "$session_id",
    }
    return [
        {"$match": all_of(query, A_TURN)},
        {"$group": {"_id": session}},
        *([{"$match": {"_id": {"$gt": dict(after)}}}] if after else []),
        {"$sort": {"_id": 1}},
        {"$limit": limit},
    ]


def turns_filter(query: Mapping[str, Any], scope: Mapping[str, Any], session_id: str) -> Document:
    """The turns of one session among the rows of a query."""
    return all_of(query, scope, {**A_TURN, "session_id": session_id})


def told_beside_filter() -> Document:
    """Rows whose content is the text of other fields of a message, such as its tool calls."""
    return {PARTS: {"$eq": None, "$exists": True}}


def turn_projection() -> Document:
    """Which turn of which session a row is."""
    return {"memory_id": 1, "user_id": 1, "session_id": 1, "turn": 1}


def identity_projection() -> Document:
    """What says whose row it is, and by which `dedup_key` it was written."""
    return dict.fromkeys(("memory_id", "user_id", "dedup_key", "expires_at"), 1)


def session_index_keys() -> list[tuple[str, int | str]]:
    """What finds the last turns of a session."""
    return [("memory_id", 1), ("session_id", 1), ("turn", -1)]


def context_update(context: str, at: datetime) -> Document:
    """What a turn's neighbours change on its row."""
    return {"$set": {"context": context, "updated_at": at}}


def vector_update(
    embedding: Any, model: str | None, turns_before: int | None
) -> tuple[Document, list[str]]:
    """A turn's new vector: the fields to set, and those to remove. Without one, all go."""
    if embedding is None:
        return {}, ["embedding", "embedding_model", "embedded_turns", STAGED]
    fields = {
        "embedding": embedding, "embedding_model": model, "embedded_turns": turns_before,
    }  # fmt: skip
    return fields, [STAGED]


# -- the locks of sessions ----------------------------------------------------------------------


def new_lock(key: str, owner: str, until: datetime) -> Document:
    """A lock that nobody else holds. next: the first number that is not given yet, if noted."""
    return {"_id": key, "owner": owner, "until": until, "next": None}


def free_lock_filter(key: str, now: datetime) -> Document:
    """A lock whose holder has gone silent."""
    return {"_id": key, "until": {"$lte": now}}


def take_lock(owner: str, until: datetime) -> Document:
    """Take a lock over; what is noted in it stays."""
    return {"$set": {"owner": owner, "until": until}}


def own_locks_filter(keys: Sequence[str], owner: str) -> Document:
    """Locks, if this owner still holds them."""
    return {"_id": {"$in": list(keys)}, "owner": owner}


def renew_locks(until: datetime, next_number: int | None = None) -> Document:
    """Extend locks, and note the first number that is not given yet."""
    return {"$set": {"until": until, **({} if next_number is None else {"next": next_number})}}
