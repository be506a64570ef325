"""A memory as a row: what the caller may set, what it may not, and how it leaves the API."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from bson import Binary, ObjectId, Regex
from hypothesis import given
from hypothesis import strategies as st
from support.ids import stable_repr

from memorizz_async import UNSET, InvalidInputError
from memorizz_async.memory_provider.mongodb.rows import draft, new_row, public_row, stored_id
from memorizz_async.memory_provider.mongodb.scope import Scope
from memorizz_async.redaction import shown
from memorizz_async.vectors import to_bson

NOW = datetime(2026, 1, 2, tzinfo=UTC)
tenants = st.one_of(st.none(), st.text(min_size=1))
scopes = st.builds(Scope, tenants, tenants)


def row_of(memory: Any, scope: Scope = Scope("m", "u")) -> dict[str, Any]:  # noqa: B008 - frozen
    return new_row(draft(memory), scope, vector=None, model=None, now=NOW)


def test_a_string_is_the_content() -> None:
    """Everything that a row carries, with its defaults."""
    row = row_of("hello")
    assert isinstance(row.pop("_id"), ObjectId)
    assert row == {
        "memory_id": "m",
        "user_id": "u",
        "content": "hello",
        "created_at": NOW,
        "updated_at": NOW,
        "importance": 0.5,
        "metadata": {},
        "recall_count": 0,
        "last_recalled_at": None,
    }


def test_a_vector_goes_with_the_name_of_its_model() -> None:
    """Both or neither."""
    vector = np.ones(3, dtype=np.float32)
    row = new_row(draft("x"), Scope("m"), vector=vector, model="some/model", now=NOW)
    assert row["embedding"] == to_bson(vector)
    assert row["embedding_model"] == "some/model"
    assert not {"embedding", "embedding_model"} & set(row_of("x"))


def test_the_callers_own_fields_are_kept() -> None:
    """Known and unknown ones, values as they are; and the caller's mapping is not changed."""
    memory = {
        "content": "x",
        "importance": 1,
        "metadata": {"a": [1]},
        "created_at": datetime(2020, 1, 1, tzinfo=UTC),
        "name": "Ünïcode",
        "steps": [{"$set": 1}],
    }
    before = dict(memory)
    row = row_of(memory)
    assert {name: row[name] for name in memory} == memory == before


@given(scopes, st.dictionaries(st.sampled_from(["memory_id", "user_id"]), st.text()))
def test_no_field_moves_a_row_to_another_tenant(scope: Scope, fields: dict[str, Any]) -> None:
    """The scope has the last word, whatever the memory's own fields say."""
    row = row_of({"content": "x", **fields}, scope)
    assert {name: row[name] for name in ("memory_id", "user_id")} == scope.fields()


def test_counts_of_recalls_are_kept() -> None:
    """A memory that is restored goes on from where it was; a new one starts from zero."""
    given = {"recall_count": 99, "last_recalled_at": NOW}
    kept = row_of({"content": "x", **given})
    assert {name: kept[name] for name in given} == given
    new = row_of({"content": "x"})
    assert (new["recall_count"], new["last_recalled_at"]) == (0, None)


@given(scopes, st.text(min_size=1))
def test_a_dedup_key_makes_the_id(scope: Scope, key: str) -> None:
    """The same key in the same scope is the same id, in every process; the content is free."""
    first = row_of({"content": "one", "dedup_key": key}, scope)["_id"]
    assert first == row_of({"content": "two", "dedup_key": key}, scope)["_id"]
    assert isinstance(first, ObjectId)


def test_the_id_of_a_dedup_key_never_changes() -> None:
    """Stored rows depend on it: another rule would make duplicates of everything."""
    row = row_of({"content": "x", "dedup_key": "turn-1"}, Scope("user123"))
    assert str(row["_id"]) == "07030e88b74ada6114d7f442"


