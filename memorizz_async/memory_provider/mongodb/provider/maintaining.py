"""What a database needs besides memories: indexes, and vectors of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.memory_provider.mongodb.embedding_models.embedders import Embedders
from memorizz_async.memory_provider.mongodb.ensuring import ensure_all
from memorizz_async.memory_provider.mongodb.indexes import IndexReport
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.reembedding.report import (
    OnUnembeddable,
    ReembedProgress,
    ReembedReport,
)
from memorizz_async.memory_provider.mongodb.reembedding.run import BATCH_SIZE, reembed
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress
from memorizz_async.validation import (
    checked_choice,
    checked_flag,
    checked_function,
    checked_limit,
    checked_list,
)


class Maintaining(ProviderCore):
    """Indexes, and the embedding model of the rows."""

    async def ensure_indexes_async(
        self,
        memory_types: Iterable[Any] | None = None,
        *,
        search: bool = True,
        progress: Callable[[IndexProgress], None] | None = None,
        timeout_ms: int | None = None,
    ) -> IndexReport:
        """Create every index that is missing, and wait until the search indexes answer.

        memory_types: None means all. search: False leaves search indexes (of `$vectorSearch`)
            alone, which take minutes to build. progress: called with how each search index stands,
            whenever that changes. Safe to run again, and from several programs.

        Without `MongoDBConfig(dimensions=…)` a server with vector search is asked for indexes of
        the dimension of the rows; where there are none, the embedder's, which loads its model.

        Raises OperationTimeoutError, which says how far it got, and DatabaseError where a build
        fails or the cluster has no room.
        """
        kinds = _kinds(memory_types)
        checked_flag("search", search)
        checked_function("progress", progress)
        fields = {self._collections[kind]: self._filter_fields[kind] for kind in kinds}
        call = self._call(timeout_ms)
        session = await self._session(call)
        states = self._guard.states
        await states.read(session.driver, list(fields), call.for_database())

        def known(collection: str) -> int | None:
            state = states.known(collection)
            return None if state is None else state.dimensions

        report = await ensure_all(
            session.driver,
            fields,
            conversations=self._collections[MemoryType.CONVERSATION_MEMORY],
            config=self.config,
            search=search,
            embedder=lambda: self.embedder,
            known=known,
            progress=progress,
            call=call,
        )
        self._recall.texts.forget()
        self._search.forget()
        return report

    async def reembed_async(
        self,
        memory_types: Iterable[Any] | None = None,
        *,
        to: Any = None,
        batch_size: int = BATCH_SIZE,
        on_unembeddable: OnUnembeddable = "raise",
        progress: Callable[[ReembedProgress], None] | None = None,
        timeout_ms: int | None = None,
    ) -> ReembedReport:
        """Embed the rows of memory types again, with another model, while recall goes on.

        memory_types: None means all that have rows. to: the embedder, as `embedding_provider`; None
            is this provider's own. batch_size: rows that are read and written at once.
        on_unembeddable: what becomes of a type that has rows with a vector and no text: `raise`
            leaves the type as it was; `drop_vector` takes the old vector off those rows.
        progress: called with how far each type is, after every batch.

        New vectors are staged beside the old ones, which go on answering; then the type is switched
        over, which takes seconds. Where it is interrupted or killed, the next run goes on from
        there. A provider that has both models (`embedding_provider` and
        `retiring_embedding_provider`) answers throughout; one with only the old or only the new
        gets EmbeddingModelMismatchError after or before the switch.

        Raises ReembedError where a type did not end, with the `report` of all, and where another
        process is at it; EmbeddingError, ConfigurationError.
        """
        checked_choice("on_unembeddable", on_unembeddable, ("raise", "drop_vector"))
        checked_limit(batch_size, "batch_size")
        checked_function("progress", progress)
        kinds = _kinds(memory_types)
        types: dict[str, str] = {}
        for kind in kinds:
            types.setdefault(self._collections[kind], kind.name)
        call = self._call(timeout_ms)
        target = self._embedders if to is None else Embedders(to, None)
        session = await self._session(call)
        try:
            return await reembed(
                session.driver,
                types,
                target.current,
                config=self.config,
                filter_fields={self._collections[k]: self._filter_fields[k] for k in kinds},
                states=self._guard.states,
                words=self._guard.words,
                batch_size=batch_size,
                on_unembeddable=on_unembeddable,
                progress=progress,
                call=call,
            )
        finally:
            self._search.forget()
            if target is not self._embedders:
                await target.close()


def _kinds(memory_types: Iterable[Any] | None) -> list[MemoryType]:
    """The memory types, all of them for None. Raises InvalidInputError."""
    if memory_types is None:
        return list(MemoryType)
    return [memory_type_of(kind) for kind in checked_list("memory_types", memory_types)]
