"""The only file that knows Motor from PyMongo Async, and a server from mongomock.

One small protocol, three drivers. What a driver raises becomes an error of ours here, and a
deadline becomes PyMongo's client-side operation timeout, which bounds the wait for a server, for a
pooled connection and for the reply, and reaches the server as maxTimeMS.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import math
import struct
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import bson
import pymongo
from bson import CodecOptions, DatetimeConversion, Timestamp
from pymongo import errors as driver_errors
from pymongo.driver_info import DriverInfo
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import (
    AuthenticationError,
    ClosedError,
    DatabaseError,
    DuplicateMemoryError,
    InvalidInputError,
    InvalidURIError,
    MissingDependencyError,
    ServerUnavailableError,
    UnsupportedOperationError,
)
from memorizz_async.memory_provider.mongodb.protocol import (
    DUPLICATE_KEY,
    ChangeBatch,
    Document,
    Driver,
    InsertOutcome,
    Refusal,
)
from memorizz_async.redaction import redact_uri

P = ParamSpec("P")
R = TypeVar("R")

_DRIVERS_OWN = (
    driver_errors.PyMongoError,
    bson.errors.BSONError,
    NotImplementedError,  # mongomock
    UnicodeError,  # what BSON cannot say
    OverflowError,
)
_AUTHENTICATION_CODES = frozenset({11, 13, 18, 8000})
_ROWS_A_BATCH = 500
"""The driver decodes a batch in one go, on the loop."""
_CLOSE_S = 1.0
"""How long to say goodbye to a cursor that was left early; the server forgets it anyway."""
_TIMEOUT_CODES = frozenset({50, 262})  # MaxTimeMSExpired, ExceededTimeLimit
_CHANGES_A_BATCH = 200
"""Few enough that decoding and applying them does not hold up the loop."""
_CHANGES_WAIT_MS = 1_000
"""How long the server holds a request for changes where there are none."""
_CHANGES_SILENCE_S = 10.0
"""A stream that has not even said "nothing new" for so long is broken, whatever the socket says."""
_KEY_STRING_TIMESTAMP = 130


def _mapped(
    method: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Wrap a coroutine so that no error of the driver escapes; a test asserts that all wear it."""

    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        driver = args[0]
        assert isinstance(driver, _MongoDriver)
        deadline = kwargs["deadline"]
        assert isinstance(deadline, Deadline)
        with driver._translated(method.__name__, deadline):
            await driver._find_server(deadline)
            return await method(*args, **kwargs)

    wrapper.__dict__["maps_errors"] = True
    return wrapper


