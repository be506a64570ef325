"""Recall: the memories that are closest to a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memorizz_async.config import Consistency, RecallMode
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.batch import OnError
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.queries import queries_of
from memorizz_async.memory_provider.mongodb.rows import stored_id
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.vector_search.waiting import wait_until_searchable
from memorizz_async.redaction import describe
from memorizz_async.results import BatchResults, Hits
from memorizz_async.vectors import EmbeddingLike


class Recalling(ProviderCore):
    """Memories by what they say."""

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
        none can be compared with the query's, EmbeddingModelMismatchError where they are of another
        embedding model, UnsupportedOperationError where the mode needs a text index and there is
        none.
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
            raise InvalidInputError(
                "on_error must be 'raise' or 'partial'", seen=describe(on_error)
            )
        batch = queries_of(
            queries, dimensions=self.config.dimensions, filter_fields=self._filter_fields
        )
        call = self._call(timeout_ms)
        session = await self._session(call)
        return await self._batches.run(session, batch, on_error=on_error, call=call)

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
