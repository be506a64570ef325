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
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import pymongo
from bson import Timestamp
from pymongo import errors as driver_errors
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import LifecycleError, ServerUnavailableError
from memorizz_async.memory_provider.mongodb.driver import change_stream
from memorizz_async.memory_provider.mongodb.driver.change_stream import (
    CHANGE_CODEC,
    just_before,
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

_ROWS_A_BATCH = 500
"""The driver decodes a batch in one go, on the loop."""
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
        with driver._translated(method.__name__, deadline):
            await driver._find_server(deadline)
            return await method(*args, **kwargs)

    wrapper.__dict__["maps_errors"] = True
    return wrapper


class MongoDriver:
    """What Motor and PyMongo Async have in common, which is nearly everything."""

    name = "pymongo"

    def __init__(self, client: Any, config: MongoDBConfig, address: str) -> None:
        self.address = address
        self._client = client
        self._database = client[config.db_name]
        self._selection_ms = config.server_selection_timeout_ms
        self._process = os.getpid()

    @property
    def _inherited(self) -> bool:
        """Whether this process was forked from the client's: here it does nothing any more."""
        return self._process != os.getpid()

    def knows_a_server(self) -> bool:
        known: bool = self._client.topology_description.has_readable_server(
            self._client.read_preference
        )
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
        with self._bounded(f"find in {collection!r}", deadline):
            cursor = self._database[collection].find(
                query, projection, limit=limit, skip=skip, sort=list(sort) or None,
                batch_size=_ROWS_A_BATCH,
            )  # fmt: skip
            rows: list[Document] = await cursor.to_list(None)
            return rows

    @mapped
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
        operation = "watching for changes"
        stream = None
        try:
            with self._translated(operation, None):
                await self._find_server(Deadline.after(self._selection_ms))
                stream = await self._open_stream(pipeline, resume_after)
            token = stream.resume_token
            # It opens at the first time that has not been: what will happen then is yet to come.
            yield ChangeBatch((), token, just_before(time_of(token)))
            while True:
                try:
                    with self._translated(operation, None):
                        async with asyncio.timeout(change_stream.CHANGES_SILENCE_S):
                            events = await self._next_changes(stream)
                except TimeoutError as error:
                    raise ServerUnavailableError(
                        f"The change stream from {self.address} went silent",
                        seen=f"no answer for {change_stream.CHANGES_SILENCE_S:g} s",
                    ) from error
                more = len(events) >= change_stream.CHANGES_A_BATCH
                if not events and stream.resume_token == token:
                    yield ChangeBatch((), token, None)
                    continue
                token = stream.resume_token
                at = time_of(token)
                # There may be more of this very time: several rows of one write can share one.
                yield ChangeBatch(events, token, just_before(at) if more else at, more)
        finally:
            if stream is not None and not self._inherited:
                await self._close_stream(stream)

    @mapped
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
                    refused = {entry["index"]: refusal_of(entry) for entry in entries}
                    if not refused:  # a write concern failed: nothing says that rows are missing
                        raise
                return InsertOutcome(refused, session.operation_time)

    @mapped
    async def write_many(
        self, collection: str, writes: Sequence[Write], *, ordered: bool = True, deadline: Deadline
    ) -> WriteOutcome:
        operations = [operation_of(write) for write in writes]
        with self._bounded(f"writing to {collection!r}", deadline):
            target = self._database[collection]
            if not target.write_concern.acknowledged:  # who edits asks what became of it
                target = target.with_options(write_concern=WriteConcern(1))
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
        with self._bounded(f"update of {collection!r}", deadline):
            result = await self._database[collection].update_many(query, update)
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
        with self._bounded(f"update of {collection!r}", deadline):
            row: Document | None = await self._database[collection].find_one_and_update(
                query, update, upsert=upsert, return_document=pymongo.ReturnDocument.AFTER
            )
            return row

    @mapped
    async def delete_many(self, collection: str, query: Document, *, deadline: Deadline) -> int:
        with self._bounded(f"deleting from {collection!r}", deadline):
            result = await self._database[collection].delete_many(query)
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
        self, collection: str, pipeline: Sequence[Document], **options: Any
    ) -> Any:
        return await self._database[collection].aggregate(list(pipeline), **options)

    async def _start_session(self) -> Any:
        return self._client.start_session()

    async def _open_stream(
        self, pipeline: Sequence[Document], resume_after: Document | None
    ) -> Any:
        return await self._watched().watch(list(pipeline), **stream_options(resume_after))

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
            codec_options=CHANGE_CODEC, read_preference=ReadPreference.PRIMARY
        )

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
        except DRIVERS_OWN as error:
            raise translate(error, operation, self.address, self._selection_ms, deadline) from error
