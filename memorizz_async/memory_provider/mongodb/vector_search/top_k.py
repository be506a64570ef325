"""The best k of a stream, in memory for k: what makes a scan of any length flat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TopK:
    """Keeps the k highest scores. Of equal scores the earlier row wins, so that order is stable."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._scores = np.empty(0, dtype=np.float32)
        self._ids: list[Any] = []

    def offer(self, scores: NDArray[np.float32], id_at: Callable[[int], Any]) -> None:
        """Offer a block of rows; `id_at` is asked for the ids of those that got in, and no other.

        scores: shape (n,); NaN never gets in.
        """
        if len(self._ids) == self._k:
            candidates = np.flatnonzero(scores > self._scores[-1])
        else:
            candidates = np.flatnonzero(~np.isnan(scores))
        if candidates.size > self._k:
            # Stable, so that of equal scores the first rows are the ones that stay.
            order = np.argsort(-scores[candidates], kind="stable")[: self._k]
            candidates = np.sort(candidates[order])
        if not candidates.size:
            return
        merged = np.concatenate((self._scores, scores[candidates]))
        keep = np.argsort(-merged, kind="stable")[: self._k]
        held = len(self._ids)
        self._ids = [
            self._ids[position] if position < held else id_at(int(candidates[position - held]))
            for position in keep.tolist()
        ]
        self._scores = merged[keep]

    def best(self) -> list[tuple[Any, float]]:
        """(id, score) pairs, the highest score first."""
        return list(zip(self._ids, self._scores.tolist(), strict=True))
