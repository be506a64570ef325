"""Searching by words: `$text` and its index."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from memorizz_async.memory_provider.mongodb.pipelines.rows import STAGED, alive, all_of
from memorizz_async.memory_provider.mongodb.pipelines.vectors import SCORE_FIELD
from memorizz_async.memory_provider.mongodb.protocol import Document

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
    order_only: bool = False,
) -> list[Document]:
    """`$text` inside the tenant and the caller's filter, the best first; of equals the one that was
    written first.

    order_only: of each row the `_id`, the score and the embedding model, and nothing else.
    """
    score = {"$meta": "textScore"}
    pipeline: list[Document] = [
        {"$match": all_of({"$text": {"$search": words}}, scope, row_filter or {}, alive(now))},
        {"$sort": {SCORE_FIELD: score, "_id": 1}},
        {"$limit": limit},
    ]
    if order_only:
        return [*pipeline, {"$project": {"embedding_model": 1, SCORE_FIELD: score}}]
    unset = STAGED if include_embedding else ["embedding", STAGED]
    return [*pipeline, {"$set": {SCORE_FIELD: score}}, {"$unset": unset}]


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
