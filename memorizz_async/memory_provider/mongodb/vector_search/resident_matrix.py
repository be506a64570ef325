"""Vectors of one dimension in memory, searched by a matrix product while they change.

Rows are only ever appended, to chunks, and taken out by a mark: what a search has looked at once
stays as it was, so that a search in a thread sees the rows of one moment. A chunk of which half is
marked is written anew beside the old one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW, Condition
from memorizz_async.memory_provider.mongodb.vector_search.field_values import RowValues
from memorizz_async.memory_provider.mongodb.vector_search.ordering import by_id
from memorizz_async.memory_provider.mongodb.vector_search.resident_columns import Columns, Mask
from memorizz_async.memory_provider.mongodb.vector_search.resident_snapshot import (
    NewRow,
    Part,
    Snapshot,
)
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import FOREVER
from memorizz_async.memory_provider.mongodb.vector_search.scoring import Matrix, row_lengths

_CHUNK_NUMBERS = 2_000_000
"""8 MB: few steps in Python for a large scope, and short enough to be copied at once."""
_FIRST_ROWS = 16
_GONE = np.nan
"""In place of an expiry: no moment is before it, and it is not to be taken for one."""
BYTES_A_ROW = 360
"""What Python keeps of a row beside its numbers: the id, and its place in two tables."""


class _Chunk:
    """Some rows: `matrix[:count]` and its columns beside it."""

    def __init__(self, capacity: int, dimensions: int, paths: Sequence[str]) -> None:
        self.matrix: Matrix = np.empty((capacity, dimensions), dtype=np.float32)
        self.lengths: NDArray[np.float32] = np.empty(capacity, dtype=np.float32)
        self.until: NDArray[np.float64] = np.empty(capacity, dtype=np.float64)
        self.columns = Columns(paths, capacity)
        self.rows: list[NewRow] = []
        self.count = 0
        self.dead = 0
        self.first_expiry = FOREVER

    @property
    def room(self) -> int:
        return len(self.lengths) - self.count

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes + len(self.lengths) * 12 + self.columns.nbytes

    def append(
        self,
        vectors: Matrix,
        lengths: NDArray[np.float32],
        rows: list[NewRow],
        values: Sequence[RowValues],
    ) -> None:
        into = slice(self.count, self.count + len(rows))
        self.matrix[into] = vectors
        self.lengths[into] = lengths
        self.until[into] = [row.until for row in rows]
        self.columns.append(values)
        self.first_expiry = min(self.first_expiry, *(row.until for row in rows))
        self.rows.extend(rows)
        self.count += len(rows)

    def part(self, now_ms: float) -> Part:
        """What a search sees: copies of what may change, views of what may not."""
        return Part(
            self.matrix[: self.count],
            self.lengths[: self.count],
            self.rows,
            self.columns,
            self.alive(now_ms),
        )

    def alive(self, now_ms: float) -> Mask | None:
        """Which rows are there at a moment; None for all."""
        if not self.dead and self.first_expiry > now_ms:
            return None
        return self.until[: self.count] > now_ms

    def cannot_tell(self, path: str, now_ms: float) -> bool:
        """Whether a row that is there has values at the path that are not kept."""
        unknown = self.columns.without_values(path, self.count)
        if unknown is None:
            return False
        alive = self.alive(now_ms)
        return bool(unknown.any() if alive is None else (unknown & alive).any())


class VectorTable:
    """The rows of a scope that have vectors of one dimension. Used from one event loop only.

    paths: the fields that it can be filtered by.
    """

    def __init__(self, dimensions: int, paths: Sequence[str] = ()) -> None:
        self.dimensions = dimensions
        self._paths = paths
        self._chunks: list[_Chunk] = []
        self._places: dict[Hashable, tuple[_Chunk, int]] = {}
        self._shortest, self._longest = FOREVER, 0.0  # of all rows that ever were
        # The last answer of `lowest_ids`, to what, and until when it holds; None after a change.
        self._lowest: tuple[tuple[Condition, int], float, list[NewRow]] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    @property
    def nbytes(self) -> int:
        return sum(chunk.nbytes for chunk in self._chunks) + BYTES_A_ROW * len(self._places)

    def vectors_of(self, keys: Sequence[Hashable]) -> tuple[list[int], Matrix]:
        """Which of the rows are here, by position, and their vectors, copied: shape (rows that are,
        dimensions).
        """
        here = [at for at, key in enumerate(keys) if key in self._places]
        vectors = np.empty((len(here), self.dimensions), dtype=np.float32)
        for into, at in enumerate(here):
            chunk, position = self._places[keys[at]]
            vectors[into] = chunk.matrix[position]
        return here, vectors

    def add(
        self, vectors: Matrix, rows: Sequence[NewRow], values: Sequence[RowValues] = ()
    ) -> None:
        """Add rows that are not there yet.

        vectors: shape (len(rows), dimensions), finite. values: of each row, where there are paths.
        """
        self._lowest = None
        with np.errstate(over="ignore"):
            lengths = row_lengths(vectors)
        self._shortest = min(self._shortest, float(lengths.min(initial=np.inf)))
        self._longest = max(self._longest, float(lengths.max(initial=0.0)))
        start = 0
        while start < len(rows):
            chunk = self._chunk_with_room(len(rows) - start)
            stop = min(len(rows), start + chunk.room)
            first = chunk.count
            some = list(rows[start:stop])
            chunk.append(vectors[start:stop], lengths[start:stop], some, values[start:stop])
            self._places.update(
                (row.key, (chunk, first + position)) for position, row in enumerate(some)
            )
            start = stop

    def remove(self, key: Hashable) -> bool:
        """Take a row out; whether it was there."""
        place = self._places.pop(key, None)
        if place is None:
            return False
        self._lowest = None
        chunk, position = place
        chunk.until[position] = _GONE
        chunk.dead += 1
        if chunk.dead * 2 > chunk.count:
            self._rewrite(chunk)
        return True

    def snapshot(self, now_ms: float, condition: Condition = EVERY_ROW) -> Snapshot:
        """The rows that are alive at a moment and satisfy the condition, for one search."""
        parts = [chunk.part(now_ms) for chunk in self._chunks]
        return Snapshot(self.dimensions, parts, condition, self._shortest, self._longest)

    def lowest_ids(self, now_ms: float, condition: Condition, most: int) -> list[NewRow]:
        """Those of the rows of a snapshot that have the lowest ids, in their order."""
        if self._lowest is not None:
            wanted, until, rows = self._lowest
            if wanted == (condition, most) and now_ms < until:
                return rows
        every = list(self.snapshot(now_ms, condition).rows())
        rows = [every[at] for at in by_id([row.row_id for row in every], most)]
        until = min((row.until for row in rows), default=FOREVER)
        self._lowest = ((condition, most), until, rows)
        return rows

    def cannot_tell(self, path: str, now_ms: float) -> bool:
        """Whether a row that is alive has values at the path that are not kept."""
        return any(chunk.cannot_tell(path, now_ms) for chunk in self._chunks)

    def _chunk_with_room(self, wanted: int) -> _Chunk:
        if self._chunks and self._chunks[-1].room:
            return self._chunks[-1]
        most = max(1, _CHUNK_NUMBERS // max(1, self.dimensions))
        # As many rows again as there are: few copies of nothing, and little room left empty.
        capacity = min(most, max(_FIRST_ROWS, wanted, len(self._places)))
        self._chunks.append(_Chunk(capacity, self.dimensions, self._paths))
        return self._chunks[-1]

    def _rewrite(self, chunk: _Chunk) -> None:
        """The rows of a chunk that are left, in a chunk of their own; the old one stays as it is
        for the searches that look at it.
        """
        at = self._chunks.index(chunk)
        kept = np.flatnonzero(~np.isnan(chunk.until[: chunk.count]))
        if not kept.size:
            del self._chunks[at]
            return
        fresh = _Chunk(max(_FIRST_ROWS, kept.size), self.dimensions, self._paths)
        rows = [chunk.rows[position] for position in kept.tolist()]
        values = chunk.columns.rows(kept)
        fresh.append(chunk.matrix[kept], chunk.lengths[kept], rows, values)
        self._chunks[at] = fresh
        self._places.update((row.key, (fresh, position)) for position, row in enumerate(rows))
