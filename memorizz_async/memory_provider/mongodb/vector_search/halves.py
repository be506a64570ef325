"""Search while the rows of a collection change their embedding model, for the seconds that takes.

Each row is compared with the query of its own model, exactly, and both results are merged by score.
"""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter

from memorizz_async.errors import StoredEmbeddingError
from memorizz_async.memory_provider.mongodb.pipelines.models import (
    not_of_model,
    of_model,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search import scan
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.ordering import best_rows
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
)


async def search(driver: Driver, request: SearchRequest) -> SearchAnswer:
    """The best rows of either model. request.changing says which is compared with what.

    Raises StoredEmbeddingError where the scope has vectors and none can be compared.
    """
    changing = request.changing
    assert changing is not None
    # The old half first and to its end: a row changes from old to new, never back, so that one
    # which the first scan came too late for is there for the second.
    old = await _half(driver, replace(request, changing=None, only=not_of_model(changing.model)))
    new = await _half(
        driver,
        replace(request, changing=None, vector=changing.vector, only=of_model(changing.model)),
    )
    merged = {key_of(row["_id"]): (row, score) for row, score in (*old.rows, *new.rows)}
    reports = [half.unsearchable for half in (old, new) if half.unsearchable is not None]
    if not merged and reports:
        raise reports[0]
    best = best_rows(list(merged.values()), request.limit, itemgetter("_id"))
    return SearchAnswer(scan.NAME, best, reports[0] if reports else None)


async def _half(driver: Driver, request: SearchRequest) -> SearchAnswer:
    try:
        return await scan.search(driver, request)
    except StoredEmbeddingError as error:  # none of this half, but perhaps of the other
        return SearchAnswer(scan.NAME, [], error)