class _MongoDriver:
    """What Motor and PyMongo Async have in common, which is nearly everything."""

    name = "pymongo"

    def __init__(self, client: Any, config: MongoDBConfig, address: str) -> None:
        self.address = address
        self._client = client
        self._database = client[config.db_name]
        self._selection_ms = config.server_selection_timeout_ms

    def knows_a_server(self) -> bool:
        known: bool = self._client.topology_description.has_readable_server(
            self._client.read_preference
        )
        return known

    @_mapped
    async def connect(self, *, deadline: Deadline) -> None:
        """What every operation does first."""

    @_mapped
    async def find(
        self,
        collection: str,
        query: Document,
        *,
        projection: Document | None = None,
        limit: int = 0,
        deadline: Deadline,
    ) -> list[Document]:
        with self._bounded(f"find in {collection!r}", deadline):
            cursor = self._database[collection].find(
                query, projection, limit=limit, batch_size=_ROWS_A_BATCH
            )
            rows: list[Document] = await cursor.to_list(None)
            return rows

    @_mapped
    async def aggregate(
        self, collection: str, pipeline: Sequence[Document], *, deadline: Deadline
    ) -> list[Document]:
        operation = f"aggregate on {collection!r}"
        rows: list[Document]
        if not any("$vectorSearch" in stage for stage in pipeline[:1]):
            with self._bounded(operation, deadline):
                rows = await (await self._aggregate(collection, pipeline)).to_list(None)
                return rows
        # A mongot that is down is HostUnreachable, and under pymongo.timeout a driver tries that
        # again and again until the deadline is over, where somebody else could have answered.
        left_s = deadline.remaining_s(operation)
        try:
            async with asyncio.timeout(left_s):
                options = {"maxTimeMS": math.ceil(left_s * 1000)}
                rows = await (await self._aggregate(collection, pipeline, **options)).to_list(None)
                return rows
        except TimeoutError as error:
            raise deadline.exceeded(operation) from error

    async def raw_batches(
        self,
        collection: str,
        query: Document,
        *,
        projection: Document,
        batch_size: int,
        deadline: Deadline,
        after: Timestamp | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """The rows as the server sends them: batches of BSON documents, end to end.

        after: read what a majority holds on the primary, no older than this logical time: rows that
            are to be kept up to date by a change stream that is there already.
        """
        operation = f"scan of {collection!r}"
        cursor = session = None
        try:
            with self._translated(operation, deadline):
                await self._find_server(deadline)
                source, options = self._database[collection], {}
                if after is not None:
                    session = await self._start_session()
                    session.advance_operation_time(after)
                    options["session"] = session
                    source = source.with_options(
                        read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("majority")
                    )
                cursor = source.find_raw_batches(
                    query, projection, batch_size=batch_size, **options
                )
            while True:
                # Entered anew for each batch: a context must not stay open across a yield.
                with self._translated(operation, deadline), self._bounded(operation, deadline):
                    try:
                        batch: bytes = await cursor.next()
                    except StopAsyncIteration:
                        return
                yield batch
        finally:
            try:
                if cursor is not None:
                    with suppress(*_DRIVERS_OWN), pymongo.timeout(_CLOSE_S):
                        await cursor.close()
            finally:
                if session is not None:
                    with suppress(*_DRIVERS_OWN), pymongo.timeout(_CLOSE_S):
                        await session.end_session()

    async def watch(
        self, pipeline: Sequence[Document], *, resume_after: Document | None
    ) -> AsyncGenerator[ChangeBatch, None]:
        """The changes of the database, for as long as it is iterated; the first batch is empty, and
        says that the stream is open.

        Dates are `DatetimeMS`: one that Python cannot say must not end the stream. Raises
        DatabaseError; where the connection breaks the driver tries once to go on by itself.
        """
        operation = "watching for changes"
        stream = None
        try:
            with self._translated(operation, None):
                await self._find_server(Deadline.after(self._selection_ms))
                stream = await self._open_stream(pipeline, resume_after)
            token = stream.resume_token
            # It opens at the first time that has not been: what will happen then is yet to come.
            yield ChangeBatch((), token, _before(_time_of(token)))
            while True:
                try:
                    with self._translated(operation, None):
                        async with asyncio.timeout(_CHANGES_SILENCE_S):
                            events = await self._next_changes(stream)
                except TimeoutError as error:
                    raise ServerUnavailableError(
                        f"The change stream from {self.address} went silent",
                        seen=f"no answer for {_CHANGES_SILENCE_S:g} s",
                    ) from error
                more = len(events) >= _CHANGES_A_BATCH
                if not events and stream.resume_token == token:
                    yield ChangeBatch((), token, None)
                    continue
                token = stream.resume_token
                at = _time_of(token)
                # There may be more of this very time: several rows of one write can share one.
                yield ChangeBatch(events, token, _before(at) if more else at, more)
        finally:
            if stream is not None:
                await self._close_stream(stream)

    @_mapped
    async def insert_many(
        self, collection: str, rows: Sequence[Document], *, deadline: Deadline
    ) -> InsertOutcome:
        with self._bounded(f"insert into {collection!r}", deadline):
            target = self._database[collection]
            if not target.write_concern.acknowledged:  # the URI says w=0: no session, no outcome
                await target.insert_many(list(rows), ordered=False)
                return InsertOutcome({})
            async with await self._start_session() as session:
                refused: dict[int, Refusal] = {}
                try:
                    await target.insert_many(list(rows), ordered=False, session=session)
                except driver_errors.BulkWriteError as error:
                    entries = (error.details or {}).get("writeErrors", [])
                    refused = {entry["index"]: _refusal(entry) for entry in entries}
                    if not refused:  # a write concern failed: nothing says that rows are missing
                        raise
                return InsertOutcome(refused, session.operation_time)

    @_mapped
    async def update_many(
        self, collection: str, query: Document, update: Document, *, deadline: Deadline
    ) -> int:
        with self._bounded(f"update of {collection!r}", deadline):
            result = await self._database[collection].update_many(query, update)
            return int(result.matched_count)

    @_mapped
    async def delete_many(self, collection: str, query: Document, *, deadline: Deadline) -> int:
        with self._bounded(f"deleting from {collection!r}", deadline):
            result = await self._database[collection].delete_many(query)
            return int(result.deleted_count)

    @_mapped
    async def create_index(
        self,
        collection: str,
        keys: Sequence[tuple[str, int | str]],
        *,
        deadline: Deadline,
        **options: Any,
    ) -> str:
        with self._bounded(f"create an index on {collection!r}", deadline):
            return str(await self._database[collection].create_index(list(keys), **options))

    @_mapped
    async def command(self, command: Document, *, deadline: Deadline) -> Document:
        with self._bounded(f"command {next(iter(command))!r}", deadline):
            reply: Document = await self._database.command(command)
            return reply

    async def close(self) -> None:
        await self._client.close()

    async def _aggregate(
        self, collection: str, pipeline: Sequence[Document], **options: Any
    ) -> Any:
        return await self._database[collection].aggregate(list(pipeline), **options)

    async def _start_session(self) -> Any:
        return self._client.start_session()

    async def _open_stream(
        self, pipeline: Sequence[Document], resume_after: Document | None
    ) -> Any:
        return await self._watched().watch(list(pipeline), **_stream_options(resume_after))

    async def _next_changes(self, stream: Any) -> list[Document]:
        events = []
        event = await stream.try_next()
        while event is not None:
            events.append(event)
            event = await stream.try_next() if stream._cursor._has_next() else None
        return events

    async def _close_stream(self, stream: Any) -> None:
        # Where the server does not hear it, it forgets its cursor by itself.
        with suppress(driver_errors.PyMongoError), pymongo.timeout(_CLOSE_S):
            await stream.close()

    def _watched(self) -> Any:
        return self._database.with_options(
            codec_options=_CHANGE_CODEC, read_preference=ReadPreference.PRIMARY
        )

    async def _find_server(self, deadline: Deadline) -> None:
        """Wait for a server no longer than the selection timeout, where none is known.

        Under pymongo.timeout the driver would look for one until the whole deadline is over.
        """
        if self.knows_a_server():
            return
        preference = self._client.read_preference
        within = min(deadline.remaining_s("looking for a server"), self._selection_ms / 1000)
        with pymongo.timeout(within):
            await self._client.admin.command({"ping": 1}, read_preference=preference)

    @contextmanager
    def _bounded(self, operation: str, deadline: Deadline) -> Iterator[None]:
        with pymongo.timeout(deadline.remaining_s(operation)):
            yield

    @contextmanager
    def _translated(self, operation: str, deadline: Deadline | None) -> Iterator[None]:
        try:
            yield
        except _DRIVERS_OWN as error:
            raise _translate(
                error, operation, self.address, self._selection_ms, deadline
            ) from error


class _MotorDriver(_MongoDriver):
    name = "motor"

    async def _aggregate(
        self, collection: str, pipeline: Sequence[Document], **options: Any
    ) -> Any:
        return self._database[collection].aggregate(list(pipeline), **options)

    async def _start_session(self) -> Any:
        return await self._client.start_session()

    async def _open_stream(
        self, pipeline: Sequence[Document], resume_after: Document | None
    ) -> Any:
        # Motor would take a thread of its pool for each single change, and keep one for ever.
        return await _ThreadedStream.open(
            self._watched().delegate, pipeline, _stream_options(resume_after)
        )

    async def _next_changes(self, stream: Any) -> list[Document]:
        changes: list[Document] = await stream.next_changes()
        return changes

    async def close(self) -> None:
        # Motor closes on the calling thread: it says goodbye to the server and joins its monitors.
        await asyncio.to_thread(self._client.close)


class _ThreadedStream:
    """A blocking change stream in a thread of its own, which ends with it."""

    def __init__(self, stream: Any, thread: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._thread = thread

    @classmethod
    async def open(
        cls, database: Any, pipeline: Sequence[Document], options: Mapping[str, Any]
    ) -> _ThreadedStream:
        thread = ThreadPoolExecutor(1, thread_name_prefix="memorizz-async changes")
        opening = thread.submit(functools.partial(database.watch, list(pipeline), **options))
        try:
            return cls(await asyncio.wrap_future(opening), thread)
        except BaseException:
            # Cancelled while it opens: what it opens is closed where it was opened.
            opening.add_done_callback(_close_opened)
            raise
        finally:
            if opening.cancelled() or (opening.done() and opening.exception() is not None):
                thread.shutdown(wait=False)

    @property
    def resume_token(self) -> Any:
        return self._stream.resume_token

    async def next_changes(self) -> list[Document]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._drain)

    async def close(self) -> None:
        # From another thread: killing the cursor is what ends a request that waits for changes.
        try:
            await asyncio.to_thread(self._stream.close)
        finally:
            self._thread.shutdown(wait=False)

    def _drain(self) -> list[Document]:
        events = []
        event = self._stream.try_next()
        while event is not None:
            events.append(event)
            event = self._stream.try_next() if self._stream._cursor._has_next() else None
        return events


def _close_opened(opening: Any) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


_CHANGE_CODEC: CodecOptions[Any] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_MS
)


