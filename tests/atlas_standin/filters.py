"""The filter of `$vectorSearch`: its grammar, what fields a document is indexed with, and matching.

It is not the query language of `find`: missing is not null, an empty `$in` is an error, and every
path must be declared in the index.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from bson.binary import UUID_SUBTYPE, Binary
from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId

from .errors import MongotError, ServerError
from .parsing import Fields

# A value as the index keeps it: its type bracket, and what is compared within it.
Token = tuple[str, Any]
Indexed = Mapping[str, list[Token]]

_LOGICAL = ("$and", "$or", "$nor")
_RANGES: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = ("$eq", "$ne", *_RANGES, "$in", "$nin", "$exists", "$not")
# The first that fits: a bool is an int to Python, not to BSON.
_BRACKETS: tuple[tuple[Any, str, Callable[[Any], Any]], ...] = (
    (NoneType, "null", lambda _: None),
    (bool, "boolean", bool),
    (int | float, "number", lambda number: number),
    (str, "string", str),
    (DatetimeMS, "date", int),
    (ObjectId, "objectId", lambda identity: identity),
    (Binary, "uuid", bytes),
)
_VALUE_TYPES = "must be a boolean, objectId, number, string, date, uuid, or null"


def token(value: Any) -> Token | None:
    """The indexed form of a value, or None for a type that filters do not know.

    [?] Numbers compare across int and double, and never with other types; not verified on Atlas.
    """
    if isinstance(value, Binary) and value.subtype != UUID_SUBTYPE:
        return None
    for kind, bracket, comparable in _BRACKETS:
        if isinstance(value, kind):
            return (bracket, comparable(value))
    return None


def values_at(document: Any, path: str) -> list[Token]:
    """What a document is indexed with at a path: every element of an array, each on its own.

    Types that cannot be filtered by are left out silently. [?] Elements of arrays of documents
    count as well, and arrays in arrays do not.
    """
    found: list[Token] = []

    def walk(value: Any, parts: list[str], *, in_array: bool) -> None:
        if isinstance(value, list):
            if not in_array or parts:
                for element in value:
                    walk(element, parts, in_array=True)
        elif parts:
            if isinstance(value, dict) and parts[0] in value:
                walk(value[parts[0]], parts[1:], in_array=False)
        elif (known := token(value)) is not None:
            found.append(known)

    walk(document, path.split("."), in_array=False)
    return found


@dataclass(frozen=True)
class Clause:
    """One operator on one field; `wanted` are alternatives."""

    path: str
    operator: str
    wanted: tuple[Token, ...] = ()

    def paths(self) -> Iterator[str]:
        yield self.path

    def matches(self, indexed: Indexed) -> bool:
        present = indexed.get(self.path, [])
        if self.operator == "$exists":
            return bool(present)  # [?] whether an explicit null counts as existing
        if compare := _RANGES.get(self.operator):
            bracket, bound = self.wanted[0]
            return any(kind == bracket and compare(value, bound) for kind, value in present)
        # Null means an explicit null: a missing field is no value, and equals nothing.
        return any(value in self.wanted for value in present)


@dataclass(frozen=True)
class Every:
    parts: tuple[Filter, ...]

    def paths(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.paths()

    def matches(self, indexed: Indexed) -> bool:
        return all(part.matches(indexed) for part in self.parts)


@dataclass(frozen=True)
class Either(Every):
    def matches(self, indexed: Indexed) -> bool:
        return any(part.matches(indexed) for part in self.parts)


@dataclass(frozen=True)
class Negation:
    """No element matches; so a document without the field matches."""

    part: Filter

    def paths(self) -> Iterator[str]:
        yield from self.part.paths()

    def matches(self, indexed: Indexed) -> bool:
        return not self.part.matches(indexed)


Filter = Clause | Every | Negation


def parse_filter(document: Mapping[str, Any], path: str) -> Filter:
    """Reads a whole filter; `{}` matches everything."""
    fields = Fields(document, path)
    parts: list[Filter] = []
    for key, value in document.items():
        if key in _LOGICAL:
            alternatives = tuple(
                parse_filter(item.document, item.path) for item in fields.documents(key)
            )
            if key == "$and":
                parts.append(Every(alternatives))
            else:
                parts.append(
                    Either(alternatives) if key == "$or" else Negation(Either(alternatives))
                )
        elif key.startswith("$"):
            raise fields.wrong_here(f'unrecognized field "{key}"')
        elif isinstance(value, dict):
            parts.append(_field(key, Fields(value, fields.at(key))))
        else:
            parts.append(Clause(key, "$eq", (_value(fields, key),)))
    return Every(tuple(parts))


def _field(name: str, operators: Fields) -> Filter:
    operators.only(_OPERATORS)
    if not operators.document:
        raise operators.wrong_here(f"at least one of [{', '.join(_OPERATORS)}] must be present")
    return Every(tuple(_clause(name, operators, key) for key in operators.document))


def _clause(name: str, operators: Fields, key: str) -> Filter:
    if key == "$exists":
        there = Clause(name, "$exists")
        return there if operators.flag(key, True) else Negation(there)
    if key == "$not":
        return Negation(_field(name, operators.nested(key)))
    if key in ("$in", "$nin"):
        among = Clause(name, "$in", _values(operators, key))
        return among if key == "$in" else Negation(among)
    wanted = _value(operators, key)
    if key in _RANGES:
        if wanted[0] == "null":
            raise operators.wrong(key, "value type cannot be null")  # [?] the text
        return Clause(name, key, (wanted,))
    same = Clause(name, "$eq", (wanted,))
    return same if key == "$eq" else Negation(same)


def _value(fields: Fields, key: str) -> Token:
    return _known(fields.document[key], fields.wrong(key, _VALUE_TYPES), fields, key)


def _known(value: Any, otherwise: MongotError, fields: Fields, key: str) -> Token:
    if isinstance(value, Binary | bytes) and token(value) is None:
        raise fields.wrong(key, "binary value must be UUID subtype 4")
    known = token(value)
    if known is None:
        raise otherwise
    return known


def _values(fields: Fields, key: str) -> tuple[Token, ...]:
    value = fields.document[key]
    if not isinstance(value, list):
        raise fields.wrong(key, "must be an array")
    if not value:
        # Seen on Atlas word for word (mastra-ai/mastra#6307).
        raise fields.wrong(key, "cannot be empty")
    found = []
    for index, item in enumerate(value):
        element = fields.wrong(f"{key}[{index}]", _VALUE_TYPES)
        found.append(_known(item, element, fields, key))
    if any(kind == "null" for kind, _ in found):
        raise fields.wrong(key, "value type cannot be null")
    # [?] int32, int64 and double are taken as one type here.
    if len({kind for kind, _ in found}) > 1:
        raise fields.wrong(key, "must have elements of the same type")
    return tuple(found)


def check_declared(wanted: Filter, declared: Collection[str]) -> None:
    """Every path must be a filter field, `_id` too, also where it stands inside `$or`.

    [?] Older builds say `as token`, `as number` or `as boolean`, by the type of the value, and
    may let `$eq: null` and `$exists` pass.
    """
    for path in wanted.paths():
        if path not in declared:
            raise MongotError(f"Path '{path}' needs to be indexed as filter")


def check_old_server(document: Any) -> None:
    """What mongod itself refused in the 6.0 and 7.0 days, before it asked mongot.

    [?] Which server first let `$exists`, `$not` and `$nor` pass was not found out, nor how the
    type is written in the text.
    """
    if isinstance(document, list):
        for item in document:
            check_old_server(item)
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if key in ("$exists", "$not", "$nor"):
            kind = key[1:].upper()
            text = f"Match expression is not supported for $vectorSearch: {kind}"
            raise ServerError(7828300, text)
        if key in ("$in", "$nin") and isinstance(value, list) and None in value:
            raise ServerError(7828302, "Matching null is not supported.")
        check_old_server(value)
