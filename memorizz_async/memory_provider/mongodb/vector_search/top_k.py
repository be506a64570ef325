"""The best k of a stream, in memory for k: what makes a scan of any length flat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.vector_search.ordering import best_first


class TopK:
    """Keeps the k highest scores; of equal scores the lowest ids, in whatever order rows come."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._scores = np.empty(0, dtype=np.float32)
        self._ids: list[Any] = []

    def offer(self, scores: NDArray[np.float32], id_at: Callable[[int], Any]) -> None:
        """Offer a block of rows; `id_at` is asked for the ids of those that got in, and of those
        that compete with them at an equal score.

        scores: shape (n,); NaN never gets in.
        """
        held = len(self._ids)
        if held == self._k:
            candidates = np.flatnonzero(scores >= self._scores[-1])
        else:
            candidates = np.flatnonzero(~np.isnan(scores))
        if not candidates.size:
            return
        merged = np.concatenate((self._scores, scores[candidates]))
        read: dict[int, Any] = dict(enumerate(self._ids))

        def id_of(position: int) -> Any:
            if position not in read:
                read[position] = id_at(int(candidates[position - held]))
            return read[position]

        keep = best_first(merged, self._k, id_of)
        self._ids = [id_of(position) for position in keep]
        self._scores = merged[keep]

    def best(self) -> list[tuple[Any, float]]:
        """(id, score) pairs, the highest score first, of equal scores the lowest id."""
        return list(zip(self._ids, self._scores.tolist(), strict=True))
