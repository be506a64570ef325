"""MongoDB's own word search, `$text`: its index, and asking it inside a tenant."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import AuthenticationError, DatabaseError, UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.filters import for_find
from memorizz_async.memory_provider.mongodb.indexes import (
    IS_VIEW,
    MOST_INDEXES,
    NOT_POSSIBLE,
    ROW_IN_THE_WAY,
    IndexReport,
    listed_indexes,
)
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines import (
    SCORE_FIELD,
    TEXT_LANGUAGE_FIELD,
    TEXT_WEIGHTS,
    memory_ids_pipeline,
    text_index_keys,
    text_query,
    text_search_pipeline,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.ordering import best_rows
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest
from memorizz_async.redaction import shown

log = logging.getLogger(__name__)

NAME = "text"
INDEX_NAME = "memorizz_text"
_OTHER_NAME = "memorizz_words"
"""Its name where an index of other fields is called `memorizz_text`."""
_CANNOT_SERVE = frozenset({27, 291, 17313})
"""What `$text` answers where its index is missing, or is there and cannot be used: IndexNotFound,
NoQueryExecutionPlans, and a view or a time-series collection, before which stages stand."""
_NAME_TAKEN, _INVALID_OPTIONS, _CANNOT_CREATE = 86, 72, 67
_CONFLICTS = frozenset({85, _NAME_TAKEN, _CANNOT_CREATE})
"""What the answer may be where another text index came to be in between."""
_MOST_MEMORY_IDS = 16
_ASK_AGAIN_S = 30.0
_BELIEVE_S = 300.0
"""How long a text index is used before it is looked at again: it may have become another one."""

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

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._usable: dict[str, tuple[float, TextIndex]] = {}
        self._look_again: dict[str, tuple[float, str]] = {}

    def forget(self) -> None:
        """Look at the indexes anew on the next search: they have just been changed."""
        self._usable.clear()
        self._look_again.clear()

    async def index(self, driver: Driver, collection: str, deadline: Deadline) -> TextIndex | str:
        """The text index of a collection, else why none can serve. Raises DatabaseError."""
        now = time.monotonic()
        if collection in self._usable:
            until, index = self._usable[collection]
            if now < until:
                return index
        until, reason = self._look_again.get(collection, (0.0, ""))
        if now < until:
            return reason
        found = await self._look(driver, collection, deadline)
        if isinstance(found, TextIndex):
            self._usable[collection] = (now + _BELIEVE_S, found)
            return found
        return self._leave_alone(collection, found)

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
            if error.code not in _CANNOT_SERVE:
                raise
            reason = f"the text index of {request.collection!r} cannot be used (code {error.code})"
            self._warn(request.collection, reason)
            return self._leave_alone(request.collection, reason)
        rows = [pair for part in parts for pair in part]
        if len(parts) > 1:  # of one scope, the server has put them into order
            rows = best_rows(rows, request.limit, itemgetter("_id"))
        complete = all(len(part) < request.limit for part in parts)
        return TextAnswer(rows, complete)

    async def _look(self, driver: Driver, collection: str, deadline: Deadline) -> TextIndex | str:
        try:
            existing = await _existing(driver, collection, deadline)
        except UnsupportedOperationError:
            return f"{driver.address} has no text search"
        except AuthenticationError:
            # Asked like ours, it serves whether or not it begins with the memory_id.
            return TextIndex(INDEX_NAME, prefixed=True)
        except DatabaseError as error:
            if error.code != IS_VIEW:
                raise
            return f"{collection!r} is a view, which has no text index"
        if existing is None:
            return f"{collection!r} has no text index"
        reason = _why_not(collection, existing)
        if reason is not None:
            self._warn(collection, reason)
            return reason
        return TextIndex(str(existing["name"]), prefixed=bool(_prefix(existing)))

    def _leave_alone(self, collection: str, reason: str) -> str:
        self._usable.pop(collection, None)
        self._look_again[collection] = (time.monotonic() + _ASK_AGAIN_S, reason)
        return reason

    def _warn(self, collection: str, reason: str) -> None:
        self._notices.warn(log, (NAME, collection, reason), "%s: recalling without it", reason)


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
    # $eq: another program's may be a pattern or a document, which would be taken for a condition.
    return [{"memory_id": {"$eq": row["_id"]}, **request.scope} for row in found]


def _prefix(index: Mapping[str, Any]) -> list[str]:
    """The fields with which a text index begins: `$text` must name a value of each."""
    keys = list(index["key"])
    return keys[: keys.index("_fts")]


def _why_not(collection: str, index: Mapping[str, Any]) -> str | None:
    """Why a text index that is there cannot serve recalls; None where it can."""
    where = f"the text index {index['name']!r} of {collection!r}"
    if index.get("hidden"):
        return f"{where} is hidden"
    if "partialFilterExpression" in index:
        return f"{where} covers only a part of the rows (partialFilterExpression)"
    prefix = _prefix(index)
    if prefix not in ([], ["memory_id"]):
        return f"{where} begins with {', '.join(prefix)}, which a recall does not name"
    if not {"content", "$**"} & set(index["weights"]):
        return f"{where} does not cover 'content'"
    return None


async def _existing(
    driver: Driver, collection: str, deadline: Deadline
) -> Mapping[str, Any] | None:
    """The text index of a collection, of which there is one at most."""
    listed = await listed_indexes(driver, collection, deadline)
    return next((index for index in listed if "text" in index["key"].values()), None)


async def ensure_text(
    driver: Driver,
    collections: Sequence[str],
    report: IndexReport,
    config: MongoDBConfig,
    deadline: Deadline,
) -> None:
    """Create the text index of each collection that has none, and note it in the report.

    A collection can have only one: another that is there is left alone. Nothing is noted where the
    server has no text search.
    """
    try:
        done = await asyncio.gather(*(_ensure(driver, c, config, deadline) for c in collections))
    except UnsupportedOperationError:
        return
    for collection, (outcome, reason) in zip(collections, done, strict=True):
        if outcome is not None:
            report.text[collection] = outcome
        if reason is not None:
            log.warning("%s: recalling %r without it", reason, collection)
            report.skipped.setdefault(collection, {})[INDEX_NAME] = reason


async def _ensure(
    driver: Driver, collection: str, config: MongoDBConfig, deadline: Deadline
) -> tuple[str | None, str | None]:
    """What became of the text index of a collection, and why recalls go without one."""
    try:
        existing = await _existing(driver, collection, deadline)
        if existing is None:
            existing = await _created(driver, collection, config, deadline)
    except DatabaseError as error:
        if error.code in ROW_IN_THE_WAY:
            return None, ROW_IN_THE_WAY[error.code]
        full = error.code == _CANNOT_CREATE and await _is_full(driver, collection, deadline)
        if error.code not in (IS_VIEW, _INVALID_OPTIONS) and not full:
            raise
        return None, NOT_POSSIBLE[error.code or 0]
    if existing is None:
        return "created", None
    reason = _why_not(collection, existing)
    language = existing.get("default_language")
    ours = existing["name"] in (INDEX_NAME, _OTHER_NAME)
    if ours and reason is None and language == config.text_language:
        return "present", None
    log.warning(
        "%r has the text index %r (%s) already, and can have only one: it is left as it is",
        collection,
        existing["name"],
        language,
    )
    return f"other: {existing['name']} ({language})", reason


async def _is_full(driver: Driver, collection: str, deadline: Deadline) -> bool:
    return len(await listed_indexes(driver, collection, deadline)) >= MOST_INDEXES


async def _created(
    driver: Driver, collection: str, config: MongoDBConfig, deadline: Deadline
) -> Mapping[str, Any] | None:
    """Create our text index; None where that was done, else the one that came to be meanwhile."""
    for name in (INDEX_NAME, _OTHER_NAME):
        try:
            await driver.create_index(
                collection,
                text_index_keys(),
                name=name,
                weights=TEXT_WEIGHTS,
                default_language=config.text_language,
                language_override=TEXT_LANGUAGE_FIELD,
                deadline=deadline,
            )
        except DatabaseError as error:
            if error.code not in _CONFLICTS:
                raise
            existing = await _existing(driver, collection, deadline)
            if existing is not None:
                return existing
            if error.code != _NAME_TAKEN or name == _OTHER_NAME:
                language = shown(config.text_language, word=True)
                raise DatabaseError(
                    f"The text index of {collection!r} cannot be created",
                    seen=error.seen,
                    fix=f"check text_language={language}: it must be a language that MongoDB "
                    "knows, or none",
                    code=error.code,
                ) from error
        else:
            return None
    return None
