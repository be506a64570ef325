"""The states of collections as this process knows them, and how it comes to know them.

A state is believed for a second. Whoever changes the model of a collection says so first and waits
longer than that before the first row changes, so that an answer is right where its state was read
at most a second before the answer's end: the way in which Google's F1 changes a schema while
servers go on (Rae et al., "Online, Asynchronous Schema Change in F1", VLDB 2013).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bson import Timestamp

from memorizz_async.deadline import Deadline
from memorizz_async.errors import AuthenticationError, DuplicateMemoryError
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState, state_of
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines import any_embedded_filter, id_projection
from memorizz_async.memory_provider.mongodb.pipelines import models as queries
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.vectors import readable_vector

log = logging.getLogger(__name__)

LIFETIME_S = 1.0
"""How long a state that was read is believed."""
GRACE_S = 2.5
"""How long whoever changes a model waits between saying so and changing rows: a lifetime, and room
for clocks, pauses, and secondaries that lag."""
_ROWS_ASKED = 32
"""How many rows at each end say of which model and dimension a collection is."""
_LOOK_AGAIN_S = 60.0
"""How long a collection without vectors is not looked at again by those who only read."""


_Kind = tuple[str | None, int]
"""The model that a row names, and the dimension of its vector."""


@dataclass
class _Known:
    state: ModelState | None
    read_at: float
    """Before it was asked for: what was true then may be over."""


class ModelStates:
    """What is known, for a whole provider: plain values, shared by its loops and threads.

    switched: told the logical time by which the rows of a collection had changed.
    """

    def __init__(self, switched: Callable[[str, Timestamp], None], notices: Notices) -> None:
        self._switched = switched
        self._notices = notices
        self._known: dict[str, _Known] = {}
        self._asked_at: dict[str, float] = {}
        self._none_until: dict[str, float] = {}
        self._unreadable: set[str] = set()

    def known(self, collection: str) -> ModelState | None:
        """As it was last read; None where there is none, or nobody has read it."""
        found = self._known.get(collection)
        return None if found is None else found.state

    def was_read(self, collection: str) -> bool:
        return collection in self._known

    def is_fresh(self, collection: str) -> bool:
        """Whether what is known may still be believed."""
        found = self._known.get(collection)
        return found is not None and time.monotonic() - found.read_at <= LIFETIME_S

    def aging(self, collections: Iterable[str]) -> list[str]:
        """Those that somebody should read now, so that nobody will have to wait for it later."""
        now = time.monotonic()
        due = []
        for collection in collections:
            found = self._known.get(collection)
            latest = max(found.read_at if found else -1e9, self._asked_at.get(collection, -1e9))
            if now - latest > LIFETIME_S / 2:
                self._asked_at[collection] = now
                due.append(collection)
        return due

    async def read(self, driver: Driver, collections: Sequence[str], deadline: Deadline) -> None:
        """Read states anew. Raises DatabaseError, but not where the user may not read them: rows
        name their models, too.
        """
        if not collections:
            return
        now = time.monotonic()
        try:
            found = await driver.find(
                queries.COLLECTION, queries.states_filter(collections), deadline=deadline
            )
        except AuthenticationError as error:
            self._may_not("read", error)
            found = []
        states = {document["_id"]: self._state_of(document) for document in found}
        for collection in collections:
            self._learn(collection, states.get(collection), now)

    async def fresh(self, driver: Driver, collection: str, deadline: Deadline) -> ModelState | None:
        """The state, read anew where it is too old. Raises DatabaseError."""
        if not self.is_fresh(collection):
            await self.read(driver, [collection], deadline)
        return self.known(collection)

    async def derived(
        self,
        driver: Driver,
        collection: str,
        deadline: Deadline,
        *,
        writing: bool = False,
        preferred: int | None = None,
    ) -> ModelState | None:
        """As `fresh`, but where there is none it is made of what most rows say; None without rows.

        writing: look again also where there were no vectors a moment ago. preferred: the dimension
        that is taken where as many rows say another.
        """
        state = await self.fresh(driver, collection, deadline)
        looked = time.monotonic() < self._none_until.get(collection, 0.0)
        if state is not None or (looked and not writing):
            return state
        rows = await self._asked(driver, collection, deadline)
        kinds = [kind for kind in map(_kind_of, rows) if kind is not None]
        if kinds:
            model, dimensions = _most_say(kinds, preferred)
            return await self.made(driver, collection, model, dimensions, deadline)
        self._none_until[collection] = time.monotonic() + _LOOK_AGAIN_S
        return None

    @staticmethod
    async def _asked(driver: Driver, collection: str, deadline: Deadline) -> list[Document]:
        """Rows that say of which model the collection is: those with the lowest and the highest
        ids, since a run of odd rows may stand at one end.
        """
        by_key: dict[Hashable, Document] = {}
        for direction in (1, -1):
            rows = await driver.find(
                collection,
                any_embedded_filter(),
                projection=queries.model_projection(),
                sort=[("_id", direction)],
                limit=_ROWS_ASKED,
                deadline=deadline,
            )
            by_key.update((key_of(row["_id"]), row) for row in rows)
            if len(rows) < _ROWS_ASKED:
                break  # those are all
        return list(by_key.values())

    async def made(
        self,
        driver: Driver,
        collection: str,
        model: str | None,
        dimensions: int,
        deadline: Deadline,
    ) -> ModelState:
        """The state of a collection; where it had none, this one. Of several at once, one wins."""
        now = time.monotonic()
        change = queries.first_state(model, dimensions, datetime.now(UTC))
        try:
            document = await driver.find_and_update(
                queries.COLLECTION,
                queries.one_state(collection),
                change,
                upsert=True,
                deadline=deadline,
            )
        except DuplicateMemoryError:  # two upserts at the same moment
            await self.read(driver, [collection], deadline)
            document = None
        except AuthenticationError as error:
            self._may_not("write", error)
            self._learn(collection, ModelState(collection, model, dimensions), now)
            document = None
        if document is not None:
            self._learn(collection, self._state_of(document), now)
        return self.known(collection) or ModelState(collection, model, dimensions)

    async def replaced(
        self,
        driver: Driver,
        state: ModelState,
        model: str | None,
        dimensions: int,
        deadline: Deadline,
    ) -> bool:
        """Say another model, where the state is still this one; whether it says so now."""
        now = time.monotonic()
        try:
            document = await driver.find_and_update(
                queries.COLLECTION,
                queries.as_it_was(state),
                queries.other_model(model, dimensions, datetime.now(UTC)),
                deadline=deadline,
            )
        except AuthenticationError as error:
            self._may_not("write", error)
            renamed = replace(state, model=model, dimensions=dimensions)
            self._learn(state.collection, renamed, now)
            return True
        if document is None:
            await self.read(driver, [state.collection], deadline)
            return False
        self._learn(state.collection, self._state_of(document), now)
        return True

    async def has_vectors(self, driver: Driver, collection: str, deadline: Deadline) -> bool:
        """Whether any row of the collection has a vector."""
        found = await driver.find(
            collection,
            any_embedded_filter(),
            projection=id_projection(),
            limit=1,
            deadline=deadline,
        )
        return bool(found)

    def _state_of(self, document: Mapping[str, Any]) -> ModelState | None:
        """The state that a document says; None where another program made it unreadable."""
        state = state_of(document)
        if state is None and document["_id"] not in self._unreadable:
            self._unreadable.add(document["_id"])
            log.warning(
                "Row %s of %r is no model of a collection and is not used: delete it",
                document["_id"],
                queries.COLLECTION,
            )
        return state

    def _may_not(self, action: str, error: AuthenticationError) -> None:
        self._notices.warn(
            log,
            (queries.COLLECTION, action),
            "the user may not %s %r (code %s): the rows alone say which model embedded them",
            action,
            queries.COLLECTION,
            error.code,
        )

    def _learn(self, collection: str, state: ModelState | None, read_at: float) -> None:
        before = self._known.get(collection)
        if before is not None and before.read_at > read_at:
            return  # a later look was answered first
        self._known[collection] = _Known(state, read_at)
        if state is None or state.switched_at is None:
            return
        if before is None or before.state is None or before.state.switched_at != state.switched_at:
            self._switched(collection, state.switched_at)


def _most_say(kinds: Sequence[_Kind], preferred: int | None) -> _Kind:
    """The dimension of most rows, and the model of most of those.

    Of as many, the one for which more rows name a model, then the preferred one.
    """
    rows = Counter(dimensions for _, dimensions in kinds)
    named = Counter(dimensions for model, dimensions in kinds if model is not None)
    dimensions = max(rows, key=lambda each: (rows[each], named[each], each == preferred))
    models = Counter(model for model, of in kinds if of == dimensions)
    model = max(models, key=lambda each: (models[each], each is not None))
    return (model, dimensions)


def _kind_of(row: Mapping[str, Any]) -> _Kind | None:
    """The model and the dimension of a row; None where its vector cannot be read."""
    model = row.get("embedding_model")
    vector = readable_vector(row)
    if vector is None:  # a search reports that row
        return None
    return (model if isinstance(model, str) else None, int(vector.size))
