"""One order out of two searches: pure functions over the scores of the same candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import FusionName

Scores = NDArray[np.float64]

RRF_K: Final = 60
"""The constant of the paper; it was chosen on other data than ours, and is left alone."""


def z_score_fusion(*sides: Scores) -> Scores:
    """The sum of each side's standard scores.

        fused = Σ (score - mean) / standard deviation        over the candidates of each side

    sides: each of shape (candidates,); NaN where a side does not know a candidate, which then gets
    the side's lowest score, as it was not found among better ones. A side in which all are equal
    says nothing and adds 0. The result, of shape (candidates,), has no unit: it compares candidates
    of one query, and nothing else.

    The sum of normalised scores is Fox and Shaw's CombSUM ("Combination of Multiple Searches",
    TREC-2, 1994); standard scores as the normalisation are from Montague and Aslam ("Relevance
    Score Normalization for Metasearch", CIKM 2001).
    """
    fused = np.zeros(sides[0].shape)
    for side in sides:
        fused += _standard(_filled(side))
    return fused


def reciprocal_rank_fusion(*sides: Scores) -> Scores:
    """The sum of reciprocal ranks; scores count by their order alone.

        fused = Σ 1 / (60 + rank)        rank 1 is a side's best; of equals the earlier is better

    sides: each of shape (candidates,); NaN where a side did not find a candidate, which adds 0.
    The result, of shape (candidates,), lies between 0 and the number of sides / 61.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods" (SIGIR 2009).
    """
    fused = np.zeros(sides[0].shape)
    for side in sides:
        order = np.argsort(-side, kind="stable")  # NaN goes last
        found = order[: np.count_nonzero(~np.isnan(side))]
        fused[found] += 1.0 / (RRF_K + 1 + np.arange(found.size))
    return fused


FUSIONS: Final[dict[FusionName, Callable[..., Scores]]] = {
    "zscore": z_score_fusion,
    "rrf": reciprocal_rank_fusion,
}


def _filled(side: Scores) -> Scores:
    unknown = np.isnan(side)
    if not unknown.any():
        return side
    return np.where(unknown, 0.0 if unknown.all() else np.nanmin(side), side)


def _standard(side: Scores) -> Scores:
    if side.min() == side.max():  # their mean, rounded, may be another number
        return np.zeros_like(side)
    centred = side - side.mean()
    # Scaled first: the square of a tiny difference would be no number any more.
    largest = float(np.abs(centred).max())
    if largest <= np.finfo(np.float64).eps * float(np.abs(side).max()):
        return np.zeros_like(side)
    scaled = centred / largest
    standard: Scores = scaled / scaled.std()
    return standard
