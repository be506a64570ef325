"""What every part of the provider stands on: its configuration, its connections, its embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime
from memorizz_async.enums import MemoryType
from memorizz_async.errors import ConfigurationError
from memorizz_async.memory_provider.mongodb.batch import BatchSearch
from memorizz_async.memory_provider.mongodb.connection import Connection, LoopSession
from memorizz_async.memory_provider.mongodb.conversation_writer import ConversationWriter
from memorizz_async.memory_provider.mongodb.embedding_cache import MongoDBEmbeddingCache
from memorizz_async.memory_provider.mongodb.embedding_models.embedders import Embedders
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.states import ModelStates
from memorizz_async.memory_provider.mongodb.filters import fields_by_type
from memorizz_async.memory_provider.mongodb.modes import Recall
from memorizz_async.memory_provider.mongodb.rows import collection_names
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.retrieval.reranking import Reranker

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Embedder


class ProviderCore:
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
                seen=f"a {type(config).__name__}",
                fix='write AsyncMongoDBProvider(MongoDBConfig("mongodb://…"))',
            )
        self.config = config or MongoDBConfig()
        self._collections = collection_names(self.config.collections)
        self._connection = Connection(self.config)
        self._filter_fields = fields_by_type(self.config.filter_fields)
        self._search = VectorSearch(self.config)
        self._recall = Recall(self.config, reranker)
        kept = self.config.embedding_cache
        cache = MongoDBEmbeddingCache(self._connection.session) if kept else None
        self._embedders = Embedders(embedding_provider, retiring_embedding_provider, cache)
        self._guard = ModelGuard(
            ModelStates(self._search.written),
            self._embedders,
            Words(self._collections, self.config.db_name),
            self.config.dimensions,
        )
        self._batches = BatchSearch(
            self.config, self._collections, self._search, self._recall, self._guard
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

    def _call(self, timeout_ms: int | None) -> CallTime:
        return CallTime(timeout_ms, self.config.timeout_ms)

    async def _session(self, call: CallTime) -> LoopSession:
        return await call.within("opening the database", self._connection.session)

    async def _conversations(self, kind: MemoryType, call: CallTime) -> ConversationWriter:
        """What writes the turns of a memory type."""
        session = await self._session(call)
        return ConversationWriter(
            session.driver, self._collections[kind], locks=session.session_locks,
            guard=self._guard, call=call, written=self._search.written,
        )  # fmt: skip
