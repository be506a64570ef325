"""Listing rows, and changing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import DBRef

from memorizz_async.errors import InvalidFilterError
from memorizz_async.memory_provider.mongodb.fields import check_path
from memorizz_async.memory_provider.mongodb.filters import TIME_FIELDS
from memorizz_async.memory_provider.mongodb.pipelines import alive, all_of
from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.memory_provider.mongodb.values import (
    DEFAULT_CODEC,
    Codec,
    stored_values,
)
from memorizz_async.validation import iso_moment

Where = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
"""Fields and the values that they must equal; of several such mappings any one. None is no
condition. A value of None is a field that is null or missing."""

BY_TIME = (("timestamp", -1), ("_id", -1))
BY_CREATION = (("created_at", -1), ("_id", -1))

TEXT_TIMES: Document = {"timestamp": {"$type": "string"}}
DATE_TIMES: Document = {"timestamp": {"$type": "date"}}
NUMBER_TIMES: Document = {"timestamp": {"$type": "number"}}
NO_TIMES: Document = {"timestamp": None}
"""The kinds of time, each ordered by itself: MongoDB puts every date behind every text. Each is a
range of the index below."""
OTHER_TIMES: Document = {
    "$or": [
        {"timestamp": {"$in": [float("nan"), float("-inf"), []]}},
        {"timestamp": {"$gte": "", "$lt": "0"}},
        *(
            {"timestamp": {"$type": kind}}
            for kind in (
                "object", "binData", "objectId", "bool", "regex", "javascript",
                "javascriptWithScope", "timestamp", "minKey", "maxKey",
            )
        ),
    ]
}  # fmt: skip
"""What is none of those, or the lowest of its kind; an array is of every kind that its elements
are."""


def history_index_keys() -> list[tuple[str, int | str]]:
    """What finds the last rows of a memory."""
    return [("memory_id", 1), ("timestamp", 1), ("_id", 1)]


def times_projection() -> Document:
    """What says when a row was."""
    return {"timestamp": 1, "created_at": 1}


def equal_to(where: Where, codec: Codec = DEFAULT_CODEC) -> Document:
    """Rows whose fields equal these values. Values are never operators, whatever they look like.

    ISO text for a field that holds dates is the moment that it names, or the text itself.

    Raises InvalidFilterError for a name that is no field, InvalidInputError for a value that is
    none of MongoDB's.
    """
    if where is None:
        return {}
    if isinstance(where, Mapping):
        for name in where:
            check_path(name, InvalidFilterError)
        values = stored_values(where, codec, dots=True)
        return {name: _equal(name, value) for name, value in values.items()}
    alternatives = [equal_to(one, codec) for one in where]
    if not alternatives:
        return {"_id": {"$in": []}}  # any of none: no row
    return alternatives[0] if len(alternatives) == 1 else {"$or": alternatives}


def _equal(name: str, value: Any) -> Document:
    moment = iso_moment(value) if name in TIME_FIELDS and isinstance(value, str) else None
    return {"$eq": value} if moment is None else {"$in": [value, moment]}


def rows_filter(
    scope: Mapping[str, Any],
    where: Where = None,
    *,
    ids: Sequence[Any] | None = None,
    now: datetime | None = None,
    codec: Codec = DEFAULT_CODEC,
) -> Document:
    """Rows of a scope, of those ids, that equal `where`; with `now`, that have not expired."""
    return all_of(
        {} if ids is None else _among(ids),
        scope,
        equal_to(where, codec),
        {} if now is None else alive(now),
    )


def _among(ids: Sequence[Any]) -> Document:
    """One id is said as itself: what is inserted because it is missing then gets it."""
    if len(ids) == 1:
        # A document as an id must not be taken for an operator.
        return {"_id": {"$eq": ids[0]} if isinstance(ids[0], Mapping | DBRef) else ids[0]}
    return {"_id": {"$in": list(ids)}}


def fields_update(fields: Mapping[str, Any], removed: Sequence[str] = ()) -> Document:
    """Set fields, and take some off."""
    update: Document = {"$set": dict(fields)}
    if removed:
        update["$unset"] = dict.fromkeys(removed, "")
    return update


def upsert_update(
    fields: Mapping[str, Any], where_new: Mapping[str, Any], removed: Sequence[str] = ()
) -> Document:
    """Set fields, and take some off; on a row that comes to be by this, also set `where_new`, its
    `_id` among them.
    """
    update: Document = {"$set": dict(fields), "$setOnInsert": dict(where_new)}
    off = dict.fromkeys((name for name in removed if name not in {*fields, *where_new}), "")
    return {**update, "$unset": off} if off else update


def expired_rows_filter(scope: Mapping[str, Any], before: datetime) -> Document:
    """Rows of a scope whose time was over by then."""
    return all_of(scope, {"expires_at": {"$lt": before}})


def uncounted_filter(ids: Sequence[Any], scope: Mapping[str, Any]) -> Document:
    """Rows whose `access_count` is no number, which nothing can be added to."""
    return all_of(
        {"_id": {"$in": list(ids)}}, scope, {"access_count": {"$not": {"$type": "number"}}}
    )


def access_update(at: str) -> Document:
    """What being used once, at that time, changes on a row, in memorizz's words."""
    return {"$inc": {"access_count": 1}, "$set": {"last_accessed_at": at}}
