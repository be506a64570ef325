"""Searching by vectors: the index of Atlas, and the rows that an exact search reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Binary

from memorizz_async.memory_provider.mongodb.pipelines.rows import (
    STAGED,
    alive,
    all_of,
    any_embedded_filter,
)
from memorizz_async.memory_provider.mongodb.protocol import Document

SCORE_FIELD = "_memorizz_score"
"""Where `$vectorSearch`'s score travels; taken off the row before the caller sees it."""


MAX_CANDIDATES = 10_000


def index_scope(scope: Mapping[str, Any]) -> Document:
    """A scope as the filter of `$vectorSearch`, with the meaning that `find` gives it.

    To `find` a missing field is null; to the index it is nothing at all. memorizz leaves `user_id`
    and `memory_id` out of many rows that have none.
    """
    owners: Document = {}
    conditions: list[Document] = []
    for path, wanted in scope.items():
        if path == "$or":
            conditions.append({"$or": [index_scope(part) for part in wanted]})
        elif wanted is None:
            conditions.append({"$or": [{path: None}, {path: {"$exists": False}}]})
        else:
            owners[path] = wanted
    return all_of(owners, *conditions)


def scan_filter(scope: Mapping[str, Any], now: datetime) -> Document:
    """Rows of the scope that have a vector."""
    return all_of(scope, any_embedded_filter(), alive(now))


def other_vectors_filter(scope: Mapping[str, Any], dimensions: int, now: datetime) -> Document:
    """Rows of the scope whose vector has another form or dimension than so many floats."""
    length = 2 + 4 * dimensions
    kind, size = {"$type": "$embedding"}, {"$binarySize": "$embedding"}
    of_bytes = {"$cond": [{"$eq": [kind, "binData"]}, {"$eq": [size, length]}, False]}
    fits = [{"embedding": {"$size": dimensions}}, {"$expr": of_bytes}]
    return all_of(scan_filter(scope, now), {"$nor": fits})


def scan_projection() -> Document:
    """What a scan reads of a row: `_id` and the vector."""
    return {"embedding": 1}


def vector_search_pipeline(
    *,
    index: str,
    query_vector: Binary,
    scope: Mapping[str, Any],
    limit: int,
    now: datetime,
    include_embedding: bool,
    search_filter: Mapping[str, Any] | None = None,
    exact: bool = False,
    num_candidates: int | None = None,
) -> list[Document]:
    """`$vectorSearch` with the tenant inside its filter, then what it cannot check itself.

    search_filter: what stands in the stage; the scope where it is left out. The two differ where
        `find` and `$vectorSearch` need different words for one meaning.
    `numCandidates` is 20 times the limit, the documented advice, within the documented bounds; an
    exact search has none. Expiry is matched afterwards: inside the filter a missing `expires_at`
    would not match null.
    """
    candidates = num_candidates or min(MAX_CANDIDATES, max(100, 20 * limit))
    condition = scope if search_filter is None else search_filter
    pipeline: list[Document] = [
        {
            "$vectorSearch": {
                "index": index,
                "path": "embedding",
                "queryVector": query_vector,
                **({"filter": dict(condition)} if condition else {}),
                **({"exact": True} if exact else {"numCandidates": candidates}),
                "limit": limit,
            }
        },
        # The stage answers with rows as they are now, which may have left the scope since indexed.
        {"$match": all_of(scope, alive(now))},
        {"$set": {SCORE_FIELD: {"$meta": "vectorSearchScore"}}},
    ]
    pipeline.append({"$unset": STAGED if include_embedding else ["embedding", STAGED]})
    return pipeline


def search_indexes_pipeline(name: str) -> list[Document]:
    """The search index of a collection by its name."""
    return [{"$listSearchIndexes": {"name": name}}]


def search_index_definition(
    *, dimensions: int, similarity: str, filter_paths: Sequence[str], quantization: str = "none"
) -> Document:
    """A `vectorSearch` index over `embedding` with the fields that a filter may name."""
    quantized = {} if quantization == "none" else {"quantization": quantization}
    return {
        "fields": [
            {
                "type": "vector",
                "path": "embedding",
                "numDimensions": dimensions,
                "similarity": similarity,
                **quantized,
            },
            *({"type": "filter", "path": path} for path in filter_paths),
        ]
    }


def create_search_index(collection: str, name: str, definition: Mapping[str, Any]) -> Document:
    """The command that creates a `vectorSearch` index; it returns before the index is built."""
    index = {"name": name, "type": "vectorSearch", "definition": dict(definition)}
    return {"createSearchIndexes": collection, "indexes": [index]}


def update_search_index(collection: str, name: str, definition: Mapping[str, Any]) -> Document:
    """The command that gives a search index another definition; the old one answers meanwhile."""
    return {"updateSearchIndex": collection, "name": name, "definition": dict(definition)}
