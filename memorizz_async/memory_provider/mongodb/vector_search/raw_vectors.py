"""Vectors straight out of BSON: a batch of rows becomes a matrix without decoding each row.

Rows that one program wrote look alike: the same fields, ids of one length, vectors of one
dimension. Their bytes then differ only inside the id and the numbers, so that the rows of a batch
are the rows of a byte matrix, and the vectors are columns of it. What does not look alike is
decoded one by one; the result is the same.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import bson
import numpy as np
from bson import CodecOptions, DatetimeConversion, ObjectId
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.vector_search.row_matching import FOREVER, alive_until
from memorizz_async.vectors import stored_vector

_ANY_DATE: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
_DOUBLE, _ARRAY, _BINARY, _OBJECT_ID, _DATE, _NULL = 0x01, 0x04, 0x05, 0x07, 0x09, 0x0A
_ID_FIRST = b"\x07_id\x00"
_FLOAT32_VECTOR = b"\x09\x27\x00"  # subtype 9, dtype float32, no padding
_NAME = b"embedding\x00"
_EXPIRY = b"expires_at\x00"
_FEW = 8  # fewer rows of one length than this are cheaper to decode


@dataclass
class VectorBlock:
    """Some rows of a batch: `matrix[i]` is the vector of the row whose id is `id_at(i)`.

    until: when each row expires, in milliseconds since the epoch, infinity for never.
    """

    matrix: NDArray[np.float32]
    rows: Sequence[memoryview]
    until: NDArray[np.float64]

    def ids(self) -> list[Any]:
        """The ids of all rows, in order."""
        if self.rows[0][4] == _OBJECT_ID and all(row[4:9] == _ID_FIRST for row in self.rows):
            return [ObjectId(row[9:21].tobytes()) for row in self.rows]
        return [self.id_at(position) for position in range(len(self.rows))]

    def id_at(self, position: int) -> Any:
        return bson.decode(bytes(self.rows[position]))["_id"]


class _EqualRows(Sequence[memoryview]):
    """The rows of a batch in which all have one length, cut out only when asked for."""

    def __init__(self, batch: bytes, length: int) -> None:
        self._view = memoryview(batch)
        self._length = length

    def __len__(self) -> int:
        return len(self._view) // self._length

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self._view[position * self._length : (position + 1) * self._length]


class UnreadableRow(NamedTuple):
    """A row whose `embedding` is no vector; until: as in a VectorBlock."""

    row_id: Any
    reason: str
    until: float


@dataclass
class ReadBatch:
    """A batch, read: blocks of equal dimension, and the rows whose `embedding` is no vector."""

    blocks: list[VectorBlock] = field(default_factory=list)
    unreadable: list[UnreadableRow] = field(default_factory=list)


def read_vectors(batch: bytes) -> ReadBatch:
    """Read a batch of BSON documents, each with `_id` and `embedding`, perhaps `expires_at`."""
    whole = _read_whole(batch)
    if whole is not None:
        return ReadBatch([whole])
    result = ReadBatch()
    by_length: defaultdict[int, list[memoryview]] = defaultdict(list)
    for row in _split(batch):
        by_length[len(row)].append(row)
    for rows in by_length.values():
        _read_alike(rows, result)
    return result


def _read_whole(batch: bytes) -> VectorBlock | None:
    """The batch as one block, where every row looks like the first: the usual case, and no loop."""
    if len(batch) < 4:
        return None
    (length,) = struct.unpack_from("<i", batch)
    if len(batch) % length or len(batch) < _FEW * length:
        return None
    layout = _layout(batch[:length])
    if layout is None:
        return None
    table = np.frombuffer(batch, dtype=np.uint8).reshape(-1, length)
    if not layout.fits(table).all():
        return None
    return VectorBlock(layout.vectors(table), _EqualRows(batch, length), layout.until(table))


def _split(batch: bytes) -> Iterator[memoryview]:
    view, position = memoryview(batch), 0
    while position < len(view):
        (length,) = struct.unpack_from("<i", view, position)
        yield view[position : position + length]
        position += length


def _read_alike(rows: list[memoryview], result: ReadBatch) -> None:
    """Read rows of one length: those shaped like the last at once, the rest likewise, in turn."""
    odd: list[memoryview] = []
    while len(rows) >= _FEW:
        layout = _layout(bytes(rows[-1]))
        if layout is None:
            odd.append(rows.pop())  # from the end: a batch of such rows must not cost its square
            continue
        table = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)
        alike = layout.fits(table)
        matrix = layout.vectors(table if alike.all() else table[alike])
        until = layout.until(table if alike.all() else table[alike])
        result.blocks.append(VectorBlock(matrix, _where(rows, alike), until))
        rows = _where(rows, ~alike)
    _read_singly(rows + odd[::-1], result)


def _where(rows: list[memoryview], chosen: NDArray[np.bool_]) -> list[memoryview]:
    return [row for row, is_chosen in zip(rows, chosen.tolist(), strict=True) if is_chosen]


def _read_singly(rows: list[memoryview], result: ReadBatch) -> None:
    by_dimension: defaultdict[int, list[_Single]] = defaultdict(list)
    for row in rows:
        document = bson.decode(bytes(row), codec_options=_ANY_DATE)
        until = alive_until(document)
        try:
            vector = stored_vector(document.get("embedding"))
        except (TypeError, ValueError) as error:
            result.unreadable.append(UnreadableRow(document["_id"], str(error), until))
            continue
        if vector.ndim != 1 or not vector.size:
            reason = f"an array of shape {vector.shape}"
            result.unreadable.append(UnreadableRow(document["_id"], reason, until))
            continue
        by_dimension[vector.size].append(_Single(row, vector, until))
    for singles in by_dimension.values():
        result.blocks.append(
            VectorBlock(
                np.stack([single.vector for single in singles]),
                [single.row for single in singles],
                np.array([single.until for single in singles]),
            )
        )


class _Single(NamedTuple):
    row: memoryview
    vector: NDArray[np.float32]
    until: float


@dataclass(frozen=True)
class _Run:
    """Numbers at equal distances: `count` of them, `stride` bytes apart, from byte `start`."""

    start: int
    stride: int
    count: int


@dataclass(frozen=True)
class _Layout:
    """Where in a row the numbers of the vector are, and which bytes all such rows share."""

    dtype: str
    runs: tuple[_Run, ...]
    fixed: NDArray[np.intp]  # positions of the bytes outside the values
    expected: NDArray[np.uint8]  # what stands there, the row's length included
    expiry: int | None  # where eight bytes say when the row expires; None where it does not

    def fits(self, table: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which rows have this layout."""
        alike: NDArray[np.bool_] = (table[:, self.fixed] == self.expected).all(axis=1)
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


