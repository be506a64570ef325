"""One change of model at a time: a lease in the collection's state, with a token that fences.

Every change of the state names the token, so that a holder who was thought dead and wakes up
changes nothing. What it writes to rows is harmless: a vector of the model for the text that the row
has, staged or switched by whoever comes first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.errors import DatabaseError, MemorizzAsyncError, ReembedError
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState, state_of
from memorizz_async.memory_provider.mongodb.pipelines import models as queries
from memorizz_async.memory_provider.mongodb.protocol import Driver

log = logging.getLogger(__name__)

LEASE_S = 12.0
_RENEWALS = 4
"""So often in a lease a holder shows that it lives."""
_LOOK_S = 0.5
_RELEASE_MS = 5_000


class Lease:
    """The right to change the model of a collection, from `acquire` to `release`.

    lease_s: how long a holder that has gone silent still counts as one.
    """

    def __init__(
        self, driver: Driver, collection: str, call: CallTime, *, lease_s: float = LEASE_S
    ) -> None:
        self._driver = driver
        self._collection = collection
        self._call = call
        self._lease_s = lease_s
        self._owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._token = 0
        self._renewing: asyncio.Task[None] | None = None
        self._lost: MemorizzAsyncError | None = None

    async def acquire(self) -> ModelState:
        """Take the lease; the state as it is then.

        Where somebody holds it, wait until they have shown that they live, which is an error that
        says who they are, or have been silent for a whole lease. Raises ReembedError.
        """
        first_seen: ModelState | None = None
        while True:
            now = datetime.now(UTC)
            state = await self._update(
                queries.free_lease(self._collection, now),
                queries.take_lease(self._owner, now + timedelta(seconds=self._lease_s)),
            )
            if state is not None:
                self._token = state.lease_token
                self._renewing = asyncio.create_task(self._renew(), name="memorizz-async lease")
                return state
            holder = await self._state()
            if first_seen is None:
                first_seen = holder
            elif _alive(first_seen, holder):
                raise ReembedError(
                    f"The rows of {self._collection!r} are being embedded again already",
                    seen=f"by {holder.lease_owner}, to {holder.target_model}",
                    fix="wait until it has ended; its progress is where it was started",
                )
            await asyncio.sleep(_LOOK_S)

    async def change(self, update: dict[str, Any]) -> ModelState:
        """Change the state. Raises ReembedError where the lease is somebody else's by now."""
        self.check()
        state = await self._update(queries.held_lease(self._collection, self._token), update)
        if state is None:
            raise self._lost_error()
        return state

    def check(self) -> None:
        """Raise ReembedError where the lease was lost."""
        if self._lost is not None:
            raise self._lost

    async def release(self) -> None:
        """Give the lease back, if it is still ours; never raises because of the database: it runs
        out by itself.
        """
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        if self._token and self._lost is None:
            with suppress(DatabaseError):
                await self._driver.find_and_update(
                    queries.COLLECTION,
                    queries.held_lease(self._collection, self._token),
                    queries.release_lease(),
                    deadline=Deadline.after(_RELEASE_MS),  # also where the caller's time is up
                )

    async def _renew(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS)
            try:
                until = datetime.now(UTC) + timedelta(seconds=self._lease_s)
                held = queries.held_lease(self._collection, self._token)
                if await self._update(held, queries.renew_lease(until)) is None:
                    self._lost = self._lost_error()
                    return
                last = time.monotonic()
            except DatabaseError as error:
                log.info("the lease on %r was not renewed: %s", self._collection, error)
                if time.monotonic() - last > self._lease_s:
                    self._lost = error
                    return

    async def _update(self, query: dict[str, Any], update: dict[str, Any]) -> ModelState | None:
        document = await self._driver.find_and_update(
            queries.COLLECTION, query, update, deadline=self._call.for_database()
        )
        return None if document is None else self._readable(document)

    async def _state(self) -> ModelState:
        found = await self._driver.find(
            queries.COLLECTION,
            queries.one_state(self._collection),
            deadline=self._call.for_database(),
        )
        if not found:
            raise ReembedError(
                f"The state of {self._collection!r} is gone",
                seen=f"no document in {queries.COLLECTION!r}",
                fix="somebody dropped it; run reembed again",
            )
        return self._readable(found[0])

    def _readable(self, document: dict[str, Any]) -> ModelState:
        state = state_of(document)
        if state is None:
            raise ReembedError(
                f"The state of {self._collection!r} cannot be read",
                seen=f"a document in {queries.COLLECTION!r} that another program has changed",
                fix="delete that document, and run reembed again",
            )
        return state

    def _lost_error(self) -> ReembedError:
        return ReembedError(
            f"Another process has taken over embedding the rows of {self._collection!r} again",
            seen=f"this one was silent for more than {self._lease_s:g} s",
            fix="look at the other one, or run reembed again: it goes on where it stands",
        )


def _alive(first: ModelState, now: ModelState) -> bool:
    """Whether the holder has shown itself since it was first seen."""
    return now.lease_owner is not None and (first.lease_token, first.lease_until) != (
        now.lease_token,
        now.lease_until,
    )
