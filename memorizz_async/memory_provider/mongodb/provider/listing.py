"""Reading rows in order, not by what they say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import (
    InvalidInputError,
    InvalidLimitError,
    UnsupportedOperationError,
)
from memorizz_async.memory_provider.mongodb.pipelines import all_of, id_projection, row_projection
from memorizz_async.memory_provider.mongodb.pipelines import editing as edits
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver, Sort
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.rows import Row, public_row
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.stored_rows import as_stored
from memorizz_async.redaction import shown
from memorizz_async.slices import in_slices
from memorizz_async.timestamps import row_seconds, seconds_of
from memorizz_async.validation import checked_count, checked_flag, checked_list, checked_text


class Listing(ProviderCore):
    """Rows of a scope, as many as there are."""

    async def list_async(
        self,
        memory_type: Any,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        ids: Iterable[Any] | None = None,
        where: Where = None,
        order_by: Sort = (),
        limit: int | None = None,
        skip: int = 0,
        include_embedding: bool = False,
        include_expired: bool = False,
        as_stored: bool = False,
        timeout_ms: int | None = None,
    ) -> list[Row]:
        """The rows of the scope, or those of these ids, or that equal `where`.

        where: fields and the values that they must equal, or several such mappings, any of which
            may hold. None as a value: null or missing. Any field, declared or not.
        order_by: pairs of a field and 1 (the smallest first) or -1; without it, as they are found.
        limit, skip: how many, from which one on; None is all of them.
        as_stored: rows with the fields that they have, for programs that know them; otherwise they
            look as every memory of ours does.

        Raises ScopeError where no tenant is named, InvalidFilterError.
        """
        kind = memory_type_of(memory_type)
        query = edits.rows_filter(
            Scope(memory_id, user_id).filter(kind),
            self._where(where),
            ids=None if ids is None else self._ids(ids),
            now=None if checked_flag("include_expired", include_expired) else datetime.now(UTC),
        )
        most, first, order = _most(limit), checked_count("skip", skip, least=0), _order(order_by)
        checked_flag("include_embedding", include_embedding)
        checked_flag("as_stored", as_stored)
        call = self._call(timeout_ms)
        session = await self._session(call)
        rows = await session.driver.find(
            self._collections[kind], query, projection=row_projection(include_embedding),
            limit=most, skip=first, sort=order,
            deadline=call.for_database(),
        )  # fmt: skip
        return await self._shown(rows, kind, as_stored)

    async def history_async(
        self,
        memory_type: Any = MemoryType.CONVERSATION_MEMORY,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        where: Where = None,
        limit: int | None = None,
        include_embedding: bool = False,
        include_expired: bool = False,
        as_stored: bool = False,
        timeout_ms: int | None = None,
    ) -> list[Row]:
        """The rows of the scope by their time, the oldest first; with a limit the last ones.

        The time of a row is its `timestamp`, as ISO text, as a date or in seconds since the epoch,
        else its `created_at`. Text is ordered by the moment that it names; without an offset it is
        taken for UTC. A row without either comes first. The other arguments are as in list_async.
        """
        kind = memory_type_of(memory_type)
        base = edits.rows_filter(
            Scope(memory_id, user_id).filter(kind),
            self._where(where),
            now=None if checked_flag("include_expired", include_expired) else datetime.now(UTC),
        )
        most = _most(limit)
        checked_flag("include_embedding", include_embedding)
        checked_flag("as_stored", as_stored)
        call = self._call(timeout_ms)
        session = await self._session(call)
        history = _History(
            session.driver, self._collections[kind], base, row_projection(include_embedding),
            call.for_database(),
        )  # fmt: skip
        rows = await (history.latest(most) if most else history.all())
        return await self._shown(rows, kind, as_stored)

    async def _shown(self, rows: list[Row], kind: MemoryType, whole: bool) -> list[Row]:
        collection, found = self._collections[kind], []
        async for row in in_slices(rows):
            shown = as_stored(row) if whole else public_row(row, kind.name)
            self._problems.check(collection, row, shown)
            found.append(shown)
        return found


@dataclass(frozen=True)
class _History:
    """The rows of one query in the order of their times."""

    driver: Driver
    collection: str
    base: Document
    projection: Document
    deadline: Deadline

    async def all(self) -> list[Row]:
        """Every row, the oldest first."""
        return _by_time(await self._find({}, edits.BY_TIME, self.projection))

    async def latest(self, most: int) -> list[Row]:
        """The last rows, the oldest of them first."""
        try:
            rows = await self._by_kind(most)
        except UnsupportedOperationError:  # memory:// does not know every type
            rows = None
        if rows is not None:
            return rows
        times = await self._find({}, edits.BY_TIME, edits.times_projection())
        ids = [row["_id"] for row in _by_time(times)[-most:]]
        return _by_time(await self._find({"_id": {"$in": ids}}, edits.BY_TIME, self.projection))

    async def _by_kind(self, most: int) -> list[Row] | None:
        """The last rows by the index of times; None where its order is not the order in time.

        Each kind of time is ordered by itself. A `timestamp` that is no time, such as text that
        names no date, stands anywhere in that order: others behind it would be missed.
        """
        # The text of a time is in order but for offsets, which differ little in one memory.
        others, *kinds = await asyncio.gather(
            self._find(edits.OTHER_TIMES, (), id_projection(), 1),
            self._find(edits.DATE_TIMES, edits.BY_TIME, self.projection, most),
            self._find(edits.TEXT_TIMES, edits.BY_TIME, self.projection, most),
            self._find(edits.NUMBER_TIMES, edits.BY_TIME, self.projection, most),
            self._find(edits.NO_TIMES, edits.BY_CREATION, self.projection, most),
        )
        rows = [row for of_one_kind in kinds for row in of_one_kind]
        if others or any(map(_is_misplaced, rows)):
            return None
        return _by_time(rows)[-most:]

    async def _find(
        self, times: Document, order: Sort, projection: Document, limit: int = 0
    ) -> list[Row]:
        return await self.driver.find(
            self.collection, all_of(self.base, times), projection=projection, sort=order,
            limit=limit, deadline=self.deadline,
        )  # fmt: skip


def _by_time(latest_first: Sequence[Row]) -> list[Row]:
    """The oldest first; before all others those that do not say when they were."""
    rows = list(reversed(latest_first))
    rows.sort(key=_seconds)
    return rows


def _is_misplaced(row: Row) -> bool:
    """Whether the value that the server orders the row by is no time."""
    value = row.get("timestamp")
    if value is None:
        value = row.get("created_at")
    return value is not None and seconds_of(value) is None


def _seconds(row: Row) -> float:
    seconds = row_seconds(row)
    return -math.inf if seconds is None else seconds


def _most(limit: int | None) -> int:
    """The limit as the driver takes it, 0 for none."""
    return 0 if limit is None else checked_count("limit", limit, error=InvalidLimitError)


def _order(order_by: Any) -> Sort:
    """Pairs of a field and 1 or -1. Raises InvalidInputError."""
    order: list[tuple[str, int]] = []
    for pair in checked_list("order_by", order_by):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidInputError(
                "order_by must be a list of pairs of a field and 1 or -1",
                seen=shown(pair),
                fix='write [("created_at", -1)]',
            )
        name, direction = pair
        checked_text("A field of order_by", name)
        if name.startswith("$") or "\0" in name or any(not part for part in name.split(".")):
            raise InvalidInputError("order_by names no field of a row", seen=shown(name, word=True))
        if isinstance(direction, bool) or not isinstance(direction, int) or abs(direction) != 1:
            raise InvalidInputError("The order of a field must be 1 or -1", seen=shown(direction))
        order.append((name, direction))
    return order
