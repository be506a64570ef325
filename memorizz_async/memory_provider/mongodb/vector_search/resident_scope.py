"""The rows of one scope in memory: loaded once, then told of every change."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import Similarity
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.raw_vectors import (
    ReadBatch,
    VectorBlock,
)
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    NO_SCORE,
    Unsearchable,
    wrong_dimension,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident_matrix import (
    BYTES_A_ROW,
    NewRow,
    Snapshot,
    VectorTable,
)
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import (
    alive_until,
    matcher_of,
)
from memorizz_async.vectors import stored_vector

_BYTES_A_SCOPE = 4_096


class ResidentScope:
    """What a scan of a collection within a scope would read, kept in memory.

    It belongs to one event loop. While it is being loaded (`loading`), changes are applied as they
    come, and the rows that they are about are not taken from the load, which may have read them
    before the change.
    """

    def __init__(self, scope: Mapping[str, Any], similarity: Similarity) -> None:
        self.matches = matcher_of(scope)
        self.loading = True
        self.dropped = False
        """Whether it no longer follows the changes: the collection went, or there was no room."""
        self._similarity = similarity
        self._tables: dict[int, VectorTable] = {}
        self._odd: dict[Hashable, tuple[Any, str, float]] = {}
        self._changed_while_loading: set[Hashable] = set()
        self._next_order = 0

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        tables = sum(table.nbytes for table in self._tables.values())
        return _BYTES_A_SCOPE + tables + BYTES_A_ROW * len(self._odd)

    def loaded(self) -> None:
        """All rows have been given to `load`."""
        self.loading = False
        self._changed_while_loading.clear()

    def load(self, batch: ReadBatch) -> None:
        """Take rows as the server holds them, in its order."""
        for row_id, reason, until in batch.unreadable:
            key = key_of(row_id)
            if key not in self._changed_while_loading:
                self._forget(key)
                self._odd[key] = (row_id, reason, until)
        for block in batch.blocks:
            self._load_block(block)

    def change(self, key: Hashable, row_id: Any, row: Mapping[str, Any] | None) -> bool:
        """Take a row as it is now, None where it is gone; whether that concerned this scope."""
        if self.loading:
            self._changed_while_loading.add(key)
        order = self._forget(key)
        if row is None or not self.matches(row) or row.get("embedding") is None:
            return order is not None
        until = alive_until(row)
        try:
            vector = stored_vector(row["embedding"])
        except (TypeError, ValueError) as error:
            self._odd[key] = (row_id, str(error), until)
            return True
        if vector.ndim == 1 and vector.size:
            self._add(vector[np.newaxis], [row_id], [key], [until], [order])
        else:
            self._odd[key] = (row_id, f"an array of shape {vector.shape}", until)
        return True

    def snapshot(self, dimensions: int, now_ms: float) -> Snapshot:
        """The rows of a dimension at a moment."""
        table = self._tables.get(dimensions)
        return Snapshot(dimensions, [], 0.0, 0.0) if table is None else table.snapshot(now_ms)

    def unsearchable(self, dimensions: int, now_ms: float) -> Unsearchable:
        """The rows that a query of so many dimensions cannot be compared with."""
        found = Unsearchable()
        for row_id, reason, until in self._odd.values():
            if until > now_ms:
                found.add(row_id, reason)
        for table in self._tables.values():
            if table.dimensions != dimensions and (count := table.alive_at(now_ms)):
                reason = wrong_dimension(table.dimensions, dimensions)
                named = list(islice(table.ids_alive(now_ms), found.remembered))
                for row_id in named:
                    found.add(row_id, reason)
                found.count += count - len(named)
        return found

    def _load_block(self, block: VectorBlock) -> None:
        ids = block.ids()
        keys = [key_of(row_id) for row_id in ids]
        until = block.until.tolist()
        matrix = block.matrix
        known = self._known(keys)
        if known:
            # A row may come twice: it moved in the index that is being read. The later one counts.
            keep = [
                position
                for position, key in enumerate(keys)
                if key not in self._changed_while_loading
            ]
            orders = [self._forget(keys[position]) for position in keep]
            ids, keys = [ids[at] for at in keep], [keys[at] for at in keep]
            until, matrix = [until[at] for at in keep], matrix[keep]
        else:
            orders = [None] * len(ids)
        self._add(matrix, ids, keys, until, orders)

    def _known(self, keys: Sequence[Hashable]) -> bool:
        """Whether any of these rows is here already, or has changed since the load began."""
        tables: list[Container[Hashable]] = [*self._tables.values()]
        tables += [each for each in (self._odd, self._changed_while_loading) if each]
        return any(key in table for table in tables for key in keys)

    def _add(
        self,
        matrix: NDArray[np.float32],
        ids: Sequence[Any],
        keys: Sequence[Hashable],
        until: Sequence[float],
        orders: Sequence[int | None],
    ) -> None:
        """Add rows that are not here, the comparable ones to the table of their dimension."""
        good = np.asarray(np.isfinite(matrix).all(axis=1))
        if self._similarity == "cosine":
            good &= matrix.any(axis=1)
        rows = []
        for position in range(len(matrix)):
            if not good[position]:
                self._odd[keys[position]] = (ids[position], NO_SCORE, until[position])
                continue
            order = orders[position]
            if order is None:  # what is new stands last, as it does in the collection
                order, self._next_order = self._next_order, self._next_order + 1
            rows.append(NewRow(keys[position], ids[position], until[position], order))
        if not rows:
            return
        dimensions = matrix.shape[1]
        table = self._tables.get(dimensions)
        if table is None:
            table = self._tables[dimensions] = VectorTable(dimensions)
        table.add(matrix if len(rows) == len(matrix) else matrix[good], rows)

    def _forget(self, key: Hashable) -> int | None:
        """Take a row out; where it stood, None where it was not there."""
        self._odd.pop(key, None)
        for dimensions, table in self._tables.items():
            order = table.order_of(key)
            if order is not None:
                table.remove(key)
                if not len(table):
                    del self._tables[dimensions]
                return order
        return None
