"""One query in its mode: by vectors, by words, or by both; and a reranker's last word."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime
from memorizz_async.memory_provider.mongodb.hybrid import HybridSearch, Prepare, no_words, wider
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.queries import Query
from memorizz_async.memory_provider.mongodb.spoken import content_of, text_of
from memorizz_async.memory_provider.mongodb.text_search import NAME, TextIndex, TextSearch
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    step,
)
from memorizz_async.results import FoundBy
from memorizz_async.retrieval.reranking import Reranker, best_order
from memorizz_async.validation import MAX_LIMIT

_RERANKED_AT_LEAST, _RERANKED_TIMES = 20, 3


class Recall:
    """Carries out one query in its mode; without one, by both searches where a text index is.

    reranker: reorders what was found, where the query has a text.
    """

    def __init__(self, config: MongoDBConfig, reranker: Reranker | None = None) -> None:
        self._reranker = reranker
        self._fusion = config.fusion
        self.texts = TextSearch()

    async def search(
        self,
        driver: Driver,
        prepare: Prepare,
        query: Query,
        call: CallTime,
        request: SearchRequest,
    ) -> SearchAnswer:
        """The rows of a query, the best first; request.limit is the query's.

        prepare: a search by vectors, with whatever the running loop has for it.

        call: its time, which the reranker has to keep, too. Raises DatabaseError,
        StoredEmbeddingError, EmbeddingError, UnsupportedOperationError.
        """
        if self._reranker is None or query.words is None:
            return await self._found(driver, prepare, query, request)
        pool = min(MAX_LIMIT, max(_RERANKED_AT_LEAST, _RERANKED_TIMES * request.limit))
        answer = await self._found(driver, prepare, query, wider(request, pool))
        texts = [text_of(content_of(row)) for row, _ in answer.rows]
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
        self, driver: Driver, prepare: Prepare, query: Query, request: SearchRequest
    ) -> SearchAnswer:
        if query.mode == "vector" or query.words is None:
            return await (await prepare(request)).search()
        index = await self.texts.index(driver, request.collection, request.deadline)
        if isinstance(index, str):
            if query.mode is not None:
                raise no_words(query.mode, index)
            return await (await prepare(request)).search()
        if query.mode == "text":
            return await self._by_words(driver, index, query.words, request)
        both = HybridSearch(driver, self.texts, index, self._fusion, query, request)
        return await both.search(prepare)

    async def _by_words(
        self, driver: Driver, index: TextIndex, words: str, request: SearchRequest
    ) -> SearchAnswer:
        found = await self.texts.search(driver, index, request, words)
        if isinstance(found, str):
            raise no_words("text", found)
        rows = [({**row, "text_score": score}, score / (1 + score)) for row, score in found.rows]
        if request.trace is not None:
            request.trace.why, request.trace.index = "the mode is 'text'", index.name
            request.trace.found_by = [
                (FoundBy(NAME, rank, score),) for rank, (_, score) in enumerate(found.rows, start=1)
            ]
        return SearchAnswer(NAME, rows, mode="text")
