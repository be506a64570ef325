"""Saved agents."""

from __future__ import annotations

import uuid
from typing import Any

from memorizz_async.enums import MemoryType
from memorizz_async.integrations.memorizz.core import AdapterCore, texts_of
from memorizz_async.integrations.memorizz.documents import Record, now_iso, record_of, row_of
from memorizz_async.integrations.memorizz.framework import MemoryProvider
from memorizz_async.memory_provider.mongodb import EVERY_TENANT

_AGENTS = MemoryType.MEMAGENT


class Agents(AdapterCore, MemoryProvider):  # type: ignore[misc]
    """The agents of every tenant: which memories an agent has stands in its record."""

    def store_memagent(self, memagent: Any) -> str:
        """Write an agent, or over its record; its id."""
        record = record_of(memagent)
        persona = getattr(memagent, "persona", None)
        if persona is not None and hasattr(persona, "to_dict"):
            record["persona"] = persona.to_dict()
        return self._store_agent(record)

    def update_memagent(self, memagent: Any) -> str:
        """As store_memagent."""
        return self.store_memagent(memagent)

    def retrieve_memagent(self, agent_id: str) -> Any:
        """An agent as memorizz's model; None where there is none."""
        row = self._find(_AGENTS, agent_id)
        return None if row is None else _model_of(row)

    def list_memagents(self) -> list[Any]:
        """Every agent, as memorizz's models; a record that those refuse is logged, and left out."""
        agents = []
        for row in self._rows(_AGENTS, memory_id=EVERY_TENANT):
            try:
                agents.append(_model_of(row))
            except Exception as error:  # noqa: BLE001 - whatever memorizz's model makes of it
                problem = f"memorizz reads no agent from it ({type(error).__name__}): mend it"
                self._problems.name(_AGENTS.name, {row["_id"]: problem})
        return agents

    def update_memagent_memory_ids(self, agent_id: str, memory_ids: list[str]) -> bool:
        """Say which memories an agent has; whether it is there."""
        return self._change(agent_id, {"memory_ids": texts_of("memory_ids", memory_ids)})

    def delete_memagent_memory_ids(self, agent_id: str) -> bool:
        """Say that an agent has no memories; whether it is there."""
        return self._change(agent_id, {"memory_ids": []})

    def _change(self, agent_id: str, changes: Record) -> bool:
        row_id = self._row_id(_AGENTS, agent_id)
        if row_id is None:
            return False
        changed: bool = self._do(
            "update_async", row_id, _AGENTS, {**changes, "updated_at": now_iso()},
            memory_id=EVERY_TENANT, as_record=True,
        )  # fmt: skip
        return changed

    def _store_agent(self, record: Record) -> str:
        row = row_of(record)
        agent_id = str(row.get("agent_id") or row.get("_id") or uuid.uuid4())
        row.pop("_id", None)
        row.pop("created_at", None)
        now = now_iso()
        self._do(
            "upsert_async",
            _AGENTS,
            {"agent_id": agent_id},
            {**row, "updated_at": now},
            where_new={"_id": agent_id, "created_at": now},
            memory_id=EVERY_TENANT,
            as_record=True,
        )
        self._sync_agent_tools_to_toolbox(agent_id, row.get("tools"))
        return agent_id


def _model_of(row: Record) -> Any:
    from memorizz.memagent import MemAgentModel  # noqa: PLC0415 - loads the whole framework

    return MemAgentModel.from_document(row)
