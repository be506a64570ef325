"""Vectors of one dimension in memory, searched by a matrix product while they change.

Rows are only ever appended, to chunks, and taken out by a mark: what a search has looked at once
stays as it was, so that a search in a thread sees the rows of one moment. A chunk of which half is
marked is written anew beside the old one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import Similarity
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import FOREVER
from memorizz_async.memory_provider.mongodb.vector_search.scoring import (
    Matrix,
    dot_products,
    row_lengths,
    scores,
)
from memorizz_async.vectors import Vector

_CHUNK_NUMBERS = 2_000_000
"""8 MB: few steps in Python for a large scope, and short enough to be copied at once."""
_FIRST_ROWS = 16
_GONE = np.nan
"""In place of an expiry: no moment is before it, and it is not to be taken for one."""
_RESCORED_AT_ONCE = 4_096
BYTES_A_ROW = 360
"""What Python keeps of a row beside its numbers: the id, and its place in two tables."""
_ORDINARY = (1e-15, 1e15)
"""Lengths between which squares and products stay inside float32."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that can be compared. `order` says where it stands among rows of equal score."""

    key: Hashable
    row_id: Any
    until: float
    order: int


class _Chunk:
    """Some rows: `matrix[:count]` and its columns beside it."""

    def __init__(self, capacity: int, dimensions: int) -> None:
        self.matrix: Matrix = np.empty((capacity, dimensions), dtype=np.float32)
        self.lengths: NDArray[np.float32] = np.empty(capacity, dtype=np.float32)
        self.until: NDArray[np.float64] = np.empty(capacity, dtype=np.float64)
        self.order: NDArray[np.int64] = np.empty(capacity, dtype=np.int64)
        self.rows: list[NewRow] = []
        self.count = 0
        self.dead = 0
        self.first_expiry = FOREVER

    @property
    def room(self) -> int:
        return len(self.lengths) - self.count

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes + len(self.lengths) * 20

    def append(self, vectors: Matrix, lengths: NDArray[np.float32], rows: list[NewRow]) -> None:
        into = slice(self.count, self.count + len(rows))
        self.matrix[into] = vectors
        self.lengths[into] = lengths
        self.until[into] = [row.until for row in rows]
        self.order[into] = [row.order for row in rows]
        self.first_expiry = min(self.first_expiry, *(row.until for row in rows))
        self.rows.extend(rows)
        self.count += len(rows)

    def part(self, now_ms: float) -> _Part:
        """What a search sees: copies of what may change, views of what may not."""
        alive = None
        if self.dead or self.first_expiry <= now_ms:
            alive = self.until[: self.count] > now_ms
        return _Part(
            self.matrix[: self.count],
            self.lengths[: self.count],
            self.order[: self.count],
            self.rows,
            alive,
        )

    def alive_at(self, now_ms: float) -> int:
        if not self.dead and self.first_expiry > now_ms:
            return self.count
        return int(np.count_nonzero(self.until[: self.count] > now_ms))


@dataclass(frozen=True, slots=True)
class _Part:
    matrix: Matrix
    lengths: NDArray[np.float32]
    order: NDArray[np.int64]
    rows: list[NewRow]
    alive: NDArray[np.bool_] | None


