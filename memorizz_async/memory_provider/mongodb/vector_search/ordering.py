"""The order of found rows: by score, and of equal scores by `_id` as the server compares ids.

Every strategy orders by this before it cuts at a limit. The order in which rows arrive differs
between memory, a scan and an index, and without a second criterion other rows would come back.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from bson import Binary, Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import OLD_BINARY_SUBTYPE, UUID_SUBTYPE
from bson.datetime_ms import DatetimeMS
from numpy.typing import NDArray

T = TypeVar("T")

_REGEX_FLAGS = (("i", re.I), ("l", re.L), ("m", re.M), ("s", re.S), ("u", re.U), ("x", re.X))


def best_first(
    scores: NDArray[np.floating[Any]], limit: int, id_at: Callable[[int], Any]
) -> list[int]:
    """Select the rows with the highest scores; of equal scores, those with the lowest ids.

    Ids are read only of rows whose score equals another's.

    Args:
        scores: One score a row; NaN is never selected.
        limit: How many rows are wanted.
        id_at: Returns the `_id` of the row at a position of `scores`.

    Returns:
        The positions of the selected rows, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    if len(order) and np.isnan(ranked[-1]):  # NaN goes last
        order = order[: len(order) - int(np.count_nonzero(np.isnan(ranked)))]
        ranked = ranked[: len(order)]
    if len(order) > limit:
        # Every row that is as good as the last one may be selected.
        order = order[: np.searchsorted(-ranked, -ranked[limit - 1], side="right")]
        ranked = ranked[: len(order)]
    positions: list[int] = order.tolist()
    if (ranked[1:] == ranked[:-1]).any():
        _sort_equals(positions, ranked, limit, id_at)
    return positions[:limit]


def _sort_equals(
    positions: list[int],
    ranked: NDArray[np.floating[Any]],
    limit: int,
    id_at: Callable[[int], Any],
) -> None:
    """Put positions of equal scores into the order of their ids, as far as the limit reaches."""
    changes = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
    for start, stop in pairwise([0, *changes.tolist(), len(positions)]):
        if stop - start > 1:
            equals = positions[start:stop]
            lowest = by_id([id_at(position) for position in equals], limit - start)
            positions[start : start + len(lowest)] = [equals[at] for at in lowest]


def best_rows(
    rows: Sequence[tuple[T, float]], limit: int, id_of: Callable[[T], Any]
) -> list[tuple[T, float]]:
    """Select from rows with their scores as `best_first` does, the best first."""
    scores = np.array([score for _, score in rows], dtype=np.float64)
    return [rows[at] for at in best_first(scores, limit, lambda at: id_of(rows[at][0]))]


def by_id(ids: Sequence[Any], most: int | None = None) -> list[int]:
    """Sort ids as the server compares them.

    Args:
        ids: The ids.
        most: How many of the lowest are wanted; None for all.

    Returns:
        Their positions, the lowest id first.
    """
    if all(type(each) is ObjectId for each in ids):  # its own comparison is ten times slower
        keys: list[Any] = [each.binary for each in ids]
    else:
        keys = [id_key(each) for each in ids]
    positions = range(len(keys))
    if most is not None and most < len(keys) // 4:
        return heapq.nsmallest(most, positions, key=keys.__getitem__)
    return sorted(positions, key=keys.__getitem__)[:most]


def id_key(value: Any) -> tuple[Any, ...]:  # noqa: PLR0911, PLR0912 - a branch a BSON type
    """Return a key by which Python sorts values as BSON compares them.

    The types in their order, then by value: numbers of all types by what they are worth (NaN
    lowest), strings by their UTF-8 bytes (the order of code points), binary data by length, subtype
    and bytes, documents field by field (by type, name, value).
    """
    match value:
        case ObjectId():
            return (35, value.binary)
        case Code():  # before str, of which it is a subclass
            scope = value.scope
            return (60, str(value)) if scope is None else (65, str(value), id_key(scope))
        case str():
            return (15, value)
        case bool():  # before int
            return (40, value)
        case int() | float():
            return _number(value)
        case Decimal128():
            return _number(value.to_decimal())
        case bytes():
            return _binary(value, value.subtype if isinstance(value, Binary) else 0)
        case UUID():
            return _binary(value.bytes, UUID_SUBTYPE)
        case DatetimeMS():
            return (45, int(value))
        case datetime():
            return (45, int(DatetimeMS(value)))
        case Timestamp():
            return (47, value.time, value.inc)
        case Mapping():
            parts = ((name, id_key(part)) for name, part in value.items())
            return (20, tuple((key[0], str(name), key) for name, key in parts))
        case DBRef():
            return id_key(value.as_doc())
        case list() | tuple():
            return (25, tuple(id_key(part) for part in value))
        case None:
            return (5,)
        case Regex() | re.Pattern():
            flags = "".join(letter for letter, flag in _REGEX_FLAGS if value.flags & flag)
            return (50, str(value.pattern), flags)
        case MinKey():
            return (-1,)
        case MaxKey():
            return (127,)
    return (126, type(value).__name__, repr(value))  # no BSON: it cannot come from a server


def _number(value: Any) -> tuple[Any, ...]:
    """Python compares int, float and Decimal exactly, whatever their sizes."""
    is_nan = value.is_nan() if hasattr(value, "is_nan") else value != value  # noqa: PLR0124
    return (10, 0, 0) if is_nan else (10, 1, value)


def _binary(value: bytes, subtype: int) -> tuple[Any, ...]:
    # Data of the old subtype holds its length once more, which counts as a part of it.
    length = len(value) + (4 if subtype == OLD_BINARY_SUBTYPE else 0)
    return (30, length, subtype, bytes(value))
