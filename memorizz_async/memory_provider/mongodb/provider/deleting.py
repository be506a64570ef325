"""Deleting rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from memorizz_async.enums import memory_type_of
from memorizz_async.memory_provider.mongodb.pipelines import editing as edits
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where
from memorizz_async.memory_provider.mongodb.provider.changing import Changing
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.validation import checked_mapping, checked_moment


class Deleting(Changing):
    """Rows that go. A call that names no tenant deletes nothing, and raises ScopeError."""

    async def delete_async(
        self,
        row_id: Any,
        memory_type: Any,
        *,
        expected: Mapping[str, Any] | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> bool:
        """Delete one row of the tenant; whether it was there.

        expected: only if these fields still have these values. Raises ScopeError where no tenant is
        named; EmbeddingError (nothing is deleted) where a turn of a conversation is deleted, whose
        neighbours have to be embedded without it, and the model fails.
        """
        kind = memory_type_of(memory_type)
        own = Scope(memory_id, user_id).owned()
        if expected is not None:
            checked_mapping("expected", expected)
        query = edits.rows_filter(own, self._where(expected), ids=self._ids([row_id]))
        return await self._delete(kind, query, self._call(timeout_ms), many=False) == 1

    async def delete_many_async(
        self,
        memory_type: Any,
        *,
        ids: Iterable[Any] | None = None,
        where: Where = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> int:
        """Delete the rows of the tenant, or those of these ids, or that equal `where`; how many.

        Raises ScopeError where no tenant is named: everybody's rows are deleted only by saying
        `memory_id=EVERY_TENANT`.
        """
        kind = memory_type_of(memory_type)
        own = Scope(memory_id, user_id).owned()
        wanted = None if ids is None else self._ids(ids)
        query = edits.rows_filter(own, self._where(where), ids=wanted)
        return await self._delete(kind, query, self._call(timeout_ms), many=True)

    async def delete_expired_async(
        self,
        memory_type: Any,
        *,
        before: datetime | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> int:
        """Delete the tenant's rows whose `expires_at` is over now, or was by `before`; how many."""
        kind = memory_type_of(memory_type)
        own = Scope(memory_id, user_id).owned()
        moment = datetime.now(UTC) if before is None else checked_moment("before", before)
        query = edits.expired_rows_filter(own, moment)
        return await self._delete(kind, query, self._call(timeout_ms), many=True)
