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
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import bson
import pymongo
from pymongo import errors as driver_errors
from pymongo.driver_info import DriverInfo

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
    ) -> AsyncGenerator[bytes, None]:
        """The rows as the server sends them: batches of BSON documents, end to end."""
        operation = f"scan of {collection!r}"
        cursor = None
        try:
            with self._translated(operation, deadline):
                await self._find_server(deadline)
                cursor = self._raw_cursor(collection, query, projection, batch_size)
            while True:
                # Entered anew for each batch: a context must not stay open across a yield.
                with self._translated(operation, deadline), self._bounded(operation, deadline):
                    try:
                        batch: bytes = await cursor.next()
                    except StopAsyncIteration:
                        return
                yield batch
        finally:
            if cursor is not None:
                with suppress(*_DRIVERS_OWN), pymongo.timeout(_CLOSE_S):
                    await cursor.close()

    @_mapped
    async def insert_many(
        self, collection: str, rows: Sequence[Document], *, deadline: Deadline
    ) -> InsertOutcome:
        with self._bounded(f"insert into {collection!r}", deadline):
            try:
                await self._database[collection].insert_many(list(rows), ordered=False)
            except driver_errors.BulkWriteError as error:
                details = error.details or {}
                refused = {
                    entry["index"]: _refusal(entry) for entry in details.get("writeErrors", [])
                }
                if not refused:  # a write concern failed: nothing says that rows are missing
                    raise
                return InsertOutcome(refused)
            return InsertOutcome({})

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

    def _raw_cursor(
        self, collection: str, query: Document, projection: Document, batch_size: int
    ) -> Any:
        return self._database[collection].find_raw_batches(query, projection, batch_size=batch_size)

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

    async def close(self) -> None:
        # Motor closes on the calling thread: it says goodbye to the server and joins its monitors.
        await asyncio.to_thread(self._client.close)


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
    ) -> AsyncGenerator[bytes, None]:
        rows = await self.find(collection, query, projection=projection, deadline=deadline)
        for start in range(0, len(rows), batch_size):
            deadline.remaining_s(f"scan of {collection!r}")
            yield b"".join(bson.encode(row) for row in rows[start : start + batch_size])

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
