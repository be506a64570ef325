"""MemorizzProvider: memorizz's provider interface over AsyncMongoDBProvider."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import ConfigurationError
from memorizz_async.integrations.memorizz.administration import Administration
from memorizz_async.integrations.memorizz.arguments import checked_arguments
from memorizz_async.integrations.memorizz.conversations import Conversations
from memorizz_async.integrations.memorizz.embeddings import MemorizzEmbeddings
from memorizz_async.integrations.memorizz.framework import MemoryProviderCapabilities
from memorizz_async.integrations.memorizz.searching import FILTER_FIELDS, Searching
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.filters import DEFAULT_FIELDS, fields_by_type
from memorizz_async.memory_provider.mongodb.indexes import IndexReport
from memorizz_async.memory_provider.mongodb.stored_rows import EmbeddingForm


@checked_arguments
class MemorizzProvider(Administration, Conversations, Searching):
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
        elif given is not None and not isinstance(given, MongoDBConfig):
            raise ConfigurationError(
                "A MemorizzProvider is made of a MongoDBConfig or an AsyncMongoDBProvider",
                seen=f"a {type(given).__name__}",
                fix='write MemorizzProvider(MongoDBConfig("mongodb://…"))',
            )
        else:
            config = _with_fields(given or MongoDBConfig())
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

    def ensure_indexes(
        self, memory_types: Iterable[Any] | None = None, *, timeout_ms: int | None = None
    ) -> IndexReport:
        """Create the indexes that are missing, of all types or of these, and wait until the search
        indexes answer; see AsyncMongoDBProvider.ensure_indexes_async.
        """
        report: IndexReport = self._do("ensure_indexes_async", memory_types, timeout_ms=timeout_ms)
        return report

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

    def _get_embedding_provider(self) -> MemorizzEmbeddings:
        return self._embedding_provider


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
    given = fields_by_type(config.filter_fields)
    wanted = {
        kind.name: (*given[kind], *FILTER_FIELDS.get(kind.name, ()))
        for kind in MemoryType
        if kind.store is kind
    }
    own = {
        name: tuple(path for path in dict.fromkeys(paths) if path not in DEFAULT_FIELDS)
        for name, paths in wanted.items()
    }
    return replace(config, filter_fields={name: paths for name, paths in own.items() if paths})


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
