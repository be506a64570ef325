"""Which fields a row may have: the same for every way of writing, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from memorizz_async import (
    AsyncMongoDBProvider,
    InvalidFilterError,
    InvalidInputError,
    MongoDBConfig,
)
from memorizz_async.memory_provider.mongodb.fields import (
    changed_fields,
    check_path,
    memory_fields,
    record_fields,
)

KIND = "SUMMARIES"
NOBODY = "mongodb://127.0.0.1:1/?directConnection=true"
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def deep(levels: int) -> Any:
    """A list that is nested so deep."""
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


async def write(way: str, fields: dict[str, Any]) -> None:
    """Write fields in one of the ways, at an address where nobody answers."""
    whole = {"content": "x", **fields}
    to = AsyncMongoDBProvider(MongoDBConfig(NOBODY), embedding_provider=lambda texts: [[1.0]])
    mine = {"memory_id": "m"}
    ways: dict[str, Callable[[], Any]] = {
        "store": lambda: to.store_async(whole, KIND, **mine),
        "store_many": lambda: to.store_many_async(["good", whole], KIND, **mine),
        "conversation": lambda: to.store_conversation_async([whole], session_id="s", **mine),
        "update": lambda: to.update_async("r", KIND, fields, **mine),
        "update_many": lambda: to.update_many_async(KIND, fields, **mine),
        "swap": lambda: to.compare_and_swap_async("r", KIND, {"n": 1}, fields, **mine),
        "upsert": lambda: to.upsert_async(KIND, {"n": 1}, fields, **mine),
        "upsert by key": lambda: to.upsert_async(KIND, fields, {"n": 1}, **mine),
        "upsert of a new row": lambda: to.upsert_async(
            KIND, {"n": 1}, {}, where_new=fields, **mine
        ),
        "put": lambda: to.put_async(fields, KIND, **mine),
        "put_many": lambda: to.put_many_async([{"n": 1}, fields], KIND, **mine),
        "update as record": lambda: to.update_async("r", KIND, fields, as_record=True, **mine),
    }
    try:
        await ways[way]()
    finally:
        await to.close_async()


STORING = ("store", "store_many", "conversation")
CHANGING = ("update", "update_many", "swap", "upsert", "upsert by key", "upsert of a new row")
PUTTING = ("put", "put_many", "update as record")


@pytest.mark.parametrize("way", [*STORING, *CHANGING, *PUTTING])
@pytest.mark.parametrize(
    "fields",
    [
        {"expires_at": "2099-01-01T00:00:00Z"},
        {"expires_at": 4_070_908_800},
        {"expires_at": [NOW]},
        {"expires_at": NOW.date()},
        {"recall_count": "3"},
        {"recall_count": None},
        {"embedding_model": 5},
        {"embedding_next": {"model": "m"}},
        {"_memorizz_score": 1},
        {"$set": {"n": 1}},
        {"": 1},
        {"note": {"$ref": "facts", "$id": 1}},
        {"note": "\ud800"},
        {"note": 2**64},
        {"note": {"a"}},
    ],
    ids=str,
)
def test_every_way_of_writing_refuses(way: str, fields: dict[str, Any]) -> None:
    """What would hide a row, or stop a write half-way."""
    with pytest.raises(InvalidInputError):
        asyncio.run(write(way, fields))


@pytest.mark.parametrize("way", [*STORING, *CHANGING])
@pytest.mark.parametrize(
    "fields",
    [
        {"content": 5},
        {"content": " "},
        {"importance": 1.5},
        {"importance": float("nan")},
        {"created_at": "2026-01-01"},
        {"updated_at": 5},
        {"timestamp": float("inf")},
        {"timestamp": True},
        {"metadata": "tea"},
        {"tags": "tea"},
        {"tags": [1]},
        {"session_id": ""},
        {"dedup_key": 5},
        {"dedup_key": np.ones(2)},
        {"content": np.ones(2)},
        {"content": ["text", {"type": "tool_use", "name": "f", "input": {(1, 2): 3}}]},
        {"content": None, "tool_calls": [{"name": "f", "args": deep(200)}]},
        {"content": None, "tool_calls": [{"name": "f", "args": 10**400}]},
        {"embedding_model": "m/1"},
        {"embedding": [1.0, float("nan")]},
        {"embedding": [0.0, 0.0]},
        {"turn": -1},
        {"context": ["a"]},
        {"score": 1},
        {"text_score": 1},
        {"fused_score": 1},
        {"rerank_score": 1},
        {"memory_signal": 1},
        {"memory_type": "mine"},
        {"stored_fields": {}},
        {"note": {"a.b": 1}},
    ],
    ids=str,
)
def test_a_memory_has_the_kinds_of_fields_that_it_says(way: str, fields: dict[str, Any]) -> None:
    """Stored, or changed afterwards."""
    with pytest.raises(InvalidInputError):
        asyncio.run(write(way, fields))


@pytest.mark.parametrize("name", ["turn", "context"])
def test_a_turn_does_not_bring_what_writing_it_gives(name: str) -> None:
    """The number in its session, and the words around it."""
    with pytest.raises(InvalidInputError, match=f"'{name}' is not free"):
        asyncio.run(write("conversation", {name: None}))


def test_a_record_keeps_the_forms_of_its_program() -> None:
    """As memorizz writes them."""
    record = {
        "created_at": "2026-01-01T10:00:00",
        "content": {"status": "active"},
        "importance": "high",
        "memory_type": "conversation_memory",
        "score": 0.5,
        "tags": "a",
        "schema": {"$defs": {"a.b": {"": 1}}},
    }
    assert record_fields(record) == record
    assert changed_fields(record, as_record=True) == record


def test_a_dot_is_a_path_in_a_change_and_no_name_in_a_row() -> None:
    """So that a key means the same wherever it stands."""
    assert changed_fields({"metadata.topic": 1, "steps.0": 2}) == {
        "metadata.topic": 1,
        "steps.0": 2,
    }
    for refusing in (memory_fields, record_fields):
        with pytest.raises(InvalidInputError, match=r"'a\.b'"):
            refusing({"a.b": 1})
    with pytest.raises(InvalidInputError, match="as a whole"):
        changed_fields({"expires_at.x": NOW})
    with pytest.raises(InvalidInputError, match="a part of it"):
        changed_fields({"note": {}, "note.a.b": 1})


@pytest.mark.parametrize("name", ["", "a.", ".a", "a..b", "$a", "a.$", "a.$[]", "a\0", None, 5])
def test_a_path_names_fields_and_nothing_else(name: Any) -> None:
    """In conditions as in changes."""
    with pytest.raises(InvalidFilterError):
        check_path(name, InvalidFilterError)
    with pytest.raises(InvalidInputError):
        changed_fields({name: 1})


def test_what_is_passed_may_change_afterwards() -> None:
    """The row is a copy, all the way down."""
    given = {"content": "x", "metadata": {"a": [1, {"b": 2}]}}
    for copied in (memory_fields, record_fields, changed_fields):
        row = copied(given)
        given["metadata"]["a"][1]["b"] = "changed"  # type: ignore[index]
        assert row["metadata"] == {"a": [1, {"b": 2}]}
        given["metadata"]["a"][1]["b"] = 2  # type: ignore[index]
