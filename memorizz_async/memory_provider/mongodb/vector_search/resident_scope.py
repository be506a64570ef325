"""The rows of one scope in memory: loaded once, then told of every change."""

from __future__ import annotations

from collections.abc import Collection, Container, Hashable, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import Similarity
from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW, Condition, paths_of
from memorizz_async.memory_provider.mongodb.vector_search.field_values import (
    RowValues,
    values_of,
)
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.raw_vectors import (
    VectorBlock,
    read_vectors,
)
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    NO_SCORE,
    Unsearchable,
    wrong_dimension,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident_matrix import VectorTable
from memorizz_async.memory_provider.mongodb.vector_search.resident_snapshot import (
    NewRow,
    Snapshot,
)
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import (
    alive_until,
    has_vector,
    matcher_of,
)
from memorizz_async.vectors import stored_vector

ScopeName = tuple[str, bytes]
"""A collection and a tenant's filter of it, as BSON."""

_BYTES_A_SCOPE = 4_096


_ODD = 0
"""The dimension of the table of rows that can be compared with no query."""


class _Reason(NamedTuple):
    """Why a row can be compared with no query. dimensions: of its vector; None for no vector."""

    text: str
    dimensions: int | None = None

    def for_query(self, dimensions: int) -> str:
        """The reason as a scan gives it, which looks at the dimension first."""
        if self.dimensions in (None, dimensions):
            return self.text
        return wrong_dimension(self.dimensions, dimensions)


