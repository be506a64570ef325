"""A MongoDB server, through PyMongo Async; what Motor does differently is in `motor`.

What a driver raises becomes an error of ours here, and a deadline becomes PyMongo's client-side
operation timeout, which bounds the wait for a server, for a pooled connection and for the reply,
and reaches the server as maxTimeMS.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import bson
import pymongo
from bson import DBRef, Timestamp
from bson.binary import UuidRepresentation
from bson.errors import InvalidBSON
from pymongo import errors as driver_errors
from pymongo.collation import Collation
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import LifecycleError, ServerUnavailableError
from memorizz_async.memory_provider.mongodb.codec import DATES_AS_NUMBERS, READ_CODEC
from memorizz_async.memory_provider.mongodb.driver import change_stream
from memorizz_async.memory_provider.mongodb.driver.change_stream import (
    just_before,
    newest_time,
    stream_options,
    time_of,
)
from memorizz_async.memory_provider.mongodb.driver.translation import (
    DRIVERS_OWN,
    refusal_of,
    translate,
)
from memorizz_async.memory_provider.mongodb.driver.writes import operation_of, outcome_of
from memorizz_async.memory_provider.mongodb.protocol import (
    ChangeBatch,
    Document,
    InsertOutcome,
    Refusal,
    Sort,
    Write,
    WriteOutcome,
)

P = ParamSpec("P")
R = TypeVar("R")

PRIMARY = ReadPreference.PRIMARY
_WATCHING = "watching for changes"
_COMMITTING = "waiting for a majority"
_WRITES = frozenset({"insert_many", "write_many", "update_many", "find_and_update", "delete_many"})
_ROWS_A_BATCH = 500
"""The driver decodes a batch in one go, on the loop."""
_COMMITTED_WITHIN_MS = 1_000
"""How long a majority may take to have what the primary has, when a change stream opens."""
_SIMPLE = Collation("simple")
"""Strings are equal where their bytes are, whatever a collection's default collation says: a tenant
`ada` must not see the rows of `ADA`. It is what collections compare by that have no default."""
_WAIT_S = 0.25
"""How long a call waits for the server before `on_wait` is called, and again."""
_CLOSE_S = 1.0
"""How long to say goodbye to a cursor that was left early; the server forgets it anyway."""


def mapped(
    method: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Wrap a coroutine so that no error of the driver escapes; a test asserts that all wear it."""

    @functools.wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        driver = args[0]
        assert isinstance(driver, MongoDriver)
        deadline = kwargs["deadline"]
        assert isinstance(deadline, Deadline)

        async def attempt() -> R:
            await driver._find_server(deadline)
            return await method(*args, **kwargs)

        return await driver._translated(attempt, method.__name__, deadline)

    wrapper.__dict__["maps_errors"] = True
    return wrapper


