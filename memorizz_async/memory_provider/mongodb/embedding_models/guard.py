"""What is compared with what: queries are planned, and writes are checked, by a collection's state.

One for each provider: what a search, a write and a change of model ask about models.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import EmbeddingModelMismatchError, InvalidEmbeddingError
from memorizz_async.memory_provider.mongodb.embedding_models.embedders import Embedders
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.plan import (
    Plan,
    plan_for,
    writer_for,
)
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState
from memorizz_async.memory_provider.mongodb.embedding_models.states import ModelStates
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.vectors import Vector

_FIRST_ROW_WITHIN = timedelta(minutes=1)
"""A collection that was given a model so lately is not free because it has no rows yet."""

T = TypeVar("T")
Modelled = tuple[Vector, str | None]
"""A vector and the model that it is said to be of."""


class ModelGuard:
    """Sees to it that vectors of two models are never compared, nor stored side by side.

    configured: `MongoDBConfig.dimensions`; where it is set, it wins over what rows say.
    """

    def __init__(
        self,
        states: ModelStates,
        embedders: Embedders,
        words: Words,
        configured: int | None,
    ) -> None:
        self.states = states
        self.embedders = embedders
        self.words = words
        self._configured = configured

    # -- searching --------------------------------------------------------------------------

    def assumed(self, collection: str) -> Plan:
        """How a collection is asked, as far as is known now; where that does not allow it, as if
        nothing were known. Sends nothing.
        """
        try:
            return plan_for(self.states.known(collection), self.embedders, self.words)
        except EmbeddingModelMismatchError:
            return plan_for(None, self.embedders, self.words)

    async def confirmed(self, driver: Driver, collection: str, deadline: Deadline) -> Plan:
        """How a collection is asked, by a state that may be believed now.

        Raises EmbeddingModelMismatchError where it has rows of a model that the provider lacks.
        """
        states = self.states
        if self.embedders.retiring is None:
            state = await states.fresh(driver, collection, deadline)
        else:  # rows that name no model are the retiring one's: are there any?
            state = await states.derived(driver, collection, deadline)
        try:
            return plan_for(state, self.embedders, self.words)
        except EmbeddingModelMismatchError:
            assert state is not None
            if state.phase != "active" or await states.has_vectors(driver, collection, deadline):
                raise
            return plan_for(None, self.embedders, self.words)  # nothing there to be compared with

    async def doubted(self, driver: Driver, collection: str, deadline: Deadline) -> Plan:
        """As `confirmed`, by a state read now: an answer gave reason to doubt what was known."""
        await self.states.read(driver, [collection], deadline)
        await self.states.derived(driver, collection, deadline)
        return await self.confirmed(driver, collection, deadline)

    # -- writing ----------------------------------------------------------------------------

    async def writer(
        self, driver: Driver, collection: str, call: CallTime
    ) -> Callable[[], Embedder]:
        """What embeds new rows of a collection; made where it is called."""
        if self.embedders.retiring is None:
            return lambda: self.embedders.current
        state = await self.states.derived(driver, collection, call.for_database(), writing=True)
        return lambda: writer_for(state, self.embedders)

    async def by_the_active_model(
        self,
        driver: Driver,
        collection: str,
        write: Callable[[Callable[[], Embedder]], Awaitable[T]],
        call: CallTime,
    ) -> T:
        """Write with the model that the collection has now; once more where it changed meanwhile,
        which refused the first before anything was written.

        write: given what embeds; it embeds, checks and writes, and may be called again.
        """
        try:
            return await write(await self.writer(driver, collection, call))
        except EmbeddingModelMismatchError:
            if self.embedders.retiring is None:
                raise
        return await write(await self.writer(driver, collection, call))

    async def check(
        self, driver: Driver, collection: str, items: Sequence[Modelled], deadline: Deadline
    ) -> None:
        """Refuse vectors of another model or dimension than the collection's, before any is
        written: EmbeddingModelMismatchError, InvalidEmbeddingError.

        A vector that names no model is taken by its dimension alone.
        """
        self._check_configured(collection, items)
        state = await self.states.derived(
            driver, collection, deadline, writing=True, preferred=int(items[0][0].size)
        )
        if state is None:
            first = next((item for item in items if item[1] is not None), items[0])
            vector, model = first
            state = await self.states.made(driver, collection, model, int(vector.size), deadline)
        for _ in range(2):
            wrong = self._first_wrong(state, items)
            if wrong is None:
                break
            renewed = await self._mended(driver, state, wrong, deadline)
            if renewed is None:
                raise self._refusal(state, wrong)
            state = renewed
        else:
            if (wrong := self._first_wrong(state, items)) is not None:
                raise self._refusal(state, wrong)
        await self._named(driver, state, items, deadline)

    def _check_configured(self, collection: str, items: Sequence[Modelled]) -> None:
        for vector, _ in items:
            if self._configured not in (None, vector.size):
                raise _other_dimension(
                    collection, vector, self._configured,
                    "embed with the model of that dimension, or set the one that is right in "
                    "MongoDBConfig(dimensions=…)",
                )  # fmt: skip

    def _first_wrong(self, state: ModelState, items: Sequence[Modelled]) -> Modelled | None:
        model, dimensions = state.written_model, state.written_dimensions
        return next(
            (
                (vector, named)
                for vector, named in items
                if vector.size != dimensions or (named is not None and model not in (None, named))
            ),
            None,
        )

    async def _mended(
        self, driver: Driver, state: ModelState, wrong: Modelled, deadline: Deadline
    ) -> ModelState | None:
        """The state that holds instead, where what was known was old, or no row is there any more,
        or the configuration says another dimension than some odd row did; None where it stands.
        """
        collection = state.collection
        await self.states.read(driver, [collection], deadline)
        now = self.states.known(collection)
        if now is None:  # somebody dropped the database
            now = await self.states.derived(driver, collection, deadline, writing=True)
            vector, model = wrong
            return now or await self.states.made(driver, collection, model, vector.size, deadline)
        if now != state:
            return now
        vector, model = wrong
        configured = self._configured == vector.size and now.model in (None, model)
        if now.phase == "active" and (
            configured
            or (_is_old(now) and not await self.states.has_vectors(driver, collection, deadline))
        ):
            await self.states.replaced(driver, now, model or now.model, vector.size, deadline)
            return self.states.known(collection)
        return None

    async def _named(
        self, driver: Driver, state: ModelState, items: Sequence[Modelled], deadline: Deadline
    ) -> None:
        """The first rows that name a model name it for the collection."""
        named = next((model for _, model in items if model is not None), None)
        if state.model is not None or named is None or state.phase != "active":
            return
        if not await self.states.replaced(driver, state, named, state.dimensions, deadline):
            # Somebody else named it, or is changing it: what they said holds.
            now = self.states.known(state.collection)
            if now is not None and (wrong := self._first_wrong(now, items)) is not None:
                raise self._refusal(now, wrong)

    def _refusal(self, state: ModelState, wrong: Modelled) -> Exception:
        vector, model = wrong
        if model is not None and state.written_model not in (None, model):
            return self.words.mismatch(state, model, int(vector.size), writing=True)
        return _other_dimension(
            state.collection, vector, state.written_dimensions,
            "embed with the model of the stored rows; or change the rows to another model: "
            f"{self.words.command(state.collection, model)}; or set the dimension that is right "
            "in MongoDBConfig(dimensions=…)",
        )  # fmt: skip


def _is_old(state: ModelState) -> bool:
    """Whether whoever said so first has had the time to write the first row."""
    return state.changed_at is None or datetime.now(UTC) - state.changed_at > _FIRST_ROW_WITHIN


def _other_dimension(
    collection: str, vector: Vector, expected: int | None, fix: str
) -> InvalidEmbeddingError:
    return InvalidEmbeddingError(
        f"A vector has another dimension than {collection!r}; nothing was written",
        seen=f"{vector.size} numbers, not {expected}",
        fix=fix,
    )
