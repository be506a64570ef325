"""What a database needs besides memories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.memory_provider.mongodb.ensuring import ensure_all
from memorizz_async.memory_provider.mongodb.indexes import IndexReport
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress


class Maintaining(ProviderCore):
    """Indexes."""

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