def _stream_options(resume_after: Document | None) -> dict[str, Any]:
    return {
        "full_document": "updateLookup",
        "resume_after": resume_after,
        "batch_size": _CHANGES_A_BATCH,
        "max_await_time_ms": _CHANGES_WAIT_MS,
    }


def _time_of(token: Mapping[str, Any] | None) -> Timestamp | None:
    """The logical time in a resume token: its first part in every version of the format.

    The server writes it into the token of an empty batch, too, which nothing else dates. None for
    a token of another make: other databases speak this protocol.
    """
    try:
        data = bytes.fromhex(token["_data"])  # type: ignore[index]
        kind, seconds, number = struct.unpack_from(">BII", data)
    except (KeyError, TypeError, ValueError, struct.error):
        return None
    return Timestamp(seconds, number) if kind == _KEY_STRING_TIMESTAMP else None


def _before(at: Timestamp | None) -> Timestamp | None:
    if at is None:
        return None
    return Timestamp(at.time, at.inc - 1) if at.inc else Timestamp(at.time - 1, 0xFFFF_FFFF)


class _MemoryDriver(_MotorDriver):
    """mongomock behind the same protocol. No deadline to pass on: nothing leaves the process."""

    name = "memory"

    async def raw_batches(
        self,
        collection: str,
        query: Document,
        *,
        projection: Document,
        batch_size: int,
        deadline: Deadline,
        after: Timestamp | None = None,
    ) -> AsyncGenerator[bytes, None]:
        rows = await self.find(collection, query, projection=projection, deadline=deadline)
        for start in range(0, len(rows), batch_size):
            deadline.remaining_s(f"scan of {collection!r}")
            yield b"".join(bson.encode(row) for row in rows[start : start + batch_size])

    async def watch(
        self, pipeline: Sequence[Document], *, resume_after: Document | None
    ) -> AsyncGenerator[ChangeBatch, None]:
        nothing: tuple[ChangeBatch, ...] = ()
        for batch in nothing:  # what makes it a generator
            yield batch
        raise _memory_cannot("watch for changes")

    @_mapped
    async def insert_many(
        self, collection: str, rows: Sequence[Document], *, deadline: Deadline
    ) -> InsertOutcome:
        refused: dict[int, Refusal] = {}
        try:
            await self._database[collection].insert_many(list(rows), ordered=False)
        except driver_errors.BulkWriteError as error:
            entries = (error.details or {}).get("writeErrors", [])
            refused = {entry["index"]: _refusal(entry) for entry in entries}
        return InsertOutcome(refused)

    @_mapped
    async def command(self, command: Document, *, deadline: Deadline) -> Document:
        raise _memory_cannot(f"run the command {next(iter(command))!r}")

    def knows_a_server(self) -> bool:
        return True

    async def _find_server(self, deadline: Deadline) -> None:
        """There is none to look for."""

    async def close(self) -> None:
        """Nothing to close: the data lives as long as the provider."""

    @contextmanager
    def _bounded(self, operation: str, deadline: Deadline) -> Iterator[None]:
        deadline.remaining_s(operation)
        yield


