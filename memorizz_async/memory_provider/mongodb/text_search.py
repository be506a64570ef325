"""MongoDB's own word search, `$text`: its index, and asking it inside a tenant."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import AuthenticationError, DatabaseError, UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.filters import for_find
from memorizz_async.memory_provider.mongodb.pipelines import (
    SCORE_FIELD,
    TEXT_LANGUAGE_FIELD,
    TEXT_WEIGHTS,
    list_indexes,
    memory_ids_pipeline,
    text_index_keys,
    text_query,
    text_search_pipeline,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest
from memorizz_async.redaction import describe

log = logging.getLogger(__name__)

NAME = "text"
INDEX_NAME = "memorizz_text"
_NO_COLLECTION, _INDEX_NOT_FOUND = 26, 27
_CONFLICTS = frozenset({85, 86, 67})  # another text index came to be in between
_MOST_MEMORY_IDS = 16
_ASK_AGAIN_S = 30.0

Row = dict[str, Any]


@dataclass(frozen=True)
class TextIndex:
    """The text index of a collection. `prefixed`: it begins with the tenant's `memory_id`."""

    name: str
    prefixed: bool


@dataclass
class TextAnswer:
    """Rows with MongoDB's text scores (at least 0), the best first.

    complete: no other row of the scope has any of the words.
    """

    rows: list[tuple[Row, float]]
    complete: bool


class TextSearch:
    """Which collections have a text index that can serve, remembered; and searching by it."""

    def __init__(self) -> None:
        self._usable: dict[str, TextIndex] = {}
        self._look_again: dict[str, tuple[float, str]] = {}

    def forget(self) -> None:
        """Look at the indexes anew on the next search: they have just been changed."""
        self._usable.clear()
        self._look_again.clear()

    async def index(self, driver: Driver, collection: str, deadline: Deadline) -> TextIndex | str:
        """The text index of a collection, else why none can serve. Raises DatabaseError."""
        if collection in self._usable:
            return self._usable[collection]
        until, reason = self._look_again.get(collection, (0.0, ""))
        if time.monotonic() < until:
            return reason
        found = await _usable(driver, collection, deadline)
        if isinstance(found, TextIndex):
            self._usable[collection] = found
        else:
            self._look_again[collection] = (time.monotonic() + _ASK_AGAIN_S, found)
        return found

    async def search(
        self,
        driver: Driver,
        index: TextIndex,
        request: SearchRequest,
        words: str,
        *,
        order_only: bool = False,
    ) -> TextAnswer | str:
        """The rows of the request's scope and filter that have any of the words; why not, where
        the index cannot be asked. The request's vector does not count.

        order_only: rows of `_id` and `embedding_model`, and nothing else. Raises DatabaseError.
        """
        search = text_query(words)
        if not search:
            return TextAnswer([], complete=True)
        scopes = await _scopes(driver, index, request)
        if scopes is None:
            return (
                f"the scope reaches more than {_MOST_MEMORY_IDS} memory_ids, and the text index "
                "is by memory_id"
            )
        try:
            parts = await _answers(driver, request, search, scopes, order_only=order_only)
        except DatabaseError as error:
            if error.code != _INDEX_NOT_FOUND:
                raise
            self._usable.pop(request.collection, None)
            return f"the text index of {request.collection!r} is not there any more"
        rows = [pair for part in parts for pair in part]
        rows.sort(key=lambda pair: -pair[1])
        complete = all(len(part) < request.limit for part in parts)
        return TextAnswer(rows[: request.limit], complete)


async def _answers(
    driver: Driver,
    request: SearchRequest,
    words: str,
    scopes: Sequence[Mapping[str, Any]],
    *,
    order_only: bool,
) -> list[list[tuple[Row, float]]]:
    """The answer of each scope; the first error, once all have ended."""
    asked = [_ask(driver, request, words, scope, order_only) for scope in scopes]
    if len(asked) == 1:  # asked at once: a task of its own would first let others run
        return [await asked[0]]
    answers: list[list[tuple[Row, float]]] = []
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        answers.append(answer)
    return answers


