"""mongomock: a database without a server, for tests and notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import bson
from bson import Timestamp
from pymongo import errors as driver_errors

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import MissingDependencyError
from memorizz_async.installing import how_to_install
from memorizz_async.memory_provider.mongodb.driver.motor import MotorDriver
from memorizz_async.memory_provider.mongodb.driver.server import mapped
from memorizz_async.memory_provider.mongodb.driver.translation import memory_cannot, refusal_of
from memorizz_async.memory_provider.mongodb.protocol import (
    DUPLICATE_KEY,
    ChangeBatch,
    Delete,
    Document,
    Driver,
    Insert,
    InsertOutcome,
    Refusal,
    Replace,
    Update,
    Write,
    WriteOutcome,
)


class MemoryDriver(MotorDriver):
    """mongomock behind the same protocol. No deadline to pass on: nothing leaves the process."""

    name = "memory"
    _collation = None

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
        raise memory_cannot("watch for changes")

    @mapped
    async def insert_many(
        self, collection: str, rows: Sequence[Document], *, deadline: Deadline
    ) -> InsertOutcome:
        refused: dict[int, Refusal] = {}
        try:
            await self._database[collection].insert_many(list(rows), ordered=False)
        except driver_errors.BulkWriteError as error:
            entries = (error.details or {}).get("writeErrors", [])
            refused = {entry["index"]: refusal_of(entry) for entry in entries}
        return InsertOutcome(refused)

    @mapped
    async def write_many(
        self, collection: str, writes: Sequence[Write], *, ordered: bool = True, deadline: Deadline
    ) -> WriteOutcome:
        """One by one: mongomock's bulk does not take what PyMongo gives it."""
        counts: Counter[str] = Counter()
        refused: dict[int, Refusal] = {}
        for position, write in enumerate(writes):
            try:
                await self._write(self._database[collection], write, counts)
            except driver_errors.DuplicateKeyError as error:
                refused[position] = refusal_of({"code": error.code or DUPLICATE_KEY})
                if ordered:
                    break
        return WriteOutcome(
            matched=counts["matched"],
            upserted=counts["upserted"],
            inserted=counts["inserted"],
            deleted=counts["deleted"],
            refused=refused,
        )

    async def _write(self, target: Any, write: Write, counts: Counter[str]) -> None:
        match write:
            case Insert(row):
                await target.insert_one(row)
                counts["inserted"] += 1
            case Replace(query, row, upsert):
                result = await target.replace_one(query, row, upsert=upsert)
                counts.update(matched=result.matched_count, upserted=bool(result.upserted_id))
            case Update(query, update, many, upsert):
                method = target.update_many if many else target.update_one
                result = await method(query, update, upsert=upsert)
                counts.update(matched=result.matched_count, upserted=bool(result.upserted_id))
            case Delete(query, many):
                method = target.delete_many if many else target.delete_one
                counts["deleted"] += (await method(query)).deleted_count

    @mapped
    async def update_many(
        self,
        collection: str,
        query: Document,
        update: Document | list[Document],
        *,
        deadline: Deadline,
    ) -> int:
        if isinstance(update, list):
            raise memory_cannot("update by a pipeline")
        result = await self._database[collection].update_many(query, update)
        return int(result.matched_count)

    @mapped
    async def command(self, command: Document, *, deadline: Deadline) -> Document:
        raise memory_cannot(f"run the command {next(iter(command))!r}")

    def knows_a_server(self) -> bool:
        return True

    async def _find_server(self, deadline: Deadline) -> None:
        """There is none to look for."""

    async def close(self) -> None:
        """Nothing to close: the data lives as long as the provider."""

    def abandon(self) -> None:
        """Nothing to let go."""

    @contextmanager
    def _bounded(
        self, operation: str, deadline: Deadline, *, writes: bool = False
    ) -> Iterator[None]:
        deadline.remaining_s(operation)
        yield


_shared_memory: dict[str, Any] = {}


def memory_database(name: str) -> Any:
    """The data behind `memory://name`: shared in this process by name, private without one.

    Raises MissingDependencyError.
    """
    try:
        from mongomock import MongoClient  # noqa: PLC0415 - an optional part
    except ImportError as error:
        raise MissingDependencyError(
            "memory:// needs mongomock-motor, which is not installed",
            fix=how_to_install("memory"),
        ) from error
    if not name:
        return MongoClient(tz_aware=True)
    return _shared_memory.setdefault(name, MongoClient(tz_aware=True))


def renew_locks(database: Any) -> None:
    """In a forked child: replace the locks of the data, which another thread may have held."""
    from mongomock.thread import RWLock  # noqa: PLC0415 - an optional part

    for store in database._store._databases.values():
        for collection in store._collections.values():
            collection._rwlock = RWLock()  # type: ignore[no-untyped-call]


def open_memory_driver(config: MongoDBConfig, database: Any) -> Driver:
    """A driver over mongomock, for the data that `memory_database` gave."""
    from mongomock_motor import AsyncMongoMockClient  # noqa: PLC0415 - an optional part

    return MemoryDriver(AsyncMongoMockClient(mock_mongo_client=database), config, "memory://")