def _memory_cannot(what: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"memory:// cannot {what}",
        seen="a database that lives in this process, without a server",
        fix='use uri="local" or a MongoDB server',
    )


def installed_driver(config: MongoDBConfig) -> str:
    """The driver that the configuration means on this machine. Raises MissingDependencyError."""
    has_motor = importlib.util.find_spec("motor") is not None
    if config.driver == "auto":
        return "motor" if has_motor else "pymongo"
    if config.driver == "motor" and not has_motor:
        raise MissingDependencyError(
            "The driver 'motor' is not installed",
            fix='run pip install "memorizz-async[async]", or use driver="pymongo"',
        )
    return config.driver


async def open_driver(config: MongoDBConfig, address: str) -> Driver:
    """A driver for the running loop, not yet connected: that happens on the first operation.

    Raises InvalidURIError and MissingDependencyError.
    """
    shown = redact_uri(address)
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": config.server_selection_timeout_ms,
        "connectTimeoutMS": config.server_selection_timeout_ms,
        "maxPoolSize": config.max_pool_size,
        "tz_aware": True,
        "appname": "memorizz-async",
    }
    name = installed_driver(config)
    try:
        if name == "pymongo":
            info = DriverInfo("memorizz-async")  # Motor says its own
            client = pymongo.AsyncMongoClient(address, driver=info, **options)
            return _MongoDriver(client, config, shown)
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - an optional part

        # Motor's constructor resolves mongodb+srv:// names, and would block the loop meanwhile.
        opened = functools.partial(
            AsyncIOMotorClient, address, io_loop=asyncio.get_running_loop(), **options
        )
        return _MotorDriver(await asyncio.to_thread(opened), config, shown)
    except (driver_errors.PyMongoError, ValueError, TypeError, OSError) as error:
        raise _bad_uri(address, error) from None  # its words may hold a part of the password


