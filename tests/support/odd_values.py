"""Values of every kind that an argument may be given by mistake."""

from __future__ import annotations

import enum
import math
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
from bson import Decimal128, ObjectId


class Colour(enum.Enum):
    """An enum that has nothing to do with ours."""

    RED = "red"


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    """A value inside of so many others."""
    value: Any = "x"
    for _ in range(depth):
        value = wrap(value)
    return value


def _endless() -> Any:
    items: list[Any] = []
    items.append(items)
    return items


def _endless_mapping() -> Any:
    fields: dict[str, Any] = {}
    fields["a"] = fields
    return fields


EDGE = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
"""A datetime that Python has, and whose UTC it has not."""

ODD_VALUES: dict[str, Any] = {
    "None": None,
    "5": 5,
    "0": 0,
    "-1": -1,
    "10**400": 10**400,
    "10**5000": 10**5000,
    "1.5": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "True": True,
    "empty text": "",
    "blank": " ",
    "text": "abc",
    "long text": "abc def " * 20,
    "surrogate": "\ud800",
    "nul": "a\0b",
    "dollar": "$where",
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "empty list": [],
    "list": ["abc"],
    "list of numbers": [5],
    "list of None": [None],
    "tuple": ("abc", 5),
    "dict": {"abc": 5},
    "empty dict": {},
    "odd keys": {5: "a", None: 1},
    "set": {"abc"},
    "object": object(),
    "class": dict,
    "lambda": lambda: None,
    "generator function": lambda: (n for n in ()),
    "pattern": re.compile("a"),
    "array": np.array([1.0, 2.0]),
    "texts as an array": np.array(["a", "b"]),
    "no dimension": np.float32(1),
    "array of no dimension": np.array(5),
    "uuid": uuid.UUID(int=7),
    "ObjectId": ObjectId(),
    "datetime": datetime(2026, 1, 2, tzinfo=UTC),
    "edge": EDGE,
    "date": date(2026, 1, 2),
    "timedelta": timedelta(days=1),
    "decimal": Decimal("1.5"),
    "Decimal128": Decimal128("1.5"),
    "complex": 1j,
    "enum": Colour.RED,
    "exception": ValueError("abc"),
    "900 mappings": nested(900, lambda inner: {"a": inner}),
    "900 lists": nested(900, lambda inner: [inner]),
    "900 of $and": nested(900, lambda inner: {"$and": [inner]}),
    "900 in a list": [nested(900, lambda inner: {"a": inner})],
    "endless list": _endless(),
    "endless mapping": _endless_mapping(),
}
