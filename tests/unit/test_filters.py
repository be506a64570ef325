"""The caller's filter: what is taken, what is refused before anything is sent, what is sent."""

from __future__ import annotations

import enum
import math
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from bson import Binary, Decimal128, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async import InvalidFilterError, InvalidInputError, MemoryType, MongoDBConfig
from memorizz_async.memory_provider.mongodb import filters as f
from memorizz_async.memory_provider.mongodb.arguments import stored_uuid
from memorizz_async.memory_provider.mongodb.codec import codec_options

FIELDS = (*f.DEFAULT_FIELDS, "metadata.topic")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
AN_ID = ObjectId("0123456789abcdef01234567")
A_UUID = uuid.UUID(int=7)


class Role(enum.StrEnum):
    USER = "user"


def parsed(given: Any) -> f.Condition:
    return f.parse_filter(given, FIELDS)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, {}),
        ({}, {}),
        ({"role": "user"}, {"role": {"$eq": "user"}}),
        ({"role": Role.USER}, {"role": {"$eq": "user"}}),
        ({"role": {"$ne": "user"}}, {"role": {"$ne": "user"}}),
        (
            {"importance": {"$gt": 0.5, "$lte": 1}},
            {"$and": [{"importance": {"$gt": 0.5}}, {"importance": {"$lte": 1}}]},
        ),
        (
            {"role": "user", "session_id": "s"},
            {"$and": [{"role": {"$eq": "user"}}, {"session_id": {"$eq": "s"}}]},
        ),
        ({"role": {"$in": ["a", "b"]}}, {"role": {"$in": ["a", "b"]}}),
        ({"role": {"$nin": ("a",)}}, {"role": {"$nin": ["a"]}}),
        ({"created_at": {"$gte": NOW}}, {"created_at": {"$gte": NOW}}),
        ({"agent_id": AN_ID}, {"agent_id": {"$eq": AN_ID}}),
        ({"agent_id": A_UUID}, {"agent_id": {"$eq": Binary.from_uuid(A_UUID)}}),
        ({"agent_id": Binary.from_uuid(A_UUID)}, {"agent_id": {"$eq": Binary.from_uuid(A_UUID)}}),
        ({"importance": np.float64(0.5)}, {"importance": {"$eq": 0.5}}),
        ({"importance": True}, {"importance": {"$eq": True}}),
        ({"metadata.topic": "tea"}, {"metadata.topic": {"$eq": "tea"}}),
        ({"_id": str(AN_ID)}, {"_id": {"$eq": AN_ID}}),
        (
            {"_id": {"$in": [str(AN_ID), "own"]}},
            {"$or": [{"_id": {"$in": [AN_ID]}}, {"_id": {"$in": ["own"]}}]},
        ),
        (
            {"_id": {"$nin": [str(AN_ID), "own"]}},
            {"$and": [{"_id": {"$nin": [AN_ID]}}, {"_id": {"$nin": ["own"]}}]},
        ),
        ({"$and": [{"role": "a"}, {}]}, {"role": {"$eq": "a"}}),
        (
            {"$or": [{"role": "a"}, {"$or": [{"role": "b"}]}]},
            {"$or": [{"role": {"$eq": "a"}}, {"role": {"$eq": "b"}}]},
        ),
        ({"$or": [{"role": "a"}, {"role": {"$in": []}}]}, {"role": {"$eq": "a"}}),
        ({"$or": [{"role": "a"}, {"role": {"$nin": []}}]}, {}),
        ({"role": {"$nin": []}}, {}),
    ],
    ids=repr,
)
def test_what_is_taken_and_what_is_sent(given: Any, sent: Any) -> None:
    """The short form is spelled out, subclasses become what they stand for, and both agree."""
    condition = parsed(given)
    assert f.for_vector_search(condition) == sent
    assert f.for_find(condition) == sent


@pytest.mark.parametrize("text", ["2026-01-02", "2026-01-02T00:00:00Z", "2026-01-02T02:00+02:00"])
def test_iso_text_on_a_field_of_dates_is_the_moment_that_it_names(text: str) -> None:
    """Beside the text itself: rows of memorizz hold such times as text."""
    for field in ("created_at", "timestamp"):
        assert f.for_find(parsed({field: {"$gte": text}})) == {
            "$or": [{field: {"$gte": text}}, {field: {"$gte": NOW}}]
        }
    assert f.for_find(parsed({"created_at": {"$ne": text}})) == {
        "$and": [{"created_at": {"$ne": text}}, {"created_at": {"$ne": NOW}}]
    }
    assert f.for_find(parsed({"created_at": {"$in": [text, NOW]}})) == {
        "$or": [{"created_at": {"$in": [text]}}, {"created_at": {"$in": [NOW, NOW]}}]
    }


def test_other_text_is_no_date() -> None:
    """A field of ours that holds dates says so; a `timestamp` may be any text."""
    with pytest.raises(InvalidFilterError, match="needs a date"):
        parsed({"created_at": "yesterday"})
    assert f.for_find(parsed({"timestamp": "turn 1"})) == {"timestamp": {"$eq": "turn 1"}}
    edge = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    with pytest.raises(InvalidFilterError, match="out of range"):
        parsed({"created_at": {"$gt": edge}})


def test_a_uuid_is_asked_for_as_it_is_stored() -> None:
    """As the `uuidRepresentation` of the address has it."""
    address = "mongodb://h/?retryWrites=true&uuidRepresentation=pythonLegacy"
    codec = codec_options(MongoDBConfig(address))
    condition = f.parse_filter({"agent_id": A_UUID}, FIELDS, lambda one: stored_uuid(one, codec))
    assert f.for_find(condition) == {"agent_id": {"$eq": Binary(A_UUID.bytes, 3)}}