_shared_memory: dict[str, Any] = {}
_shared_memory_lock = threading.Lock()


def memory_database(name: str) -> Any:
    """The data behind `memory://name`: shared in this process by name, private without one.

    Raises MissingDependencyError.
    """
    try:
        from mongomock import MongoClient  # noqa: PLC0415 - an optional part
    except ImportError as error:
        raise MissingDependencyError(
            "memory:// needs mongomock-motor, which is not installed",
            fix='run pip install "memorizz-async[memory]"',
        ) from error
    if not name:
        return MongoClient(tz_aware=True)
    with _shared_memory_lock:
        if name not in _shared_memory:
            _shared_memory[name] = MongoClient(tz_aware=True)
        return _shared_memory[name]


def open_memory_driver(config: MongoDBConfig, database: Any) -> Driver:
    """A driver over mongomock, for the data that `memory_database` gave."""
    from mongomock_motor import AsyncMongoMockClient  # noqa: PLC0415 - an optional part

    return _MemoryDriver(AsyncMongoMockClient(mock_mongo_client=database), config, "memory://")


def blocking_command(
    address: str, command: Mapping[str, Any], *, timeout_s: float, database: str = "admin"
) -> dict[str, Any]:
    """Run one command and wait for the reply: for starting a server, in a worker thread, never on
    the loop.

    Raises ServerUnavailableError or another DatabaseError.
    """
    milliseconds = max(1, int(timeout_s * 1000))
    client: pymongo.MongoClient[Document] | None = None
    try:
        client = pymongo.MongoClient(
            address, serverSelectionTimeoutMS=milliseconds, timeoutMS=milliseconds
        )
        return dict(client[database].command(dict(command)))
    except driver_errors.PyMongoError as error:
        name = f"command {next(iter(command))!r}"
        raise _translate(error, name, redact_uri(address), milliseconds, None) from error
    finally:
        if client is not None:
            client.close()


