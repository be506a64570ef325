"""Recall for memorizz: by meaning, and by fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memorizz_async.enums import MemoryType
from memorizz_async.errors import InvalidInputError
from memorizz_async.integrations.memorizz.core import (
    AdapterCore,
    kind_of,
    memory_scope,
    user_scope,
)
from memorizz_async.integrations.memorizz.documents import Record, shown
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET
from memorizz_async.validation import MAX_LIMIT

FILTER_FIELDS: dict[str, tuple[str, ...]] = {
    "KNOWLEDGE_BASE": ("knowledge_base_id",),
    "SKILLBOX": ("status",),
}
"""What memorizz filters searches by besides the fields that every search may name."""

_HYBRID = frozenset(
    {
        MemoryType.KNOWLEDGE_BASE,
        MemoryType.CONVERSATION_MEMORY,
        MemoryType.SUMMARIES,
        MemoryType.WORKFLOW_MEMORY,
    }
)
"""Where words help. Elsewhere memorizz compares the score with a threshold of its own, and takes
the order of the hits for that of the score."""


class Searching(AdapterCore):
    """What `retrieve_by_query` and its relatives ask."""

    def retrieve_by_query(
        self,
        query: dict[str, Any] | str,
        memory_store_type: Any = None,
        limit: int = 1,
        memory_id: str | None = None,
        memory_type: Any = None,
        *,
        include_embedding: bool = False,
        user_id: Any = UNSET,
        thread_id: str | None = None,
        namespace: str | None = None,
        knowledge_base_ids: Sequence[str] | None = None,
        agent_id: Any = UNSET,
        session_id: str | None = None,
        statuses: Sequence[str] | None = None,
    ) -> list[Record]:
        """Rows that mean about the same as a text, the best first; or whose fields equal a dict's.

        memory_id: None is every memory. user_id: left out is every user, None rows without one.
        knowledge_base_ids: rows of these knowledge bases, besides those of the memory_id.
        agent_id: of tools, that agent's and those of none; elsewhere exactly that agent's.
        A dict with an `embedding` searches by that vector, and filters by its other fields.

        A failure raises; an empty list means that there is nothing.
        """
        kind = kind_of(memory_type, memory_store_type)
        conditions: list[dict[str, Any]] = []
        named = {
            "thread_id": thread_id,
            "namespace": namespace or None,
            "session_id": session_id,
        }
        conditions += [{name: str(value)} for name, value in named.items() if value is not None]
        if statuses:
            conditions.append({"status": {"$in": [str(status) for status in statuses]}})
        scope = {"memory_id": memory_scope(memory_id), "user_id": user_scope(user_id)}
        wanted_agent = user_scope(agent_id)  # three states, too
        if isinstance(query, Mapping) and not isinstance(query.get("embedding"), list):
            fields = {**query, **{k: v for k, v in named.items() if v is not None}}
            if wanted_agent is not UNSET:
                fields["agent_id"] = wanted_agent
            return self._rows(
                kind, where=fields, limit=_limit(limit), include_embedding=include_embedding,
                **scope,
            )  # fmt: skip
        if wanted_agent is not UNSET and (
            wanted_agent is not None or kind is not MemoryType.SEMANTIC_CACHE
        ):
            conditions.append(_agent(kind, wanted_agent))
        bases = sorted({str(one) for one in knowledge_base_ids or () if one})
        if bases and kind is MemoryType.KNOWLEDGE_BASE:
            attached = {"knowledge_base_id": {"$in": bases}}
            own = [] if memory_id is None else [{"memory_id": str(memory_id)}]
            conditions.append({"$or": [attached, *own]})
            scope["memory_id"] = EVERY_TENANT
        text, vector = (query if isinstance(query, str) else None), None
        if isinstance(query, Mapping):
            vector = query["embedding"]
            others = {k: v for k, v in query.items() if k not in ("embedding", "limit")}
            conditions += [{name: value} for name, value in others.items()]
        elif not isinstance(query, str):
            raise InvalidInputError(
                "The query must be a text or a dict", seen=f"a {type(query).__name__}"
            )
        elif not query.strip():
            return []  # nothing was asked
        if kind is MemoryType.TOOLBOX and vector is None:
            self._embed_tools()
        by_words = kind in _HYBRID and isinstance(scope["memory_id"], str)
        hits = self._do(
            "retrieve_memory_units_by_query_async",
            text,
            vector,
            memory_type=kind,
            limit=_limit(limit),
            include_embedding=include_embedding,
            filter={"$and": conditions} if conditions else None,
            mode=None if by_words else "vector",
            **scope,
        )
        return [{**shown(hit), "memory_type": kind.value} for hit in hits]

    def vector_search(
        self, query: str, memory_store_type: Any, limit: int = 5, **scope: Any
    ) -> list[Record]:
        """As retrieve_by_query; the semantic cache searches only providers that have this."""
        return self.retrieve_by_query(query, memory_store_type, limit, **scope)

    def retrieve_skillbox_candidates(
        self,
        query: str,
        *,
        limit: int,
        statuses: list[str],
        agent_id: str | None,
        user_id: str | None,
    ) -> list[Record]:
        """Learned skills of an agent in one of these states, the best first, with `score`."""
        return self.retrieve_by_query(
            query, MemoryType.SKILLBOX, limit, agent_id=agent_id, user_id=user_id,
            statuses=statuses,
        )  # fmt: skip

    def _embed_tools(self) -> None:
        """Embed tools that are stored without a vector: memorizz leaves that to the provider."""
        from memorizz.long_term.procedural.toolbox.indexing import (  # noqa: PLC0415 - loads much
            NOT_SEARCHABLE,
            row_type,
            search_text,
        )

        bare = self._rows(MemoryType.TOOLBOX, where={"embedding": None}, memory_id=EVERY_TENANT)
        texts = {
            row["_id"]: search_text(row) for row in bare if row_type(row) not in NOT_SEARCHABLE
        }
        wanted = {row_id: text for row_id, text in texts.items() if text.strip()}
        if not wanted:
            return
        vectors = self._embedding_provider.get_embeddings(list(wanted.values()))
        model = self._embedding_provider.get_default_model()
        for row_id, vector in zip(wanted, vectors, strict=True):
            self._do(
                "update_async",
                row_id,
                MemoryType.TOOLBOX,
                {"embedding": vector, "embedding_model": model},
                memory_id=EVERY_TENANT,
                embedding_form=self._form,
            )


def _agent(kind: MemoryType, agent_id: Any) -> dict[str, Any]:
    exactly = {"agent_id": agent_id}
    if kind is MemoryType.TOOLBOX and agent_id is not None:
        return {"$or": [exactly, {"agent_id": None}]}
    return exactly


def _limit(limit: Any) -> int:
    """Memorizz passes 0 and None where it means one."""
    return min(MAX_LIMIT, max(1, int(limit or 1)))
