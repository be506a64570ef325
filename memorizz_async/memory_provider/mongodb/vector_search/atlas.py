"""`$vectorSearch`, on Atlas and on servers with mongot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memorizz_async.errors import DatabaseError
from memorizz_async.memory_provider.mongodb.pipelines import (
    SCORE_FIELD,
    search_indexes_pipeline,
    vector_search_pipeline,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
)
from memorizz_async.vectors import to_bson

NAME = "atlas"

NO_SEARCH_CODES = frozenset({59, 115, 31082, 40324, 6047401})
"""What servers of each age answer where there is no vector search: CommandNotFound,
CommandNotSupported, SearchNotEnabled, unknown stage, "only allowed on MongoDB Atlas"."""


def has_no_search(error: DatabaseError) -> bool:
    """Whether the error says that this server has no vector search at all."""
    return error.code in NO_SEARCH_CODES


async def search(driver: Driver, request: SearchRequest, index: str) -> SearchAnswer:
    """The best rows of the scope, by the index (approximate). Raises DatabaseError."""
    rows = await driver.aggregate(
        request.collection,
        vector_search_pipeline(
            index=index,
            query_vector=to_bson(request.vector),
            scope=request.scope,
            limit=request.limit,
            now=request.now,
            include_embedding=request.include_embedding,
        ),
        deadline=request.deadline,
    )
    return SearchAnswer(NAME, [(row, float(row.pop(SCORE_FIELD))) for row in rows])


async def index_problem(
    driver: Driver, request: SearchRequest, index: str, filter_paths: Iterable[str]
) -> str | None:
    """Why the index cannot serve the request; None where it can.

    A search by an index that does not exist answers with no rows and no error, so one must look.
    Raises DatabaseError, of a code in NO_SEARCH_CODES where the server has no search.
    """
    found = await driver.aggregate(
        request.collection, search_indexes_pipeline(index), deadline=request.deadline
    )
    if not found:
        return f"{request.collection!r} has no search index named {index!r}"
    if not found[0].get("queryable"):
        status = found[0].get("status", "of unknown status")
        return f"the search index {index!r} of {request.collection!r} is {status}"
    return _definition_problem(found[0].get("latestDefinition", {}), request, index, filter_paths)


def _definition_problem(
    definition: Mapping[str, Any], request: SearchRequest, index: str, filter_paths: Iterable[str]
) -> str | None:
    fields = definition.get("fields", [])
    vector = next((f for f in fields if f.get("path") == "embedding"), None)
    where = f"the search index {index!r} of {request.collection!r}"
    if vector is None:
        return f"{where} does not cover 'embedding'"
    dimensions = vector.get("numDimensions")
    if dimensions != request.vector.size:
        return f"{where} has {dimensions} dimensions, not {request.vector.size}"
    if str(vector.get("similarity", "")).lower() != request.similarity.lower():
        return f"{where} compares by {vector.get('similarity')}, not by {request.similarity}"
    missing = sorted(set(filter_paths) - {f["path"] for f in fields if f.get("type") == "filter"})
    return f"{where} lacks the filter fields {', '.join(missing)}" if missing else None