class MongoDriver:
    """What Motor and PyMongo Async have in common, which is nearly everything."""

    name = "pymongo"
    _collation: Collation | None = _SIMPLE
    on_wait: Callable[[], None] | None = None

    def __init__(self, client: Any, config: MongoDBConfig, address: str) -> None:
        self.address = address
        self._client = client
        # The primary, whatever the address says: we read our own writes, and decide by them.
        self._database = client.get_database(config.db_name, read_preference=PRIMARY)
        self._selection_ms = config.server_selection_timeout_ms
        # The driver forgets these two where an operation has a deadline.
        self._socket_ms = _milliseconds(config.driver_option("socketTimeoutMS"))
        self._write_ms = _milliseconds(config.driver_option("wTimeoutMS"))
        self._process = os.getpid()

    @property
    def _inherited(self) -> bool:
        """Whether this process was forked from the client's: here it does nothing any more."""
        return self._process != os.getpid()

    def knows_a_server(self) -> bool:
        known: bool = self._client.topology_description.has_readable_server(PRIMARY)
        return known

    @mapped
    async def connect(self, *, deadline: Deadline) -> None:
        """What every operation does first."""

    @mapped
    async def find(
        self,
        collection: str,
        query: Document,
        *,
        projection: Document | None = None,
        limit: int = 0,
        skip: int = 0,
        sort: Sort = (),
        deadline: Deadline,
    ) -> list[Document]:
        def read(source: Any) -> Any:
            return source.find(
                query, projection, limit=limit, skip=skip, sort=list(sort) or None,
                batch_size=_ROWS_A_BATCH, collation=self._collation,
            )  # fmt: skip

        with self._bounded(f"find in {collection!r}", deadline):
            try:
                rows = await read(self._database[collection]).to_list(None)
            except InvalidBSON:
                return await read(self._plain(collection)).to_list(None)  # type: ignore[no-any-return]
            return self._with_stored_ids(rows)

    @mapped
    async def aggregate(
        self, collection: str, pipeline: Sequence[Document], *, deadline: Deadline
    ) -> list[Document]:
        operation = f"aggregate on {collection!r}"
        if not any("$vectorSearch" in stage for stage in pipeline[:1]):
            with self._bounded(operation, deadline):
                # Stages that list indexes take none.
                collated: dict[str, Any] = {}
                if "$match" in pipeline[0]:
                    collated["collation"] = self._collation
                try:
                    cursor = await self._aggregate(collection, pipeline, **collated)
                    rows = await cursor.to_list(None)
                except InvalidBSON:
                    cursor = await self._aggregate(collection, pipeline, plain=True, **collated)
                    return await cursor.to_list(None)  # type: ignore[no-any-return]
                return self._with_stored_ids(rows)
        # A mongot that is down is HostUnreachable, and under pymongo.timeout a driver tries that
        # again and again until the deadline is over, where somebody else could have answered.
        left_s = deadline.remaining_s(operation)
        try:
            async with asyncio.timeout(left_s):
                options: dict[str, Any] = {"maxTimeMS": math.ceil(left_s * 1000)}
                rows = await (await self._aggregate(collection, pipeline, **options)).to_list(None)
                return self._with_stored_ids(rows)
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
        cursor: Any = None
        session: Any = None
        try:

            async def find_server() -> None:
                await self._find_server(deadline)

            await self._translated(find_server, operation, deadline)
            source, options = self._database[collection], {}
            if after is not None:
                session = await self._translated(self._start_session, operation, deadline)
                session.advance_operation_time(after)
                options["session"] = session
                source = source.with_options(read_concern=ReadConcern("majority"))
            cursor = source.find_raw_batches(
                query, projection, batch_size=batch_size, collation=self._collation, **options
            )

            async def next_batch() -> bytes:
                # Entered anew for each batch: a context must not stay open across a yield.
                with self._bounded(operation, deadline):
                    batch: bytes = await cursor.next()
                    return batch

            while True:
                try:
                    batch = await self._translated(next_batch, operation, deadline)
                except StopAsyncIteration:
                    return
                yield batch
        finally:
            try:
                if cursor is not None and not self._inherited:
                    with suppress(*DRIVERS_OWN), pymongo.timeout(_CLOSE_S):
                        await cursor.close()
            finally:
                if session is not None and not self._inherited:
                    with suppress(*DRIVERS_OWN), pymongo.timeout(_CLOSE_S):
                        await session.end_session()

    async def watch(
        self, pipeline: Sequence[Document], *, resume_after: Document | None
    ) -> AsyncGenerator[ChangeBatch, None]:
        """The changes of the database, for as long as it is iterated; the first batch is empty, and
        says that the stream is open.

        Dates are `DatetimeMS`: one that Python cannot say must not end the stream. Raises
        DatabaseError; where the connection breaks the driver tries once to go on by itself.
        """
        stream: Any = None
        session: Any = None
        try:

            async def opened() -> Any:
                await self._find_server(Deadline.after(self._selection_ms))
                return await self._open_stream(pipeline, resume_after, session)

            async def committed() -> None:
                with self._bounded(_COMMITTING, patience):
                    await _read_of_a_majority(self._watched(), session, just_before(time_of(token)))

            async def changes() -> list[Document]:
                async with asyncio.timeout(change_stream.CHANGES_SILENCE_S):
                    return await self._next_changes(stream)

            # The session hears the server's time in every reply.
            session = await self._translated(self._start_session, _WATCHING, None)
            stream = await self._translated(opened, _WATCHING, None)
            token = stream.resume_token
            if resume_after is None:
                # It opens at the primary's time, also where no majority of the members follows:
                # nothing would come by it then, and loads would wait.
                patience = Deadline.after(_COMMITTED_WITHIN_MS)
                await self._translated(committed, _COMMITTING, patience)
            # It opens at the first time that has not been: what will happen then is yet to come.
            yield ChangeBatch((), token, just_before(time_of(token)))
            while True:
                try:
                    events = await self._translated(changes, _WATCHING, None)
                except TimeoutError as error:
                    raise ServerUnavailableError(
                        f"The change stream from {self.address} went silent",
                        seen=f"no answer for {change_stream.CHANGES_SILENCE_S:g} s",
                    ) from error
                more = len(events) >= change_stream.CHANGES_A_BATCH
                now = newest_time(session)
                if not events and stream.resume_token == token:
                    yield ChangeBatch((), token, None, now=now)
                    continue
                token = stream.resume_token
                at = time_of(token)
                # There may be more of this very time: several rows of one write can share one.
                yield ChangeBatch(events, token, just_before(at) if more else at, more, now)
        finally:
            try:
                if stream is not None and not self._inherited:
                    await self._close_stream(stream)
            finally:
                if session is not None and not self._inherited:
                    with suppress(*DRIVERS_OWN), pymongo.timeout(_CLOSE_S):
                        await session.end_session()

    @mapped
    async def insert_many(
        self, collection: str, rows: Sequence[Document], *, deadline: Deadline
    ) -> InsertOutcome:
        with self._bounded(f"insert into {collection!r}", deadline, writes=True):
            target = self._database[collection]
            async with await self._start_session() as session:
                refused: dict[int, Refusal] = {}
                try:
                    await target.insert_many(list(rows), ordered=False, session=session)
                except driver_errors.BulkWriteError as error:
                    entries = (error.details or {}).get("writeErrors", [])
                    refused = {entry["index"]: refusal_of(entry) for entry in entries}
                    if not refused:  # a write concern failed: nothing says that rows are missing
                        raise
                return InsertOutcome(refused, session.operation_time)

    @mapped
    async def write_many(
        self, collection: str, writes: Sequence[Write], *, ordered: bool = True, deadline: Deadline
    ) -> WriteOutcome:
        operations = [operation_of(write, self._collation) for write in writes]
        with self._bounded(f"writing to {collection!r}", deadline, writes=True):
            target = self._database[collection]
            async with await self._start_session() as session:
                try:
                    result = await target.bulk_write(operations, ordered=ordered, session=session)
                    reply = result.bulk_api_result
                except driver_errors.BulkWriteError as error:
                    reply = error.details or {}
                    if not reply.get("writeErrors"):  # a write concern failed
                        raise
                return outcome_of(reply, session.operation_time)

    @mapped
    async def update_many(
        self,
        collection: str,
        query: Document,
        update: Document | list[Document],
        *,
        deadline: Deadline,
    ) -> int:
        with self._bounded(f"update of {collection!r}", deadline, writes=True):
            result = await self._database[collection].update_many(
                query, update, collation=self._collation
            )
            return int(result.matched_count)

    @mapped
    async def find_and_update(
        self,
        collection: str,
        query: Document,
        update: Document,
        *,
        upsert: bool = False,
        deadline: Deadline,
    ) -> Document | None:
        with self._bounded(f"update of {collection!r}", deadline, writes=True):
            row: Document | None = await self._database[collection].find_one_and_update(
                query, update, upsert=upsert, return_document=pymongo.ReturnDocument.AFTER,
                collation=self._collation,
            )  # fmt: skip
            return row

    @mapped
    async def delete_many(self, collection: str, query: Document, *, deadline: Deadline) -> int:
        with self._bounded(f"deleting from {collection!r}", deadline, writes=True):
            result = await self._database[collection].delete_many(query, collation=self._collation)
            return int(result.deleted_count)

    @mapped
    async def create_index(
        self,
        collection: str,
        keys: Sequence[tuple[str, int | str]],
        *,
        deadline: Deadline,
        **options: Any,
    ) -> str:
        with self._bounded(f"create an index on {collection!r}", deadline):
            if self._collation is not None:  # as queries compare, or they could not use it
                options.setdefault("collation", self._collation)
            return str(await self._database[collection].create_index(list(keys), **options))

    @mapped
    async def command(self, command: Document, *, deadline: Deadline) -> Document:
        with self._bounded(f"command {next(iter(command))!r}", deadline):
            reply: Document = await self._database.command(command)
            return reply

    async def close(self) -> None:
        if not self._inherited:
            await self._client.close()

    def abandon(self) -> None:
        """Let the client go where its event loop is closed, so that nothing can be awaited.

        The garbage collector closes its sockets: their transports do it when they are collected.
        """

    async def _aggregate(
        self, collection: str, pipeline: Sequence[Document], *, plain: bool = False, **options: Any
    ) -> Any:
        source = self._plain(collection) if plain else self._database[collection]
        return await source.aggregate(list(pipeline), **options)

    def _plain(self, collection: str) -> Any:
        """The collection without UUIDs: where the address asks for them, one of another length than
        16 bytes cannot be decoded, nor can any row beside it.
        """
        return self._database[collection].with_options(codec_options=READ_CODEC)

    async def _start_session(self) -> Any:
        return self._client.start_session()

    async def _open_stream(
        self, pipeline: Sequence[Document], resume_after: Document | None, session: Any
    ) -> Any:
        options = stream_options(resume_after)
        return await self._watched().watch(list(pipeline), session=session, **options)

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
        return self._database.with_options(codec_options=DATES_AS_NUMBERS)

    async def _find_server(self, deadline: Deadline) -> None:
        """Wait for a server no longer than the selection timeout, where none is known.

        Under pymongo.timeout the driver would look for one until the whole deadline is over.
        """
        if self.knows_a_server():
            return
        if self._inherited:  # a client that has been reset by a fork knows no server
            raise LifecycleError(
                "A call that began before the process was forked cannot go on in the child",
                fix="call from an event loop that was made in this process",
            )
        within = min(deadline.remaining_s("looking for a server"), self._selection_ms / 1000)
        with pymongo.timeout(within):
            await self._client.admin.command({"ping": 1}, read_preference=PRIMARY)

    def _with_stored_ids(self, rows: list[Document]) -> list[Document]:
        """Rows whose `_id`, where it is a UUID or a document that may hold one, is as it is stored:
        what the searches in memory and raw batches know it by.
        """
        codec = self._database.codec_options
        if codec.uuid_representation != UuidRepresentation.UNSPECIFIED:
            for row in rows:
                if isinstance(row.get("_id"), UUID | Mapping | DBRef):
                    stored = bson.encode({"_id": row["_id"]}, codec_options=codec)
                    row["_id"] = bson.decode(stored, codec_options=READ_CODEC)["_id"]
        return rows

    @contextmanager
    def _bounded(
        self, operation: str, deadline: Deadline, *, writes: bool = False
    ) -> Iterator[None]:
        with pymongo.timeout(self._limited(deadline, writes).remaining_s(operation)):
            yield

    def _limited(self, deadline: Deadline, writes: bool) -> Deadline:
        """The deadline, or what socketTimeoutMS or wTimeoutMS of the address leave of it."""
        limits = (self._socket_ms, self._write_ms if writes else None)
        for limit_ms in limits:
            if limit_ms is not None and limit_ms < deadline.budget_ms:
                deadline = Deadline(min(deadline.at, Deadline.after(limit_ms).at), limit_ms)
        return deadline

    async def _translated(
        self, attempt: Callable[[], Awaitable[R]], operation: str, deadline: Deadline | None
    ) -> R:
        """The result of an attempt; what the driver raises becomes an error of ours.

        Ours is raised outside of the `except`: the driver's quotes rows and queries, and would be
        its context.
        """
        try:
            if self.on_wait is None or operation == _WATCHING:
                return await attempt()
            with _called_meanwhile(self.on_wait):
                return await attempt()
        except DRIVERS_OWN as error:
            selecting = isinstance(error, driver_errors.ServerSelectionTimeoutError)
            if deadline is not None and not selecting:
                deadline = self._limited(deadline, writes=operation in _WRITES)
            failure = translate(error, operation, self.address, self._selection_ms, deadline)
        try:
            raise failure
        finally:
            del failure  # it holds this frame, and this frame would hold it


@contextmanager
def _called_meanwhile(on_wait: Callable[[], None]) -> Iterator[None]:
    """Call a function now and then for as long as the block lasts."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def call_again() -> None:
        nonlocal timer
        if timer is not None:
            on_wait()
        timer = loop.call_later(_WAIT_S, call_again)

    call_again()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


async def _read_of_a_majority(database: Any, session: Any, at: Timestamp | None) -> None:
    """Read nothing, as soon as a majority of the members has reached a logical time.

    Of any collection: who may follow the changes of a database may read each of them.
    """
    if at is not None:
        session.advance_operation_time(at)
    collection = database["embedding_models"].with_options(read_concern=ReadConcern("majority"))
    await collection.find_one({"_id": {"$in": []}}, session=session)


def _milliseconds(value: Any) -> int | None:
    """An option of the driver's: None where it is not set, or means "no limit"."""
    return int(value) or None if value is not None else None
