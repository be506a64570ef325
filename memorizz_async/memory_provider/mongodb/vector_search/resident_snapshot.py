"""What one search in memory sees: the rows of one moment, and the best of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import Similarity
from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW, Condition
from memorizz_async.memory_provider.mongodb.vector_search.ordering import best_first
from memorizz_async.memory_provider.mongodb.vector_search.resident_columns import Columns, Mask
from memorizz_async.memory_provider.mongodb.vector_search.scoring import (
    Matrix,
    dot_products,
    scores,
)
from memorizz_async.vectors import Vector

Positions = NDArray[np.intp]

_RESCORED_AT_ONCE = 4_096
_ORDINARY = (1e-15, 1e15)
"""Lengths between which squares and products stay inside float32."""
_FEW = 3
"""Where fewer than one row of so many is asked for, those are copied out and then multiplied: it is
reading the others from memory that takes the time."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row beside its vector."""

    key: Hashable
    row_id: Any
    until: float


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the rows. alive: which are there; None for all."""

    matrix: Matrix
    lengths: NDArray[np.float32]
    rows: list[NewRow]
    columns: Columns
    alive: Mask | None

    @property
    def count(self) -> int:
        return len(self.lengths)

    def chosen(self, condition: Condition) -> Positions | None:
        """Which rows are there and satisfy the condition; None for all."""
        mask = self.alive
        if condition != EVERY_ROW:
            holds = self.columns.where(condition, self.count)
            mask = holds if mask is None else holds & mask
        return None if mask is None else np.flatnonzero(mask)


class Snapshot:
    """The rows of one moment that satisfy a condition. It may be searched in any thread.

    shortest, longest: the lengths between which those of all rows are.
    """

    def __init__(
        self,
        dimensions: int,
        parts: list[Part],
        condition: Condition,
        shortest: float,
        longest: float,
    ) -> None:
        self._dimensions = dimensions
        self._parts = parts
        self._condition = condition
        self._shortest = shortest
        self._longest = longest

    @property
    def numbers(self) -> int:
        """How many numbers a search multiplies."""
        return self._dimensions * sum(part.count for part in self._parts)

    @cached_property
    def _chosen(self) -> list[Positions | None]:
        """Of each part the rows that are there and satisfy the condition; None for all."""
        return [part.chosen(self._condition) for part in self._parts]

    def __len__(self) -> int:
        return sum(
            part.count if at is None else len(at)
            for part, at in zip(self._parts, self._chosen, strict=True)
        )

    def rows(self) -> Iterator[NewRow]:
        """The rows, in no order."""
        for part, at in zip(self._parts, self._chosen, strict=True):
            for position in range(part.count) if at is None else at.tolist():
                yield part.rows[position]

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
        candidates = _candidates(keys, limit + len(without), slack)
        rated: list[NDArray[np.float32]] = []
        rows: list[NewRow] = []
        start = 0
        for part, at in zip(self._parts, self._chosen, strict=True):
            stop = start + (part.count if at is None else len(at))
            first, last = np.searchsorted(candidates, (start, stop))
            mine = candidates[first:last] - start
            if at is not None:
                mine = at[mine]
            for block in range(0, len(mine), _RESCORED_AT_ONCE):
                some = mine[block : block + _RESCORED_AT_ONCE]
                rated.append(scores(part.matrix[some], query, similarity))
                rows.extend(part.rows[position] for position in some.tolist())
            start = stop
        if not rows:
            return []
        score = np.concatenate(rated)
        if without:
            score[[row.key in without for row in rows]] = np.nan
        best = best_first(score, limit, lambda position: rows[position].row_id)
        return [(rows[at].row_id, float(score[at])) for at in best]

    def _keys(self, query: Vector, similarity: Similarity) -> tuple[NDArray[np.float32], float]:
        """A number for each row, higher where it is more similar, and how far off that may be."""
        length = float(np.linalg.norm(query.astype(np.float64)))
        rounding = float(np.finfo(np.float32).eps) * (8 + self._dimensions**0.5)
        least, most = _ORDINARY
        ordinary = self._longest < most and length < most
        if similarity == "cosine":
            ordinary = ordinary and self._shortest > least and length > least
            query = (query / np.float32(length)).astype(np.float32) if ordinary else query
            slack = rounding
        elif similarity == "euclidean":
            # The 1 is that of the score's `1 + d²`, which makes scores of tiny distances equal.
            slack = rounding * max(1.0, (self._longest + length) ** 2)
        else:
            slack = rounding * max(1.0, self._longest * length)
        keys = [
            _product(part, at, query, similarity)
            if ordinary  # else every row is a candidate
            else np.zeros(part.count if at is None else len(at), dtype=np.float32)
            for part, at in zip(self._parts, self._chosen, strict=True)
        ]
        return np.concatenate(keys), slack


def _product(
    part: Part, at: Positions | None, query: Vector, similarity: Similarity
) -> NDArray[np.float32]:
    lengths = part.lengths if at is None else part.lengths[at]
    if at is None or len(at) * _FEW > part.count:
        keys = dot_products(part.matrix, query)
        keys = keys if at is None else keys[at]
    else:
        keys = dot_products(np.take(part.matrix, at, axis=0), query)
    if similarity == "cosine":
        keys /= lengths
    elif similarity == "euclidean":  # the same order as that of the negative squared distances
        keys *= 2
        keys -= lengths**2
    else:
        np.maximum(keys, -1.0, out=keys)  # a score is never below 0
    return keys


def _candidates(keys: NDArray[np.float32], limit: int, slack: float) -> Positions:
    """The positions of the `limit` highest keys, and of those as high but for rounding."""
    if len(keys) <= limit:
        return np.arange(len(keys))
    least = np.partition(keys, len(keys) - limit)[len(keys) - limit]
    return np.flatnonzero(keys >= least - np.float32(2 * slack))
