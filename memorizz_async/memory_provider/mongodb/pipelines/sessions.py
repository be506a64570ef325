"""Turns of a conversation, in their session."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memorizz_async.memory_provider.mongodb.pipelines.rows import alive, all_of
from memorizz_async.memory_provider.mongodb.protocol import Document

LARGEST_TURN = 2**53
"""Up to here all whole numbers are told apart, also where another program wrote doubles."""


def session_tail_pipeline(
    scope: Mapping[str, Any], session_id: str, limit: int, now: datetime
) -> list[Document]:
    """The last turns of a session of exactly this tenant, the latest first.

    Infinity is no turn, and NaN is less than none: they would stand in the place of others.
    """
    numbered = {"$gte": -LARGEST_TURN, "$lte": LARGEST_TURN, "$not": {"$type": "array"}}
    return [
        {"$match": all_of(scope, {"session_id": session_id, "turn": numbered})},
        {"$match": alive(now)},
        {"$sort": {"turn": -1, "_id": -1}},
        {"$limit": limit},
        {"$project": {"content": 1, "turn": 1}},
    ]


def session_index_keys() -> list[tuple[str, int | str]]:
    """What finds the last turns of a session."""
    return [("memory_id", 1), ("session_id", 1), ("turn", -1)]


def context_update(context: str, at: datetime) -> Document:
    """What a turn's later neighbours change on its row."""
    return {"$set": {"context": context, "updated_at": at}}
