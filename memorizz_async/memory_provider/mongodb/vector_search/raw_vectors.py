"""Vectors straight out of BSON: a batch of rows becomes a matrix without decoding each row.

Rows that one program wrote look alike: the same fields, ids of one length, vectors of one
dimension. Their bytes then differ only inside the id and the numbers, so that the rows of a batch
are the rows of a byte matrix, and the vectors are columns of it. What does not look alike is
decoded one by one; the result is the same.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import bson
import numpy as np
from bson import ObjectId
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.codec import DATES_AS_NUMBERS, split
from memorizz_async.memory_provider.mongodb.vector_search.field_values import RowValues, ValuesOf
from memorizz_async.memory_provider.mongodb.vector_search.row_layouts import (
    RowLayout,
    has_readable_id,
    layout_of,
)
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import alive_until
from memorizz_async.vectors import stored_vector

_ID_FIRST = b"\x07_id\x00"
_FEW = 8  # fewer rows of one length than this are cheaper to decode


@dataclass
class VectorBlock:
    """Some rows of a batch: `matrix[i]` is the vector of the row whose id is `id_at(i)`.

    until: when each row expires, in milliseconds since the epoch, infinity for never.
    values: what each row has at the paths that were asked for.
    """

    matrix: NDArray[np.float32]
    rows: Sequence[memoryview]
    until: NDArray[np.float64]
    values: Sequence[RowValues]

    def ids(self) -> list[Any]:
        """The ids of all rows, in order."""
        if all(row[4:9] == _ID_FIRST for row in self.rows):
            return [ObjectId(row[9:21].tobytes()) for row in self.rows]
        return [self.id_at(position) for position in range(len(self.rows))]

    def id_at(self, position: int) -> Any:
        row = self.rows[position]
        if row[4:9] == _ID_FIRST:  # the usual case: nothing else has to be decoded
            return ObjectId(row[9:21].tobytes())
        return bson.decode(row, codec_options=DATES_AS_NUMBERS)["_id"]


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
    """A row whose `embedding` is no vector; until, values: as in a VectorBlock.

    key: tells it from every other row; None where the id does.
    """

    row_id: Any
    reason: str
    until: float
    values: RowValues = ()
    key: Hashable = None


@dataclass
class ReadBatch:
    """A batch, read: blocks of equal dimension, and the rows whose `embedding` is no vector."""

    blocks: list[VectorBlock] = field(default_factory=list)
    unreadable: list[UnreadableRow] = field(default_factory=list)


def read_vectors(batch: bytes, values_of: ValuesOf | None = None) -> ReadBatch:
    """Read a batch of BSON documents, each with `_id` and `embedding`, perhaps `expires_at`.

    values_of: reads other fields beside, for which every row is decoded.
    """
    result = ReadBatch()
    if values_of is not None:
        _read_singly(list(split(batch)), result, values_of)
        return result
    whole = _read_whole(batch)
    if whole is not None:
        result.blocks.append(whole)
        return result
    by_length: defaultdict[int, list[memoryview]] = defaultdict(list)
    for row in split(batch):
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
    layout = layout_of(batch[:length])
    if layout is None:
        return None
    table = np.frombuffer(batch, dtype=np.uint8).reshape(-1, length)
    if not layout.fits(table).all():
        return None
    return _block(layout, table, _EqualRows(batch, length))


def _read_alike(rows: list[memoryview], result: ReadBatch) -> None:
    """Read rows of one length: those shaped like the last at once, the rest likewise, in turn."""
    odd: list[memoryview] = []
    while len(rows) >= _FEW:
        layout = layout_of(bytes(rows[-1]))
        if layout is None:
            odd.append(rows.pop())  # from the end: a batch of such rows must not cost its square
            continue
        table = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)
        alike = layout.fits(table)
        table = table if alike.all() else table[alike]
        result.blocks.append(_block(layout, table, _where(rows, alike)))
        rows = _where(rows, ~alike)
    _read_singly(rows + odd[::-1], result)


def _block(layout: RowLayout, table: NDArray[np.uint8], rows: Sequence[memoryview]) -> VectorBlock:
    return VectorBlock(layout.vectors(table), rows, layout.until(table), [()] * len(table))


def _where(rows: list[memoryview], chosen: NDArray[np.bool_]) -> list[memoryview]:
    return [row for row, is_chosen in zip(rows, chosen.tolist(), strict=True) if is_chosen]


def _read_singly(
    rows: list[memoryview], result: ReadBatch, values_of: ValuesOf = lambda _: ()
) -> None:
    by_dimension: defaultdict[int, list[_Single]] = defaultdict(list)
    for row in rows:
        document = bson.decode(row, codec_options=DATES_AS_NUMBERS)
        until, values = alive_until(document), values_of(document)
        if not has_readable_id(row):
            reason = "its _id has text that is not UTF-8"
            key = object()  # the id may look like another's
            result.unreadable.append(UnreadableRow(document["_id"], reason, until, values, key))
            continue
        try:
            vector = stored_vector(document.get("embedding"))
        except (TypeError, ValueError) as error:
            result.unreadable.append(UnreadableRow(document["_id"], str(error), until, values))
            continue
        by_dimension[vector.size].append(_Single(row, vector, until, values))
    for singles in by_dimension.values():
        vectors, until_of = [one.vector for one in singles], [one.until for one in singles]
        result.blocks.append(
            VectorBlock(
                np.stack(vectors),
                [one.row for one in singles],
                np.array(until_of),
                [one.values for one in singles],
            )
        )


class _Single(NamedTuple):
    row: memoryview
    vector: NDArray[np.float32]
    until: float
    values: RowValues
