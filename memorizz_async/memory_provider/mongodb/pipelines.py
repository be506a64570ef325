"""Every query that this package sends, as pure functions from values to documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Binary

from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.vectors import Vector, to_bson

SCORE_FIELD = "_memorizz_score"
"""Where `$vectorSearch`'s score travels; taken off the row before the caller sees it."""

STAGED = "embedding_next"
"""A vector of another model, beside the one that answers, while rows are being embedded again; no
caller sees it."""
_WITHOUT_EMBEDDING: Document = {"embedding": 0, STAGED: 0}
MAX_CANDIDATES = 10_000


def alive(now: datetime) -> Document:
    """Rows that have not expired. The TTL monitor deletes late, so every read asks too."""
    return {"$or": [{"expires_at": None}, {"expires_at": {"$gt": now}}]}


def all_of(*conditions: Mapping[str, Any]) -> Document:
    """The conjunction of filters; an empty one does not count."""
    present = [dict(condition) for condition in conditions if condition]
    if not present:
        return {}
    return present[0] if len(present) == 1 else {"$and": present}


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


def scan_projection() -> Document:
    """What a scan reads of a row: `_id` and the vector."""
    return {"embedding": 1}


RESIDENT_FIELDS = ("embedding", "memory_id", "user_id", "expires_at")
"""The fields of a row that every resident scope depends on."""


def resident_projection(paths: Iterable[str] = ()) -> Document:
    """What is kept of a row in memory: `_id`, the vector, until when the row lives, and the fields
    that filters ask for.
    """
    return dict.fromkeys(_apart(("_id", "embedding", "expires_at", *paths)), 1)


def changes_pipeline(collections: Sequence[str], paths: Iterable[str] = ()) -> list[Document]:
    """The changes of a database that concern vectors in memory, and no more of them than is used.

    paths: the fields that filters may ask for.

    Updates of other fields, such as counting recalls, are left out on the server. A post-image is
    looked up after this match, and so only for updates that pass it.
    """
    kept = _apart((*RESIDENT_FIELDS, *paths))
    names = list(dict.fromkeys(path.split(".")[0] for path in kept))
    changed_fields: Document = {
        "$concatArrays": [
            _keys_of("$updateDescription.updatedFields"),
            {"$ifNull": ["$updateDescription.removedFields", []]},
            {
                "$map": {
                    "input": {"$ifNull": ["$updateDescription.truncatedArrays", []]},
                    "in": "$$this.field",
                }
            },
        ]
    }
    # An element of an array is changed under a name with dots, `embedding.7`.
    of_a_row = {"$arrayElemAt": [{"$split": ["$$this", "."]}, 0]}
    concerns_us = {
        "$anyElementTrue": [{"$map": {"input": changed_fields, "in": {"$in": [of_a_row, names]}}}]
    }
    return [
        {
            "$match": {
                "$or": [
                    {"operationType": {"$in": ["drop", "rename", "dropDatabase", "invalidate"]}},
                    {
                        "operationType": {"$in": ["insert", "replace", "delete"]},
                        "ns.coll": {"$in": list(collections)},
                    },
                    {
                        "operationType": "update",
                        "ns.coll": {"$in": list(collections)},
                        "$expr": concerns_us,
                    },
                ]
            }
        },
        {
            "$project": {
                "operationType": 1,
                "clusterTime": 1,
                "ns": 1,
                "to": 1,
                "documentKey": 1,
                **{f"fullDocument.{path}": 1 for path in kept},
            }
        },
    ]


def _apart(paths: Iterable[str]) -> list[str]:
    """The paths, but none inside of another: a projection must not name both."""
    known = dict.fromkeys(paths)

    def inside(path: str) -> bool:
        return any(path.startswith(f"{other}.") for other in known)

    return [path for path in known if not inside(path)]


def _keys_of(document: str) -> Document:
    entries = {"$objectToArray": {"$ifNull": [document, {}]}}
    return {"$map": {"input": entries, "in": "$$this.k"}}


def rows_by_id_filter(ids: Sequence[Any], scope: Mapping[str, Any], now: datetime) -> Document:
    """Rows by id, still inside the scope: a row that moved to another tenant does not come back."""
    return all_of({"_id": {"$in": list(ids)}}, scope, alive(now))


def row_projection(include_embedding: bool) -> Document:
    """All fields of a row, the vector only where asked for."""
    return {STAGED: 0} if include_embedding else dict(_WITHOUT_EMBEDDING)


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


def id_projection() -> Document:
    """Nothing of a row but its `_id`."""
    return {"_id": 1}


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


def touch_filter(ids: Sequence[Any]) -> Document:
    """Rows that a recall returned."""
    return {"_id": {"$in": list(ids)}}


def touch_update(count: int, at: datetime) -> Document:
    """What being recalled `count` times, last at `at`, changes on a row."""
    return {"$inc": {"recall_count": count}, "$set": {"last_recalled_at": at}}


