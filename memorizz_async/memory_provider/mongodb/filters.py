"""The caller's filter: what every server takes, with one meaning on every strategy.

The meaning is that of `$vectorSearch`, which knows the least and cannot be taught:

    {"f": v}, $eq, $in      some value at f equals one of these
    $ne, $nin               no value at f does; so rows without f match
    $gt, $gte, $lt, $lte    some value at f of the same type lies there; int and float are one type
    None                    a null that is stored: a row without f has none, and is no `None`

A list counts as each of its elements, each on its own. `find` means the same but for null, which is
spelled out for it here.

ISO text for a field that holds dates means the moment that it names, beside the text itself: rows
of memorizz hold such times as text, rows of ours as dates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from bson import Binary, Code, ObjectId
from bson.binary import OLD_UUID_SUBTYPE, UUID_SUBTYPE

from memorizz_async.config import FilterFields
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import InvalidFilterError
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_moment, is_unicode, iso_moment

Document = dict[str, Any]

DEFAULT_FIELDS: Final = (
    "_id",
    "memory_id",
    "user_id",
    "agent_id",
    "session_id",
    "thread_id",
    "conversation_id",
    "namespace",
    "role",
    "importance",
    "created_at",
    "timestamp",
)
"""What may be filtered by without saying so: the tenant, memorizz's names for the parts of a
conversation, a row's weight and date. Each is a field of every search index, so they are few."""

DATE_FIELDS: Final = frozenset({"created_at", "updated_at", "expires_at", "last_recalled_at"})
"""The fields that this package writes as dates: text that names no moment is refused there."""
TIME_FIELDS: Final = DATE_FIELDS | {"timestamp"}
"""Where ISO text names a moment. A `timestamp` is the caller's own, and may be any text."""

_EQUALITY = ("$eq", "$ne")
_RANGES = ("$gt", "$gte", "$lt", "$lte")
_AMONG = ("$in", "$nin")
_LOGICAL = ("$and", "$or")
_OPERATORS = (*_EQUALITY, *_RANGES, *_AMONG)
_DEEPEST = 20
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operator on one field. `value` is as it is sent; with `$in` and `$nin` a tuple."""

    path: str
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; of no parts, always."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Some part holds; of no parts, never."""

    parts: tuple[Condition, ...] = ()


Condition = Comparison | AllOf | AnyOf

EVERY_ROW: Final = AllOf()
NO_ROW: Final = AnyOf()


def fields_by_type(declared: FilterFields) -> dict[MemoryType, tuple[str, ...]]:
    """The paths that a filter may name: the default ones and those of the configuration.

    Raises UnknownMemoryTypeError where the configuration names a type that does not exist.
    """
    if not isinstance(declared, Mapping):
        return dict.fromkeys(MemoryType, _distinct(declared))
    by_store: defaultdict[MemoryType, list[str]] = defaultdict(list)
    for name, paths in declared.items():
        by_store[memory_type_of(name).store].extend(paths)
    return {kind: _distinct(by_store[kind.store]) for kind in MemoryType}


def _distinct(declared: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*DEFAULT_FIELDS, *declared)))


class _Taken(NamedTuple):
    """What a filter may name, and how its UUIDs are stored."""

    fields: frozenset[str]
    uuid_form: Callable[[UUID], Binary]


def parse_filter(
    given: Any,
    fields: Sequence[str],
    uuid_form: Callable[[UUID], Binary] = Binary.from_uuid,
) -> Condition:
    """The caller's filter, checked and reduced: an empty `$in` is NO_ROW, an empty `$nin` nothing.

    fields: the paths that it may name. uuid_form: how a UUID is stored. None is no filter. Raises
    InvalidFilterError.
    """
    return EVERY_ROW if given is None else _document(given, _Taken(frozenset(fields), uuid_form), 1)


def paths_of(condition: Condition) -> Iterator[str]:
    """The fields that a condition names."""
    if isinstance(condition, Comparison):
        yield condition.path
    else:
        for part in condition.parts:
            yield from paths_of(part)


def for_vector_search(condition: Condition) -> Document:
    """The condition as the `filter` of `$vectorSearch`; `{}` for EVERY_ROW."""
    return _written(condition, _plain)


def for_find(condition: Condition) -> Document:
    """The same condition for `find` and `$match`, with the same meaning; `{}` for EVERY_ROW."""
    return _written(condition, _null_spelled_out)