class VectorTable:
    """The rows of a scope that have vectors of one dimension. Used from one event loop only."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._chunks: list[_Chunk] = []
        self._places: dict[Hashable, tuple[_Chunk, int]] = {}
        self._shortest, self._longest = FOREVER, 0.0  # of all rows that ever were

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    @property
    def nbytes(self) -> int:
        return sum(chunk.nbytes for chunk in self._chunks) + BYTES_A_ROW * len(self._places)

    def order_of(self, key: Hashable) -> int | None:
        place = self._places.get(key)
        return None if place is None else int(place[0].order[place[1]])

    def add(self, vectors: Matrix, rows: Sequence[NewRow]) -> None:
        """Add rows that are not there yet. vectors: shape (len(rows), dimensions), finite."""
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
            chunk.append(vectors[start:stop], lengths[start:stop], some)
            self._places.update(
                (row.key, (chunk, first + position)) for position, row in enumerate(some)
            )
            start = stop

    def remove(self, key: Hashable) -> bool:
        """Take a row out; whether it was there."""
        place = self._places.pop(key, None)
        if place is None:
            return False
        chunk, position = place
        chunk.until[position] = _GONE
        chunk.dead += 1
        if chunk.dead * 2 > chunk.count:
            self._rewrite(chunk)
        return True

    def snapshot(self, now_ms: float) -> Snapshot:
        """The rows that are alive at a moment, for one search."""
        parts = [chunk.part(now_ms) for chunk in self._chunks]
        return Snapshot(self.dimensions, parts, self._shortest, self._longest)

    def alive_at(self, now_ms: float) -> int:
        """How many rows are alive."""
        return sum(chunk.alive_at(now_ms) for chunk in self._chunks)

    def ids_alive(self, now_ms: float) -> Iterable[Any]:
        """Their ids, in no order."""
        for chunk in self._chunks:
            for position in np.flatnonzero(chunk.until[: chunk.count] > now_ms).tolist():
                yield chunk.rows[position].row_id

    def _chunk_with_room(self, wanted: int) -> _Chunk:
        if self._chunks and self._chunks[-1].room:
            return self._chunks[-1]
        most = max(1, _CHUNK_NUMBERS // self.dimensions)
        # As many rows again as there are: few copies of nothing, and little room left empty.
        capacity = min(most, max(_FIRST_ROWS, wanted, len(self._places)))
        self._chunks.append(_Chunk(capacity, self.dimensions))
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
        fresh = _Chunk(max(_FIRST_ROWS, kept.size), self.dimensions)
        rows = [chunk.rows[position] for position in kept.tolist()]
        fresh.append(chunk.matrix[kept], chunk.lengths[kept], rows)
        self._chunks[at] = fresh
        self._places.update((row.key, (fresh, position)) for position, row in enumerate(rows))


class Snapshot:
    """The rows of one moment. It may be searched in any thread."""

    def __init__(
        self, dimensions: int, parts: list[_Part], shortest: float, longest: float
    ) -> None:
        self._dimensions = dimensions
        self._parts = parts
        self._shortest = shortest
        self._longest = longest

    @property
    def numbers(self) -> int:
        """How many numbers a search multiplies."""
        return self._dimensions * sum(len(part.lengths) for part in self._parts)

    def best(
        self,
        query: Vector,
        similarity: Similarity,
        limit: int,
        without: Set[Hashable] = frozenset(),
    ) -> list[tuple[Any, float]]:
        """(id, score) of the rows most similar to the query, as a scan of them would give.

        The matrix product finds the candidates, a few more than are wanted for what rounding may
        have cost them, and those get the scan's own scores.
        """
        if not self._parts:
            return []
        keys, slack = self._keys(query, similarity)
        chosen = _candidates(keys, limit + len(without), slack)
        rated: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
        rows: list[NewRow] = []
        start = 0
        for part in self._parts:
            stop = start + len(part.lengths)
            first, last = np.searchsorted(chosen, (start, stop))
            mine = chosen[first:last] - start
            for block in range(0, len(mine), _RESCORED_AT_ONCE):
                some = mine[block : block + _RESCORED_AT_ONCE]
                rated.append((scores(part.matrix[some], query, similarity), part.order[some]))
                rows.extend(part.rows[position] for position in some.tolist())
            start = stop
        if not rows:
            return []
        score = np.concatenate([each for each, _ in rated])
        order = np.concatenate([each for _, each in rated])
        found: list[tuple[Any, float]] = []
        for position in np.lexsort((order, -score)).tolist():
            if len(found) == limit:
                break
            if rows[position].key not in without and not np.isnan(score[position]):
                found.append((rows[position].row_id, float(score[position])))
        return found

    def _keys(self, query: Vector, similarity: Similarity) -> tuple[NDArray[np.float32], float]:
        """A number for each row, higher where it is more similar, and how far off that may be."""
        keys = np.empty(sum(len(part.lengths) for part in self._parts), dtype=np.float32)
        length = float(np.linalg.norm(query.astype(np.float64)))
        rounding = float(np.finfo(np.float32).eps) * (8 + self._dimensions**0.5)
        least, most = _ORDINARY
        ordinary = self._longest < most and length < most
        if similarity == "cosine":
            ordinary = ordinary and self._shortest > least and length > least
            query = (query / np.float32(length)).astype(np.float32) if ordinary else query
            slack = rounding
        elif similarity == "euclidean":
            slack = rounding * (self._longest + length) ** 2
        else:
            slack = rounding * max(1.0, self._longest * length)
        start = 0
        for part in self._parts:
            stop = start + len(part.lengths)
            mine = keys[start:stop]
            if ordinary:
                _product(part, query, similarity, mine)
            else:
                mine[:] = 0.0  # every row is a candidate
            if part.alive is not None:
                mine[~part.alive] = -np.inf
            start = stop
        return keys, slack


def _product(part: _Part, query: Vector, similarity: Similarity, keys: NDArray[np.float32]) -> None:
    keys[:] = dot_products(part.matrix, query)
    if similarity == "cosine":
        keys /= part.lengths
    elif similarity == "euclidean":  # the same order as that of the negative squared distances
        keys *= 2
        keys -= part.lengths**2
    else:
        np.maximum(keys, -1.0, out=keys)  # a score is never below 0


def _candidates(keys: NDArray[np.float32], limit: int, slack: float) -> NDArray[np.int64]:
    """The positions of the `limit` highest keys, and of those as high but for rounding."""
    least = np.float32(-np.inf)
    if len(keys) > limit:
        least = np.partition(keys, len(keys) - limit)[len(keys) - limit]
    if least == -np.inf:
        return np.flatnonzero(keys > -np.inf)
    return np.flatnonzero(keys >= least - np.float32(2 * slack))