def expired_filter(ids: Sequence[Any], now: datetime) -> Document:
    """Rows by id whose time is over."""
    return {"_id": {"$in": list(ids)}, "expires_at": {"$lte": now}}


def any_embedded_filter() -> Document:
    """Rows of a collection that have a vector, whoever's: to learn its dimension, nothing else."""
    return {"embedding": {"$exists": True, "$ne": None}}


def create_search_index(collection: str, name: str, definition: Mapping[str, Any]) -> Document:
    """The command that creates a `vectorSearch` index; it returns before the index is built."""
    index = {"name": name, "type": "vectorSearch", "definition": dict(definition)}
    return {"createSearchIndexes": collection, "indexes": [index]}


def update_search_index(collection: str, name: str, definition: Mapping[str, Any]) -> Document:
    """The command that gives a search index another definition; the old one answers meanwhile."""
    return {"updateSearchIndex": collection, "name": name, "definition": dict(definition)}


TEXT_LANGUAGE_FIELD = "_memorizz_language"
"""Where a text index looks for a row's own language. By default that is `language`, which users'
rows may well have with another meaning; a value that MongoDB does not know would refuse the row."""
TEXT_WEIGHTS: dict[str, int] = {"content": 2, "context": 1}
"""A word of the memory itself counts twice as much as one of its neighbours."""
_MOST_WORDS = 64


def text_query(text: str) -> str:
    """The words of a text as `$text` takes them: any of them may match, none must.

    In `$text` a quoted phrase must match and a word after a minus must not: a user's text has no
    such meaning, so quotes and minus signs become blanks. The first 64 different words are asked
    for: each costs a walk through the index. Empty where there are no words.
    """
    words = text.replace('"', " ").replace("-", " ").split()
    return " ".join(list(dict.fromkeys(words))[:_MOST_WORDS])


def text_index_keys() -> list[tuple[str, int | str]]:
    """The tenant first: a search then walks through the words of one tenant and no other's."""
    return [("memory_id", 1), *((name, "text") for name in TEXT_WEIGHTS)]


def text_search_pipeline(
    *,
    words: str,
    scope: Mapping[str, Any],
    limit: int,
    now: datetime,
    include_embedding: bool,
    row_filter: Mapping[str, Any] | None = None,
) -> list[Document]:
    """`$text` inside the tenant and the caller's filter, the best first; of equals the one that was
    written first.
    """
    score = {"$meta": "textScore"}
    pipeline: list[Document] = [
        {"$match": all_of({"$text": {"$search": words}}, scope, row_filter or {}, alive(now))},
        {"$sort": {SCORE_FIELD: score, "_id": 1}},
        {"$limit": limit},
        {"$set": {SCORE_FIELD: score}},
    ]
    pipeline.append({"$unset": STAGED if include_embedding else ["embedding", STAGED]})
    return pipeline


def memory_ids_pipeline(scope: Mapping[str, Any], limit: int) -> list[Document]:
    """The different `memory_id`s of a scope, null among them, at most so many."""
    return [
        {"$match": dict(scope)},
        {"$group": {"_id": {"$ifNull": ["$memory_id", None]}}},
        {"$limit": limit},
    ]


def list_indexes(collection: str) -> Document:
    """The command that lists the ordinary indexes of a collection; the text index is among them."""
    return {"listIndexes": collection}


def session_tail_pipeline(
    scope: Mapping[str, Any], session_id: str, limit: int, now: datetime
) -> list[Document]:
    """The last turns of a session of exactly this tenant, the latest first."""
    return [
        {"$match": all_of(scope, {"session_id": session_id, "turn": {"$type": "number"}})},
        {"$match": alive(now)},
        {"$sort": {"turn": -1, "_id": -1}},
        {"$limit": limit},
        {"$project": {"content": 1, "turn": 1}},
    ]


def session_index_keys() -> list[tuple[str, int | str]]:
    """What finds the last turns of a session."""
    return [("memory_id", 1), ("session_id", 1), ("turn", -1)]


def context_update(context: str, at: datetime) -> Document:
    """What a turn's later neighbours change on its row."""
    return {"$set": {"context": context, "updated_at": at}}


def cached_vectors_filter(keys: Sequence[bytes], now: datetime) -> Document:
    """Vectors of the second tier of the embedding cache, by key; those that have not expired."""
    return {"_id": {"$in": [Binary(key) for key in keys]}, "expires_at": {"$gt": now}}


def vector_projection() -> Document:
    """A vector of the embedding cache and its key."""
    return {"vector": 1}


def cached_vector(key: bytes, vector: Vector, until: datetime) -> Document:
    """A row of the embedding cache."""
    return {"_id": Binary(key), "vector": to_bson(vector), "expires_at": until}
