"""One client per event loop, opened on first use, closed with the loop or with the provider.

PyMongo Async binds a client to the loop that first used it, so a provider that is used from a
second loop (asyncio.run twice, a test per loop, Jupyter) needs a second client.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from memorizz_async.address import HOW_TO_WRITE
from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.enums.collection_names import collection_names
from memorizz_async.errors import ClosedError, InvalidURIError
from memorizz_async.fork import ProcessBound, keep_in_child, reset_in_child, running_loop
from memorizz_async.loop_close import run_before_close
from memorizz_async.memory_provider.mongodb.driver import (
    memory_database,
    open_driver,
    open_memory_driver,
    renew_locks,
)
from memorizz_async.memory_provider.mongodb.embedding_cache import CacheWriter
from memorizz_async.memory_provider.mongodb.notices import Notices
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.recall_tracker import RecallTracker
from memorizz_async.memory_provider.mongodb.session_locks import SessionLocks
from memorizz_async.memory_provider.mongodb.vector_search.resident import ResidentStore
from memorizz_async.redaction import redact_uri

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb.local_server import LocalServer

log = logging.getLogger(__name__)

_OTHER_LOOP_S = 10.0
"""How long close waits for the loop of another thread."""


class LoopSession:
    """What one event loop owns: a driver, vectors in memory, what is written in the background."""

    def __init__(self, driver: Driver, config: MongoDBConfig, notices: Notices) -> None:
        self.driver = driver
        self.session_locks = SessionLocks(driver)
        self.tracker = RecallTracker(driver, notices, timeout_ms=config.timeout_ms)
        self.cache = CacheWriter(
            driver, notices, ttl_s=config.embedding_cache_ttl_s, timeout_ms=config.timeout_ms
        )
        collections = sorted(set(collection_names(config.collections).values()))
        self.residents = ResidentStore(driver, config, collections, notices)
        self._closing: asyncio.Task[None] | None = None

    @property
    def closed(self) -> bool:
        return self._closing is not None and self._closing.done()

    async def close(self) -> None:
        """Close everything, once: who comes second waits for the first."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(
                self._close(), name="memorizz-async close session"
            )
        if not self.closed:
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await asyncio.gather(self.tracker.close(), self.cache.close())
        finally:
            try:
                await self.residents.close()
            finally:
                await self.driver.close()


class _LoopEntry:
    """A session that is open or being opened on one loop."""

    def __init__(self, replaces: _LoopEntry | None = None) -> None:
        self.replaces = replaces
        self.opening: asyncio.Task[LoopSession] | None = None
        self.address: str | None = None
        self.guard: AsyncGenerator[None, None] | None = None
        self.withdraw: Callable[[], object] = lambda: None
        """Takes back what is to be done before the loop is closed."""


