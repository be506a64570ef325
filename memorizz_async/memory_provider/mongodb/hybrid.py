"""Recall by vectors, by words, or by both at once, fused into one order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime
from memorizz_async.errors import UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.queries import Query
from memorizz_async.memory_provider.mongodb.spoken import content_of
from memorizz_async.memory_provider.mongodb.text_search import (
    NAME,
    TextAnswer,
    TextIndex,
    TextSearch,
)
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    step,
)
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.results import FoundBy
from memorizz_async.retrieval.fusion import FUSIONS
from memorizz_async.retrieval.reranking import Reranker, best_order
from memorizz_async.validation import MAX_LIMIT
from memorizz_async.vectors import Vector, stored_vector

_AT_LEAST, _TIMES_THE_LIMIT = 50, 5
_RERANKED_AT_LEAST, _RERANKED_TIMES = 20, 3

Row = dict[str, Any]
ByVector = Callable[[SearchRequest], Coroutine[Any, Any, SearchAnswer]]


def candidates_for(limit: int) -> int:
    """How many rows each search of a hybrid recall brings: 5 times the limit, at least 50."""
    return min(MAX_LIMIT, max(_AT_LEAST, _TIMES_THE_LIMIT * limit))


class Recall:
    """Carries out one query in its mode; without one, by both searches where a text index is.

    reranker: reorders what was found, where the query has a text.
    """

    def __init__(self, config: MongoDBConfig, reranker: Reranker | None = None) -> None:
        self._fuse, self._fusion = FUSIONS[config.fusion], config.fusion
        self._reranker = reranker
        self.texts = TextSearch()

    async def search(
        self,
        driver: Driver,
        vectors: ByVector,
        query: Query,
        request: SearchRequest,
        call: CallTime,
    ) -> SearchAnswer:
        """The rows of a query, the best first; request.limit is the query's.

        vectors: searches by vector, with whatever the running loop has for it.

        call: its time, which the reranker has to keep, too. Raises DatabaseError,
        StoredEmbeddingError, EmbeddingError, UnsupportedOperationError.
        """
        if self._reranker is None or query.words is None:
            return await self._found(driver, vectors, query, request)
        pool = min(MAX_LIMIT, max(_RERANKED_AT_LEAST, _RERANKED_TIMES * request.limit))
        answer = await self._found(driver, vectors, query, _wider(request, pool))
        texts = [str(content_of(row)) for row, _ in answer.rows]
        work = partial(best_order, self._reranker, query.words, texts)
        with step(request.trace, "reranking"):
            order = (await call.within("reranking", work))[: request.limit]
        for position, score in order:
            answer.rows[position][0]["rerank_score"] = score
        if request.trace is not None:
            ways = request.trace.found_by or [
                (FoundBy(answer.strategy, rank, score),)
                for rank, (_, score) in enumerate(answer.rows, start=1)
            ]
            request.trace.found_by = [ways[position] for position, _ in order]
        return replace(answer, rows=[answer.rows[position] for position, _ in order])

    async def _found(
        self, driver: Driver, vectors: ByVector, query: Query, request: SearchRequest
    ) -> SearchAnswer:
        if query.mode == "vector" or query.words is None:
            return await vectors(request)
        index = await self.texts.index(driver, request.collection, request.deadline)
        if isinstance(index, str):
            if query.mode is not None:
                raise _cannot(query.mode, index)
            return await vectors(request)
        if query.mode == "text":
            return await self._by_words(driver, index, query.words, request)
        return await self._by_both(driver, vectors, index, query, request)

    async def _by_words(
        self, driver: Driver, index: TextIndex, words: str, request: SearchRequest
    ) -> SearchAnswer:
        found = await self._words(driver, index, request, words)
        if isinstance(found, str):
            raise _cannot("text", found)
        rows = [({**row, "text_score": score}, score / (1 + score)) for row, score in found.rows]
        if request.trace is not None:
            request.trace.why, request.trace.index = "the mode is 'text'", index.name
            request.trace.found_by = [
                (FoundBy(NAME, rank, score),) for rank, (_, score) in enumerate(found.rows, start=1)
            ]
        return SearchAnswer(NAME, rows, mode="text")

    async def _by_both(
        self,
        driver: Driver,
        vectors: ByVector,
        index: TextIndex,
        query: Query,
        request: SearchRequest,
    ) -> SearchAnswer:
        wide = _wider(request, candidates_for(request.limit))
        # With vectors: a row found by its words alone is compared without another trip.
        with_vectors = replace(wide, include_embedding=True)
        assert query.words is not None
        by_vector, by_words = await asyncio.gather(
            vectors(wide),
            self._words(driver, index, with_vectors, query.words),
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
        if request.trace is not None:
            request.trace.why += f"; {index.name!r} has the words"
        with step(request.trace, "fusion"):  # in a thread: it may be of thousands of vectors
            rows = await asyncio.to_thread(self._fused, by_vector, by_words, request)
        return replace(by_vector, rows=rows, mode="hybrid")

    async def _words(
        self, driver: Driver, index: TextIndex, request: SearchRequest, words: str
    ) -> TextAnswer | str:
        with step(request.trace, "words"):
            return await self.texts.search(driver, index, request, words)

    def _fused(
        self, by_vector: SearchAnswer, by_words: TextAnswer, request: SearchRequest
    ) -> list[tuple[Row, float]]:
        rows = {_key(row): row for row, _ in by_vector.rows}
        only_words = [row for row, _ in by_words.rows if _key(row) not in rows]
        exact = _exact(only_words, request)
        for row in only_words:
            if not request.include_embedding:
                row.pop("embedding", None)
            rows[_key(row)] = row
        if not rows:
            return []
        vector = np.array([*(score for _, score in by_vector.rows), *exact], dtype=np.float64)
        of_words = {_key(row): score for row, score in by_words.rows}
        text = np.array([of_words.get(key, np.nan) for key in rows], dtype=np.float64)
        known = text
        if self._fusion == "zscore" and by_words.complete:
            known = np.nan_to_num(text, nan=0.0)  # that a row has none of the words is known, too
        fused = self._fuse(vector, known)
        listed = list(rows.values())
        best = np.argsort(-fused, kind="stable")[: request.limit].tolist()
        for at in best:
            listed[at]["text_score"] = 0.0 if np.isnan(text[at]) else float(text[at])
            listed[at]["fused_score"] = float(fused[at])
        if request.trace is not None:
            ways = _ways(by_vector, by_words)
            request.trace.found_by = [ways[_key(listed[at])] for at in best]
        return [(listed[at], 0.0 if np.isnan(vector[at]) else float(vector[at])) for at in best]


def _ways(by_vector: SearchAnswer, by_words: TextAnswer) -> dict[str, tuple[FoundBy, ...]]:
    """How each search found each row, where it did."""
    ways: dict[str, tuple[FoundBy, ...]] = {}
    for how, found in ((by_vector.strategy, by_vector.rows), (NAME, by_words.rows)):
        for rank, (row, score) in enumerate(found, start=1):
            ways[_key(row)] = (*ways.get(_key(row), ()), FoundBy(how, rank, score))
    return ways


def _wider(request: SearchRequest, limit: int) -> SearchRequest:
    """The request for more rows; an index must look at no fewer than are wanted of it."""
    least = None if request.num_candidates is None else max(request.num_candidates, limit)
    return replace(request, limit=limit, num_candidates=least)


def _key(row: Row) -> str:
    """What tells rows apart; another program's `_id` may be a document, which is no key."""
    return repr(row["_id"])


