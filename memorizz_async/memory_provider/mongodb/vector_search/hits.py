"""The rows that a search found, read by their ids."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence, Set
from typing import Any

import bson
from bson import Code, DBRef, Decimal128, Int64, ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.decimal128 import create_decimal128_context

from memorizz_async.memory_provider.mongodb.codec import REPLACEMENT
from memorizz_async.memory_provider.mongodb.pipelines import row_projection, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchRequest,
    step,
)

Found = Sequence[tuple[Any, float]]
"""Ids and scores, the best first."""

_ROUNDS = 3
_KEY_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD
)
_ID_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""Any date is a date here, and a UUID is the binary that is stored."""
_INT64 = 2**63
_DECIMALS = create_decimal128_context()
_ARE_KEYS = frozenset((str, ObjectId))
"""By the very type, as bson decodes them: a `Code` is a str, too, and has no hash."""


def key_of(row_id: Any) -> Hashable:
    """The id as a key of a dict: an id may be any value, and Python takes 1 for True.

    Ids that are one to the server have one key: a row may be replaced by one with 1.0 for 1.
    """
    if type(row_id) in _ARE_KEYS:
        return row_id  # type: ignore[no-any-return]
    if isinstance(row_id, str) and not isinstance(row_id, Code):
        return str(row_id)
    return bson.encode({"": _numbers_alike(row_id)}, codec_options=_KEY_CODEC)


def _numbers_alike(value: Any) -> Any:  # noqa: PLR0911 - a return a type
    """The value with every number of it in one type, whatever type it was stored in."""
    match value:
        case bool():
            return value
        case int():
            return Int64(value)
        case float():
            whole = value.is_integer() and abs(value) < _INT64
            return Int64(value) if whole else value if value == value else math.nan  # noqa: PLR0124
        case Decimal128():
            number = value.to_decimal()
            if not number.is_finite():
                return math.nan if number.is_nan() else float(number)
            if abs(number) < _INT64 and number == int(number):
                return Int64(int(number))
            rounded = float(number)
            return rounded if number == rounded else Decimal128(_DECIMALS.normalize(number))
        case Code() if value.scope is not None:
            return Code(str(value), _numbers_alike(value.scope))
        case DBRef():
            return _numbers_alike(value.as_doc())
        case Mapping():
            return {name: _numbers_alike(part) for name, part in value.items()}
        case list():
            return [_numbers_alike(part) for part in value]
    return value


def may_be_another(key: Hashable) -> bool:
    """Whether the id of this key may have text that is not UTF-8, which was read as other text."""
    if isinstance(key, str):
        return REPLACEMENT in key
    return isinstance(key, bytes) and REPLACEMENT.encode() in key


def id_of(key: Hashable) -> Any:
    """An id whose key this is, which is equal to the stored one."""
    return bson.decode(key, codec_options=_ID_CODEC)[""] if isinstance(key, bytes) else key


async def hit_rows(
    driver: Driver, request: SearchRequest, found: Found
) -> dict[Hashable, tuple[dict[str, Any], float]]:
    """The rows with their scores, the best first, by their keys.

    Scope and filter are asked again. A row that was deleted, or has left the scope, since it
    was found is simply not there any more.
    """
    if not found:
        return {}
    rows = await driver.find(
        request.collection,
        rows_by_id_filter([row_id for row_id, _ in found], request.conditions, request.now),
        projection=row_projection(request.include_embedding),
        deadline=request.deadline,
    )
    by_key = {key_of(row["_id"]): row for row in rows}
    scored = ((key_of(row_id), score) for row_id, score in found)
    return {key: (by_key[key], score) for key, score in scored if key in by_key}


async def rows_of_the_best(
    driver: Driver,
    request: SearchRequest,
    best: Callable[[Set[Hashable]], Awaitable[Found]],
) -> list[tuple[dict[str, Any], float]] | None:
    """The rows of what is the best in memory, with their scores, the best first.

    best: what to read, without the rows of some keys: those were not there any more, which what is
        in memory has yet to hear of, and the next best stand in for them.

    None where too many are gone: much changes in this very moment.
    """
    rows: dict[Hashable, tuple[dict[str, Any], float]] = {}
    gone: set[Hashable] = set()
    for _ in range(_ROUNDS):
        found = await best(gone)
        keys = [key_of(row_id) for row_id, _ in found]
        wanted = [hit for hit, key in zip(found, keys, strict=True) if key not in rows]
        with step(request.trace, "rows of the hits"):
            rows.update(await hit_rows(driver, request, wanted))
        missing = {key for key in keys if key not in rows}
        if not missing:
            return [rows[key] for key in keys]
        gone |= missing
    return None
