"""AsyncMongoDBProvider: memories in MongoDB, written, read and searched without blocking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from memorizz_async.config import Consistency, MongoDBConfig, RecallMode
from memorizz_async.deadline import CallTime
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import (
    ConfigurationError,
    InvalidInputError,
)
from memorizz_async.memory_provider.mongodb import conversation, writing
from memorizz_async.memory_provider.mongodb.batch import BatchSearch, OnError
from memorizz_async.memory_provider.mongodb.connection import Connection, LoopSession
from memorizz_async.memory_provider.mongodb.dimensions import Dimensions
from memorizz_async.memory_provider.mongodb.ensuring import ensure_all
from memorizz_async.memory_provider.mongodb.filters import fields_by_type
from memorizz_async.memory_provider.mongodb.hybrid import Recall
from memorizz_async.memory_provider.mongodb.indexes import IndexReport
from memorizz_async.memory_provider.mongodb.pipelines import row_projection, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.queries import queries_of
from memorizz_async.memory_provider.mongodb.rows import (
    Row,
    collection_names,
    public_row,
    stored_id,
    stored_ids,
)
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.memory_provider.mongodb.vector_search.waiting import wait_until_searchable
from memorizz_async.results import BatchResults, Hits
from memorizz_async.retrieval.reranking import Reranker
from memorizz_async.vectors import EmbeddingLike

if TYPE_CHECKING:
    from memorizz_async.embeddings.adapters import ManagedEmbedder
    from memorizz_async.embeddings.protocol import Embedder


class AsyncMongoDBProvider:
    """The memories of one database.

    Constructing it does no I/O. It opens on first use (or on `async with`), keeps a client for each
    event loop that uses it, and closes what it opened. An embedder that it was lent stays open.

    config: where the database is; None takes `MONGODB_URI`, else `local`.
    embedding_provider: what embeds texts where no embedding is given: an `AsyncEmbeddingProvider`,
        any object with its methods, or a callable `f(list[str]) -> vectors`, plain or async. None
        takes the process-wide one, on first need.
    reranker: gives what a recall by text found its final order; see `Reranker`.

    Every method takes `timeout_ms`, the deadline of the whole call in milliseconds, which reaches
    the server; left out, the configuration's bounds the database's work alone. Every method raises
    ServerUnavailableError, OperationTimeoutError, AuthenticationError or another DatabaseError
    where the database fails, and ClosedError after close.
    """

    def __init__(
        self,
        config: MongoDBConfig | None = None,
        *,
        embedding_provider: Any = None,
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
        self._batches = BatchSearch(self.config, self._collections, self._search, self._recall)
        self._given_embedder = embedding_provider
        self._embedder: ManagedEmbedder | None = None
        self._dimensions = Dimensions(self.config.dimensions)

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "open"
        return f"<AsyncMongoDBProvider {state} {self.config!r}>"

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
            # A wrapper around what we were lent is ours to close; what we were lent is not.
            if self._embedder is not None and self._embedder is not self._given_embedder:
                await self._embedder.close_async()

    @property
    def embedder(self) -> Embedder:
        """What embeds texts for this provider; made on first need."""
        # Here, so that a database without an embedder needs no embedding library.
        from memorizz_async import embeddings  # noqa: PLC0415

        given = self._given_embedder
        if given is None:  # asked for each time: somebody may have shut the shared one down
            return embeddings.get_async_embedding_provider()
        if self._embedder is None:
            self._embedder = embeddings.as_embedder(given)
        return self._embedder

    async def store_async(
        self,
        memory: str | Mapping[str, Any],
        memory_type: Any = MemoryType.LONG_TERM_MEMORY,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        embedding: EmbeddingLike | None = None,
        timeout_ms: int | None = None,
    ) -> str:
        """Write one memory; its id.

        memory: the content, or a mapping with `content` and fields of your own. Known fields:
            `importance` (0 to 1), `expires_at` (a datetime), `metadata`, `session_id`, `embedding`,
            `memory_id` and `user_id` (in place of the arguments), `_id`, and `dedup_key`: a second
            write of one key in one scope changes nothing and returns the first's id.
        embedding: shape (dimensions,). None embeds the content.

        Raises InvalidInputError (nothing is written), DuplicateMemoryError, EmbeddingError.
        """
        if embedding is not None:
            memory = writing.with_embedding(memory, embedding)
        ids = await self.store_many_async(
            [memory], memory_type, memory_id=memory_id, user_id=user_id, timeout_ms=timeout_ms
        )
        return ids[0]

    async def store_many_async(
        self,
        memories: Iterable[str | Mapping[str, Any]],
        memory_type: Any = MemoryType.LONG_TERM_MEMORY,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> list[str]:
        """Write memories of one type; their ids, in order. See store_async for what a memory is.

        All are checked before any is written, and all that have no embedding are embedded together.
        Raises InvalidInputError (nothing is written), WriteError (says which rows were written and
        which were not), EmbeddingError.
        """
        collection = self._collections[memory_type_of(memory_type)]
        call = self._call(timeout_ms)
        items = await writing.drafts(memories, memory_id=memory_id, user_id=user_id)
        if not items:
            return []
        driver = (await self._session(call)).driver
        texts = [str(item.fields.get("content")) for item in items]
        await writing.embed(items, texts, lambda: self.embedder, call)
        deadline = call.for_database()
        return await writing.insert(
            driver, collection, items, deadline, self._dimensions, written=self._search.written
        )

    async def store_conversation_async(
        self,
        turns: Iterable[str | Mapping[str, Any]],
        memory_type: Any = MemoryType.CONVERSATION_MEMORY,
        *,
        session_id: str | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> list[str]:
        """Append turns to their session, each findable by what was said around it; their ids.

        turns: as in store_many_async, in order, one or many a call; best with the speaker's name in
            `content` ("Ada: yes"). Each gets `turn`, its number in the session, and `context`, the
            two turns on either side, and is embedded with the two before it.
        session_id: of turns that name none. One program at a time should append to a session: two
            at once lose no turn, but may not see each other's as neighbours.

        Raises as store_many_async does.
        """
        collection = self._collections[memory_type_of(memory_type)]
        call = self._call(timeout_ms)
        items = await writing.drafts(turns, memory_id=memory_id, user_id=user_id)
        if not items:
            return []
        driver = (await self._session(call)).driver
        return await conversation.store(
            driver, collection, items, session_id,
            embedder=lambda: self.embedder, dimensions=self._dimensions, call=call,
            written=self._search.written,
        )  # fmt: skip

    async def get_async(
        self,
        row_id: Any,
        memory_type: Any,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        include_embedding: bool = False,
        timeout_ms: int | None = None,
    ) -> Row | None:
        """One memory by its id, inside the scope; None where the scope holds no such row.

        Raises ScopeError where neither `memory_id` nor `user_id` is given.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id).filter(kind)
        call = self._call(timeout_ms)
        session = await self._session(call)
        rows = await session.driver.find(
            self._collections[kind],
            rows_by_id_filter(stored_ids(row_id), scope, datetime.now(UTC)),
            projection=row_projection(include_embedding),
            limit=1,
            deadline=call.for_database(),
        )
        return public_row(rows[0], kind.name) if rows else None

    async def retrieve_memory_units_by_query_async(
        self,
        query: str | None = None,
        query_embedding: EmbeddingLike | None = None,
        memory_id: Scoped = UNSET,
        memory_type: Any = MemoryType.LONG_TERM_MEMORY,
        limit: int = 5,
        *,
        user_id: Scoped = UNSET,
        include_embedding: bool = False,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word that callers expect
        exact: bool = False,
        num_candidates: int | None = None,
        explain: bool = False,
        mode: RecallMode | None = None,
        consistency: Consistency = "session",
        timeout_ms: int | None = None,
    ) -> Hits:
        """The memories of one type that are most similar to a query, the best first.

        query_embedding: shape (dimensions,). None embeds the query; with it, `query` may be None.
        filter: more conditions, inside the tenant's: `{"role": "user", "importance": {"$gt": 0}}`.
        exact, num_candidates: on Atlas, compare every row of the scope, or how many the index looks
            at (20 times the limit); every other search is exact.
        explain: say in the hits' `explain` how each was found.
        mode: `hybrid`, `vector` or `text`. None is hybrid where there are a text index
            (`ensure_indexes_async` makes it) and a query text, and vector elsewhere.
        consistency: see batch_retrieve_async.

        Each hit has `_id, content, memory_id, user_id, memory_type, score` (Atlas's, 0 to 1) and
        the row's own fields; a hybrid one has `text_score`, and `fused_score`, which orders. Raises
        InvalidInputError, EmbeddingError, StoredEmbeddingError where the scope holds vectors and
        none can be compared with the query's, UnsupportedOperationError where the mode needs a text
        index and there is none.
        """
        name = "query"
        results = await self.batch_retrieve_async(
            [
                {
                    "key": name,
                    "query": query,
                    "embedding": query_embedding,
                    "memory_id": memory_id,
                    "user_id": user_id,
                    "memory_type": memory_type,
                    "limit": limit,
                    "include_embedding": include_embedding,
                    "filter": filter,
                    "exact": exact,
                    "num_candidates": num_candidates,
                    "explain": explain,
                    "mode": mode,
                    "consistency": consistency,
                }
            ],
            timeout_ms=timeout_ms,
        )
        return results[name]

    async def batch_retrieve_async(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        on_error: OnError = "raise",
        timeout_ms: int | None = None,
    ) -> BatchResults:
        """Run queries in parallel; the hits of each under its `key`.

        queries: mappings with `key` (unique), `memory_type`, `memory_id` and/or `user_id`,
            `embedding` (or `query`, to be embedded; each distinct text once), and maybe `mode`,
            `limit` (5), `include_embedding`, `filter`, `exact`, `num_candidates`, `explain` and
            `consistency` ("session"; "strong" asks the server, whatever is in memory or an index).
        on_error: with "raise" the error of the first query that failed, in the order given, once
            all have ended; with "partial" the hits of the others, and the failures in `.errors`.

        Rows of a scope that cannot be compared with the query are reported in `.errors` either way.
        Raises InvalidInputError before anything is sent, and as said above.
        """
        if on_error not in ("raise", "partial"):
            raise InvalidInputError("on_error must be 'raise' or 'partial'", seen=repr(on_error))
        batch = queries_of(
            queries, dimensions=self.config.dimensions, filter_fields=self._filter_fields
        )
        call = self._call(timeout_ms)
        session = await self._session(call)
        return await self._batches.run(
            session, batch, lambda: self.embedder, on_error=on_error, call=call
        )

    async def ensure_indexes_async(
        self,
        memory_types: Iterable[Any] | None = None,
        *,
        progress: Callable[[IndexProgress], None] | None = None,
        timeout_ms: int | None = None,
    ) -> IndexReport:
        """Create every index that is missing, and wait until the search indexes answer.

        memory_types: None means all. progress: called with how each search index stands, whenever
            that changes. Safe to run again, and from several programs.

        Without `MongoDBConfig(dimensions=…)` a server with vector search is asked for indexes of
        the embedder's dimension, which loads its model. Raises OperationTimeoutError, which says
        how far it got, and DatabaseError where a build fails or the cluster has no room.
        """
        kinds = (
            list(MemoryType) if memory_types is None else list(map(memory_type_of, memory_types))
        )
        fields = {self._collections[kind]: self._filter_fields[kind] for kind in kinds}
        call = self._call(timeout_ms)
        session = await self._session(call)
        report = await ensure_all(
            session.driver,
            fields,
            conversations=self._collections[MemoryType.CONVERSATION_MEMORY],
            config=self.config,
            embedder=lambda: self.embedder,
            progress=progress,
            call=call,
        )
        self._recall.texts.forget()
        self._search.forget()
        return report

    async def wait_until_searchable_async(
        self,
        ids: Iterable[Any],
        memory_type: Any,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> None:
        """Wait until a search can find rows that were just written, by their ids.

        A search index follows the database by about a second; where searches are exact there is
        nothing to wait for, and this returns at once. Raises OperationTimeoutError, which names the
        rows that are not found yet, and InvalidInputError for ids that the scope does not hold.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id).filter(kind)
        wanted = [stored_id(row_id) for row_id in ids]
        call = self._call(timeout_ms)
        session = await self._session(call)
        await wait_until_searchable(
            session.driver, self._search, self._collections[kind], wanted, scope,
            similarity=self.config.similarity, deadline=call.for_database(),
        )  # fmt: skip

    def _call(self, timeout_ms: int | None) -> CallTime:
        return CallTime(timeout_ms, self.config.timeout_ms)

    async def _session(self, call: CallTime) -> LoopSession:
        return await call.within("opening the database", self._connection.session)
