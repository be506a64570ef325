"""Runs the queries of a batch: each distinct text embedded once, then every query in parallel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.enums import MemoryType
from memorizz_async.errors import MemorizzAsyncError
from memorizz_async.memory_provider.mongodb.connection import LoopSession
from memorizz_async.memory_provider.mongodb.embedding_models.asking import ModelledQueries
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.explaining import explanation
from memorizz_async.memory_provider.mongodb.filters import NO_ROW
from memorizz_async.memory_provider.mongodb.modes import Recall
from memorizz_async.memory_provider.mongodb.queries import Query
from memorizz_async.memory_provider.mongodb.row_problems import RowProblems, problem_of
from memorizz_async.memory_provider.mongodb.rows import hit_of
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    Trace,
)
from memorizz_async.redaction import shown
from memorizz_async.results import BatchResults, Hits
from memorizz_async.retrieval.memory_signal import USUAL_SIGNAL
from memorizz_async.slices import in_slices
from memorizz_async.vectors import NO_VECTOR

OnError = Literal["raise", "partial"]


class BatchSearch:
    """What the queries of one provider share: its collections, and how they are searched."""

    def __init__(
        self,
        config: MongoDBConfig,
        collections: Mapping[MemoryType, str],
        search: VectorSearch,
        recall: Recall,
        guard: ModelGuard,
        *,
        problems: RowProblems,
    ) -> None:
        self._problems = problems
        self._config = config
        self._collections = collections
        self._search = search
        self._recall = recall
        self._guard = guard

    async def run(
        self,
        session: LoopSession,
        batch: Sequence[Query],
        *,
        on_error: OnError,
        call: CallTime,
    ) -> BatchResults:
        """The hits of each query under its key."""
        started = time.perf_counter()
        texts = [
            (self._collections[query.memory_type], query.text)
            for query in batch
            if query.filter != NO_ROW and query.text is not None
        ]
        asking = ModelledQueries(self._guard, session.driver, call)
        try:
            if texts:
                await asking.begin(texts)
            results = BatchResults(
                types={query.key: query.memory_type for query in batch},
                embedding_ms=_ms_since(started) if texts else 0.0,
            )
            deadline = call.for_database()
            outcomes = await asyncio.gather(
                *(
                    self._run(session, query, asking, results, deadline, call=call)
                    for query in batch
                ),
                return_exceptions=True,
            )
        finally:
            await asking.end()
        for query, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, MemorizzAsyncError) and on_error == "partial":
                results.errors[query.key] = outcome
            elif isinstance(outcome, BaseException):
                outcome.add_note(f"in the query {shown(query.key, word=True)}")
                raise outcome
            else:
                results[query.key] = outcome
                if outcome.unsearchable is not None:
                    results.errors[query.key] = outcome.unsearchable
        return results

    async def _run(
        self,
        session: LoopSession,
        query: Query,
        asking: ModelledQueries,
        results: BatchResults,
        deadline: Deadline,
        *,
        call: CallTime,
    ) -> Hits:
        started = time.perf_counter()
        collection = self._collections[query.memory_type]
        trace = Trace() if query.explain else None
        answer = await self._answer(session, query, asking, deadline, trace=trace, call=call)
        session.tracker.note(collection, (key_of(row["_id"]) for row, _ in answer.rows))
        hits = Hits(strategy=answer.strategy, unsearchable=answer.unsearchable, mode=answer.mode)
        problems: dict[str, str] = {}
        now = datetime.now(UTC)
        async for row, score in in_slices(answer.rows):
            hit = hit_of(row, query.type_name, score)
            hit["memory_signal"] = USUAL_SIGNAL.of_row(hit, score, now)
            if (problem := problem_of(row, hit)) is not None:
                problems[str(hit["_id"])] = problem
            hits.append(hit)
        if answer.unsearchable is not None:
            problems |= answer.unsearchable.problems
        self._problems.name(collection, problems)
        results.queries_ms[query.key] = _ms_since(started)
        if trace is not None:
            took = results.queries_ms[query.key]
            hits.explain = explanation(
                query, hits, trace, problems=problems, embedding_ms=results.embedding_ms,
                query_ms=took,
            )  # fmt: skip
        return hits

    async def _answer(
        self,
        session: LoopSession,
        query: Query,
        asking: ModelledQueries,
        deadline: Deadline,
        *,
        trace: Trace | None,
        call: CallTime,
    ) -> SearchAnswer:
        if query.filter == NO_ROW:
            if trace is not None:
                trace.why = "no row can match the filter: nobody was asked"
            return SearchAnswer("none", [], mode=query.mode or "vector")
        request = SearchRequest(
            collection=self._collections[query.memory_type],
            scope=query.scope.filter(query.memory_type),
            vector=NO_VECTOR if query.vector is None else query.vector,
            limit=query.limit,
            similarity=self._config.similarity,
            include_embedding=query.include_embedding,
            now=datetime.now(UTC),
            deadline=deadline,
            filter=query.filter,
            exact=query.exact,
            num_candidates=query.num_candidates,
            consistency=query.consistency,
            trace=trace,
        )
        prepare = partial(self._search.prepare, session.driver, session.residents)
        recall = partial(self._recall.search, session.driver, prepare, query, call)
        if query.text is None:
            return await recall(request)
        return await asking.answer(query.text, request, recall)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