def _document(given: Any, taken: _Taken, depth: int) -> Condition:
    if not isinstance(given, Mapping):
        raise InvalidFilterError(
            "A filter must be a mapping of fields and conditions",
            seen=shown(given),
            fix='write {"role": "user", "importance": {"$gte": 0.5}}',
        )
    if depth > _DEEPEST:
        raise InvalidFilterError(f"A filter is nested more than {_DEEPEST} deep")
    return _all(_entry(key, value, taken, depth) for key, value in given.items())


def _entry(key: Any, value: Any, taken: _Taken, depth: int) -> Condition:
    if key in _LOGICAL:
        if not isinstance(value, list | tuple) or not value:
            raise InvalidFilterError(f"{key} takes a list of filters that is not empty")
        parts = (_document(part, taken, depth + 1) for part in value)
        return _all(parts) if key == "$and" else _any(parts)
    if not isinstance(key, str) or key.startswith("$"):
        raise InvalidFilterError(
            "A filter has an operator where a field belongs, or one that not every server takes",
            seen=shown(key, word=True),
            fix=f"use {', '.join(_LOGICAL)} here, and {', '.join(_OPERATORS)} on a field",
        )
    if key not in taken.fields:
        raise InvalidFilterError(
            f"Rows cannot be filtered by {shown(key, word=True)}: it is not declared",
            fix="declare it in MongoDBConfig(filter_fields=[…]) and run ensure_indexes_async(); "
            f"declared are {', '.join(sorted(taken.fields))}",
        )
    if not isinstance(value, Mapping):
        return _comparison(key, "$eq", value, taken)
    if not value:
        raise InvalidFilterError(f"The condition on {shown(key, word=True)} is empty")
    return _all(_comparison(key, operator, each, taken) for operator, each in value.items())


def _comparison(path: str, operator: Any, operand: Any, taken: _Taken) -> Condition:
    if operator not in _OPERATORS:
        raise InvalidFilterError(
            f"The condition on {path!r} has an operator that not every server takes",
            seen=shown(operator, word=True),
            fix=f"use {', '.join(_OPERATORS)}",
        )
    if path in TIME_FIELDS:
        as_text, as_dates = _texts_and_dates(path, operator, operand)
        if as_dates is not None:
            parts = [_compared(path, operator, each, taken) for each in (as_text, as_dates)]
            return _all(parts) if operator in ("$ne", "$nin") else _any(parts)
    return _compared(path, operator, operand, taken)


def _compared(path: str, operator: str, operand: Any, taken: _Taken) -> Condition:
    if operator in _AMONG:
        return _among(path, operator, operand, taken)
    value = _value(path, operator, operand, taken)
    if operator in _RANGES and isinstance(value, bool | Binary | None):
        raise InvalidFilterError(
            f"{operator} on {path!r} needs a value with an order",
            seen=f"a {type(operand).__name__}",
            fix="compare numbers, strings, datetimes or ObjectIds",
        )
    return Comparison(path, operator, value)


def _texts_and_dates(path: str, operator: str, operand: Any) -> tuple[Any, Any]:
    """The operand's texts, and all of it with the moments that they name in their place.

    (operand, None) where there is nothing to read as a date. Raises InvalidFilterError for text
    that names no moment on a field that holds dates alone.
    """
    several = operator in _AMONG and isinstance(operand, list | tuple | set | frozenset)
    values = list(operand) if several else [operand]
    dates: list[Any] = []
    texts = [value for value in values if isinstance(value, str)]
    for value in values:
        moment = iso_moment(value) if isinstance(value, str) else value
        if moment is None and value is not None:
            if path in DATE_FIELDS:
                raise InvalidFilterError(
                    f"{operator} on {path!r} needs a date",
                    seen="text that names no moment",
                    fix="pass a datetime, or ISO 8601 text as 2026-01-31T12:00:00+00:00",
                )
            return operand, None
        dates.append(moment)
    if not texts:
        return operand, None
    return (texts, dates) if several else (texts[0], dates[0])


