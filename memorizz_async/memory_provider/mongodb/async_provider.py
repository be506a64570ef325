"""AsyncMongoDBProvider: memories in MongoDB, written, read and searched without blocking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

from memorizz_async.config import Consistency, MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import (
    ConfigurationError,
    InvalidInputError,
    MemorizzAsyncError,
)
from memorizz_async.memory_provider.mongodb import writing
from memorizz_async.memory_provider.mongodb.connection import Connection, LoopSession
from memorizz_async.memory_provider.mongodb.dimensions import Dimensions
from memorizz_async.memory_provider.mongodb.indexes import (
    IndexReport,
    ensure_ordinary,
    ensure_search,
    server_has_search,
)
from memorizz_async.memory_provider.mongodb.pipelines import row_projection, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.queries import Query, queries_of
from memorizz_async.memory_provider.mongodb.rows import (
    Row,
    collection_names,
    public_row,
    stored_id,
)
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest
from memorizz_async.results import BatchResults, Hits
from memorizz_async.vectors import EmbeddingLike, Vector

OnError = Literal["raise", "partial"]


class AsyncMongoDBProvider:
    """The memories of one database.

    Constructing it does no I/O. It opens on first use (or on `async with`), keeps a client for each
    event loop that uses it, and closes what it opened. An embedder that it was lent stays open.

    config: where the database is; None takes `MONGODB_URI`, else `local`.
    embedding_provider: what embeds texts where no embedding is given: an `AsyncEmbeddingProvider`,
        any object with its methods, or a callable `f(list[str]) -> vectors`, plain or async. None
        takes the process-wide one, on first need.

    Every method takes `timeout_ms`, the deadline of the whole call in milliseconds, which reaches
    the server; left out, the configuration's bounds the database's work alone. Every method raises
    ServerUnavailableError, OperationTimeoutError, AuthenticationError or another DatabaseError
    where the database fails, and ClosedError after close.
    """

    def __init__(
        self, config: MongoDBConfig | None = None, *, embedding_provider: Any = None
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
        self._search = VectorSearch(self.config)
        self._given_embedder = embedding_provider
        self._embedder: Embedder | None = None
        self._dimensions = Dimensions(self.config.dimensions)

    def __repr__(self) -> str:
        state = "closed" if self._connection.closed else "open"
        return f"<AsyncMongoDBProvider {state} {self.config!r}>"

    async def __aenter__(self) -> Self:
        await self._connection.session()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_async()

    async def close_async(self) -> None:
        """Write what is left in the background, close every client, give up `local`. Idempotent."""
        await self._connection.close()

    @property
    def embedder(self) -> Embedder:
        """What embeds texts for this provider; made on first need."""
        if self._embedder is None:
            # Here, so that a database without an embedder needs no embedding library.
            from memorizz_async import embeddings  # noqa: PLC0415

            given = self._given_embedder
            self._embedder = (
                embeddings.get_async_embedding_provider()
                if given is None
                else embeddings.as_embedder(given)
            )
        return self._embedder

    async def store_async(
        self,
        memory: str | Mapping[str, Any],
        memory_type: Any = MemoryType.CONVERSATION_MEMORY,
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
        memory_type: Any = MemoryType.CONVERSATION_MEMORY,
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
        if isinstance(memories, str | Mapping) or not isinstance(memories, Iterable):
            raise InvalidInputError(
                "memories must be several memories", fix="use store_async for one"
            )
        items = writing.drafts(list(memories), memory_id=memory_id, user_id=user_id)
        if not items:
            return []
        bound = _bound(timeout_ms)
        session = await self._connection.session()
        missing = [item for item in items if item.needs_embedding]
        if missing:
            texts = [str(item.fields["content"]) for item in missing]
            embedder = self.embedder
            matrix = await _within(bound, embedder.encode_documents_async(texts))
            for item, vector in zip(missing, matrix, strict=True):
                item.vector, item.model = vector, embedder.get_model_name()
        deadline = bound or self._default_deadline()
        vectors = [item.vector for item in items if item.vector is not None]
        await self._dimensions.check(session.driver, collection, vectors, deadline)
        return await writing.insert(
            session.driver, collection, items, deadline, written=self._search.written
        )

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
        ids = [stored_id(row_id)]
        if str(row_id) != row_id or ids[0] != row_id:
            ids.append(str(row_id))  # 24 hexadecimal digits may also have been stored as a string
        deadline = _bound(timeout_ms) or self._default_deadline()
        session = await self._connection.session()
        rows = await session.driver.find(
            self._collections[kind],
            rows_by_id_filter(ids, scope, datetime.now(UTC)),
            projection=row_projection(include_embedding),
            limit=1,
            deadline=deadline,
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
        consistency: Consistency = "session",
        timeout_ms: int | None = None,
    ) -> Hits:
        """The memories of one type that are most similar to a query, the best first.

        query_embedding: shape (dimensions,). None embeds the query; with it, `query` may be None.
        consistency: see batch_retrieve_async.

        Each hit has `_id, content, memory_id, user_id, memory_type, score` (Atlas's, 0 to 1) and
        the row's own fields. Raises InvalidInputError, EmbeddingError, and StoredEmbeddingError
        where the scope holds vectors and none can be compared with the query's.
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
            `embedding` (or `query`, to be embedded; each distinct text once), and where wanted
            `limit` (5), `include_embedding` (False) and `consistency` ("session"; "strong" asks
            the server, whatever is in memory or in an index).
        on_error: with "raise" the error of the first query that failed, in the order given, once
            all have ended; with "partial" the hits of the others, and the failures in `.errors`.

        Rows of a scope that cannot be compared with the query are reported in `.errors` either way.
        Raises InvalidInputError before anything is sent, and as said above.
        """
        if on_error not in ("raise", "partial"):
            raise InvalidInputError("on_error must be 'raise' or 'partial'", seen=repr(on_error))
        batch = queries_of(queries, dimensions=self.config.dimensions)
        bound = _bound(timeout_ms)
        session = await self._connection.session()
        started = time.perf_counter()
        vectors = await self._query_vectors(batch, bound)
        results = BatchResults(
            types={query.key: query.memory_type for query in batch},
            embedding_ms=_ms_since(started) if len(vectors) > 1 else 0.0,
        )
        deadline = bound or self._default_deadline()
        outcomes = await asyncio.gather(
            *(self._run(session, query, vectors[query.text], deadline, results) for query in batch),
            return_exceptions=True,
        )
        for query, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, MemorizzAsyncError) and on_error == "partial":
                results.errors[query.key] = outcome
            elif isinstance(outcome, BaseException):
                outcome.add_note(f"in the query {query.key!r}")
                raise outcome
            else:
                results[query.key] = outcome
                if outcome.unsearchable is not None:
                    results.errors[query.key] = outcome.unsearchable
        return results

    async def ensure_indexes_async(
        self, memory_types: Iterable[Any] | None = None, *, timeout_ms: int | None = None
    ) -> IndexReport:
        """Create every index that is missing, and wait until the search indexes answer.

        memory_types: None means all. Without `MongoDBConfig(dimensions=…)` a server with vector
        search is asked for indexes of the embedder's dimension, which loads its model. Safe to run
        again, and from several programs. Raises OperationTimeoutError, which says how far it got.
        """
        kinds = list(MemoryType) if memory_types is None else map(memory_type_of, memory_types)
        collections = list(dict.fromkeys(self._collections[kind] for kind in kinds))
        deadline = _bound(timeout_ms) or self._default_deadline()
        session = await self._connection.session()
        report = IndexReport(await ensure_ordinary(session.driver, collections, deadline))
        if not await server_has_search(session.driver, collections[0], deadline):
            return report
        dimensions = self.config.dimensions
        if dimensions is None:
            vector = await self.embedder.encode_query_async("dimension")
            dimensions = int(vector.size)
            deadline = _bound(timeout_ms) or self._default_deadline()
        report.search = await ensure_search(
            session.driver,
            collections,
            config=self.config,
            dimensions=dimensions,
            deadline=deadline,
        )
        self._search.forget()
        return report

    async def _query_vectors(
        self, batch: Sequence[Query], bound: Deadline | None
    ) -> dict[str | None, Vector | None]:
        """The vector of each distinct text; None stands for queries that brought their own."""
        texts = list(dict.fromkeys(query.text for query in batch if query.text is not None))
        embedder = self.embedder if texts else None
        found = await asyncio.gather(
            *(_within(bound, embedder.encode_query_async(text)) for text in texts if embedder)
        )
        return {None: None, **dict(zip(texts, found, strict=True))}

    async def _run(
        self,
        session: LoopSession,
        query: Query,
        embedded: Vector | None,
        deadline: Deadline,
        results: BatchResults,
    ) -> Hits:
        vector = query.vector if embedded is None else embedded
        assert vector is not None
        started = time.perf_counter()
        collection = self._collections[query.memory_type]
        request = SearchRequest(
            collection=collection,
            scope=query.scope.filter(query.memory_type),
            vector=vector,
            limit=query.limit,
            similarity=self.config.similarity,
            include_embedding=query.include_embedding,
            now=datetime.now(UTC),
            deadline=deadline,
            consistency=query.consistency,
        )
        answer = await self._search.search(session.driver, session.residents, request)
        session.tracker.note(collection, (row["_id"] for row, _ in answer.rows))
        hits = Hits(
            ({**public_row(row, query.type_name), "score": score} for row, score in answer.rows),
            strategy=answer.strategy,
            unsearchable=answer.unsearchable,
        )
        results.queries_ms[query.key] = _ms_since(started)
        return hits

    def _default_deadline(self) -> Deadline:
        return Deadline.after(self.config.timeout_ms)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _bound(timeout_ms: int | None) -> Deadline | None:
    return None if timeout_ms is None else Deadline.after(timeout_ms)


async def _within(bound: Deadline | None, embedding: Any) -> Any:
    """The embedding, within the deadline of the call where it has one.

    Giving up here does not disturb the model: a waiter that leaves takes nobody with it.
    """
    if bound is None:
        return await embedding
    operation = "embedding"
    try:
        async with asyncio.timeout(bound.remaining_s(operation)):
            return await embedding
    except TimeoutError as error:
        raise bound.exceeded(operation) from error
