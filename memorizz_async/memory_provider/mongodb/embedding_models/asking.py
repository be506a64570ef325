"""The texts of a batch of queries, each embedded by the model of the rows that it is asked of.

What is known of the models is believed while the search runs, and confirmed before its answer is
given: reading it again, once a second, runs beside the work and costs no recall a round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial

from memorizz_async.deadline import CallTime
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import (
    DatabaseError,
    EmbeddingModelMismatchError,
    StoredEmbeddingError,
)
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.embedding_models.plan import Plan
from memorizz_async.memory_provider.mongodb.pipelines.models import comparable_with
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    Changing,
    SearchAnswer,
    SearchRequest,
)
from memorizz_async.vectors import Vector

_ROUNDS = 4

Recall = Callable[[SearchRequest], Awaitable[SearchAnswer]]


class ModelledQueries:
    """The vectors that one batch needs, and the answers that hold under the models of its rows.

    It belongs to one call: `begin`, then any number of `answer` at the same time, then `end`.
    """

    def __init__(self, guard: ModelGuard, driver: Driver, call: CallTime) -> None:
        self._guard = guard
        self._driver = driver
        self._call = call
        self._reading: asyncio.Task[None] | None = None
        self._vectors: dict[tuple[str, str], Vector | BaseException] = {}

    async def begin(self, texts: Iterable[tuple[str, str]]) -> None:
        """Embed each text (a collection, a text) once for each model that it is asked by.

        Also starts to read what is known of the models, where that ages; waits for that only where
        nothing is known yet. Raises what making an embedder raises; a text that cannot be embedded
        is an error of the queries that have it.
        """
        wanted = list(dict.fromkeys(texts))
        states = self._guard.states
        collections = list(dict.fromkeys(collection for collection, _ in wanted))
        new = [name for name in collections if not states.was_read(name)]
        if aging := states.aging(collections):
            reading = states.read(self._driver, aging, self._call.for_database())
            self._reading = asyncio.create_task(reading, name="memorizz-async models")
        await self._embed(wanted)
        if new and self._reading is not None:
            await asyncio.wait([self._reading])
            await self._embed(wanted)

    async def end(self) -> None:
        """Leave no task behind."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
            if not self._reading.cancelled():
                self._reading.exception()  # seen: whoever needed the outcome has had it

    async def answer(self, text: str, request: SearchRequest, recall: Recall) -> SearchAnswer:
        """The rows for a text, compared with vectors of their own model.

        Raises EmbeddingModelMismatchError, StoredEmbeddingError, EmbeddingError, DatabaseError.
        """
        plan = self._guard.assumed(request.collection)
        for _ in range(_ROUNDS):
            modelled = await self._modelled(text, request, plan)
            try:
                answer = await recall(modelled)
            except StoredEmbeddingError as error:
                # Another process may have changed the model; or this is how things are.
                now = await self._guard.doubted(self._driver, request.collection, request.deadline)
                if now == plan:
                    if not isinstance(error, EmbeddingModelMismatchError):
                        raise
                    return await self._without_strays(error, modelled, recall)
            else:
                now = await self._confirmed(request)
                if now == plan:
                    return answer
            plan = now
        raise DatabaseError(
            f"The embedding model of {request.collection!r} does not stay the same",
            seen=f"another one after each of {_ROUNDS} searches",
            fix="try again, and look who is running reembed",
        )

    async def _without_strays(
        self,
        error: EmbeddingModelMismatchError,
        request: SearchRequest,
        recall: Recall,
    ) -> SearchAnswer:
        """The rows of the query's model, and in `unsearchable` those that are of another."""
        assert request.model is not None
        rows: dict[str, str | None] = dict(error.rows)
        strays = partial(self._guard.words.strays, request.collection, rows, request.model)
        try:
            answer = await recall(replace(request, only=comparable_with(request.model)))
        except StoredEmbeddingError as others:
            raise strays(others) from others
        report = strays(answer.unsearchable)
        if not answer.rows:
            raise report
        return replace(answer, unsearchable=report)

    async def _confirmed(self, request: SearchRequest) -> Plan:
        if self._reading is not None and not self._guard.states.is_fresh(request.collection):
            await asyncio.wait([self._reading])
            if not self._reading.cancelled() and (error := self._reading.exception()) is not None:
                raise error
        return await self._guard.confirmed(self._driver, request.collection, request.deadline)

    async def _modelled(self, text: str, request: SearchRequest, plan: Plan) -> SearchRequest:
        embedders = _embedders_of(plan)
        vectors = await asyncio.gather(*(self._vector(each, text) for each in embedders))
        changing = None if plan.target is None else Changing(plan.target, vectors[1])
        return replace(request, vector=vectors[0], model=plan.model, changing=changing)

    async def _vector(self, embedder: Embedder, text: str) -> Vector:
        found = self._vectors.get((embedder.get_model_name(), text))
        if found is None:
            work = partial(embedder.encode_query_async, text)
            return await self._call.within("embedding", work)
        if isinstance(found, BaseException):
            raise found
        return found

    async def _embed(self, wanted: Iterable[tuple[str, str]]) -> None:
        missing: dict[tuple[str, str], Embedder] = {}
        for collection, text in wanted:
            for embedder in _embedders_of(self._guard.assumed(collection)):
                key = (embedder.get_model_name(), text)
                if key not in self._vectors:
                    missing[key] = embedder
        found = await asyncio.gather(
            *(
                self._call.within("embedding", partial(embedder.encode_query_async, text))
                for (_, text), embedder in missing.items()
            ),
            return_exceptions=True,
        )
        self._vectors.update(zip(missing, found, strict=True))


def _embedders_of(plan: Plan) -> list[Embedder]:
    if plan.target_embedder is None:
        return [plan.embedder]
    return [plan.embedder, plan.target_embedder]
