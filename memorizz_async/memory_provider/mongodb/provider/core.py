"""What every part of the provider stands on: its configuration, its connections, its embedder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from bson import Binary

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime
from memorizz_async.enums import MemoryType
from memorizz_async.enums.collection_names import collection_names
from memorizz_async.errors import ConfigurationError
from memorizz_async.fork import ProcessBound, running_loop
from memorizz_async.memory_provider.mongodb.arguments import checked_where, stored_uuid
from memorizz_async.memory_provider.mongodb.batch import BatchSearch
from memorizz_async.memory_provider.mongodb.codec import codec_options
from memorizz_async.memory_provider.mongodb.connection import Connection, LoopSession
from memorizz_async.memory_provider.mongodb.conversation_writer import ConversationWriter
from memorizz_async.memory_provider.mongodb.embedding_cache import MongoDBEmbeddingCache
from memorizz_async.memory_provider.mongodb.embedding_models.embedders import Embedders
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.states import ModelStates
from memorizz_async.memory_provider.mongodb.filters import fields_by_type
from memorizz_async.memory_provider.mongodb.modes import Recall
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where
from memorizz_async.memory_provider.mongodb.row_problems import RowProblems
from memorizz_async.memory_provider.mongodb.rows import stored_ids
from memorizz_async.memory_provider.mongodb.values import Codec
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.redaction import shown
from memorizz_async.retrieval.reranking import Reranker, check_reranker
from memorizz_async.validation import checked_list

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Embedder


class ProviderCore(ProcessBound):
    """One database and its sessions, one a loop; see AsyncMongoDBProvider for the arguments."""

    def __init__(
        self,
        config: MongoDBConfig | None = None,
        *,
        embedding_provider: Any = None,
        retiring_embedding_provider: Any = None,
        reranker: Reranker | None = None,
    ) -> None:
        if config is not None and not isinstance(config, MongoDBConfig):
            raise ConfigurationError(
                "config must be a MongoDBConfig",
                seen=shown(config),
                fix='write AsyncMongoDBProvider(MongoDBConfig("mongodb://…"))',
            )
        check_reranker(reranker)
        config = config or MongoDBConfig()
        # Now, not on first use: one provider is one database, and its address decides settings.
        self.config = replace(config, uri=config.resolved_uri()) if not config.uri else config
        self._collections = collection_names(self.config.collections)
        notices = Notices()
        self._connection = Connection(self.config, notices)
        self._problems = RowProblems()
        self._filter_fields = fields_by_type(self.config.filter_fields)
        self._search = VectorSearch(self.config)
        self._recall = Recall(self.config, notices, reranker)
        kept = self.config.embedding_cache
        cache = MongoDBEmbeddingCache(self._connection.session, self._problems) if kept else None
        self._embedders = Embedders(embedding_provider, retiring_embedding_provider, cache)
        self._guard = ModelGuard(
            ModelStates(self._search.written, notices),
            self._embedders,
            Words(self._collections, self.config.db_name),
            self.config.dimensions,
        )
        self._batches = BatchSearch(
            self.config,
            self._collections,
            self._search,
            self._recall,
            self._guard,
            problems=self._problems,
        )

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "open"
        return f"<{type(self).__name__} {state} {self.config!r}>"

    async def __aenter__(self) -> Self:
        await self._connection.session()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close_async()

    async def close_async(self) -> None:
        """Write what is left in the background, close every client, give up `local`. Idempotent."""
        try:
            await self._connection.close()
        finally:
            await self._embedders.close()

    @property
    def embedder(self) -> Embedder:
        """What embeds texts for this provider; made on first need."""
        return self._embedders.current

    @cached_property
    def _codec(self) -> Codec:
        """How the database writes values."""
        return codec_options(self.config)

    def _call(self, timeout_ms: int | None) -> CallTime:
        """The time of a public call; raises LifecycleError where no event loop runs."""
        running_loop()
        return CallTime(timeout_ms, self.config.timeout_ms)

    def _stored_uuid(self, value: UUID) -> Binary:
        """How the address says that a UUID is stored; read where the first UUID comes."""
        return stored_uuid(value, self._codec)

    def _ids(self, ids: Iterable[Any]) -> list[Any]:
        """Every form in which the ids may be stored. Raises InvalidInputError."""
        wanted = checked_list("ids", ids)
        return [form for row_id in wanted for form in stored_ids(row_id, self._stored_uuid)]

    def _where(self, where: Where) -> Where:
        """The conditions, checked and as they are sent. Raises InvalidFilterError."""
        return checked_where(where, self._stored_uuid)

    async def _session(self, call: CallTime) -> LoopSession:
        return await call.within("opening the database", self._connection.session)

    async def _conversations(self, kind: MemoryType, call: CallTime) -> ConversationWriter:
        """What writes the turns of a memory type."""
        session = await self._session(call)
        return ConversationWriter(
            session.driver, self._collections[kind], locks=session.session_locks,
            guard=self._guard, call=call, written=self._search.written,
        )  # fmt: skip
