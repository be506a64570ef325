"""What MemAgent reads every turn, and shared memory: history, summaries, tool logs, the cache."""

from __future__ import annotations

from typing import Any

from memorizz_async.enums import MemoryType
from memorizz_async.integrations.memorizz.core import (
    AdapterCore,
    kind_of,
    limit_of,
    memory_scope,
    user_scope,
)
from memorizz_async.integrations.memorizz.documents import Record, now_iso, shown
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET


class Conversations(AdapterCore):
    """Rows in the order of time, and writes that depend on what is there."""

    def retrieve_conversation_history_ordered_by_timestamp(
        self,
        memory_id: str,
        memory_type: Any = None,
        limit: int | None = None,
        user_id: Any = UNSET,
        thread_id: str | None = None,
        *,
        include_embedding: bool = False,
    ) -> list[Record]:
        """The turns of a memory, the oldest first; with a limit the last ones.

        user_id: left out is every user, None rows without one. thread_id: None is every thread.
        """
        rows = self._do(
            "history_async",
            kind_of(memory_type, MemoryType.CONVERSATION_MEMORY),
            memory_id=memory_scope(memory_id),
            user_id=user_scope(user_id),
            where=_in_thread(thread_id),
            limit=limit_of(limit),
            include_embedding=include_embedding,
            include_expired=True,
            as_stored=True,
        )
        return [shown(row) for row in rows]

    def list_tool_logs(
        self,
        memory_id: str | None = None,
        user_id: Any = UNSET,
        limit: int = 20,
        thread_id: str | None = None,
    ) -> list[Record]:
        """The latest calls of tools, the latest first; a limit of 0 is all."""
        rows: list[Record] = self._do(
            "history_async", MemoryType.TOOL_LOG, memory_id=memory_scope(memory_id),
            user_id=user_scope(user_id), limit=limit_of(limit),
            where=None if thread_id is None else {"thread_id": str(thread_id)},
            include_expired=True, as_stored=True,
        )  # fmt: skip
        return [shown(row) for row in reversed(rows)]

    def list_summaries(
        self,
        memory_id: str | None = None,
        agent_id: str | None = None,
        user_id: Any = UNSET,
        thread_id: str | None = None,
        limit: int = 20,
    ) -> list[Record]:
        """Summaries of a memory or of an agent, whichever holds, the latest period first."""
        whose = [
            {name: str(value)}
            for name, value in (("memory_id", memory_id), ("agent_id", agent_id))
            if value
        ]
        thread = {} if thread_id is None else {"thread_id": str(thread_id)}
        return self._rows(
            MemoryType.SUMMARIES, memory_id=EVERY_TENANT, user_id=user_scope(user_id),
            where=[{**one, **thread} for one in whose or [{}]],
            order_by=(("period_end", -1), ("_id", -1)), limit=limit_of(limit),
        )  # fmt: skip

    def compare_and_swap_shared_memory(
        self, memory_id: str, expected_content: Any, content: str
    ) -> bool:
        """Replace shared content if it is still what was read; False where it is not."""
        swapped: bool = self._do(
            "compare_and_swap_async",
            memory_id,
            MemoryType.SHARED_MEMORY,
            {"content": expected_content},
            {"content": content, "updated_at": now_iso()},
            memory_id=EVERY_TENANT,
            embed=False,
            as_record=True,
        )
        return swapped

    def clear_semantic_cache(
        self,
        agent_id: str | None = None,
        memory_id: str | None = None,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
    ) -> int:
        """Delete cached answers of an agent, a memory, a user, a session; None is any. How many."""
        given = {"agent_id": agent_id, "session_id": session_id, "user_id": user_id}
        deleted: int = self._do(
            "delete_many_async",
            MemoryType.SEMANTIC_CACHE,
            memory_id=memory_scope(memory_id or None),
            where={name: value for name, value in given.items() if value is not None},
        )
        return deleted

    def supports_entity_memory(self) -> bool:
        return True

    def migrate_entity_memory_user_scope(self, *, memory_id: str, user_id: str) -> int:
        """Give the entities of a memory that have no user to a user; how many."""
        changed: int = self._do(
            "update_many_async", MemoryType.ENTITY_MEMORY, {"user_id": str(user_id)},
            memory_id=str(memory_id), user_id=None, as_record=True,
        )  # fmt: skip
        return changed


def _in_thread(thread_id: Any) -> list[dict[str, Any]] | None:
    """A thread under its name of now and of old versions; "" is no thread."""
    if thread_id is None:
        return None
    found: list[dict[str, Any]] = [
        {"thread_id": str(thread_id)},
        {"thread_id": None, "conversation_id": str(thread_id)},
    ]
    return found if thread_id != "" else [*found, {"thread_id": None, "conversation_id": None}]
