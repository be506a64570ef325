"""What memorizz does to whole stores: scopes deleted, traces queried, the cache cleaned.

memorizz's base class has these over `list_all`, which here would read every tenant's rows. So its
own rules run over the rows that can matter at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import InvalidInputError
from memorizz_async.integrations.memorizz.core import kind_of, texts_of
from memorizz_async.integrations.memorizz.documents import Record, moment
from memorizz_async.integrations.memorizz.framework import (
    DELETE_SCOPE_FIELDS,
    MemoryProvider,
    is_unset,
    observability_cursor_after,
)
from memorizz_async.integrations.memorizz.records import Records
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where


class Administration(Records):
    """Calls over many rows."""

    observability_batch_size = 1_000

    def query_observability_records(
        self,
        memory_store_type: Any,
        *,
        agent_ids: Iterable[str] | None = None,
        memory_ids: Iterable[str] | None = None,
        thread_id: str | None = None,
        user_id: Any = UNSET,
        application_id: str | None = None,
        record_type: str | None = None,
        tool_name: str | None = None,
        success: bool | None = None,
        event_filters: dict[str, Any] | None = None,
        start_time: Any = None,
        end_time: Any = None,
        limit: int = 250,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """A page of traces, of conversations or of tool logs, as memorizz's base class says it."""
        agents = texts_of("agent_ids", agent_ids)
        memories = texts_of("memory_ids", memory_ids)
        whose = [
            *({name: one} for one in agents for name in ("agent_id", "agentId")),
            *(
                {name: one}
                for one in memories
                for name in ("trace_memory_id", "memory_id", "memoryId")
            ),
        ]
        where: Where = whose or None
        if record_type is not None:
            of_type = [{"record_type": record_type, **one} for one in whose or [{}]]
            where = [*of_type, {"record_type": None}]  # old ones say it in their content alone
        kind = kind_of(memory_store_type)
        rows = self._rows(kind, where=where, memory_id=EVERY_TENANT)
        page: dict[str, Any]
        try:
            page = MemoryProvider.query_observability_records(
                _Narrowed(self, lambda _: rows), kind.value, agent_ids=agents,
                memory_ids=memories, record_type=record_type, thread_id=thread_id,
                application_id=application_id, tool_name=tool_name, success=success,
                event_filters=event_filters, start_time=start_time, end_time=end_time,
                limit=limit, cursor=cursor, **_user(user_id),
            )  # fmt: skip
        except ValueError:  # of memorizz, which quotes no value
            raise InvalidInputError(
                "The cursor is none of this method's pages",
                fix="pass the next_cursor of a page, as it is",
            ) from None
        return page

    def query_memory_observations(
        self,
        memory_store_type: Any,
        *,
        agent_id: str | None = None,
        memory_ids: Sequence[str] | None = None,
        user_id: Any = UNSET,
        application_id: str | None = None,
        exclude_ids: Sequence[str] = (),
        limit: int = 200,
    ) -> list[Record]:
        """Rows for a timeline of an agent or of memories, as memorizz's base class says it."""
        whose = [
            *([{"agent_id": agent_id}, {"owner_agent_id": agent_id}] if agent_id else []),
            *({"memory_id": one} for one in texts_of("memory_ids", memory_ids)),
        ]
        kind = kind_of(memory_store_type)
        rows = self._rows(kind, where=whose or None, memory_id=EVERY_TENANT)
        found: list[Record] = MemoryProvider.query_memory_observations(
            _Narrowed(self, lambda _: rows), kind.value, agent_id=agent_id,
            memory_ids=memory_ids, application_id=application_id, exclude_ids=exclude_ids or (),
            limit=200 if limit is None else limit, **_user(user_id),
        )  # fmt: skip
        return found

    def delete_scope(
        self,
        *,
        memory_id: str | None = None,
        user_id: Any = UNSET,
        agent_ids: list[str] | None = None,
        keep_traces: bool = False,
    ) -> dict[str, Any]:
        """Delete the rows of a scope in every store, and say how many, as memorizz does it.

        A row goes where every given part that its store records matches. Raises InvalidInputError
        for an empty scope. Store by store: where it breaks off, run it again.
        """
        agents = texts_of("agent_ids", agent_ids)
        if memory_id is None and not agents and not _user(user_id):
            raise InvalidInputError(
                "delete_scope requires memory_id, user_id, or at least one agent_id"
            )

        def candidates(kind: MemoryType) -> list[Record]:
            """Rows that match one of the parts; whether they match them all memorizz checks."""
            memory_field, user_field, agent_field = DELETE_SCOPE_FIELDS[kind.value]
            is_shared = kind is MemoryType.SHARED_MEMORY  # its traces have fields of their own
            where: list[dict[str, Any]] = []
            if memory_id is not None and memory_field:
                where = [{memory_field: memory_id}, {"trace_memory_id": memory_id}]
            else:
                if _user(user_id) and (user_field or is_shared):
                    where.append({"user_id": user_id})
                if agent_field:
                    names = {agent_field, "agent_id"} if is_shared else {agent_field}
                    where += [{name: one} for one in agents for name in sorted(names)]
            return self._rows(kind, where=where, memory_id=EVERY_TENANT) if where else []

        report: dict[str, Any] = MemoryProvider.delete_scope(
            _Narrowed(self, candidates), memory_id=memory_id, agent_ids=agent_ids,
            keep_traces=keep_traces, **_user(user_id),
        )  # fmt: skip
        return report

    def purge_expired_semantic_cache(self, now: Any = None) -> int:
        """Delete cached answers whose time is over: those with a date at once, then the others."""
        deleted = self._delete_expired(now)
        rows = self._rows(MemoryType.SEMANTIC_CACHE, memory_id=EVERY_TENANT)
        others = _Judged(self, lambda _: rows)
        MemoryProvider.purge_expired_semantic_cache(others, now)
        return deleted + self._delete_scope_rows(MemoryType.SEMANTIC_CACHE, others.doomed)

    def invalidate_semantic_cache(
        self,
        *,
        agent_id: str | None = None,
        memory_id: str | None = None,
        domains: list[str] | None = None,
        tags: list[str] | None = None,
        data_version: str | None = None,
    ) -> int:
        """Delete cached answers by what they are about, as memorizz's base class says it."""
        whose = {"agent_id": agent_id, "memory_id": memory_id}
        where = {name: value for name, value in whose.items() if value is not None}
        rows = self._rows(MemoryType.SEMANTIC_CACHE, where=where, memory_id=EVERY_TENANT)
        judged = _Judged(self, lambda _: rows)
        MemoryProvider.invalidate_semantic_cache(
            judged, agent_id=agent_id, memory_id=memory_id, domains=domains, tags=tags,
            data_version=data_version,
        )  # fmt: skip
        return self._delete_scope_rows(MemoryType.SEMANTIC_CACHE, judged.doomed)

    def observability_row_cursor(self, row: dict[str, Any]) -> str:
        """Where a page of traces goes on after a row."""
        return str(observability_cursor_after(row))

    def delete_observability_bundle(self, record_id: str, fingerprint: str) -> bool:
        """Delete a trace if it is still the one that was reviewed."""
        from memorizz.observability.index import digest  # noqa: PLC0415 - seldom needed
        from memorizz.observability.normalization import read_payload  # noqa: PLC0415

        kind = MemoryType.SHARED_MEMORY
        row = self._find(kind, record_id) or self.retrieve_by_name(record_id, kind)
        payload = read_payload(row) if row else None
        if (
            row is None
            or not payload
            or payload.get("record_type") != "observability_trace_bundle"
            or digest(payload) != fingerprint
        ):
            return False
        deleted: bool = self._do(
            "delete_async", row["_id"], kind, expected={"content": row["content"]},
            memory_id=EVERY_TENANT,
        )  # fmt: skip
        return deleted

    def delete_memagent(self, agent_id: str, cascade: bool = False) -> bool:
        """Delete an agent; with `cascade` also its memories that no other agent has."""
        if cascade:
            agent = self.retrieve_memagent(agent_id)
            for memory_id in (agent.memory_ids if agent else None) or []:
                self.delete_memory_units(memory_id, agent_id=agent_id)
        return self.delete_by_id(agent_id, MemoryType.MEMAGENT)

    def _delete_expired(self, now: Any) -> int:
        before = moment(now)
        deleted: int = self._do(
            "delete_expired_async",
            MemoryType.SEMANTIC_CACHE,
            before=before if isinstance(before, datetime) else None,
            memory_id=EVERY_TENANT,
        )
        return deleted

    def _delete_memory_units_by_memory_id(self, memory_id: str, memory_type: Any) -> None:
        self._do("delete_many_async", memory_type_of(memory_type).store, memory_id=str(memory_id))

    def _delete_scope_rows(self, memory_type: Any, rows: list[dict[str, Any]]) -> int:
        ids = [row["_id"] for row in rows]
        deleted: int = self._do(
            "delete_many_async", memory_type_of(memory_type), ids=ids, memory_id=EVERY_TENANT
        )
        return deleted


class _Narrowed:
    """The adapter, but that `list_all` gives these rows: what memorizz's own rules then judge."""

    def __init__(self, adapter: Administration, rows: Callable[[MemoryType], list[Record]]) -> None:
        self._adapter = adapter
        self._rows_of = rows

    def list_all(self, memory_store_type: Any) -> list[Record]:
        return self._rows_of(memory_type_of(memory_store_type).store)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


class _Judged(_Narrowed):
    """So, but deletes are only noted: memorizz's own code would pass over one that fails."""

    def __init__(self, adapter: Administration, rows: Callable[[MemoryType], list[Record]]) -> None:
        super().__init__(adapter, rows)
        self.doomed: list[Record] = []

    def delete_by_id(self, row_id: str, memory_store_type: Any) -> bool:
        self.doomed.append({"_id": row_id})
        return True


def _user(user_id: Any) -> dict[str, Any]:
    """The user as memorizz's own methods take it: left out, or named."""
    return {} if user_id is UNSET or is_unset(user_id) else {"user_id": user_id}
