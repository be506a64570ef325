"""Records for memorizz: stored, read, changed and deleted by their ids and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memorizz_async.enums import MemoryType
from memorizz_async.errors import DuplicateMemoryError, InvalidInputError
from memorizz_async.integrations.memorizz.agents import Agents
from memorizz_async.integrations.memorizz.core import (
    kind_of,
    limit_of,
    texts_of,
    user_scope,
)
from memorizz_async.integrations.memorizz.documents import (
    Record,
    now_iso,
    record_of,
    row_of,
    with_scope,
)
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET
from memorizz_async.validation import checked_list


class Records(Agents):
    """Single records, and lists of them. memorizz names no tenant here: every tenant is meant."""

    def store(
        self,
        data: dict[str, Any] | None = None,
        memory_store_type: Any = None,
        memory_id: str | None = None,
        memory_unit: Any = None,
    ) -> str:
        """Write one record as it is; its id. One with an `_id` takes the place of that row."""
        if memory_unit is not None:
            data = record_of(memory_unit)
            own = getattr(memory_unit, "memory_type", None) or data.get("memory_type")
            memory_store_type = own or MemoryType.CONVERSATION_MEMORY
            if memory_id is not None:
                data["memory_id"] = memory_id
        if data is None or memory_store_type is None:
            raise InvalidInputError(
                "Nothing to store", fix="pass data and memory_store_type, or a memory_unit"
            )
        kind = kind_of(memory_store_type)
        if kind is MemoryType.MEMAGENT:
            return self._store_agent(record_of(data))
        return self._put(self._row(record_of(data), kind, memory_id), kind)

    def store_many(
        self, rows: list[dict[str, Any]], memory_store_type: Any, *, memory_id: str | None = None
    ) -> list[str]:
        """Write records of one type together; their ids, in order."""
        given = checked_list("rows", rows)
        kind = kind_of(memory_store_type)
        if kind in (MemoryType.MEMAGENT, MemoryType.SHARED_MEMORY):
            return [self.store(record_of(row), kind, memory_id) for row in given]
        made = [self._row(record_of(row), kind, memory_id) for row in given]
        ids: list[str] = self._do(
            "put_many_async", made, kind, memory_id=EVERY_TENANT, embedding_form=self._form
        )
        return ids

    def retrieve_by_id(self, id: str, memory_store_type: Any) -> Record | None:
        """A record by its id; a tool log also by its `tool_log_id`, an agent by its `agent_id`."""
        return self._find(kind_of(memory_store_type), id, include_embedding=True)

    def retrieve_by_name(
        self, name: str, memory_store_type: Any, include_embedding: bool = False
    ) -> Record | None:
        """A record by its name; shared memory by its `memory_id`, the semantic cache by its key."""
        rows = self._rows(
            kind := kind_of(memory_store_type), where=_named(kind, name), memory_id=EVERY_TENANT,
            limit=1, include_embedding=include_embedding,
        )  # fmt: skip
        return rows[0] if rows else None

    def list_all(
        self,
        memory_store_type: Any,
        user_id: Any = UNSET,
        *,
        include_embedding: bool | None = None,
    ) -> list[Record]:
        """Every record of a type, or a user's.

        include_embedding: None is with embeddings for tools alone, which memorizz carries over when
            it saves an agent.
        """
        kind = kind_of(memory_store_type)
        if include_embedding is None:
            include_embedding = kind is MemoryType.TOOLBOX
        return self._rows(
            kind, memory_id=EVERY_TENANT, user_id=user_scope(user_id),
            include_embedding=include_embedding,
        )  # fmt: skip

    def list_recent(
        self,
        memory_store_type: Any,
        limit: int = 100,
        include_embedding: bool = False,
        user_id: Any = UNSET,
    ) -> list[Record]:
        """The records of the latest `timestamp`, the latest first."""
        return self._rows(
            kind_of(memory_store_type), memory_id=EVERY_TENANT, user_id=user_scope(user_id),
            order_by=(("timestamp", -1), ("_id", -1)), limit=limit_of(limit) or 1,
            include_embedding=include_embedding,
        )  # fmt: skip

    def update_by_id(self, id: str, data: dict[str, Any], memory_store_type: Any) -> bool:
        """Set fields of a record; whether it is there."""
        kind = kind_of(memory_store_type)
        row_id = self._row_id(kind, id)
        if row_id is None:
            return False
        changes = row_of(record_of(data))
        changes.pop("_id", None)
        self._name_model(changes)
        changes.setdefault("updated_at", now_iso())
        updated: bool = self._do(
            "update_async", row_id, kind, changes, memory_id=EVERY_TENANT, embed=False,
            embedding_form=self._form, as_record=True,
        )  # fmt: skip
        return updated

    def touch_many(
        self, record_ids: Iterable[str], memory_store_type: Any, *, now: Any = None
    ) -> int:
        """Note that records were used: `access_count`, `last_accessed_at`. How many they were."""
        ids = texts_of("record_ids", record_ids)
        touched: int = self._do(
            "touch_many_async", ids, kind_of(memory_store_type), at=now, memory_id=EVERY_TENANT
        )
        return touched

    def delete_by_id(self, id: str, memory_store_type: Any) -> bool:
        """Delete a record; whether it was there."""
        kind = kind_of(memory_store_type)
        row_id = self._row_id(kind, id)
        if row_id is None:
            return False
        deleted: bool = self._do("delete_async", row_id, kind, memory_id=EVERY_TENANT)
        return deleted

    def delete_by_name(self, name: str, memory_store_type: Any) -> bool:
        """Delete the record that `retrieve_by_name` finds; whether there is one."""
        row = self.retrieve_by_name(name, memory_store_type)
        return row is not None and self.delete_by_id(row["_id"], memory_store_type)

    def delete_all(self, memory_store_type: Any) -> bool:
        """Delete every record of a type, every tenant's."""
        self._do("delete_many_async", kind_of(memory_store_type), memory_id=EVERY_TENANT)
        return True

    def list_archive_records(self, memory_type: Any) -> list[Record]:
        """Every record of a type, whole."""
        return self.list_all(memory_type, include_embedding=True)

    def store_archive_record(
        self,
        memory_type: Any,
        record_id: str,
        data: dict[str, Any],
        *,
        replace: bool = False,
        reembed: bool = False,
    ) -> str:
        """Restore one record as it was, an agent's too; without `replace` none that is there."""
        kind = kind_of(memory_type)
        row = with_scope(row_of({**record_of(data), "_id": record_id, "id": record_id}), kind)
        texts = (row.get(name) for name in ("content", "description", "name"))
        text = next((text for text in texts if text), None)
        if reembed and isinstance(text, str) and text.strip():
            row["embedding"] = self._embedding_provider.get_embedding(text)
            row["embedding_model"] = self._embedding_provider.get_default_model()
        known = self._row_id(kind, record_id) if kind is MemoryType.MEMAGENT else None
        if known is not None:
            row["_id"] = known
        self._do(
            "put_async", row, kind, memory_id=EVERY_TENANT, replace=replace,
            embedding_form=self._form,
        )  # fmt: skip
        return record_id

    def _row(self, record: Mapping[str, Any], kind: MemoryType, memory_id: str | None) -> Record:
        row = row_of(record)
        if memory_id is not None:
            row.setdefault("memory_id", memory_id)
        if kind is MemoryType.TOOL_LOG and row.get("tool_log_id"):
            row.setdefault("_id", str(row["tool_log_id"]))  # either id then finds it
        self._name_model(row)
        return with_scope(row, kind)

    def _put(self, row: Record, kind: MemoryType) -> str:
        """Write a row. A trace is written once and never replaced."""
        trace = str(row.get("record_type") or "") if kind is MemoryType.SHARED_MEMORY else ""
        if trace.startswith("observability_") and row.get("memory_id"):
            row = {**row, "_id": self._traced(row)}
        immutable = trace == "observability_trace_bundle" and row.get("immutable_trace") is True
        try:
            row_id: str = self._do(
                "put_async", row, kind, memory_id=EVERY_TENANT, replace=not immutable,
                embedding_form=self._form,
            )  # fmt: skip
        except DuplicateMemoryError:
            if not immutable:
                raise
            return str(row["_id"])  # the first writer's is the one that counts
        return row_id

    def _traced(self, row: Record) -> str:
        """The id of a trace: that of the row that has its `memory_id`, else that `memory_id`."""
        there = self._rows(
            MemoryType.SHARED_MEMORY, where={"memory_id": row["memory_id"]},
            memory_id=EVERY_TENANT, limit=1,
        )  # fmt: skip
        return str(there[0]["_id"] if there else row["memory_id"])

    def _name_model(self, fields: Record) -> None:
        """Say which model an embedding is of, where memorizz embeds with ours."""
        if fields.get("embedding") is not None and self._names_model:
            fields.setdefault("embedding_model", self._embedding_provider.get_default_model())


def _named(kind: MemoryType, name: str) -> list[dict[str, Any]]:
    if kind is MemoryType.SHARED_MEMORY:
        return [{"memory_id": name}]
    if kind is MemoryType.SEMANTIC_CACHE:
        return [{"cache_key": name}, {"query_text": name}]
    return [{"name": name}]
