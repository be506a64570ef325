"""Waiting for a search index to catch up with rows that were written."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from memorizz_async.config import Similarity
from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError, InvalidInputError, OperationTimeoutError
from memorizz_async.memory_provider.mongodb.filters import parse_filter
from memorizz_async.memory_provider.mongodb.pipelines import (
    all_of,
    any_embedded_filter,
    id_projection,
    rows_by_id_filter,
    scan_projection,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch, atlas
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest
from memorizz_async.redaction import describe_id
from memorizz_async.vectors import readable_vector

_AT_ONCE = 500
_VECTORS_READ = 32
_SHOWN = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


async def wait_until_searchable(
    driver: Driver,
    search: VectorSearch,
    collection: str,
    ids: Sequence[Any],
    scope: Mapping[str, Any],
    *,
    similarity: Similarity,
    deadline: Deadline,
) -> None:
    """Return once searches find every row; at once where searches are exact.

    ids: as they are stored. Raises InvalidInputError for ids that are no rows with a vector of the
    scope, OperationTimeoutError, and DatabaseError where the index has no field `_id`.
    """
    if not ids:
        return
    now = datetime.now(UTC)
    there = all_of(rows_by_id_filter(ids, scope, now), any_embedded_filter())
    rows = await driver.find(collection, there, projection=id_projection(), deadline=deadline)
    waiting = {key_of(row_id): row_id for row_id in ids}
    there_now = {key_of(row["_id"]) for row in rows}
    missing = [row_id for key, row_id in waiting.items() if key not in there_now]
    if missing:
        raise InvalidInputError(
            "There are no such rows with a vector in the scope", seen=_shown(missing)
        )
    vectors = await driver.find(
        collection, there, projection=scan_projection(), limit=_VECTORS_READ, deadline=deadline
    )
    readable = [vector for row in vectors if (vector := readable_vector(row)) is not None]
    if not readable:
        raise InvalidInputError(
            "The vectors of these rows cannot be read: no search by vectors finds them",
            seen=_shown(set(ids)),
            fix="embed them again (`memorizz-async reembed`)",
        )
    request = SearchRequest(
        collection=collection,
        scope=scope,
        vector=readable[0],
        limit=_AT_ONCE,
        similarity=similarity,
        include_embedding=False,
        now=now,
        deadline=deadline,
    )
    if await search.why_not_the_index(driver, request) is None:
        await _until_found(driver, search, request, waiting)


async def _until_found(
    driver: Driver, search: VectorSearch, request: SearchRequest, waiting: dict[Hashable, Any]
) -> None:
    operation = f"waiting until {search.index_name!r} of {request.collection!r} has the rows"
    pause_s = _FIRST_PAUSE_S
    try:
        while True:
            some = sorted(waiting.values(), key=str)[:_AT_ONCE]
            # The ids were looked up in the scope; it need not be asked again.
            asked = replace(
                request, scope={}, filter=parse_filter({"_id": {"$in": some}}, ("_id",))
            )
            answer = await atlas.search(driver, asked, search.index_name)
            for row, _ in answer.rows:
                waiting.pop(key_of(row["_id"]), None)
            if not waiting:
                return
            if not answer.rows:
                await asyncio.sleep(min(pause_s, request.deadline.remaining_s(operation)))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            request.deadline.remaining_s(operation)
    except OperationTimeoutError as error:
        seen = f"not found yet: {_shown(waiting.values())}; rows of another dimension never will be"
        raise request.deadline.exceeded(operation, seen) from error
    except DatabaseError as error:
        raise atlas.trouble(error) or error from error


def _shown(ids: Collection[Any]) -> str:
    some = ", ".join(sorted(map(describe_id, ids))[:_SHOWN])
    return some if len(ids) <= _SHOWN else f"{some} and {len(ids) - _SHOWN} more"