def test_null_is_a_stored_null_for_find_too() -> None:
    """`find` would take a missing field for null: the exact strategies say what they mean."""
    assert f.for_vector_search(parsed({"role": None})) == {"role": {"$eq": None}}
    assert f.for_find(parsed({"role": None})) == {"role": {"$type": "null"}}
    assert f.for_find(parsed({"role": {"$ne": None}})) == {"$nor": [{"role": {"$type": "null"}}]}


@pytest.mark.parametrize(
    "given",
    [
        {"role": {"$in": []}},
        {"role": "a", "session_id": {"$in": []}},
        {"$and": [{"role": "a"}, {"$or": [{"role": {"$in": []}}]}]},
    ],
)
def test_what_no_row_can_match_is_known_without_asking(given: Any) -> None:
    """An empty `$in`, wherever it decides."""
    assert parsed(given) == f.NO_ROW


@pytest.mark.parametrize(
    "given",
    [
        "role",
        [("role", "a")],
        {"content": "a"},
        {"embedding": 1},
        {"metadata": "a"},
        {"metadata.other": "a"},
        {"role.deeper": "a"},
        {1: "a"},
        {"$where": "1"},
        {"$nor": [{"role": "a"}]},
        {"$text": {"$search": "a"}},
        {"$expr": {}},
        {"role": {"$regex": "a"}},
        {"role": {"$exists": True}},
        {"role": {"$not": {"$eq": "a"}}},
        {"role": {"$elemMatch": {}}},
        {"role": {"eq": "a"}},
        {"role": {}},
        {"role": {"$eq": "a", "b": 1}},
        {"role": ["a", "b"]},
        {"role": {"$eq": ["a"]}},
        {"role": {"$eq": {"a": 1}}},
        {"role": b"a"},
        {"role": Binary(b"0123456789abcdef", 5)},
        {"role": "\ud800"},
        {"importance": math.nan},
        {"importance": {"$lt": math.inf}},
        {"importance": 2**63},
        {"importance": Decimal128("1")},
        {"importance": 1j},
        {"created_at": NOW.date()},
        {"importance": {"$gt": None}},
        {"importance": {"$gt": True}},
        {"agent_id": {"$lt": A_UUID}},
        {"role": {"$in": "abc"}},
        {"role": {"$in": {"a": 1}}},
        {"role": {"$in": ["a", None]}},
        {"role": {"$in": ["a", 1]}},
        {"importance": {"$in": [1, True]}},
        {"role": {"$nin": [["a"]]}},
        {"$and": []},
        {"$or": {}},
        {"$or": [{"role": "a"}, {"other": 1}]},
        {"$or": [{"role": {"$nin": []}}, {"other": 1}]},
        {"$and": ["role"]},
    ],
    ids=repr,
)
def test_what_not_every_server_takes_is_refused(given: Any) -> None:
    """Undeclared paths, other operators, other values, also where another part decides."""
    with pytest.raises(InvalidFilterError) as caught:
        parsed(given)
    assert isinstance(caught.value, InvalidInputError)


def test_the_error_names_what_is_declared_and_shows_no_value() -> None:
    """What may be filtered by, how to declare more, and nothing of the caller's data."""
    with pytest.raises(InvalidFilterError, match=r"'topic'.*filter_fields.*session_id"):
        parsed({"topic": "secret"})
    with pytest.raises(InvalidFilterError) as caught:
        parsed({"role": b"secret"})
    assert "secret" not in str(caught.value)


def test_nesting_has_an_end() -> None:
    """Rather than Python's own, or the server's."""
    deep: Any = {"role": "a"}
    for _ in range(500):
        deep = {"$and": [deep]}
    with pytest.raises(InvalidFilterError, match="deep"):
        parsed(deep)


def test_fields_are_declared_for_all_types_or_for_some() -> None:
    """Names of one store are one; a type that does not exist is an error."""
    for_all = f.fields_by_type(["metadata.topic", "role"])
    assert set(for_all) == set(MemoryType)
    assert for_all[MemoryType.SUMMARIES] == (*f.DEFAULT_FIELDS, "metadata.topic")
    for_some = f.fields_by_type({"LONG_TERM_MEMORY": ["a"], "summaries": ["b"]})
    assert for_some[MemoryType.KNOWLEDGE_BASE] == (*f.DEFAULT_FIELDS, "a")
    assert for_some[MemoryType.SUMMARIES] == (*f.DEFAULT_FIELDS, "b")
    assert for_some[MemoryType.CONVERSATION_MEMORY] == f.DEFAULT_FIELDS
    with pytest.raises(InvalidInputError):
        f.fields_by_type({"facts": ["a"]})


conditions = st.recursive(
    st.builds(
        dict,
        role=st.one_of(
            st.text(),
            st.none(),
            st.builds(lambda v: {"$in": v}, st.lists(st.text(), max_size=2)),
            st.builds(lambda v: {"$nin": v}, st.lists(st.text(), max_size=2)),
            st.builds(lambda v: {"$gte": v}, st.integers(-(2**63), 2**63 - 1)),
        ),
    ),
    lambda inner: st.builds(
        lambda key, parts: {key: parts},
        st.sampled_from(["$and", "$or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@given(conditions)
def test_what_is_sent_means_what_was_given(wanted: Any) -> None:
    """What is sent is a filter again, and the same one: nothing is lost by reducing it."""
    condition = parsed(wanted)
    if condition != f.NO_ROW:
        assert parsed(f.for_vector_search(condition)) == condition
        assert set(f.paths_of(condition)) <= {"role"}