@given(scopes, scopes, st.text(min_size=1), st.text(min_size=1))
def test_another_scope_or_key_makes_another_id(a: Scope, b: Scope, x: str, y: str) -> None:
    """Tenants cannot overwrite or probe each other's rows by a key."""
    ids = [row_of({"content": "c", "dedup_key": k}, s)["_id"] for s, k in ((a, x), (b, y))]
    assert (ids[0] == ids[1]) is (a.fields() == b.fields() and x == y)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Scope(None, "x"), Scope("None", "x")),
        (Scope("a\0'b'", "c"), Scope("a", "b\0'c'")),
        (Scope("x", None), Scope(None, "x")),
    ],
)
def test_scopes_that_read_alike_are_told_apart(a: Scope, b: Scope) -> None:
    """None is not "None", and no separator can be forged."""
    ids = {row_of({"content": "c", "dedup_key": "k"}, scope)["_id"] for scope in (a, b)}
    assert len(ids) == 2


def test_unset_and_none_are_one_tenant_for_a_row() -> None:
    """A row has no field for "left out": both are stored as null."""
    memory = {"content": "x", "dedup_key": "k"}
    assert row_of(memory, Scope("m", UNSET))["_id"] == row_of(memory, Scope("m", None))["_id"]


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (None, "a NoneType"),
        (["x"], "a list"),
        (b"x", "a bytes"),
        ({}, "needs content or an embedding"),
        ("", "needs content or an embedding"),
        ("  \n", "needs content or an embedding"),
        ({"name": "x"}, "the fields 'name'"),
        ({"content": None}, "needs content or an embedding"),
        ({"content": 5}, "content must be a string"),
        ({"content": "x", "$set": {}}, r"'\$set'"),
        ({"content": "x", "": 1}, "''"),
        ({"content": "x", "a\0b": 1}, "a text of 3 characters"),
        ({"content": "x", 1: 1}, "1"),
        ({"content": "x", "importance": -0.1}, "importance"),
        ({"content": "x", "importance": 1.0001}, "importance"),
        ({"content": "x", "importance": float("nan")}, "importance"),
        ({"content": "x", "importance": "high"}, "importance"),
        ({"content": "x", "importance": True}, "importance"),
        ({"content": "x", "expires_at": "2026-01-01"}, "expires_at must be a datetime"),
        ({"content": "x", "expires_at": date(2026, 1, 1)}, "expires_at must be a datetime"),
        ({"content": "x", "expires_at": 60}, "expires_at must be a datetime"),
        ({"content": "x", "dedup_key": ""}, "dedup_key"),
        ({"content": "x", "dedup_key": 5}, "dedup_key"),
        ({"content": "x", "_id": ["a"]}, "An id must be"),
        ({"content": "x", "_id": ""}, "An id must be"),
        ({"content": "x", "_id": "a", "dedup_key": "b"}, "both _id and dedup_key"),
    ],
    ids=stable_repr,
)
def test_a_memory_that_cannot_work_is_refused(memory: Any, message: str) -> None:
    """Before anything is embedded or sent."""
    with pytest.raises(InvalidInputError, match=message):
        draft(memory)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("content", "words \ud800", "str"),
        ("metadata", {"tags": {"Zq1x"}}, "dict"),
        ("metadata", {1: "Zq1x"}, "dict"),
        ("metadata", {"a\0b": "Zq1x"}, "dict"),
        ("steps", [{"n": 2**64}], "list"),
        ("when", date(2026, 1, 1), "date"),
        ("weight", np.float32(1), "float32"),
        ("name\ud800", 1, "int"),
    ],
    ids=stable_repr,
)
def test_a_value_that_bson_does_not_take_is_refused(name: str, value: Any, kind: str) -> None:
    """Before anything is written; the message names the field and the type, never the value."""
    with pytest.raises(InvalidInputError) as caught:
        draft({"content": "x", name: value})
    assert shown(name, word=True) in str(caught.value)
    assert f"Seen: a {kind}." in str(caught.value)
    assert "Zq1x" not in str(caught.value)


