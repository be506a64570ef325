"""memorizz's records as rows, and rows as its records."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import bson
import numpy as np
import pytest
from bson import Decimal128, ObjectId
from memorizz.memory_provider.base import _UNSET
from pydantic import BaseModel

from memorizz_async.enums import MemoryType
from memorizz_async.integrations.memorizz import documents as d
from memorizz_async.integrations.memorizz.framework import is_unset
from memorizz_async.memory_provider.mongodb import UNSET

AT = datetime(2026, 1, 2, tzinfo=UTC)


class Role(Enum):
    USER = "user"


class Model(BaseModel):
    role: Role = Role.USER
    at: datetime = AT


@dataclasses.dataclass
class Point:
    x: int


class Persona:
    def to_dict(self) -> dict[str, Any]:
        return {"name": "Ada"}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (Role.USER, "user"),
        (Model(), {"role": "user", "at": AT}),
        (Point(1), {"x": 1}),
        (Persona(), {"name": "Ada"}),
        ({1: {"a"}}, {"1": ["a"]}),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.5"), "1.5"),
        (UUID(int=1), str(UUID(int=1))),
        ([{"name": "tool", "function": len}], [{"name": "tool"}]),
        ({"function": {"name": "kept"}}, {"function": {"name": "kept"}}),
        ({"a": _UNSET, "b": 1}, {"b": 1}),
        (len, None),
        (AT, AT),
    ],
)
def test_what_json_can_be_made_of_is_stored(given: Any, stored: Any) -> None:
    """Memorizz's files take all of this, so it passes all of this."""
    assert d.storable(given) == stored
    bson.encode({"value": d.storable(given)})


def test_a_record_may_be_any_object() -> None:
    """A dict, a pydantic model, an object with to_dict, an object."""
    assert d.record_of({"a": 1}) == {"a": 1}
    assert d.record_of(Model())["at"] == AT
    assert d.record_of(Persona()) == {"name": "Ada"}
    assert d.record_of(Point(1)) == {"x": 1}


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"_id": "a", "id": "b"}, {"_id": "a"}),
        ({"id": 7}, {"_id": "7"}),
        ({"id": None, "_id": None}, {}),
        ({"user_id": _UNSET}, {}),
        ({"expires_at": "2026-01-02T00:00:00Z"}, {"expires_at": AT}),
        ({"expires_at": AT.timestamp()}, {"expires_at": AT}),
        ({"expires_at": datetime(2026, 1, 2)}, {"expires_at": AT}),
        ({"expires_at": "some day"}, {"expires_at": "some day"}),
        ({"expires_at": None}, {"expires_at": None}),
    ],
)
def test_a_record_as_a_row(record: dict[str, Any], row: dict[str, Any]) -> None:
    """Its id is `_id`; the end of its time is a date, which alone the database understands."""
    assert d.row_of(record) == row


def test_a_row_as_a_record_is_json() -> None:
    """Dates as ISO text, ids and numbers of BSON as JSON has them; vectors untouched."""
    vector = [0.5, 1.0]
    row = {
        "_id": "r", "at": AT, "ref": ObjectId("0123456789abcdef01234567"), "n": Decimal128("1.5"),
        "embedding": vector, "deep": [{"at": AT}], "raw": b"\x01", "conversation_id": "c",
    }  # fmt: skip
    record = d.shown(row)
    assert json.loads(json.dumps(record)) == record
    assert record["embedding"] is vector
    assert record == {
        "_id": "r", "at": AT.isoformat(), "ref": "0123456789abcdef01234567", "n": 1.5,
        "embedding": vector, "deep": [{"at": AT.isoformat()}], "raw": "01",
        "conversation_id": "c", "thread_id": "c",
    }  # fmt: skip


def test_a_row_says_whose_it_is_also_where_it_is_nobodys() -> None:
    """A null is found by a search where a missing field is not. Agents have no such fields."""
    assert d.with_scope({}, MemoryType.SUMMARIES) == {"memory_id": None, "user_id": None}
    assert "agent_id" in d.with_scope({}, MemoryType.TOOLBOX)
    assert d.with_scope({"user_id": "u"}, MemoryType.SUMMARIES)["user_id"] == "u"
    assert d.with_scope({}, MemoryType.MEMAGENT) == {}


def test_only_memorizzs_own_marks_are_marks() -> None:
    """Anything else that is no user is refused later, not taken for everybody."""
    assert is_unset(_UNSET)
    for value in (None, "", "u", object(), UNSET, {}):
        assert not is_unset(value)
