"""Recall by vectors, by words, or by both at once, fused into one order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import MongoDBConfig, Similarity
from memorizz_async.deadline import Deadline, within
from memorizz_async.errors import UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.queries import Query
from memorizz_async.memory_provider.mongodb.rows import public_row
from memorizz_async.memory_provider.mongodb.text_search import (
    NAME,
    TextAnswer,
    TextIndex,
    TextSearch,
)
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
)
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.results import Hits
from memorizz_async.retrieval.fusion import FUSIONS
from memorizz_async.retrieval.reranking import Reranker, best_order
from memorizz_async.validation import MAX_LIMIT
from memorizz_async.vectors import Vector, stored_vector

_AT_LEAST, _TIMES_THE_LIMIT = 50, 5
_RERANKED_AT_LEAST, _RERANKED_TIMES = 20, 3

Row = dict[str, Any]


def candidates_for(limit: int) -> int:
    """How many rows each search of a hybrid recall brings: 5 times the limit, at least 50."""
    return min(MAX_LIMIT, max(_AT_LEAST, _TIMES_THE_LIMIT * limit))


class Recall:
    """Carries out one query in its mode; without one, by both searches where a text index is.

    reranker: reorders what was found, where the query has a text.
    """

    def __init__(
        self, vectors: VectorSearch, config: MongoDBConfig, reranker: Reranker | None = None
    ) -> None:
        self._vectors = vectors
        self._fuse, self._fusion = FUSIONS[config.fusion], config.fusion
        self._reranker = reranker
        self.texts = TextSearch()

    async def search(
        self, driver: Driver, query: Query, request: SearchRequest, bound: Deadline | None
    ) -> SearchAnswer:
        """The rows of a query, the best first; request.limit is the query's.

        bound: the caller's deadline, which the reranker has to keep. Raises DatabaseError,
        StoredEmbeddingError, EmbeddingError.
        """
        if self._reranker is None or query.words is None:
            return await self._found(driver, query, request)
        pool = min(MAX_LIMIT, max(_RERANKED_AT_LEAST, _RERANKED_TIMES * request.limit))
        answer = await self._found(driver, query, replace(request, limit=pool))
        texts = [str(row.get("content") or "") for row, _ in answer.rows]
        work = best_order(self._reranker, query.words, texts)
        order = (await within(bound, work, "reranking"))[: request.limit]
        for position, score in order:
            answer.rows[position][0]["rerank_score"] = score
        return replace(answer, rows=[answer.rows[position] for position, _ in order])

    async def _found(self, driver: Driver, query: Query, request: SearchRequest) -> SearchAnswer:
        if query.mode == "vector" or query.words is None:
            return await self._vectors.search(driver, request)
        index = await self.texts.index(driver, request.collection, request.deadline)
        if isinstance(index, str):
            if query.mode is not None:
                raise _cannot(query.mode, index)
            return await self._vectors.search(driver, request)
        if query.mode == "text":
            return await self._by_words(driver, index, query.words, request)
        return await self._by_both(driver, index, query, request)

    async def _by_words(
        self, driver: Driver, index: TextIndex, words: str, request: SearchRequest
    ) -> SearchAnswer:
        found = await self.texts.search(driver, index, request, words)
        if isinstance(found, str):
            raise _cannot("text", found)
        rows = [({**row, "text_score": score}, score / (1 + score)) for row, score in found.rows]
        return SearchAnswer(NAME, rows, mode="text")

    async def _by_both(
        self, driver: Driver, index: TextIndex, query: Query, request: SearchRequest
    ) -> SearchAnswer:
        wide = replace(request, limit=candidates_for(request.limit))
        # With vectors: a row found by its words alone is compared without another trip.
        with_vectors = replace(wide, include_embedding=True)
        assert query.words is not None
        by_vector, by_words = await asyncio.gather(
            self._vectors.search(driver, wide),
            self.texts.search(driver, index, with_vectors, query.words),
            return_exceptions=True,
        )
        if isinstance(by_vector, BaseException):
            raise by_vector
        if isinstance(by_words, BaseException):
            raise by_words
        if isinstance(by_words, str):
            if query.mode is not None:
                raise _cannot(query.mode, by_words)
            return replace(by_vector, rows=by_vector.rows[: request.limit])
        return replace(by_vector, rows=self._fused(by_vector, by_words, request), mode="hybrid")

    def _fused(
        self, by_vector: SearchAnswer, by_words: TextAnswer, request: SearchRequest
    ) -> list[tuple[Row, float]]:
        rows = {row["_id"]: row for row, _ in by_vector.rows}
        only_words = [row for row, _ in by_words.rows if row["_id"] not in rows]
        exact = _exact(only_words, request.vector, request.similarity)
        for row in only_words:
            if not request.include_embedding:
                row.pop("embedding", None)
            rows[row["_id"]] = row
        if not rows:
            return []
        vector = np.array([*(score for _, score in by_vector.rows), *exact], dtype=np.float64)
        of_words = {row["_id"]: score for row, score in by_words.rows}
        text = np.array([of_words.get(row_id, np.nan) for row_id in rows], dtype=np.float64)
        known = text
        if self._fusion == "zscore" and by_words.complete:
            known = np.nan_to_num(text, nan=0.0)  # that a row has none of the words is known, too
        fused = self._fuse(vector, known)
        listed = list(rows.values())
        best = np.argsort(-fused, kind="stable")[: request.limit].tolist()
        for at in best:
            listed[at]["text_score"] = 0.0 if np.isnan(text[at]) else float(text[at])
            listed[at]["fused_score"] = float(fused[at])
        return [(listed[at], 0.0 if np.isnan(vector[at]) else float(vector[at])) for at in best]


def hits_of(answer: SearchAnswer, type_name: str) -> Hits:
    """An answer as it leaves the API."""
    return Hits(
        ({**public_row(row, type_name), "score": score} for row, score in answer.rows),
        strategy=answer.strategy,
        unsearchable=answer.unsearchable,
        mode=answer.mode,
    )


def _exact(rows: list[Row], query: Vector, similarity: Similarity) -> NDArray[np.float32]:
    """The vector score of each row; NaN for one whose vector cannot be compared, or is missing."""
    result = np.full(len(rows), np.nan, dtype=np.float32)
    known: dict[int, Vector] = {}
    for position, row in enumerate(rows):
        try:
            vector = stored_vector(row.get("embedding"))
        except (TypeError, ValueError):
            continue
        if vector.shape == query.shape:
            known[position] = vector
    if known:
        result[list(known)] = scores(np.stack(list(known.values())), query, similarity)
    return result


def _cannot(mode: str, reason: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"A recall in mode {mode!r} needs a text index",
        seen=reason,
        fix='run ensure_indexes_async() on a MongoDB server, or use mode="vector"',
    )
