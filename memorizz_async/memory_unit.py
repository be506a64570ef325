"""MemoryUnit: what an agent holds. One embedding of the query, then every memory type at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from memorizz_async.config import Consistency, MongoDBConfig, RecallMode
from memorizz_async.enums import ApplicationMode, MemoryType
from memorizz_async.enums.application_mode import application_mode_of
from memorizz_async.enums.memory_type import name_of
from memorizz_async.errors import ConfigurationError, InvalidInputError
from memorizz_async.fork import ProcessBound
from memorizz_async.markup import Summarized
from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.batch import OnError
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scoped, check_tenant
from memorizz_async.redaction import shown
from memorizz_async.results import RecallResults
from memorizz_async.retrieval.memory_signal import USUAL_SIGNAL, MemorySignal
from memorizz_async.slices import in_slices
from memorizz_async.validation import checked_query
from memorizz_async.vectors import EmbeddingLike

DEFAULT_LIMIT = 5


class MemoryUnit(ProcessBound, Summarized):
    """Recall over the memory types of an application, and writing one memory.

    application_mode: `conversational`, or memorizz's `assistant`, `workflow`, `deep_research`, as a
        string or an enum: which types a recall asks for where the caller names none.
    memory_provider: the AsyncMongoDBProvider to ask; its embedder embeds, so that queries and rows
        have one model. It may be given with each call instead. It is borrowed: whoever made it
        closes it. Given a MongoDBConfig, the unit makes a provider of its own.
    memory_signal: the weights and the half-life of the hits' `memory_signal`.
    memory_id, user_id: the tenant of calls that name none.

    `async with` opens and closes a provider that is the unit's own, and leaves a borrowed one as it
    is: one way to write it, whoever owns the provider.
    """

    def __init__(
        self,
        application_mode: Any = ApplicationMode.CONVERSATIONAL,
        memory_provider: Any = None,
        *,
        memory_signal: MemorySignal | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
    ) -> None:
        self.application_mode = application_mode_of(application_mode)
        check_tenant("memory_id", memory_id)
        check_tenant("user_id", user_id)
        if memory_signal is not None and not isinstance(memory_signal, MemorySignal):
            raise ConfigurationError(
                "memory_signal must be a MemorySignal", seen=shown(memory_signal)
            )
        self._own_provider = (
            AsyncMongoDBProvider(memory_provider)
            if isinstance(memory_provider, MongoDBConfig)
            else None
        )
        self.memory_provider = self._own_provider or memory_provider
        if self.memory_provider is not None:
            self.provider_for()
        self.memory_signal = memory_signal or MemorySignal()
        self.memory_id = memory_id
        self.user_id = user_id

    def summary(self) -> Mapping[str, object]:
        """The application mode, the tenant of calls that name none, and the provider."""
        tenant = {"memory_id": self.memory_id, "user_id": self.user_id}
        return {
            "application_mode": self.application_mode.value,
            **{name: whose for name, whose in tenant.items() if whose is not UNSET},
            "memory_provider": type(self.memory_provider).__name__,
        }

    async def __aenter__(self) -> Self:
        if self._own_provider is not None:
            await self._own_provider.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close_async()

    async def close_async(self) -> None:
        """Close the provider that the unit made; one that it was lent stays open. Idempotent."""
        if self._own_provider is not None:
            await self._own_provider.close_async()

    async def retrieve_all_memory_types_async(
        self,
        query: str,
        memory_id: Scoped = UNSET,
        limits: Mapping[Any, int] | None = None,
        async_memory_provider: AsyncMongoDBProvider | None = None,
        *,
        user_id: Scoped = UNSET,
        query_embedding: EmbeddingLike | None = None,
        include_embedding: bool = False,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word that callers expect
        exact: bool = False,
        num_candidates: int | None = None,
        explain: bool = False,
        mode: RecallMode | None = None,
        consistency: Consistency = "session",
        on_error: OnError = "raise",
        timeout_ms: int | None = None,
    ) -> RecallResults:
        """Recall every memory type at once: one embedding, one query a type, all in parallel.

        query: the text to recall for.
        memory_id, user_id: the tenant; one of them must be given. A string means that tenant, None
            means rows that have none, leaving it out means no condition.
        limits: memory type -> the most hits, each 1 to 10,000. Types may be our enum, memorizz's,
            or strings. None takes the application mode's types, 5 hits each.
        query_embedding: shape (dimensions,): no embedding is computed.
        filter: more conditions on the rows, of every type: `{"session_id": "s", "importance":
            {"$gte": 0.5}}`; see "Filters" in the documentation of recall.
        exact, num_candidates: how thoroughly Atlas searches; every other search is exact.
        explain: say how each hit was found, in `.explain` by type.
        mode: `hybrid`, `vector` or `text`. None is hybrid where there is a text index
            (`ensure_indexes_async` makes it), and vector elsewhere.
        consistency: `session`: this provider's own writes are seen at once, others' as the server
            tells of them; `strong`: the server is asked, whatever is in memory or in an index.
        on_error: `raise`, or `partial`: what the other types found, with the failures in `.errors`.
        timeout_ms: the deadline of the whole call, embedding included.

        Results are keyed by the names that the caller used. Each hit is a dict with `_id, content,
        memory_id, memory_type, score, memory_signal` and the row's own fields, best score first.
        `.timings` says where the time went, `.errors` what could not be searched.

        Raises InvalidInputError before anything is sent, EmbeddingError, StoredEmbeddingError and
        DatabaseError.
        """
        started = time.perf_counter()
        checked_query(query)
        whose, who = self._tenant(memory_id, user_id)
        batch = await self.provider_for(async_memory_provider).batch_retrieve_async(
            [
                {
                    "key": name_of(kind),
                    "query": query,
                    "embedding": query_embedding,
                    "memory_type": kind,
                    "limit": limit,
                    "include_embedding": include_embedding,
                    "filter": filter,
                    "exact": exact,
                    "num_candidates": num_candidates,
                    "explain": explain,
                    "mode": mode,
                    "consistency": consistency,
                    "memory_id": whose,
                    "user_id": who,
                }
                for kind, limit in self._limits(limits).items()
            ],
            on_error=on_error,
            timeout_ms=timeout_ms,
        )
        if self.memory_signal != USUAL_SIGNAL:  # by which the provider has weighed them
            now = datetime.now(UTC)
            for hits in batch.values():
                async for hit in in_slices(hits):
                    hit["memory_signal"] = self.memory_signal.of_row(hit, hit["score"], now)
        return RecallResults(batch, total_ms=(time.perf_counter() - started) * 1000)

    async def generate_memory_unit_async(
        self,
        content: str | Mapping[str, Any],
        memory_id: Scoped = UNSET,
        memory_type: Any = MemoryType.LONG_TERM_MEMORY,
        async_memory_provider: AsyncMongoDBProvider | None = None,
        *,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> str:
        """Write one memory, embedded; its id.

        content: the text, or a mapping with `content` and more fields.
        See `AsyncMongoDBProvider.store_async` for the fields and for what it raises.
        """
        whose, who = self._tenant(memory_id, user_id)
        return await self.provider_for(async_memory_provider).store_async(
            content, memory_type, memory_id=whose, user_id=who, timeout_ms=timeout_ms
        )

    def _tenant(self, memory_id: Scoped, user_id: Scoped) -> tuple[Scoped, Scoped]:
        """The tenant of a call: what it names, else the unit's own."""
        return (
            self.memory_id if memory_id is UNSET else memory_id,
            self.user_id if user_id is UNSET else user_id,
        )

    def _limits(self, limits: Mapping[Any, int] | None) -> Mapping[Any, int]:
        if limits is None:
            return dict.fromkeys(self.application_mode.memory_types, DEFAULT_LIMIT)
        if not isinstance(limits, Mapping) or not limits:
            raise InvalidInputError(
                "limits must map memory types to numbers",
                seen=shown(limits),
                fix="write {MemoryType.LONG_TERM_MEMORY: 5}, or leave it out",
            )
        return limits

    def provider_for(self, given: Any = None) -> AsyncMongoDBProvider:
        """The provider of a call: the one that it names, else the unit's.

        Raises ConfigurationError where there is none, or where it is not an async one.
        """
        provider = self.memory_provider if given is None else given
        if provider is None:
            raise ConfigurationError(
                "The memory unit has no provider",
                fix="pass memory_provider to MemoryUnit (or a MongoDBConfig), or "
                "async_memory_provider to the call",
            )
        if isinstance(provider, type) or not hasattr(provider, "batch_retrieve_async"):
            raise ConfigurationError(
                "The memory provider is not an async one",
                seen=shown(provider),
                fix="pass async_memory_provider=AsyncMongoDBProvider(…)",
            )
        asynchronous: AsyncMongoDBProvider = provider
        return asynchronous
