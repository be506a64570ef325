"""One change stream of a database, for as long as a provider is open on a loop.

It calls back for every change, in order, and knows up to which logical time of the server it has
told everything: that is how a search can wait for a write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

from bson import Timestamp

from memorizz_async.errors import DatabaseError, OperationTimeoutError, ServerUnavailableError
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.pipelines import changes_pipeline
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.redaction import outline

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 60.0
"""How long a server that has no change streams is left alone."""
_RETRY_S = (0.05, 0.2, 1.0)
"""Pauses between attempts to reach a server that is away."""
_OPENS_WITHIN_S = 2.0
"""How long searches wait for the stream to open; those that come later do not wait any more."""
_BEHIND_S = 1.0
"""How long the server may have changes that the stream does not deliver."""


class ChangeListener(Protocol):
    """Who is told."""

    async def changed(self, events: Sequence[Document]) -> None:
        """Changes, in the server's order. May let other tasks run in between."""

    def lost(self) -> None:
        """Changes may have been missed: all that was known is to be forgotten."""


class ChangeFeed:
    """Follows the changes of some collections, from the first `open` until `close`.

    paths: the fields beside the vector whose changes are wanted, too.
    """

    def __init__(
        self,
        driver: Driver,
        collections: Sequence[str],
        listener: ChangeListener,
        notices: Notices,
        paths: Sequence[str] = (),
    ) -> None:
        self._driver = driver
        self._notices = notices
        self._pipeline = changes_pipeline(collections, paths)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[bool] | None = None
        self._reached: Timestamp | None = None
        self._waiting: list[tuple[Timestamp, asyncio.Future[None]]] = []
        self._live = False
        self._came = asyncio.Event()
        self._ask_again_at = 0.0
        self._opens_until = 0.0
        self._owed: Timestamp | None = None
        self._owed_since = 0.0
        self._closed = False

    @property
    def live(self) -> bool:
        """Whether the stream is open: changes come as they are made."""
        return self._live

    @property
    def behind(self) -> bool:
        """Whether the server has changes that the stream has not delivered in time.

        A change stream delivers what a majority of the members has. Where there is no majority the
        primary goes on taking writes, and an open stream stays silent.
        """
        return self._owed is not None and time.monotonic() - self._owed_since > _BEHIND_S

    @property
    def position(self) -> Timestamp | None:
        """The logical time up to which everything has been told; None where that is unknown."""
        return self._reached

    async def open(self, timeout_s: float) -> bool:
        """Start following, where that has not happened; whether changes come now.

        False where the server has no change streams, is away, or takes longer than `timeout_s`, of
        which the stream gets no more than half, and two seconds once.
        """
        if self._live:
            return True
        if self._closed or time.monotonic() < self._ask_again_at:
            return False
        if self._task is None or self._task.done():
            loop = asyncio.get_running_loop()
            self._opened = loop.create_future()
            self._opens_until = time.monotonic() + _OPENS_WITHIN_S
            self._task = loop.create_task(self._follow(self._opened), name="memorizz-async changes")
        assert self._opened is not None
        if not self._opened.done():
            left_s = max(0.0, self._opens_until - time.monotonic())
            await asyncio.wait([self._opened], timeout=min(left_s, timeout_s / 2))
        return self._live

    async def follows(self, timeout_s: float) -> bool:
        """As `open`, but where the stream is broken wait until it is mended."""
        if not await self.open(timeout_s) and self._task is not None and not self._task.done():
            mended = asyncio.ensure_future(self._came.wait())
            try:
                await asyncio.wait(
                    [mended, self._task], timeout=timeout_s, return_when="FIRST_COMPLETED"
                )
            finally:
                mended.cancel()
        return self._live

    async def reached(self, at: Timestamp, timeout_s: float) -> bool:
        """Wait until everything up to a logical time has been told; whether it has."""
        if not self._live:
            return False
        if self._reached is not None and self._reached >= at:
            return True
        arrival = asyncio.get_running_loop().create_future()
        entry = (at, arrival)
        self._waiting.append(entry)
        try:
            done, _ = await asyncio.wait([arrival], timeout=timeout_s)
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
        return bool(done) and self._live

    async def close(self) -> None:
        """Stop following. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, opened: asyncio.Future[bool]) -> None:
        try:
            await self._keep_following(opened)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - it is logged
            # Not its words: they may quote a row.
            log.error(  # noqa: TRY400
                "following the changes of %s failed: %s", self._driver.address, outline(error)
            )
            self._ask_again_at = time.monotonic() + _ASK_AGAIN_S
        finally:
            self._stopped()
            self._listener.lost()
            if not opened.done():
                opened.set_result(False)

    async def _keep_following(self, opened: asyncio.Future[bool]) -> None:
        token: Document | None = None
        failures = 0
        while not self._is_ending():
            # After a break what happened meanwhile comes first, in the batches after the opening.
            behind, opening = token is not None, True
            try:
                stream = self._driver.watch(self._pipeline, resume_after=token)
                async with aclosing(stream):
                    async for batch in stream:
                        await self._listener.changed(batch.events)
                        token = batch.token
                        if not opening:
                            behind, failures = batch.more, 0
                        opening = False
                        self._advance(batch.at, batch.events)
                        self._compare(batch.now)
                        if not behind and not self._live:
                            self._live = True
                            self._came.set()
                            if not opened.done():
                                opened.set_result(True)
                        if any(event["operationType"] == "invalidate" for event in batch.events):
                            break
                        if self._is_ending():
                            return
                # The database was dropped, and its stream with it: another one from here on.
                self._stopped()
                self._listener.lost()
                token = None
            except (ServerUnavailableError, OperationTimeoutError) as error:
                self._stopped()
                self._log_break(error)
                if not opened.done():
                    opened.set_result(False)
                await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
            except DatabaseError as error:
                self._stopped()
                self._listener.lost()
                if token is None:
                    self._unavailable(error)
                    return
                # The server no longer knows the place (ChangeStreamHistoryLost), or will not go on
                # from it: begin anew from now.
                log.warning("the change stream from %s was lost: %s", self._driver.address, error)
                token = None

    def _is_ending(self) -> bool:
        """True once the feed is closed or its task cancelled.

        PyMongo turns a cancellation that arrives while it closes a cursor into an error of the
        network, which does not end the task.
        """
        task = asyncio.current_task()
        return self._closed or (task is not None and task.cancelling() > 0)

    def _unavailable(self, error: DatabaseError) -> None:
        self._ask_again_at = time.monotonic() + _ASK_AGAIN_S
        message = "no change streams at %s: searching by scan (%s)"
        arguments = (self._driver.address, f"{error.what}, code {error.code}")
        if error.code is None:  # memory:// is not short of anything
            log.debug(message, *arguments)
        else:
            self._notices.warn(log, ("change stream", error.code), message, *arguments)

    def _log_break(self, error: DatabaseError) -> None:
        message = "the change stream from %s broke: %s"
        arguments = (self._driver.address, error)
        if isinstance(error, OperationTimeoutError):
            message = (
                "the change stream from %s is not delivering: searching by scan (no majority of "
                "the replica set's members answers?)"
            )
            self._notices.warn(log, ("change stream", "no majority"), message, arguments[0])
        else:
            log.info(message, *arguments)

    def _compare(self, now: Timestamp | None) -> None:
        """Note the first time that the server had and the stream has not delivered."""
        if self._reached is None or now is None:
            return
        if self._owed is None or self._owed <= self._reached:
            self._owed = now if now > self._reached else None
            self._owed_since = time.monotonic()
        elif self.behind:
            self._notices.warn(
                log,
                ("change stream", "behind"),
                "the change stream from %s is not delivering: searching by scan until it does",
                self._driver.address,
            )

    def _advance(self, at: Timestamp | None, events: Sequence[Document]) -> None:
        if at is None and events:
            at = events[-1].get("clusterTime")
        if at is None or (self._reached is not None and at <= self._reached):
            return
        self._reached = at
        for wanted, arrival in self._waiting:
            if wanted <= at and not arrival.done():
                arrival.set_result(None)

    def _stopped(self) -> None:
        self._live = False
        self._owed = None
        self._came.clear()
        for _, arrival in self._waiting:
            if not arrival.done():
                arrival.set_result(None)
