"""What a row holds at a path, and whether that satisfies a comparison, decided as the server does.

A search in memory is filtered here and its hits once more by the server: both must mean the same.
What is of a type that the server compares in ways of its own is not guessed at: it is not kept.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import NoneType
from typing import Any, NamedTuple

from bson import Binary, DBRef, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from memorizz_async.memory_provider.mongodb.codec import REPLACEMENT
from memorizz_async.memory_provider.mongodb.filters import Comparison

Values = tuple[Any, ...]
"""The values of a row at a path, each behind its kind: `("number", 1, "string", "a")`; of a list
each element. Empty where there is nothing to compare: no such field, a document, a list in a list.
"""
RowValues = tuple[Values | None, ...]
"""The values at some paths, in their order; None where they are not kept."""
ValuesOf = Callable[[Mapping[str, Any]], RowValues]

MOST_BYTES = 4_096
"""More than this at one path of one row is not kept; of a number, 16 are counted."""

_KINDS: dict[type, str] = {
    NoneType: "null",
    bool: "bool",
    int: "number",
    Int64: "number",
    float: "number",
    str: "string",
    ObjectId: "ObjectId",
    DatetimeMS: "date",
    datetime: "date",
    Binary: "binary",
    bytes: "binary",
}
"""By the very type: a `Code` is a str and no string to the server, a bool an int and no number."""
_NOTHING = (dict, list)  # an operand is never one of these
_COMPARES: dict[str, Callable[[Any, Any], Any]] = {
    "$eq": operator.eq,
    "$ne": operator.eq,
    "$in": operator.eq,
    "$nin": operator.eq,
    "$gt": operator.lt,  # the operand stands first
    "$gte": operator.le,
    "$lt": operator.gt,
    "$lte": operator.ge,
}


def values_of(paths: Sequence[str]) -> ValuesOf:
    """A function that reads the values at these paths out of a row."""
    split = [path.split(".") for path in paths]
    return lambda row: tuple(_values_at(row, parts) for parts in split)


class Test(NamedTuple):
    """A comparison, taken apart: it holds where some value of this kind compares so with one of the
    operands; `negated`, where none does. The operand stands first.
    """

    kind: str
    compares: Callable[[Any, Any], Any]
    operands: tuple[Any, ...]
    negated: bool

    def passes(self) -> Callable[[Any], bool]:
        """Whether a value passes."""
        if len(self.operands) > 1:
            return frozenset(self.operands).__contains__
        return partial(self.compares, self.operands[0])


def test_of(wanted: Comparison) -> Test:
    """What the values at the path of a comparison have to pass."""
    several = wanted.operator in ("$in", "$nin")
    operands = wanted.value if several else (wanted.value,)
    return Test(
        _kind(operands[0]),  # of several, all are of one: `parse_filter` sees to it
        _COMPARES[wanted.operator],
        tuple(_comparable(value) for value in operands),
        wanted.operator in ("$ne", "$nin"),
    )


def _kind(operand: Any) -> str:
    """Of what a caller gave, which may be of a subclass, as pandas' moments are."""
    exact = _KINDS.get(type(operand))
    return exact or next(kind for known, kind in _KINDS.items() if isinstance(operand, known))


def _values_at(row: Mapping[str, Any], parts: Sequence[str]) -> Values | None:
    """None where a value there is too large, or is compared on the server only: it is of a kind of
    its own, or a string that may have been read from bytes that are not UTF-8.
    """
    found: list[Any] = []
    size = 0
    for value in _leaves(row, parts):
        kind = _KINDS.get(type(value))
        if kind is not None:
            if kind == "string" and REPLACEMENT in value:
                return None
            found += (kind, _comparable(value))
            size += 16 + (len(value) if kind in ("string", "binary") else 0)
        elif not isinstance(value, _NOTHING):
            return None
        if size > MOST_BYTES:
            return None
    return tuple(found)


def _leaves(row: Mapping[str, Any], parts: Sequence[str]) -> Iterator[Any]:
    """What stands at the path: through lists of documents, but not through lists in lists."""
    name, *rest = parts
    if name not in row:
        return
    value = row[name]
    for each in value if isinstance(value, list) else (value,):
        if not rest or isinstance(each, DBRef):  # a document that bson took for something else
            yield each
        elif isinstance(each, dict):
            yield from _leaves(each, rest)


def _comparable(value: Any) -> Any:
    """The value so that Python orders two of one kind as the server does."""
    if isinstance(value, DatetimeMS):
        return int(value)
    if isinstance(value, datetime):
        return int(DatetimeMS(value))  # whole milliseconds, which is what BSON keeps of it
    if isinstance(value, bytes):
        return (value.subtype if isinstance(value, Binary) else 0, bytes(value))
    return value
