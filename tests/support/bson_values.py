"""Values for property tests of writing: every type of BSON, and what Python has besides."""

from __future__ import annotations

import enum
import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import bson
import numpy as np
from bson import Binary, Code, DatetimeMS, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId
from bson.son import SON
from hypothesis import strategies as st


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    LARGE = 3


class Plain(enum.Enum):
    THING = "thing"


OFFSETS = [UTC, None, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))]
KEPT = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from(OFFSETS)),
    st.builds(ObjectId),
    st.builds(Int64, st.integers(-9, 9)),
    st.sampled_from(
        [
            Decimal128("1.50"), Decimal128("NaN"), MinKey(), MaxKey(), bson.Timestamp(7, 1),
            bson.Regex("a.*", "i"), Code("f()"), Code("f()", {"a": 1}), DBRef("facts", 1),
            DBRef("facts", ObjectId(), "other"), Binary(b"ab", 0), Binary(b"ab", 128),
            Binary(b"a" * 16, 5), Colour.RED, Size.LARGE, np.float64(0.25), (1, ("a",)),
            SON([("b", 1), ("a", 2)]), MappingProxyType({"a": {"b": 1}}), datetime.max,
            datetime.min, DatetimeMS(0), {"$ref": "facts"}, {"$id": 1}, [], {},
        ]
    ),
)  # fmt: skip
"""What a database gives back, at least in the form that `as_read` says."""


def nested(levels: int) -> Any:
    """A list so many levels deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


ODD = st.one_of(
    st.just("\ud800"),
    st.just(_endless()),
    st.sampled_from([98, 99, 100, 180, 900]).map(nested),
    st.builds(uuid.uuid4),
    st.sampled_from(
        [
            2**63, -(2**70), 10**400, re.compile("a"), bson.Regex("a\0b"), object(), Decimal("1.5"),
            date(2026, 1, 1), {"a"}, range(3), np.float32(1), np.int64(1), np.ones(2), Plain.THING,
            bytearray(b"a"), bson.Timestamp(0, 0), Binary(b"ab", 4), Binary(b"ab", 3),
            DatetimeMS(2**60), datetime.min.replace(tzinfo=OFFSETS[2]),
            datetime.max.replace(tzinfo=OFFSETS[3]), {"$ref": "facts", "$id": 1}, {1: "a"},
            {"a\0b": 1}, {"a.b": 1}, {"": 1}, {"$set": 1}, lambda: 0,
        ]
    ),
)  # fmt: skip
"""What it may refuse, or does not give back as it is."""

KEYS = st.one_of(
    st.sampled_from(["a", "b", "0", "score", "content"]),
    st.text(max_size=3).filter(lambda key: "\0" not in key and "." not in key),
)


def values_of(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of these, nested and not."""
    return st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
        ),
        max_leaves=6,
    )


STORABLE = values_of(KEPT)
VALUES = values_of(st.one_of(KEPT, ODD))


def as_read(value: Any) -> Any:
    """A value as a database gives it back: what docs/recall.md promises."""
    if isinstance(value, DatetimeMS):
        return value.as_datetime().replace(tzinfo=UTC)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).replace(microsecond=aware.microsecond // 1000 * 1000)
    if isinstance(value, Mapping):
        return {key: as_read(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_read(each) for each in value]
    if isinstance(value, Binary) and value.subtype == 0:
        return bytes(value)
    return value


def same(one: Any, other: Any) -> bool:
    """Equality that tells true from 1, and takes NaN for NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