async def _ask(
    driver: Driver, request: SearchRequest, words: str, scope: Mapping[str, Any], order_only: bool
) -> list[tuple[Row, float]]:
    rows = await driver.aggregate(
        request.collection,
        text_search_pipeline(
            words=words,
            scope=scope,
            limit=request.limit,
            now=request.now,
            include_embedding=request.include_embedding,
            row_filter=for_find(request.filter),
            order_only=order_only,
        ),
        deadline=request.deadline,
    )
    return [(row, float(row.pop(SCORE_FIELD))) for row in rows]


async def _scopes(
    driver: Driver, index: TextIndex, request: SearchRequest
) -> list[Mapping[str, Any]] | None:
    """The scope, once for each memory_id where it names none: an index that begins with the
    memory_id is asked for one at a time. None where there are too many.
    """
    if not index.prefixed or "memory_id" in request.scope:
        return [request.scope]
    found = await driver.aggregate(
        request.collection,
        memory_ids_pipeline(request.conditions, _MOST_MEMORY_IDS + 1),
        deadline=request.deadline,
    )
    if len(found) > _MOST_MEMORY_IDS:
        return None
    return [{"memory_id": row["_id"], **request.scope} for row in found]


async def _usable(driver: Driver, collection: str, deadline: Deadline) -> TextIndex | str:
    try:
        existing = await _existing(driver, collection, deadline)
    except UnsupportedOperationError:
        return f"{driver.address} has no text search"
    except AuthenticationError as error:
        log.warning("the indexes of %r cannot be listed: %s", collection, error)
        return f"the user may not list the indexes of {collection!r}"
    if existing is None:
        return f"{collection!r} has no text index"
    keys = list(existing["key"])
    prefix = keys[: keys.index("_fts")]
    if prefix not in ([], ["memory_id"]):
        return (
            f"the text index {existing['name']!r} of {collection!r} begins with "
            f"{', '.join(prefix)}, which a recall does not name"
        )
    return TextIndex(str(existing["name"]), prefixed=bool(prefix))


async def _existing(
    driver: Driver, collection: str, deadline: Deadline
) -> Mapping[str, Any] | None:
    """The text index of a collection, of which there is one at most."""
    try:
        reply = await driver.command(list_indexes(collection), deadline=deadline)
    except DatabaseError as error:
        if error.code == _NO_COLLECTION:
            return None
        raise
    # At most 64 indexes a collection: they all come in the first batch.
    listed = reply["cursor"]["firstBatch"]
    return next((index for index in listed if "text" in index["key"].values()), None)


async def ensure_text(
    driver: Driver, collections: Sequence[str], config: MongoDBConfig, deadline: Deadline
) -> dict[str, str]:
    """Create the text index of each collection that has none. A collection can have only one:
    another that is there is left alone, and reported. Empty where the server has no text search.
    """
    try:
        done = await asyncio.gather(*(_ensure(driver, c, config, deadline) for c in collections))
    except UnsupportedOperationError:
        return {}
    return dict(zip(collections, done, strict=True))


async def _ensure(
    driver: Driver, collection: str, config: MongoDBConfig, deadline: Deadline
) -> str:
    existing = await _existing(driver, collection, deadline)
    if existing is None:
        try:
            await driver.create_index(
                collection,
                text_index_keys(),
                name=INDEX_NAME,
                weights=TEXT_WEIGHTS,
                default_language=config.text_language,
                language_override=TEXT_LANGUAGE_FIELD,
                deadline=deadline,
            )
        except DatabaseError as error:
            if error.code not in _CONFLICTS:
                raise
            existing = await _existing(driver, collection, deadline)
            if existing is None:  # refused for another reason, such as an unknown language
                raise DatabaseError(
                    f"The text index of {collection!r} cannot be created",
                    seen=error.seen,
                    fix=f"check text_language={describe(config.text_language)}: it must be a "
                    "language that MongoDB knows, or none",
                    code=error.code,
                ) from error
        else:
            return "created"
    ours = existing["name"] == INDEX_NAME
    if ours and existing.get("default_language") == config.text_language:
        return "present"
    language = existing.get("default_language")
    log.warning(
        "%r has the text index %r (%s) already, and can have only one: it is left as it is",
        collection,
        existing["name"],
        language,
    )
    return f"other: {existing['name']} ({language})"
