"""Where in the BSON of a row its vector lies: rows that look alike are then read as one matrix."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import bson
import numpy as np
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.codec import DATES_AS_NUMBERS
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import FOREVER

_DOUBLE, _STRING, _ARRAY, _BINARY, _OBJECT_ID, _DATE, _NULL = (
    0x01,
    0x02,
    0x04,
    0x05,
    0x07,
    0x09,
    0x0A,
)
_FLOAT32_VECTOR = b"\x09\x27\x00"  # subtype 9, dtype float32, no padding
_HOLDS_TEXT = frozenset((_STRING, 0x03, 0x0D, 0x0F))  # text, documents, code, code with a scope
_ID = b"_id\x00"
_NAME = b"embedding\x00"
_EXPIRY = b"expires_at\x00"
_ASCII = 0x7F


@dataclass(frozen=True)
class _Run:
    """Numbers at equal distances: `count` of them, `stride` bytes apart, from byte `start`."""

    start: int
    stride: int
    count: int


@dataclass(frozen=True)
class RowLayout:
    """Where in a row the numbers of the vector are, and which bytes all such rows share."""

    dtype: str
    runs: tuple[_Run, ...]
    fixed: NDArray[np.intp]  # positions of the bytes outside the values
    expected: NDArray[np.uint8]  # what stands there, the row's length included
    expiry: int | None  # where eight bytes say when the row expires; None where it does not
    text_id: tuple[int, int] | None  # where an `_id` that is text lies

    def fits(self, table: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which rows have this layout."""
        alike: NDArray[np.bool_] = (table[:, self.fixed] == self.expected).all(axis=1)
        if self.text_id is not None:
            texts = table[:, slice(*self.text_id)]
            for at in np.flatnonzero((texts > _ASCII).any(axis=1)).tolist():
                alike[at] &= _is_utf8(texts[at].tobytes())
        return alike

    def until(self, table: NDArray[np.uint8]) -> NDArray[np.float64]:
        """When rows that have this layout expire: shape (rows,)."""
        if self.expiry is None:
            return np.full(len(table), FOREVER)
        moments = np.ascontiguousarray(table[:, self.expiry : self.expiry + 8]).view("<i8")
        return moments.ravel().astype(np.float64)

    def vectors(self, table: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The vectors of rows that have this layout: shape (rows, dimensions)."""
        columns = [
            np.ndarray(
                (len(table), run.count),
                dtype=self.dtype,
                buffer=table,
                offset=run.start,
                strides=(table.shape[1], run.stride),
            )
            for run in self.runs
        ]
        with np.errstate(over="ignore"):  # too large for float32 is infinity, which has no score
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")


def _without(
    document: bytes,
    values: list[tuple[int, int]],
    expiry: int | None,
    dtype: str,
    runs: list[_Run],
) -> RowLayout:
    is_fixed = np.ones(len(document), dtype=np.bool_)
    for value in values:
        is_fixed[slice(*value)] = False
    size = np.dtype(dtype).itemsize
    for run in runs:
        starts = run.start + run.stride * np.arange(run.count)
        is_fixed[(starts[:, None] + np.arange(size)).ravel()] = False
    fixed = np.flatnonzero(is_fixed)
    expected = np.frombuffer(document, dtype=np.uint8)[fixed]
    text_id = values[0] if document[4] == _STRING else None
    return RowLayout(dtype, tuple(runs), fixed, expected, expiry, text_id)


def has_readable_id(document: bytes | memoryview) -> bool:
    """Whether a query that names the `_id` finds the row: not where its text is not UTF-8."""
    if document[4] not in _HOLDS_TEXT or document[5:9] != _ID:
        return True
    if document[4] == _STRING:
        return _is_utf8(bytes(document[slice(*_text_range(document))]))
    row_id = bson.decode(document, codec_options=DATES_AS_NUMBERS)["_id"]
    stored = bson.encode({"_id": row_id})[4:-1]
    return bytes(document[4 : 4 + len(stored)]) == stored


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def layout_of(document: bytes) -> RowLayout | None:
    """The layout of a row `{_id, expires_at?, embedding}`; None for one that must be decoded."""
    id_range = _id_range(document)
    if id_range is None or not has_readable_id(document):
        return None
    position, values, expiry = id_range[1], [id_range], None
    if document[position + 1 : position + 1 + len(_EXPIRY)] == _EXPIRY:
        kind, position = document[position], position + 1 + len(_EXPIRY)
        if kind == _DATE:
            expiry = position
            values.append((position, position + 8))
            position += 8
        elif kind != _NULL:
            return None
    kind = document[position]
    if document[position + 1 : position + 1 + len(_NAME)] != _NAME:
        return None
    value = position + 1 + len(_NAME)
    if kind == _BINARY:
        found = _binary_runs(document, value)
    elif kind == _ARRAY:
        found = _array_runs(document, value)
    else:
        return None
    if found is None:
        return None
    return _without(document, values, expiry, *found)


def _id_range(document: bytes | memoryview) -> tuple[int, int] | None:
    """The bytes of the value of `_id`, where it comes first and is an ObjectId or a string."""
    if document[5:9] != _ID:
        return None
    if document[4] == _OBJECT_ID:
        return 9, 9 + 12
    return _text_range(document) if document[4] == _STRING else None


def _text_range(document: bytes | memoryview) -> tuple[int, int]:
    (length,) = struct.unpack_from("<i", document, 9)
    return 13, 13 + length


def _binary_runs(document: bytes, value: int) -> tuple[str, list[_Run]] | None:
    (length,) = struct.unpack_from("<i", document, value)
    start = value + 4 + len(_FLOAT32_VECTOR)
    count, rest = divmod(length - 2, 4)
    end = start + count * 4
    if document[value + 4 : start] != _FLOAT32_VECTOR or rest or not count:
        return None
    if end + 1 != len(document):  # something follows the vector: not what a scan projects
        return None
    return "<f4", [_Run(start, 4, count)]


def _array_runs(document: bytes, value: int) -> tuple[str, list[_Run]] | None:
    """An array of doubles: a type byte, the index in decimal digits, a zero, eight bytes, each."""
    runs: list[_Run] = []
    position, index = value + 4, 0
    end = len(document) - 2  # the array's closing zero, then the document's
    while position < end:
        digits = len(str(index))
        stride = 1 + digits + 1 + 8
        count = min(10**digits - index, (end - position) // stride)
        if count < 1:
            return None
        first = position + stride - 8
        for number in range(count):
            at = position + number * stride
            name = str(index + number).encode()
            if document[at] != _DOUBLE or document[at + 1 : at + 2 + digits] != name + b"\x00":
                return None
        runs.append(_Run(first, stride, count))
        position += count * stride
        index += count
    if position != end or not runs:
        return None
    return "<f8", runs
