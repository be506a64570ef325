"""Recall for memorizz: by meaning, and by fields."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from memorizz_async.enums import MemoryType
from memorizz_async.errors import (
    InvalidInputError,
    StoredEmbeddingError,
    UnsupportedOperationError,
)
from memorizz_async.integrations.memorizz.core import (
    AdapterCore,
    kind_of,
    limit_of,
    memory_scope,
    texts_of,
    user_scope,
)
from memorizz_async.integrations.memorizz.documents import Record, shown
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET
from memorizz_async.validation import MAX_LIMIT

log = logging.getLogger(__name__)

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
        scope = {"memory_id": memory_scope(memory_id), "user_id": user_scope(user_id)}
        exactly = {"thread_id": thread_id, "namespace": namespace, "session_id": session_id}
        named = {name: str(value) for name, value in exactly.items() if value is not None}
        agent = user_scope(agent_id)  # three states, too
        if isinstance(query, Mapping) and not isinstance(query.get("embedding"), list):
            fields = {**query, **named, **({} if agent is UNSET else {"agent_id": agent})}
            return self._rows(
                kind, where=fields, limit=_limit(limit), include_embedding=include_embedding,
                **scope,
            )  # fmt: skip
        conditions: list[dict[str, Any]] = [{name: value} for name, value in named.items()]
        if wanted := texts_of("statuses", statuses):
            conditions.append({"status": {"$in": wanted}})
        if agent is not UNSET and (agent is not None or kind is not MemoryType.SEMANTIC_CACHE):
            conditions.append(_agent(kind, agent))
        bases = sorted(set(texts_of("knowledge_base_ids", knowledge_base_ids)))
        if bases and kind is MemoryType.KNOWLEDGE_BASE:
            attached = {"knowledge_base_id": {"$in": bases}}
            own = [] if memory_id is None else [{"memory_id": str(memory_id)}]
            conditions.append({"$or": [attached, *own]})
            scope["memory_id"] = EVERY_TENANT
        vector = None
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
        elif kind is MemoryType.TOOLBOX:
            self._embed_tools()
        return self._search(
            kind,
            query=query if isinstance(query, str) else None,
            query_embedding=vector,
            limit=_limit(limit),
            include_embedding=include_embedding,
            filter={"$and": conditions} if conditions else None,
            **scope,
        )

    def _search(self, kind: MemoryType, **asked: Any) -> list[Record]:
        """The hits as memorizz has them. Where the vectors of a scope are all of another model,
        those that the words find, marked as memorizz marks them; without a text index it raises.
        """
        search = partial(
            self._do, "retrieve_memory_units_by_query_async", memory_type=kind, **asked
        )
        marks: Record = {"memory_type": kind.value}
        why = None
        try:
            hits = search(mode=None if kind in _HYBRID else "vector")
            if hits.mode == "text":
                why = hits.unsearchable
        except StoredEmbeddingError as error:
            if asked["query"] is None:
                raise
            try:
                hits = search(mode="text")
            except UnsupportedOperationError:
                raise error from None
            why = error
        if why is not None:
            log.warning("recall by words alone: %s", why)
            marks.update(
                retrieval_mode="text",
                retrieval_degraded=True,
                retrieval_reason="stored_embeddings_cannot_be_compared",
            )
        return [{**shown(hit), **marks} for hit in hits]

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
        texts: dict[str, str] = {}
        for row in bare:
            try:
                if row_type(row) not in NOT_SEARCHABLE:
                    texts[row["_id"]] = search_text(row)
            except Exception as error:  # noqa: BLE001 - whatever memorizz makes of an odd tool
                problem = f"memorizz reads no tool from it ({type(error).__name__}): mend it"
                self._problems.name(MemoryType.TOOLBOX.name, {row["_id"]: problem})
        wanted = {row_id: text for row_id, text in texts.items() if text.strip()}
        # memorizz's own provider leaves out the agent of tools that have none; a null is found.
        agent_of = {row["_id"]: row.get("agent_id") for row in bare}
        if not wanted:
            return
        vectors = self._embedding_provider.get_embeddings(list(wanted.values()))
        model = self._embedding_provider.get_default_model()
        for row_id, vector in zip(wanted, vectors, strict=True):
            self._do(
                "compare_and_swap_async",
                row_id,
                MemoryType.TOOLBOX,
                {"embedding": None},  # somebody may have embedded a newer text meanwhile
                {
                    "embedding": vector,
                    "embedding_model": model,
                    "agent_id": agent_of[row_id],
                },
                memory_id=EVERY_TENANT,
                embedding_form=self._form,
                as_record=True,
            )


def _agent(kind: MemoryType, agent_id: Any) -> dict[str, Any]:
    exactly = {"agent_id": agent_id}
    if kind is MemoryType.TOOLBOX and agent_id is not None:
        return {"$or": [exactly, {"agent_id": None}]}
    return exactly


def _limit(limit: Any) -> int:
    """Memorizz passes 0 and None where it means one."""
    return min(MAX_LIMIT, limit_of(limit) or 1)
