"""One writer of a conversation at a time, whichever process it is in.

A lock is a document of the collection `session_locks` while somebody holds it. Its `_id` is a
digest: no name of a tenant or a session is stored. A holder renews it; one that was killed loses
it after `LEASE_S`. Before a holder writes turns it notes in the lock the numbers that it gives, so
that a writer that takes over the lock of a holder that is only slow gives others.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from memorizz_async.deadline import Deadline
from memorizz_async.errors import AuthenticationError, MemorizzAsyncError, WriteError
from memorizz_async.memory_provider.mongodb.pipelines import sessions as queries
from memorizz_async.memory_provider.mongodb.protocol import (
    Document,
    Driver,
    Insert,
    Update,
)

log = logging.getLogger(__name__)

COLLECTION = "session_locks"
LEASE_S = 5.0
_RENEWALS = 4
_LONGEST_PAUSE_S = 0.05
_RELEASE_MS = 5_000

T = TypeVar("T")


class LockLostError(Exception):
    """Another writer took the lock over; nothing was written, the work must start again."""


class SessionName(NamedTuple):
    """A session of exactly one tenant; None is a tenant without that id."""

    memory_id: Any
    user_id: Any
    session_id: str

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> SessionName:
        return cls(row.get("memory_id"), row.get("user_id"), row["session_id"])

    @property
    def scope(self) -> Document:
        return {"memory_id": self.memory_id, "user_id": self.user_id}

    def key(self, collection: str) -> str:
        """A digest that is the same in every process."""
        identity = json.dumps([collection, *self], default=repr)
        return hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()


@dataclass
class Held:
    """The locks of some sessions, from when they were taken to when they are released.

    first_numbers: by key, below which no number may be given: an earlier holder may be about to use
        them. settled: False from when numbers were noted until it is known what became of the rows.
    """

    driver: Driver
    keys: list[str]
    owner: str
    first_numbers: dict[str, int] = field(default_factory=dict)
    settled: bool = True
    shared: bool = True

    async def confirm(
        self, deadline: Deadline, next_numbers: Mapping[str, int] | None = None
    ) -> None:
        """Make sure that the locks are still held, and note the numbers after those to be given.

        Raises LockLostError.
        """
        if not self.shared:
            return
        until = _until()
        numbers = next_numbers or {}
        updates = [
            Update(
                queries.own_locks_filter([key], self.owner),
                queries.renew_locks(until, numbers.get(key)),
            )
            for key in self.keys
        ]
        outcome = await self.driver.write_many(COLLECTION, updates, deadline=deadline)
        if outcome.matched != len(self.keys):
            raise LockLostError
        self.settled = not numbers


class SessionLocks:
    """The locks that the writers of one event loop take."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._here: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._warned = False

    @asynccontextmanager
    async def hold(self, keys: Iterable[str], deadline: Deadline) -> AsyncIterator[Held]:
        """Be the only writer of these sessions inside the block.

        Waits for other writers until the deadline, in this process in the order of their calls.
        Where the user may not write to the locks' collection, only writers of this event loop wait
        for each other; that is logged once. Raises OperationTimeoutError, DatabaseError.
        """
        held = Held(self._driver, sorted(set(keys)), uuid.uuid4().hex)
        async with AsyncExitStack() as local:
            for key in held.keys:
                lock = self._here.setdefault(key, asyncio.Lock())
                operation = "waiting for another writer of the session"
                try:
                    async with asyncio.timeout(deadline.remaining_s(operation)):
                        await local.enter_async_context(lock)
                except TimeoutError as error:
                    raise deadline.exceeded(operation) from error
            renewing: asyncio.Task[None] | None = None
            try:
                await self._acquire(held, deadline)
                renewing = asyncio.create_task(_renew(held), name="memorizz-async session lock")
                yield held
            finally:
                if renewing is not None:
                    renewing.cancel()
                await self._release(held)

    async def _acquire(self, held: Held, deadline: Deadline) -> None:
        try:
            if await self._insert(held.keys, held.owner, deadline):
                return
            # Never wait for one lock while holding others, but for those before it in the order.
            await self._driver.delete_many(
                COLLECTION, queries.own_locks_filter(held.keys, held.owner), deadline=deadline
            )
            for key in held.keys:
                held.first_numbers[key] = await self._acquire_one(key, held.owner, deadline)
        except AuthenticationError as error:
            held.shared = False
            if not self._warned:
                self._warned = True
                log.warning(
                    "%r cannot be written (code %s): let one program at a time write to a session",
                    COLLECTION,
                    error.code,
                )

    async def _acquire_one(self, key: str, owner: str, deadline: Deadline) -> int:
        pause = 0.002
        while not await self._insert([key], owner, deadline):
            taken = await to_its_end(
                self._driver.find_and_update(
                    COLLECTION,
                    queries.free_lock_filter(key, datetime.now(UTC)),
                    queries.take_lock(owner, _until()),
                    deadline=deadline,
                )
            )
            if taken is not None:
                return int(taken.get("next") or 0)
            deadline.remaining_s("waiting for another writer of the session")
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return 0

    async def _insert(self, keys: list[str], owner: str, deadline: Deadline) -> bool:
        """Take locks that nobody holds; whether all were taken."""
        rows = [Insert(queries.new_lock(key, owner, _until())) for key in keys]
        # To its end: what is taken after it was given up would stay taken.
        outcome = await to_its_end(
            self._driver.write_many(COLLECTION, rows, ordered=False, deadline=deadline)
        )
        for refusal in outcome.refused.values():
            if not refusal.same_id:
                raise WriteError(
                    f"A lock was not written to {COLLECTION!r}; no turn was written or changed",
                    failed={0: refusal.reason},
                    written_ids={},
                    seen=refusal.reason,
                    code=refusal.code,
                )
        return not outcome.refused

    async def _release(self, held: Held) -> None:
        """Give the locks up. Where it is not known whether rows were written, they stay, free to be
        taken, with the numbers that are noted in them.
        """
        if not held.shared:
            return
        own, deadline = queries.own_locks_filter(held.keys, held.owner), Deadline.after(_RELEASE_MS)
        with suppress(MemorizzAsyncError):  # it ends by itself
            if held.settled:
                await self._driver.delete_many(COLLECTION, own, deadline=deadline)
            else:
                await self._driver.update_many(
                    COLLECTION, own, queries.renew_locks(datetime.now(UTC)), deadline=deadline
                )


async def _renew(held: Held) -> None:
    """Extend the lease until cancelled."""
    while held.shared:
        await asyncio.sleep(LEASE_S / _RENEWALS)
        with suppress(MemorizzAsyncError):
            await held.driver.update_many(
                COLLECTION,
                queries.own_locks_filter(held.keys, held.owner),
                queries.renew_locks(_until()),
                deadline=Deadline.after(int(LEASE_S * 1000 / _RENEWALS)),
            )


def _until() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=LEASE_S)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do it to its end also where the caller is cancelled meanwhile; then it is cancelled.

    work: has a deadline of its own. Half of it would leave a lock, or a number that no turn has.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # it is known: the cancellation is what counts
        raise