@pytest.mark.parametrize("importance", [0, 1, 0.5, None])
def test_importance_goes_from_0_to_1(importance: Any) -> None:
    """Both bounds count; None is the middle one when it is read."""
    assert row_of({"content": "x", "importance": importance})["importance"] == importance


def test_content_may_be_absent_beside_an_embedding() -> None:
    """A row of vectors alone can be recalled; its content reads as empty."""
    fields = draft({"embedding": [1.0]})
    row = new_row(fields, Scope("m"), vector=np.ones(1, np.float32), model=None, now=NOW)
    assert row["content"] == ""


def test_an_id_of_24_hexadecimal_digits_is_an_object_id() -> None:
    """As memorizz writes and reads them; other strings stay strings."""
    text = "0123456789abcdef01234567"
    assert stored_id(text) == ObjectId(text)
    assert stored_id(ObjectId(text)) == ObjectId(text)
    assert stored_id("turn-1") == "turn-1"
    assert row_of({"content": "x", "_id": text})["_id"] == ObjectId(text)


@pytest.mark.parametrize(
    "value",
    [None, "", "\ud800", {"$gt": ""}, ["a"], {1: 2}, re.compile("a"), Regex("a"), {"a"}, object()],
    ids=stable_repr,
)
def test_what_is_no_id_is_refused(value: Any) -> None:
    """A dict would be a query operator."""
    with pytest.raises(InvalidInputError, match="An id "):
        stored_id(value)


def test_a_row_leaves_the_api_as_plain_python() -> None:
    """Ids as strings, vectors as lists of floats, the names that every hit has."""
    row_id = ObjectId()
    row = {"_id": row_id, "embedding": to_bson(np.array([1, 2], np.float32)), "n": 1}
    assert public_row(row, "SUMMARIES") == {
        "_id": str(row_id),
        "content": "",
        "memory_id": None,
        "user_id": None,
        "memory_type": "SUMMARIES",
        "embedding": [1.0, 2.0],
        "n": 1,
    }
    assert "embedding" not in public_row({"_id": "a"}, "SUMMARIES")
    assert public_row({"_id": "a", "embedding": [1.5, 2]}, "S")["embedding"] == [1.5, 2.0]
    assert public_row({"_id": "a", "embedding": None}, "S")["embedding"] is None


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"content": "Ada sails.", "name": "x"}, "Ada sails."),
        ({"content": {"status": "active"}}, {"status": "active"}),
        ({"content": None, "name": "x"}, ""),
        ({"name": "deploy", "description": "roll out", "steps": {}}, "deploy. roll out"),
        ({"name": "Bo", "role": "helper", "goals": "Be kind.", "background": ""}, "Bo. Be kind."),
        (
            {"name": "Ada", "attributes": [{"name": "allergy", "value": "nuts"}, {"name": "x"}]},
            "Ada. allergy: nuts",
        ),
        ({"name": 5, "attributes": "none"}, ""),
    ],
)
def test_a_row_without_content_says_what_it_is(row: dict[str, Any], content: Any) -> None:
    """Workflows, personas and entities of memorizz have none, and are read all the same."""
    assert public_row({"_id": "a", **row}, "WORKFLOW_MEMORY")["content"] == content


def test_a_stored_type_does_not_hide_the_one_that_was_asked_for() -> None:
    """`memory_type` of a hit is the name that the caller used."""
    assert public_row({"_id": "a", "memory_type": "mine"}, "SUMMARIES")["memory_type"] == (
        "SUMMARIES"
    )


@pytest.mark.parametrize("value", ["text", 5, {"a": 1}, Binary(b"\x03\x00a", 9)])
def test_a_stored_vector_that_cannot_be_read_is_none(value: Any) -> None:
    """Where the caller asked for it: the row itself comes, and the others beside it."""
    shown = public_row({"_id": "r1", "content": "a", "embedding": value}, "SUMMARIES")
    assert (shown["content"], shown["embedding"]) == ("a", None)