def _among(path: str, operator: str, operand: Any, taken: _Taken) -> Condition:
    if not isinstance(operand, list | tuple | set | frozenset):
        raise InvalidFilterError(
            f"{operator} on {path!r} takes a list", seen=f"a {type(operand).__name__}"
        )
    values = tuple(_value(path, operator, item, taken) for item in operand)
    if not values:
        return NO_ROW if operator == "$in" else EVERY_ROW
    if None in values:
        raise InvalidFilterError(
            f"{operator} on {path!r} cannot take None",
            fix='write {"$or": [{"f": {"$in": […]}}, {"f": None}]}, or $ne beside $nin',
        )
    kinds = {_kind(value) for value in values}
    if path == "_id" and len(kinds) > 1:  # rows may have ObjectIds and strings side by side
        parts = (_among(path, operator, _of_kind(values, kind), taken) for kind in sorted(kinds))
        return _any(parts) if operator == "$in" else _all(parts)
    if len(kinds) > 1:
        raise InvalidFilterError(
            f"{operator} on {path!r} takes values of one type", seen=", ".join(sorted(kinds))
        )
    return Comparison(path, operator, values)


def _of_kind(values: tuple[Any, ...], kind: str) -> list[Any]:
    return [value for value in values if _kind(value) == kind]


def _kind(value: Any) -> str:
    """The type that a server compares by; the order matters, since a bool is an int to Python."""
    kinds: tuple[tuple[Any, str], ...] = (
        (bool, "bool"),
        (int | float, "number"),
        (str, "str"),
        (datetime, "datetime"),
        (ObjectId, "ObjectId"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "UUID")


def _value(path: str, operator: str, value: Any, taken: _Taken) -> Any:  # noqa: PLR0911 - a return a type
    """The value as it is sent. Subclasses (enums, numpy's numbers) become what they stand for."""
    match value:
        case bool() | None | ObjectId():
            return value
        case int() if -_INT64 <= value < _INT64:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case str() if is_unicode(value) and not isinstance(value, Code):
            text = str.__str__(value)
            # Hits show an ObjectId as a string; asked for by that string, the row must be found.
            return ObjectId(text) if path == "_id" and ObjectId.is_valid(text) else text
        case datetime():
            named = f"The value of {operator} on {path!r}"
            return checked_moment(named, value, error=InvalidFilterError)
        case UUID():
            return taken.uuid_form(value)
        case Binary() if value.subtype in (UUID_SUBTYPE, OLD_UUID_SUBTYPE):
            return value
    raise InvalidFilterError(
        f"{operator} on {path!r} has a value that cannot be filtered by",
        seen=f"a {type(value).__name__}",  # never the value: it may be the user's
        fix="use bool, int (64 bits), float (finite), str, datetime, UUID, ObjectId or None; and "
        "$in for several",
    )


def _all(parts: Iterable[Condition]) -> Condition:
    """The conjunction, without what is always true; nested ones laid flat."""
    kept: list[Condition] = []
    for part in list(parts):  # every part is read, so that a mistake in any of them is seen
        if part == NO_ROW:
            kept.append(part)
        else:
            kept.extend(part.parts if isinstance(part, AllOf) else [part])
    if NO_ROW in kept:
        return NO_ROW
    return kept[0] if len(kept) == 1 else AllOf(tuple(kept))


def _any(parts: Iterable[Condition]) -> Condition:
    """The disjunction, without what is never true; nested ones laid flat."""
    kept: list[Condition] = []
    for part in list(parts):
        kept.extend(part.parts if isinstance(part, AnyOf) else [part])
    if EVERY_ROW in kept:
        return EVERY_ROW
    return kept[0] if len(kept) == 1 else AnyOf(tuple(kept))


def _written(condition: Condition, comparison: Callable[[Comparison], Document]) -> Document:
    match condition:
        case Comparison():
            return comparison(condition)
        case AllOf(()):
            return {}
        case AllOf(parts):
            return {"$and": [_written(part, comparison) for part in parts]}
        case AnyOf(()):
            raise ValueError("NO_ROW is answered without asking")
        case AnyOf(parts):
            return {"$or": [_written(part, comparison) for part in parts]}


def _plain(condition: Comparison) -> Document:
    value = list(condition.value) if condition.operator in _AMONG else condition.value
    return {condition.path: {condition.operator: value}}


def _null_spelled_out(condition: Comparison) -> Document:
    if condition.value is not None:
        return _plain(condition)
    # {"f": None} would take rows without f for rows with a null.
    null = {condition.path: {"$type": "null"}}
    return null if condition.operator == "$eq" else {"$nor": [null]}