def _refusal(entry: Mapping[str, Any]) -> Refusal:
    code = int(entry.get("code", 0))
    # mongomock names no key: its only unique index is that of `_id`.
    same_id = code == DUPLICATE_KEY and entry.get("keyPattern", {"_id": 1}) == {"_id": 1}
    # The server quotes the row's values, which are none of a log's business.
    reason = "a row of this key is there already" if code == DUPLICATE_KEY else ""
    return Refusal(code, reason or redact_uri(str(entry.get("errmsg", ""))), same_id)


def _bad_uri(address: str, error: Exception) -> InvalidURIError:
    return InvalidURIError(
        f"The address of the database cannot be read: {redact_uri(address)}",
        seen=_words_of(error, address),
        fix="use mongodb://host:port, mongodb+srv://host, local, local:///a/folder or memory://; "
        "percent-encode special characters of the user name and the password",
    )


def _words_of(error: Exception, address: str) -> str:
    """The driver's words about an address, unless it misread the credentials.

    It splits at the first reserved character, so that the rest of a password that should have been
    percent-encoded is a host or a database to it, which it quotes.
    """
    user, _, password = address.partition("://")[2].rpartition("@")[0].partition(":")
    if set("/?#@:[]") & set(user + password):
        return "a user name or password with a character that must be percent-encoded"
    return redact_uri(str(error))


def _translate(  # noqa: PLR0911 - one return a kind of error is the table itself
    error: Exception,
    operation: str,
    address: str,
    selection_ms: int,
    deadline: Deadline | None,
) -> Exception:
    """The error of ours for one of the driver's. The most specific first."""
    seen = redact_uri(str(error))
    for technical in (", Timeout:", ", Topology Description", ", full error:"):
        seen = seen.partition(technical)[0]
    code = error.code if isinstance(error, driver_errors.OperationFailure) else None
    match error:
        case driver_errors.ServerSelectionTimeoutError():
            within = min(selection_ms, deadline.budget_ms) if deadline else selection_ms
            return ServerUnavailableError(
                f"No MongoDB server answered at {address} within {within} ms",
                seen=seen,
                fix='start the server, correct the address, or use uri="local"',
            )
        case driver_errors.ConfigurationError() | driver_errors.InvalidURI():
            return _bad_uri(address, error)
        case driver_errors.PyMongoError() if (error.timeout or code in _TIMEOUT_CODES) and deadline:
            return deadline.exceeded(operation, seen)
        case driver_errors.OperationFailure() if code in _AUTHENTICATION_CODES:
            return AuthenticationError(
                f"The server at {address} did not allow the operation ({operation})",
                seen=seen,
                fix="check the user, the password, authSource and the user's roles",
                code=code,
            )
        case driver_errors.DuplicateKeyError():
            return DuplicateMemoryError(f"The row exists already ({operation})", code=code)
        case driver_errors.ConnectionFailure():
            return ServerUnavailableError(
                f"The connection to {address} broke ({operation})",
                seen=seen,
                fix="try again; writes with a dedup_key or an _id can be repeated safely",
            )
        case driver_errors.InvalidOperation() if "after close" in str(error).lower():
            return ClosedError(f"The provider was closed during an operation ({operation})")
        case UnicodeError() | OverflowError():
            return InvalidInputError(
                f"A value cannot be sent to MongoDB ({operation})", seen=type(error).__name__
            )
        case NotImplementedError():
            return _memory_cannot(f"do this ({operation}: {error})")
        case _:
            return DatabaseError(
                f"The operation failed at {address} ({operation})", seen=seen, code=code
            )
