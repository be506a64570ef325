"""Every query of listing and editing, as plain documents: a change of any is seen here first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import bson
import pytest

from memorizz_async.errors import InvalidFilterError
from memorizz_async.memory_provider.mongodb.pipelines import editing as e

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCOPE = {"memory_id": "m", "user_id": None}
ALIVE = {"expires_at": {"$not": {"$lte": NOW}}}

SNAPSHOTS: list[tuple[Callable[..., Any], tuple[Any, ...], Any]] = [
    (e.equal_to, (None,), {}),
    (e.equal_to, ({},), {}),
    (e.equal_to, ({"a": 1, "b": None},), {"a": {"$eq": 1}, "b": {"$eq": None}}),
    (e.equal_to, ({"a": {"$gt": 1}},), {"a": {"$eq": {"$gt": 1}}}),
    (e.equal_to, ([{"a": 1}],), {"a": {"$eq": 1}}),
    (e.equal_to, ([{"a": 1}, {"b": 2}],), {"$or": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}]}),
    (e.equal_to, ([],), {"_id": {"$in": []}}),
    (e.history_index_keys, (), [("memory_id", 1), ("timestamp", 1), ("_id", 1)]),
    (e.times_projection, (), {"timestamp": 1, "created_at": 1}),
    (e.rows_filter, (SCOPE,), SCOPE),
    (e.rows_filter, ({},), {}),
    (e.rows_filter, (SCOPE, {"a": 1}), {"$and": [SCOPE, {"a": {"$eq": 1}}]}),
    (e.fields_update, ({"a": 1},), {"$set": {"a": 1}}),
    (e.fields_update, ({"a": 1}, ["b"]), {"$set": {"a": 1}, "$unset": {"b": ""}}),
    (
        e.upsert_update,
        ({"a": 1}, {"_id": "x"}),
        {"$set": {"a": 1}, "$setOnInsert": {"_id": "x"}},
    ),
    (e.expired_rows_filter, (SCOPE, NOW), {"$and": [SCOPE, {"expires_at": {"$lt": NOW}}]}),
    (
        e.uncounted_filter,
        (["x"], SCOPE),
        {
            "$and": [
                {"_id": {"$in": ["x"]}},
                SCOPE,
                {"access_count": {"$not": {"$type": "number"}}},
            ]
        },
    ),
    (
        e.access_update,
        ("2026-01-02",),
        {"$inc": {"access_count": 1}, "$set": {"last_accessed_at": "2026-01-02"}},
    ),
]


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    SNAPSHOTS,
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_query_is_what_it_was(
    function: Callable[..., Any], arguments: tuple[Any, ...], expected: Any
) -> None:
    """Word for word, and BSON takes it."""
    assert function(*arguments) == expected
    bson.encode({"": function(*arguments)})


def test_rows_by_id_and_alive() -> None:
    """One id is said as itself; all conditions hold together."""
    assert e.rows_filter({}, ids=["x"]) == {"_id": "x"}
    assert e.rows_filter(SCOPE, ids=["x", "y"], now=NOW) == {
        "$and": [{"_id": {"$in": ["x", "y"]}}, SCOPE, ALIVE]
    }
    assert e.rows_filter(SCOPE, ids=[]) == {"$and": [{"_id": {"$in": []}}, SCOPE]}


def test_every_query_has_a_snapshot() -> None:
    """A new function comes with its document."""
    public = {
        function
        for name, function in inspect.getmembers(e, inspect.isfunction)
        if not name.startswith("_") and function.__module__ == e.__name__
    }
    assert public == {function for function, _, _ in SNAPSHOTS}


@pytest.mark.parametrize("name", ["$where", "", "a\0b", 7, None])
def test_a_name_that_is_no_field_is_refused(name: Any) -> None:
    """An operator there would run on the server."""
    with pytest.raises(InvalidFilterError, match="no field"):
        e.equal_to({name: 1})