class ResidentScope:
    """What a scan of a collection within a scope would read, kept in memory.

    It belongs to one event loop. While it is being loaded (`loading`), changes are applied as they
    come, and the rows that they are about are not taken from the load, which may have read them
    before the change.

    paths: the fields that it keeps beside the vectors, and can be filtered by.
    """

    def __init__(
        self,
        name: ScopeName,
        conditions: Mapping[str, Any],
        similarity: Similarity,
        paths: Collection[str] = (),
    ) -> None:
        self.name = name
        self.paths = tuple(sorted(paths))
        self._matches = matcher_of(conditions)
        self._values_of = values_of(self.paths)
        self.loading = True
        self.dropped = False
        """Whether it no longer follows the changes: the collection went, or there was no room."""
        self._similarity = similarity
        self._tables: dict[int, VectorTable] = {}
        self._reasons: dict[Hashable, _Reason] = {}  # why a row is odd
        self._changed_while_loading: set[Hashable] = set()

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return _BYTES_A_SCOPE + sum(table.nbytes for table in self._tables.values())

    def loaded(self) -> None:
        """All rows have been given to `load`."""
        self.loading = False
        self._changed_while_loading.clear()

    def load(self, batch: bytes) -> None:
        """Take rows as the server holds them, in its order: BSON documents, end to end."""
        read = read_vectors(batch, self._values_of if self.paths else None)
        for row in read.unreadable:
            key = key_of(row.row_id) if row.key is None else row.key
            if key not in self._changed_while_loading:
                self._forget(key)
                self._add_odd(NewRow(key, row.row_id, row.until), _Reason(row.reason), row.values)
        for block in read.blocks:
            self._load_block(block)

    def change(self, key: Hashable, row_id: Any, row: Mapping[str, Any] | None) -> bool:
        """Take a row as it is now, None where it is gone; whether that concerned this scope."""
        if self.loading:
            self._changed_while_loading.add(key)
        was_here = self._forget(key)
        if row is None or not self._matches(row) or not has_vector(row):
            return was_here
        taken = NewRow(key, row_id, alive_until(row))
        values = self._values_of(row)
        try:
            vector = stored_vector(row["embedding"])
        except (TypeError, ValueError) as error:
            self._add_odd(taken, _Reason(str(error)), values)
        else:
            self._add(vector[np.newaxis], [taken], [values])
        return True

    def snapshot(
        self, dimensions: int, now_ms: float, condition: Condition = EVERY_ROW
    ) -> Snapshot:
        """The rows of a dimension at a moment, of those that satisfy the condition."""
        table = self._tables.get(dimensions)
        if table is None:
            table = VectorTable(dimensions)
        return table.snapshot(now_ms, condition)

    def vectors_of(
        self, dimensions: int, keys: Sequence[Hashable]
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Which of the rows have a vector of so many dimensions now, by position, and the vectors,
        of shape (rows that have one, dimensions).
        """
        table = self._tables.get(dimensions)
        if table is None:
            return [], np.empty((0, dimensions), dtype=np.float32)
        return table.vectors_of(keys)

    def cannot_tell(self, condition: Condition, now_ms: float) -> str | None:
        """A path of the condition at which some row has values that are compared on the server
        only; None where every row can be decided here.
        """
        tables = self._tables.values()
        for path in set(paths_of(condition)):
            if any(table.cannot_tell(path, now_ms) for table in tables):
                return path
        return None

    def unsearchable(
        self, dimensions: int, now_ms: float, condition: Condition = EVERY_ROW
    ) -> Unsearchable:
        """The rows that satisfy the condition and that a query of so many dimensions cannot be
        compared with.

        They are named as a scan names them: those with the lowest ids, for the same reasons.
        """
        found = Unsearchable()
        for table in self._tables.values():
            if table.dimensions == dimensions:
                continue
            others = table.snapshot(now_ms, condition)
            named = table.lowest_ids(now_ms, condition, found.remembered)
            for row in named:
                odd = self._reasons.get(row.key, _Reason(NO_SCORE, table.dimensions))
                found.add(row.row_id, odd.for_query(dimensions))
            found.count += len(others) - len(named)
        return found

    def _load_block(self, block: VectorBlock) -> None:
        ids = block.ids()
        keys = [key_of(row_id) for row_id in ids]
        matrix, until, values = block.matrix, block.until.tolist(), block.values
        at: Sequence[int] = range(len(keys))
        if self._known(keys):
            # A row may come twice: it moved in the index that is being read. The later one counts.
            last = {key: n for n, key in enumerate(keys) if key not in self._changed_while_loading}
            at = list(last.values())
            for n in at:
                self._forget(keys[n])
            matrix, values = matrix[at], [values[n] for n in at]
        rows = [NewRow(keys[n], ids[n], until[n]) for n in at]
        self._add(matrix, rows, values)

    def _known(self, keys: Sequence[Hashable]) -> bool:
        """Whether any of these rows comes twice, or has changed since the load began."""
        tables: list[Container[Hashable]] = [*self._tables.values()]
        tables += [self._changed_while_loading] if self._changed_while_loading else []
        twice = len(set(keys)) < len(keys)
        return twice or any(key in table for table in tables for key in keys)

    def _add(
        self, matrix: NDArray[np.float32], rows: Sequence[NewRow], values: Sequence[RowValues]
    ) -> None:
        """Add rows that are not here, the comparable ones to the table of their dimension."""
        good = np.asarray(np.isfinite(matrix).all(axis=1))
        if self._similarity == "cosine":
            good &= matrix.any(axis=1)
        if not good.all():
            for position in np.flatnonzero(~good).tolist():
                reason = _Reason(NO_SCORE, matrix.shape[1])
                self._add_odd(rows[position], reason, values[position])
            matrix = matrix[good]
            rows, values = list(compress(rows, good)), list(compress(values, good))
        if rows:
            self._table(matrix.shape[1]).add(matrix, rows, values)

    def _add_odd(self, row: NewRow, reason: _Reason, values: RowValues) -> None:
        self._reasons[row.key] = reason
        self._table(_ODD).add(np.empty((1, 0), dtype=np.float32), [row], [values])

    def _table(self, dimensions: int) -> VectorTable:
        table = self._tables.get(dimensions)
        if table is None:
            table = self._tables[dimensions] = VectorTable(dimensions, self.paths)
        return table

    def _forget(self, key: Hashable) -> bool:
        """Take a row out; whether it was there."""
        self._reasons.pop(key, None)
        for dimensions, table in self._tables.items():
            if table.remove(key):
                if not len(table):
                    del self._tables[dimensions]
                return True
        return False