def _layout_of(
    document: bytes,
    values: list[tuple[int, int]],
    expiry: int | None,
    dtype: str,
    runs: list[_Run],
) -> _Layout:
    is_fixed = np.ones(len(document), dtype=np.bool_)
    for value in values:
        is_fixed[slice(*value)] = False
    size = np.dtype(dtype).itemsize
    for run in runs:
        starts = run.start + run.stride * np.arange(run.count)
        is_fixed[(starts[:, None] + np.arange(size)).ravel()] = False
    fixed = np.flatnonzero(is_fixed)
    expected = np.frombuffer(document, dtype=np.uint8)[fixed]
    return _Layout(dtype, tuple(runs), fixed, expected, expiry)


def _layout(document: bytes) -> _Layout | None:
    """The layout of a row `{_id, expires_at?, embedding}`; None for one that must be decoded."""
    id_range = _id_range(document)
    if id_range is None:
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
    return _layout_of(document, values, expiry, *found)


def _id_range(document: bytes) -> tuple[int, int] | None:
    """The bytes of the value of `_id`, where it comes first and is an ObjectId or a string."""
    if document[5:9] != b"_id\x00":
        return None
    if document[4] == _OBJECT_ID:
        return 9, 9 + 12
    if document[4] == 0x02:
        (length,) = struct.unpack_from("<i", document, 9)
        return 13, 13 + length
    return None


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
