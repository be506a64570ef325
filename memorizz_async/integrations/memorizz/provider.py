"""MemorizzProvider: memorizz's provider interface over AsyncMongoDBProvider."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import ConfigurationError
from memorizz_async.integrations.memorizz.conversations import Conversations
from memorizz_async.integrations.memorizz.embeddings import MemorizzEmbeddings
from memorizz_async.integrations.memorizz.framework import (
    MemoryProviderCapabilities,
    observability_cursor_after,
)
from memorizz_async.integrations.memorizz.records import Records
from memorizz_async.integrations.memorizz.searching import FILTER_FIELDS, Searching
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.filters import fields_by_type
from memorizz_async.memory_provider.mongodb.stored_rows import EmbeddingForm


class MemorizzProvider(Records, Conversations, Searching):
    """What `MemAgent(memory_provider=…)` takes, from any thread.

    Every call runs on one event loop in a thread of its own, with one connection pool. `aio` is the
    same provider for code that awaits. Constructing it does no I/O; `close()`, or `with`, ends the
    loop.

    config_or_provider: a MongoDBConfig (None is the default one), or an AsyncMongoDBProvider of
        yours, which stays yours to close. Such a one must let `FILTER_FIELDS` be filtered by.
    embedding_provider: what embeds queries, as AsyncMongoDBProvider takes it; only with a
        configuration. See `use_with_memorizz` for what embeds documents.
    embedding_form: how the embeddings of memorizz's records are written: as an `array` of doubles,
        which memorizz's own MongoDBProvider reads too, or as `bindata`, a third of the size.

    A failure raises an error of ours, and never looks like "no memories".
    """

    observability_batch_size = 1_000

    def __init__(
        self,
        config_or_provider: MongoDBConfig | AsyncMongoDBProvider | None = None,
        *,
        embedding_provider: Any = None,
        embedding_form: EmbeddingForm = "array",
    ) -> None:
        given = config_or_provider
        if isinstance(given, AsyncMongoDBProvider):
            if embedding_provider is not None:
                raise ConfigurationError(
                    "An embedding_provider was given beside a provider, which has its own",
                    fix="give it to AsyncMongoDBProvider",
                )
            _check_fields(given.config)
            inner = given
        else:
            config = _with_fields(MongoDBConfig() if given is None else given)
            inner = AsyncMongoDBProvider(config, embedding_provider=embedding_provider)
        super().__init__(inner, owns=inner is not given, embedding_form=embedding_form)

    def __repr__(self) -> str:
        state = "closed" if self._background.closed else "open"
        return f"<{type(self).__name__} {state} {self.config!r}>"

    def __enter__(self) -> MemorizzProvider:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def aio(self) -> AsyncMongoDBProvider:
        """The async provider, to be awaited on any event loop, on this one's connection pool."""
        return self._aio

    @property
    def embeddings(self) -> MemorizzEmbeddings:
        """This provider's embedder, as memorizz takes one."""
        return self._embedding_provider

    def close(self) -> None:
        """Let calls under way end, close what this opened, and end the loop. Idempotent."""
        self._background.close(self._close_async)

    async def _close_async(self) -> None:
        # A provider that was lent keeps its clients of other loops; this loop's ends with it.
        if self._owns:
            await self._inner.close_async()

    def memory_capabilities(self) -> Any:
        return MemoryProviderCapabilities(
            provider=type(self).__name__,
            batch_store=True,
            result_scores=True,
            native_vector_search=True,
            native_hybrid_search=True,
        )

    def purge_expired_semantic_cache(self, now: Any = None) -> int:
        """Delete cached answers whose time is over: those with a date at once, then the others."""
        deleted = self._delete_expired(now)
        return deleted + int(super().purge_expired_semantic_cache(now))

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

    def _get_embedding_provider(self) -> MemorizzEmbeddings:
        return self._embedding_provider

    def _delete_memory_units_by_memory_id(self, memory_id: str, memory_type: Any) -> None:
        self._do("delete_many_async", memory_type_of(memory_type).store, memory_id=str(memory_id))

    def _delete_scope_rows(self, memory_type: Any, rows: list[dict[str, Any]]) -> int:
        ids = [row["_id"] for row in rows]
        deleted: int = self._do(
            "delete_many_async", memory_type_of(memory_type), ids=ids, memory_id=EVERY_TENANT
        )
        return deleted


def use_with_memorizz(provider: MemorizzProvider) -> MemorizzProvider:
    """Embed everything in memorizz with the provider's embedder; the provider.

    memorizz embeds documents with its global embedding manager and asks the provider for queries:
    afterwards both are one model, and rows say which.
    """
    from memorizz.embeddings import set_global_embedding_manager  # noqa: PLC0415

    set_global_embedding_manager(provider.embeddings)
    provider._names_model = True
    return provider


def _with_fields(config: MongoDBConfig) -> MongoDBConfig:
    """The configuration, with what memorizz filters by."""
    declared = fields_by_type(config.filter_fields)
    wanted = {
        kind.name: tuple(dict.fromkeys((*paths, *FILTER_FIELDS.get(kind.name, ()))))
        for kind, paths in declared.items()
        if kind.store is kind
    }
    return replace(config, filter_fields=wanted)


def _check_fields(config: MongoDBConfig) -> None:
    declared = fields_by_type(config.filter_fields)
    missing = {
        name: absent
        for name, paths in FILTER_FIELDS.items()
        if (absent := sorted(set(paths) - set(declared[memory_type_of(name)])))
    }
    if missing:
        raise ConfigurationError(
            "The provider does not let everything be filtered by that memorizz filters by",
            seen=f"missing: {missing}",
            fix="make it with MongoDBConfig(…, filter_fields=FILTER_FIELDS), from "
            "memorizz_async.integrations.memorizz",
        )