def _exact(rows: list[Row], request: SearchRequest) -> NDArray[np.float32]:
    """The vector score of each row; NaN for one whose vector cannot be compared, or is missing."""
    result = np.full(len(rows), np.nan, dtype=np.float32)
    for query, some in _by_query(rows, request):
        known: dict[int, Vector] = {}
        for position in some:
            try:
                vector = stored_vector(rows[position].get("embedding"))
            except (TypeError, ValueError):
                continue
            if vector.shape == query.shape:
                known[position] = vector
        if known:
            stacked = np.stack(list(known.values()))
            result[list(known)] = scores(stacked, query, request.similarity)
    return result


def _by_query(rows: list[Row], request: SearchRequest) -> list[tuple[Vector, list[int]]]:
    """The query's vectors, each with the positions of the rows that are of its model."""
    models = [row.get("embedding_model") for row in rows]
    changing = request.changing
    if changing is not None:
        new = [at for at, model in enumerate(models) if model == changing.model]
        old = [at for at, model in enumerate(models) if model != changing.model]
        return [(request.vector, old), (changing.vector, new)]
    own = [
        at
        for at, model in enumerate(models)
        if request.model is None or model in (None, request.model)
    ]
    return [(request.vector, own)]


def _cannot(mode: str, reason: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"A recall in mode {mode!r} needs a text index",
        seen=reason,
        fix="run ensure_indexes_async() or `memorizz-async indexes` on a MongoDB server, or use "
        'mode="vector"',
    )
