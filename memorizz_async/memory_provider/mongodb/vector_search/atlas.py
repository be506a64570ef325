"""`$vectorSearch`, on Atlas and on servers with mongot."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from memorizz_async.errors import DatabaseError
from memorizz_async.memory_provider.mongodb.filters import for_vector_search
from memorizz_async.memory_provider.mongodb.pipelines import (
    SCORE_FIELD,
    all_of,
    index_scope,
    vector_search_pipeline,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.ordering import best_rows
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    step,
)
from memorizz_async.vectors import to_bson

NAME = "atlas"

NO_SEARCH_CODES = frozenset({59, 115, 31082, 40324, 6047401})
"""What servers of each age answer where there is no vector search: CommandNotFound,
CommandNotSupported, SearchNotEnabled, unknown stage, "only allowed on MongoDB Atlas"."""

_NOT_IN_A_FILTER = 7828300
"""What mongod of the 6.0 and 7.0 days answers to an operator, `$exists` among them, that its
`$vectorSearch` does not take."""

_ENSURE = "run ensure_indexes_async()"
_FROM_MONGOT: tuple[tuple[str, str, str], ...] = (
    # mongot's words arrive as code 8 in an envelope of mongod's: only the words tell them apart.
    ("needs to be indexed as", "the search index lacks a field of the filter", _ENSURE),
    (
        "dimensions but queried with",
        "the search index is of another dimension than the query",
        "embed with the model of the stored rows; or, after a change of model, embed them again "
        f"(`memorizz-async reembed`) and {_ENSURE}",
    ),
    ("is not indexed as vector", "the search index does not cover 'embedding'", _ENSURE),
    (
        "cannot query vector index",
        "the search index is being built for the first time, or its build has failed",
        f"{_ENSURE}, which waits for it and says how it stands",
    ),
    ("not initialized", "the search index is being dropped or made", _ENSURE),
    (
        "Cannot execute $vectorSearch over search index",
        "the index of this name is no vector index",
        "drop it, or choose another MongoDBConfig(vector_index_name=…)",
    ),
    (
        "Error connecting to",
        "the server cannot reach its search service (mongot)",
        "start mongot, or ask whoever runs the cluster",
    ),
    (
        "zero vector",
        "a query of zeros has no cosine",
        "embed a text that is not empty",
    ),
)
_SEARCH_SERVICE_CODES = frozenset({6, 8, 125})
"""HostUnreachable, UnknownError and CommandFailed: what mongod makes of mongot's words, or of its
silence."""


def has_no_search(error: DatabaseError) -> bool:
    """Whether the error says that this server has no vector search at all."""
    return error.code in NO_SEARCH_CODES


def trouble(error: DatabaseError) -> DatabaseError | None:
    """The same error in words that say what to do, where it is about the index or its service.

    None for every other error: those are not for another strategy to mend.
    """
    if has_no_search(error):
        return error
    if error.code not in _SEARCH_SERVICE_CODES:
        return None
    for words, what, fix in _FROM_MONGOT:
        if words in (error.seen or ""):
            return DatabaseError(
                f"$vectorSearch failed: {what}", seen=error.seen, fix=fix, code=error.code
            )
    return None


def takes_no_exists(error: DatabaseError) -> bool:
    """Whether the error says that filters here cannot ask for rows that lack a field."""
    return error.code == _NOT_IN_A_FILTER


def asks_for_nobodys(scope: Mapping[str, Any]) -> bool:
    """Whether rows without a `memory_id` or without a `user_id` are in the scope."""
    return index_scope(scope) != scope


async def search(
    driver: Driver, request: SearchRequest, index: str, *, exists: bool = True
) -> SearchAnswer:
    """The best rows of the scope and the filter, by the index: approximate, unless `exact`.

    Of rows of equal score at the limit the index chooses which come; those that come are in the
    order of all strategies.

    exists: whether filters here take `$exists`. Without it rows that lack a field are not found
        where None asks for them; those with a null are.

    Raises DatabaseError; see `trouble`.
    """
    with step(request.trace, "$vectorSearch"):
        rows = await driver.aggregate(
            request.collection,
            vector_search_pipeline(
                index=index,
                query_vector=to_bson(request.vector),
                scope=request.conditions,
                search_filter=all_of(
                    index_scope(request.scope) if exists else request.scope,
                    for_vector_search(request.filter),
                ),
                limit=request.limit,
                now=request.now,
                include_embedding=request.include_embedding,
                exact=request.exact,
                num_candidates=request.num_candidates,
            ),
            deadline=request.deadline,
        )
    found = [(row, float(row.pop(SCORE_FIELD))) for row in rows]
    return SearchAnswer(NAME, best_rows(found, request.limit, itemgetter("_id")))