class Connection(ProcessBound):
    """The sessions of one provider, and the database behind `local` and `memory://`."""

    def __init__(self, config: MongoDBConfig, notices: Notices) -> None:
        self._config = config
        self._notices = notices
        self._entries: dict[asyncio.AbstractEventLoop, _LoopEntry] = {}
        self._lock = threading.Lock()  # loops live in threads; held for dict operations only
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._local_server: LocalServer | None = None
        self._local_lock = threading.Lock()  # taken in worker threads only: starting takes seconds
        self._restarting: asyncio.Task[str] | None = None
        self._memory: Any = None
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Begin without sessions: the parent's clients, threads and its hold on the local server
        are not this process's.
        """
        keep_in_child(self._entries, self._closing, self._local_server, self._restarting)
        self._entries, self._closing, self._local_server = {}, None, None
        self._restarting = None
        self._lock, self._local_lock = threading.Lock(), threading.Lock()
        if self._memory is not None:
            renew_locks(self._memory)

    @property
    def closed(self) -> bool:
        return self._closed

    async def session(self) -> LoopSession:
        """The session of the running loop, opened where there is none yet.

        Raises ClosedError after close, InvalidURIError, MissingDependencyError, LocalServerError,
        ServerUnavailableError.
        """
        loop = running_loop()
        with self._lock:
            if self._closed:
                raise ClosedError(
                    "The provider is closed", fix="make a new AsyncMongoDBProvider, or close later"
                )
            entry = self._entries.get(loop)
            if entry is None:
                self._drop_dead_loops()
                entry = self._begin(loop, None)
            elif self._has_lost_its_server(entry):
                entry = self._begin(loop, entry)
        opening = entry.opening
        assert opening is not None
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            return opening.result()
        # Shielded: the first caller may be cancelled while others wait for the same client.
        return await asyncio.shield(opening)

    async def close(self) -> None:
        """Close every session on its own loop, then give up the local server. Idempotent.

        A close whose caller is cancelled goes on; whoever closes next waits for it.
        """
        here = running_loop()
        with self._lock:
            self._closed = True
            if self._closing is None or self._closing.get_loop() is not here:
                self._closing = here.create_task(self._close(), name="memorizz-async close")
            closing = self._closing
        await asyncio.shield(closing)

    async def _close(self) -> None:
        with self._lock:
            self._drop_dead_loops()
            entries, self._entries = self._entries, {}
        try:
            outcomes = await asyncio.gather(
                *(self._close_on(loop, entry) for loop, entry in entries.items()),
                return_exceptions=True,
            )
        finally:
            if self._restarting is not None:
                await asyncio.wait([self._restarting])
            server, self._local_server = self._local_server, None
            if server is not None:
                await asyncio.to_thread(server.release)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _close_on(self, loop: asyncio.AbstractEventLoop, entry: _LoopEntry) -> None:
        if loop is asyncio.get_running_loop():
            await self._close_entry(entry)
        elif loop.is_running():
            elsewhere = asyncio.run_coroutine_threadsafe(self._close_entry(entry), loop)
            # Waited for, not awaited: that loop may end meanwhile, which closes its session too.
            await asyncio.wait([asyncio.wrap_future(elsewhere)], timeout=_OTHER_LOOP_S)
        # A loop that is neither running nor closed closes its session when it is shut down or
        # closed. It belongs to a thread, and only that thread may run it.

    def _begin(self, loop: asyncio.AbstractEventLoop, replaces: _LoopEntry | None) -> _LoopEntry:
        """Start to open a session on the running loop; the lock is held."""
        entry = self._entries[loop] = _LoopEntry(replaces)
        entry.opening = loop.create_task(self._open(entry), name="memorizz-async open")
        entry.opening.add_done_callback(partial(self._opened, loop, entry))
        entry.withdraw = run_before_close(loop, partial(_close_opened, entry.opening))
        return entry

    def _opened(
        self,
        loop: asyncio.AbstractEventLoop,
        entry: _LoopEntry,
        opening: asyncio.Task[LoopSession],
    ) -> None:
        """Forget a session that could not be opened, so that the next caller tries anew.

        Asking for the error marks it as seen: all who waited for it may have been cancelled.
        """
        if opening.cancelled() or opening.exception() is not None:
            entry.withdraw()
            self._forget(loop, entry)

    def _has_lost_its_server(self, entry: _LoopEntry) -> bool:
        """Whether the mongod of `local` is gone: starting it again is our business."""
        server = self._local_server
        return server is not None and _result_of(entry.opening) is not None and not server.runs()

    def _restart_dead_server(self) -> None:
        """Start the mongod of `local` again where it is gone, for the calls that wait for it.

        Called on the loop while a call waits. The driver of that call tries again by itself, and
        the server usually gets its old port.
        """
        server = self._local_server
        restarting = self._restarting is not None and not self._restarting.done()
        if server is None or self._closed or restarting or server.runs():
            return
        uri = self._config.resolved_uri()
        self._restarting = asyncio.get_running_loop().create_task(
            asyncio.to_thread(self._acquire_local, uri), name="memorizz-async restart local server"
        )
        self._restarting.add_done_callback(_log_failed_restart)

    async def _open(self, entry: _LoopEntry) -> LoopSession:
        replaced, entry.replaces = entry.replaces, None
        entry.address = await self._address()
        if replaced is not None:
            session = _result_of(replaced.opening)
            if session is not None and replaced.address == entry.address:
                # The same server again: its client finds it, and calls that wait for it go on.
                await session.driver.connect(deadline=Deadline.after(self._config.timeout_ms))
                entry.guard, replaced.guard = replaced.guard, None
                return session
            if replaced.guard is not None:
                await replaced.guard.aclose()
        driver = await self._open_driver(entry.address)
        try:
            # Now, not in the middle of the first call: before a model is loaded for nothing.
            await driver.connect(deadline=Deadline.after(self._config.timeout_ms))
        except BaseException:
            await driver.close()
            raise
        session = LoopSession(driver, self._config, self._notices)
        entry.guard = self._close_with_loop(session, entry)
        await anext(entry.guard)
        return session

    async def _address(self) -> str:
        """The address of the database; that of a `local` server once it runs."""
        uri = self._config.resolved_uri()
        if uri == "local" or uri.startswith("local://"):
            return await asyncio.to_thread(self._acquire_local, uri)
        return uri

    async def _open_driver(self, uri: str) -> Driver:
        scheme, separator, rest = uri.partition("://")
        if scheme == "memory" and separator:
            if self._memory is None:
                self._memory = memory_database(rest.strip("/"))
            return open_memory_driver(self._config, self._memory)
        if scheme not in ("mongodb", "mongodb+srv") or not rest:
            raise InvalidURIError(
                f"The address of the database cannot be read: {redact_uri(uri)}", fix=HOW_TO_WRITE
            )
        driver = await open_driver(self._config, uri)
        if self._local_server is not None:
            driver.on_wait = self._restart_dead_server
        return driver

    def _acquire_local(self, uri: str) -> str:
        from memorizz_async.memory_provider.mongodb.local_server import (  # noqa: PLC0415
            LocalServer,  # pulls in psutil and platformdirs, which a plain server does not need
        )

        with self._local_lock:
            server = self._local_server
            if server is None:
                server = LocalServer(folder_of(uri), keep_running=self._config.keep_local_server)
            address = server.acquire()
            self._local_server = server
            return address

    async def _close_with_loop(
        self, session: LoopSession, entry: _LoopEntry
    ) -> AsyncGenerator[None, None]:
        """Closes the session when the loop shuts down.

        asyncio.run and every runner call loop.shutdown_asyncgens(), while tasks still run: a client
        left open would leak sockets of a dead loop. A loop that is closed without it closes the
        session in its `close`; see `loop_close`.
        """
        try:
            yield
        finally:
            self._forget(asyncio.get_running_loop(), entry)
            await session.close()
            entry.withdraw()

    async def _close_entry(self, entry: _LoopEntry) -> None:
        assert entry.opening is not None
        await asyncio.wait([entry.opening])
        if entry.guard is None:
            return
        try:
            await entry.guard.aclose()
        except RuntimeError:  # somebody else is at it
            await entry.opening.result().close()

    def _forget(self, loop: asyncio.AbstractEventLoop, entry: _LoopEntry) -> None:
        with self._lock:
            if self._entries.get(loop) is entry:
                del self._entries[loop]

    def _drop_dead_loops(self) -> None:
        """Forget the sessions of closed loops; the lock is held."""
        for loop in [known for known in self._entries if known.is_closed()]:
            entry = self._entries.pop(loop)
            session = _result_of(entry.opening)
            if session is not None and not session.closed:
                log.debug("an event loop was closed in a way that left its client open")
                session.driver.abandon()


def _log_failed_restart(restarting: asyncio.Task[str]) -> None:
    """The calls that wait end by their deadlines; the next call raises the error."""
    if not restarting.cancelled() and (error := restarting.exception()) is not None:
        log.warning("the local server could not be started again: %s", type(error).__name__)


def _result_of(opening: asyncio.Task[LoopSession] | None) -> LoopSession | None:
    """The session, where it was opened."""
    if opening is None or not opening.done() or opening.cancelled() or opening.exception():
        return None
    return opening.result()


async def _close_opened(opening: asyncio.Task[LoopSession]) -> None:
    """Close what was opened, or is being opened."""
    opening.cancel()
    await asyncio.wait([opening])
    session = _result_of(opening)
    if session is not None:
        await session.close()


def folder_of(uri: str) -> Path | None:
    """The data folder that `local:///a/folder` names; None for the default one."""
    if uri in ("local", "local://"):
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that are not in pairs
        parts = urlsplit("local://?")
    if parts.query or parts.fragment or not parts.path:
        raise InvalidURIError(
            "The address of a local server names no folder",
            seen=redact_uri(uri),
            fix="write local, or local:///a/folder",
        )
    folder = unquote(f"{parts.netloc}{parts.path}")
    # local:///C:/data names C:/data: a drive letter follows the third slash on Windows.
    if len(folder) > 2 and folder[0] == "/" and folder[2] == ":":
        folder = folder[1:]
    return Path(folder).expanduser()
