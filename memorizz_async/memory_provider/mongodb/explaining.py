"""`explain=True`: what a search noted on its way, as the caller is shown it."""

from __future__ import annotations

from collections.abc import Mapping

from memorizz_async.memory_provider.mongodb.filters import NO_ROW, for_vector_search
from memorizz_async.memory_provider.mongodb.queries import Query
from memorizz_async.memory_provider.mongodb.vector_search.request import Trace
from memorizz_async.results import Explanation, FoundBy, HitExplanation, Hits


def explanation(
    query: Query,
    hits: Hits,
    trace: Trace,
    *,
    problems: Mapping[str, str],
    embedding_ms: float,
    query_ms: float,
) -> Explanation:
    """How the hits of a query were found. query_ms: the whole query, its steps included."""
    found_by = trace.found_by or [
        (FoundBy(hits.strategy, rank, hit["score"]),) for rank, hit in enumerate(hits, start=1)
    ]
    embedded = {"embedding": embedding_ms} if query.text is not None else {}
    return Explanation(
        strategy=hits.strategy,
        why=trace.why,
        index=trace.index,
        exact=query.exact or hits.strategy != "atlas",
        scope=query.scope.filter(query.memory_type),
        filter=None if query.filter == NO_ROW else for_vector_search(query.filter),
        hits=[
            HitExplanation(
                id=hit["_id"],
                rank=rank,
                score=hit["score"],
                found_by=ways,
            )
            for rank, (hit, ways) in enumerate(zip(hits, found_by, strict=True), start=1)
        ],
        problems=problems,
        steps_ms={**embedded, **trace.steps_ms, "the whole query": query_ms},
    )
