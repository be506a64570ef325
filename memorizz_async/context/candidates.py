"""What was recalled, made comparable across types, and each thing only once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memorizz_async.context.window import LeftOut
from memorizz_async.errors import ConfigurationError
from memorizz_async.memory_provider.mongodb.spoken import text_of
from memorizz_async.memory_provider.mongodb.vector_search.scoring import dot_products
from memorizz_async.results import Hit, RecallResults

Relevance = Callable[[Hit], float]
Matrix = NDArray[np.float32]

_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A recalled memory. group: the name that its type was asked by; store: whose rows these are.

    unit: its vector at length 1, shape (d,); None where it has none to compare.
    """

    group: str
    store: str
    hit: Hit
    relevance: float
    unit: Matrix | None

    @property
    def id(self) -> str:
        return str(self.hit["_id"])

    def left_out(self, reason: str, detail: str, of: str | None = None) -> LeftOut:
        return LeftOut(self.group, self.id, reason, detail, of)  # type: ignore[arg-type]


def candidates_of(results: RecallResults, relevance: Relevance | None = None) -> list[Candidate]:
    """Every hit, the most relevant first; of equals, by the order of types, then of hits.

    relevance: None takes `score`, which means the same in every type. Where a search by words or a
        reranker put hits into another order, that order is believed: see `in_order_scores`.
    """
    found = []
    for group, hits in results.items():
        worths = [_checked(relevance, hit) for hit in hits] if relevance else in_order_scores(hits)
        store = results.types[group].store.name
        for hit, worth in zip(hits, worths, strict=True):
            found.append(Candidate(group, store, hit, worth, _unit(hit.get("embedding"))))
    return sorted(found, key=lambda candidate: -candidate.relevance)  # stable


def in_order_scores(hits: list[Hit]) -> list[float]:
    """What the hits are worth, on the scale of a score and in the order of their search.

    A `fused_score` or `rerank_score` orders the hits of one answer and compares with nothing else.
    So it is stretched onto the range of that answer's scores: types stay comparable, as scores
    are, and inside a type the search is believed.
    """
    scores = np.array([float(hit["score"]) for hit in hits])
    for name in ("rerank_score", "fused_score"):
        if hits and all(name in hit for hit in hits):
            order = np.array([float(hit[name]) for hit in hits])
            width = order.max() - order.min()
            share = (order - order.min()) / width if width > 0 else np.ones(len(hits))
            scores = scores.min() + share * (scores.max() - scores.min())
            break
    return [float(score) for score in scores]


def distinct(
    candidates: list[Candidate], duplicate_cosine: float | None, check: Callable[[], None]
) -> tuple[list[Candidate], Matrix, list[LeftOut]]:
    """The candidates without repetitions, their vectors, and what was left out.

    The more relevant of two stays. The same are: the same row, the same text but for case and
    blanks, and vectors with a cosine of at least `duplicate_cosine` (None: not looked at). Two
    texts with different numbers are never near-duplicates, nor are two turns of one session, whose
    vectors hold their neighbours' words.

    check: called now and then; it raises where nobody waits any more. The vectors have the shape
    (n, d), zeros for a candidate that has none.
    """
    dimensions = next((c.unit.size for c in candidates if c.unit is not None), 0)
    vectors = np.zeros((len(candidates), dimensions), dtype=np.float32)
    kept: list[Candidate] = []
    left: list[LeftOut] = []
    by_row: dict[tuple[str, str], Candidate] = {}
    by_text: dict[str, Candidate] = {}
    for candidate in candidates:
        check()
        text = normalised(text_of(candidate.hit["content"]))
        row = (candidate.store, candidate.id)
        if not text:
            left.append(candidate.left_out("no text", "the row has no content"))
            continue
        if (same := by_row.get(row) or by_text.get(text)) is not None:
            how = "the same row" if row in by_row else "the same text"
            left.append(_duplicate(candidate, same, how))
            continue
        vector = candidate.unit
        if vector is not None and vector.size == dimensions:
            near = _nearest(candidate, vector, kept, vectors, duplicate_cosine)
            if near is not None:
                left.append(_duplicate(candidate, near[0], f"cosine {near[1]:.3f}"))
                continue
            vectors[len(kept)] = vector
        kept.append(candidate)
        by_row[row] = by_text[text] = candidate
    return kept, vectors[: len(kept)], left


def normalised(text: str) -> str:
    """The text without what does not change what it says: case, blanks, forms of one letter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _nearest(
    candidate: Candidate,
    vector: Matrix,
    kept: list[Candidate],
    vectors: Matrix,
    duplicate_cosine: float | None,
) -> tuple[Candidate, float] | None:
    """The kept memory that this one repeats, and their cosine."""
    if duplicate_cosine is None or not kept:
        return None
    cosines = dot_products(vectors[: len(kept)], vector)
    for at in np.flatnonzero(cosines >= duplicate_cosine):
        if not _tell_apart(candidate.hit, kept[at].hit):
            return kept[at], float(cosines[at])
    return None


def _tell_apart(one: Hit, other: Hit) -> bool:
    """Whether two rows with much the same vector say different things all the same."""
    turns = (one.get("turn"), other.get("turn"))
    if None not in turns and one.get("session_id") == other.get("session_id"):
        return True
    numbers, others = (_NUMBERS.findall(text_of(hit["content"])) for hit in (one, other))
    return numbers != others


def _duplicate(candidate: Candidate, of: Candidate, how: str) -> LeftOut:
    return candidate.left_out("duplicate", f"duplicate of {of.group} {of.id}: {how}", of.id)


def _unit(embedding: object) -> Matrix | None:
    if not isinstance(embedding, list) or not embedding:
        return None
    vector = np.asarray(embedding, dtype=np.float64)
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        return None
    unit: Matrix = (vector / length).astype(np.float32)
    return unit


def _checked(relevance: Relevance, hit: Hit) -> float:
    try:
        worth = float(relevance(hit))
    except Exception as error:
        raise ConfigurationError(
            "The function of relevance failed",
            seen=type(error).__name__,
            fix="see the error that caused this",
        ) from error
    if not np.isfinite(worth):
        raise ConfigurationError("The relevance of a memory must be finite", seen=repr(worth))
    return worth
