"""Similarity as a score, by Atlas's formulas, so that a score means the same on every server."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import Similarity
from memorizz_async.vectors import Vector

Matrix = NDArray[np.float32]


def scores(rows: Matrix, query: Vector, similarity: Similarity) -> NDArray[np.float32]:
    """The score of each row against the query, in [0, 1]; NaN for a row that has none.

    rows: shape (n, d); query: shape (d,); the result: shape (n,).

    cosine `(1 + cos) / 2`, dotProduct `(1 + dot) / 2` (never below 0; meant for unit vectors),
    euclidean `1 / (1 + d²)` with the squared distance: Lucene's VectorSimilarityFunction, which
    Atlas uses. Rows of zeros have no cosine, and rows that are not finite have no score.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if similarity == "euclidean":
            difference = rows - query
            squared = np.einsum("ij,ij->i", difference, difference)
            result = 1.0 / (1.0 + squared)
        else:
            dots = rows @ query
            if similarity == "cosine":
                lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
                dots = dots / (lengths * np.float32(np.linalg.norm(query)))
                # Rounding may leave [-1, 1] by a hair.
                result = (1.0 + np.clip(dots, -1.0, 1.0)) / 2.0
            else:
                result = np.maximum((1.0 + dots) / 2.0, 0.0)
    # An infinite row gives 0 by euclid or infinity by dot product, and has no score by either.
    result[~np.isfinite(rows).all(axis=1)] = np.nan
    scored: NDArray[np.float32] = result.astype(np.float32, copy=False)
    return scored
