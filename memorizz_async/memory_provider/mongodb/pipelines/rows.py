"""What rows a query means, and what of them it brings: the parts that other queries are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Binary

from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.vectors import Vector, to_bson

STAGED = "embedding_next"
"""A vector of another model, beside the one that answers, while rows are being embedded again; no
caller sees it."""


_MOST_RECALLS = 2**62
_A_LIST: Document = {"$type": "array"}

_WITHOUT_EMBEDDING: Document = {"embedding": 0, STAGED: 0}


def alive(now: datetime) -> Document:
    """Rows that have not expired. The TTL monitor deletes late, so every read asks too.

    As to that monitor, an `expires_at` that is no date is no end.
    """
    return {"expires_at": {"$not": {"$lte": now}}}


def all_of(*conditions: Mapping[str, Any]) -> Document:
    """The conjunction of filters; an empty one does not count."""
    present = [dict(condition) for condition in conditions if condition]
    if not present:
        return {}
    return present[0] if len(present) == 1 else {"$and": present}


def rows_by_id_filter(ids: Sequence[Any], scope: Mapping[str, Any], now: datetime) -> Document:
    """Rows by id, still inside the scope: a row that moved to another tenant does not come back."""
    return all_of({"_id": {"$in": list(ids)}}, scope, alive(now))


def row_projection(include_embedding: bool) -> Document:
    """All fields of a row, the vector only where asked for."""
    return {STAGED: 0} if include_embedding else dict(_WITHOUT_EMBEDDING)


def id_projection() -> Document:
    """Nothing of a row but its `_id`."""
    return {"_id": 1}


def expired_filter(ids: Sequence[Any], now: datetime) -> Document:
    """Rows by id whose time is over."""
    return {"_id": {"$in": list(ids)}, "expires_at": {"$lte": now}}


def any_embedded_filter() -> Document:
    """Rows of a collection that have a vector, whoever's: to learn its dimension, nothing else."""
    # A list with a null in it is none to `$ne`; a search has to name such a row.
    return {"$or": [{"embedding": {"$exists": True, "$ne": None}}, {"embedding": _A_LIST}]}


def touch_filter(ids: Sequence[Any]) -> Document:
    """Rows that a recall returned, but those whose `recall_count` nothing can be added to: one of
    them would fail the update of all.
    """
    number = {"$lt": _MOST_RECALLS, "$not": _A_LIST}
    uncounted = {"recall_count": {"$exists": False}}
    return {"_id": {"$in": list(ids)}, "$or": [uncounted, {"recall_count": number}]}


def touch_update(count: int, at: datetime) -> Document:
    """What being recalled `count` times, last at `at`, changes on a row."""
    return {"$inc": {"recall_count": count}, "$set": {"last_recalled_at": at}}


def cached_vectors_filter(keys: Sequence[bytes], now: datetime) -> Document:
    """Vectors of the second tier of the embedding cache, by key; those that have not expired."""
    return {"_id": {"$in": [Binary(key) for key in keys]}, "expires_at": {"$gt": now}}


def vector_projection() -> Document:
    """A vector of the embedding cache and its key."""
    return {"vector": 1}


def cached_vector(key: bytes, vector: Vector, until: datetime) -> Document:
    """A row of the embedding cache."""
    return {"_id": Binary(key), "vector": to_bson(vector), "expires_at": until}
