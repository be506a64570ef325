"""Reading memories by what they are, not by what they say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from memorizz_async.enums import memory_type_of
from memorizz_async.memory_provider.mongodb.pipelines import row_projection, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.rows import Row, public_row
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.validation import checked_flag


class Reading(ProviderCore):
    """Memories by their ids."""

    async def get_async(
        self,
        row_id: Any,
        memory_type: Any,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        include_embedding: bool = False,
        timeout_ms: int | None = None,
    ) -> Row | None:
        """One memory by its id, inside the scope; None where the scope holds no such row.

        Raises ScopeError where neither `memory_id` nor `user_id` is given.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id).filter(kind)
        wanted = self._ids([row_id])
        checked_flag("include_embedding", include_embedding)
        call = self._call(timeout_ms)
        session = await self._session(call)
        rows = await session.driver.find(
            self._collections[kind],
            rows_by_id_filter(wanted, scope, datetime.now(UTC)),
            projection=row_projection(include_embedding),
            limit=1,
            deadline=call.for_database(),
        )
        if not rows:
            return None
        shown = public_row(rows[0], kind.name)
        self._problems.check(self._collections[kind], rows[0], shown)
        return shown
