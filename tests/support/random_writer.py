"""A program that writes at random, by every kind of change that the server knows.

    python -m support.random_writer URI DATABASE SEED HOW

It does as many steps as a line of its standard input says, then answers with a line, and ends with
its input. HOW is `driver`, which writes as any program may, or `library`, which writes as we do.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pymongo
from bson import Decimal128, Int64, ObjectId
from pymongo.errors import BulkWriteError, OperationFailure

from memorizz_async import AsyncMongoDBProvider, MemorizzAsyncError, MemoryType, MongoDBConfig
from memorizz_async.vectors import to_bson

KIND = MemoryType.KNOWLEDGE_BASE
TENANTS = ("m", "n")
USERS = ("u", "v", None)
DIMENSIONS = 4
AXES = [[float(sign) if at == axis else 0.0 for at in range(4)] for axis in range(4)
        for sign in (1, -1)]  # fmt: skip
DIAGONALS = [[a, b, 0.5, 0.5] for a in (0.5, -0.5) for b in (0.5, -0.5)]
VECTORS = AXES + DIAGONALS
"""Of length 1, with products that every arithmetic has exactly: ties are ties everywhere."""
WORDS = ("zebra", "boat", "door", "red")
NOW = datetime.now(UTC)
LARGE = 2**53


def form_of(vector: list[float]) -> Any:
    """A vector as memorizz writes it, or as we do."""
    forms: list[Any] = [vector, to_bson(np.array(vector, np.float32))]
    return random.choice(forms)


def embedding() -> Any:
    odd = [[0.0] * 4, [1.0, 2.0], [1.0, float("nan"), 0.0, 0.0], [1.0, None], "text", None, [], {}]
    return random.choice(odd) if random.random() < 0.15 else form_of(random.choice(VECTORS))


def new_id() -> Any:
    number = random.randrange(10_000)
    return random.choice(
        [ObjectId(), ObjectId(), f"r{number}", number, number + 0.5, Int64(2**60 + number),
         {"a": number}, b"%d" % number]
    )  # fmt: skip


def importance() -> Any:
    return random.choice(
        [0, 1, 1.0, 0.5, -0.0, LARGE, LARGE + 1, float(LARGE), Int64(2**62 + 1), 2.0**62, "1", True,
         float("nan"), float("inf"), None, [1, 5], [], [None], [[1]], {"a": 1}]
        + ([Decimal128("1"), Decimal128("0.5")] if random.random() < 0.1 else [])
    )  # fmt: skip


def role() -> Any:
    return random.choice(
        ["a", "b", "B", "ab", "é", "\uffff", "\U0001f600", ["a", "b"], None, 1, []]
    )


def moment() -> Any:
    return random.choice([NOW, NOW - timedelta(days=1), NOW + timedelta(days=1), "text", None])


def expiry() -> Any:
    past, future = NOW - timedelta(days=1), NOW + timedelta(days=1)
    return random.choice([past, future, None, [past, future], [], "text", 5])


def topic() -> Any:
    return random.choice(["tea", "oil", ["tea", "oil"], 2.0, None])


def row() -> dict[str, Any]:
    made: dict[str, Any] = {
        "_id": new_id(),
        "memory_id": random.choice(TENANTS),
        "content": " ".join(random.choices(WORDS, k=random.randrange(4))),
        "embedding": embedding(),
    }
    more: dict[str, Callable[[], Any]] = {
        "user_id": lambda: random.choice(USERS), "importance": importance, "role": role,
        "created_at": moment, "metadata": lambda: {"topic": topic()},
    }  # fmt: skip
    made |= {name: value() for name, value in more.items() if random.random() < 0.7}
    if random.random() < 0.2:
        made["expires_at"] = expiry()
    return made


class Driver:
    """Writes through PyMongo, as any program may."""

    def __init__(self, uri: str, name: str) -> None:
        self._client: pymongo.MongoClient[Any] = pymongo.MongoClient(uri)
        self._rows = self._client[name][KIND.collection]

    def step(self) -> None:
        """One change; one that the server refuses changes nothing."""
        changes = [self._insert, self._insert, self._update, self._update, self._update,
                   self._several, self._pipeline, self._replace, self._transaction, self._delete,
                   self._bulk]  # fmt: skip
        # Such as two rows of one id, $push to what is no list, transactions that meet.
        with suppress(BulkWriteError, OperationFailure):
            random.choice(changes)()

    def _one(self) -> dict[str, Any]:
        ids = [each["_id"] for each in self._rows.aggregate([{"$sample": {"size": 1}}])]
        return {"_id": ids[0] if ids else None}

    def _insert(self) -> None:
        self._rows.insert_many([row() for _ in range(random.randrange(1, 12))], ordered=False)

    def _update(self) -> None:
        self._rows.update_one(self._one(), self._operators(), upsert=random.random() < 0.1)

    def _operators(self) -> dict[str, Any]:
        vector = form_of(random.choice(VECTORS))
        return random.choice(
            [
                {"$set": {"embedding": embedding()}},
                {"$set": {"embedding": vector, "role": role()}},
                {"$set": {"memory_id": random.choice(TENANTS), "user_id": random.choice(USERS)}},
                {"$set": {"expires_at": expiry()}},
                {"$set": {"importance": importance(), "created_at": moment()}},
                {"$set": {"metadata.topic": topic(), "content": random.choice(WORDS)}},
                {"$set": {f"embedding.{random.randrange(4)}": random.choice([0.5, 1.0])}},
                {"$unset": {random.choice(["embedding", "user_id", "role", "expires_at"]): ""}},
                {"$rename": {"embedding": "parked"}},
                {"$rename": {"parked": "embedding"}},
                {"$rename": {"role": "other"}},
                {"$rename": {"other": "role"}},
                {"$rename": {"metadata.topic": "metadata.was"}},
                {"$rename": {"user_id": "role"}},
                {"$push": {"role": {"$each": ["a", "z"], "$position": 0}}},
                {"$push": {"embedding": 0.5}},
                {"$pop": {random.choice(["role", "embedding"]): 1}},
                {"$pull": {"role": "a"}},
                {"$addToSet": {"role": "b"}},
                {"$inc": {"importance": random.choice([1, LARGE])}},
                {"$mul": {"importance": 3}},
                {"$max": {"importance": LARGE + 3}},
                {"$currentDate": {"created_at": True}},
                {"$bit": {"importance": {"or": 1}}},
                {"$setOnInsert": {**row(), "_id": new_id()}},
            ]
        )

    def _several(self) -> None:
        where = {"memory_id": random.choice(TENANTS), "role": role()}
        self._rows.update_many(where, self._operators())

    def _pipeline(self) -> None:
        vector = form_of(random.choice(VECTORS))
        literal = {"$literal": vector}
        one = random.choice(
            [
                [{"$set": {"embedding": literal}}, {"$unset": ["parked", "role"]}],
                [{"$set": {"role": {"$slice": ["$role", 1]}}}],
                [{"$set": {"parked": "$embedding", "embedding": "$parked"}}],
                [{"$replaceWith": {"$mergeObjects": ["$$ROOT", {"embedding": literal}]}}],
                [{"$replaceWith": {"_id": "$_id", "memory_id": "n", "embedding": literal}}],
                [{"$set": {"role": {"$concatArrays": [{"$ifNull": ["$role", []]}, ["a"]]}}}],
            ]
        )
        self._rows.find_one_and_update(self._one(), one)

    def _replace(self) -> None:
        fresh = row()
        del fresh["_id"]
        self._rows.replace_one(self._one(), fresh)

    def _transaction(self) -> None:
        with self._client.start_session() as session, session.start_transaction():
            self._rows.insert_one(row(), session=session)
            self._rows.update_one(self._one(), self._operators(), session=session)
            self._rows.delete_one(self._one(), session=session)
            if random.random() < 0.3:
                session.abort_transaction()

    def _delete(self) -> None:
        if random.random() < 0.05:
            self._rows.delete_many({"memory_id": random.choice(TENANTS), "role": "a"})
        else:
            self._rows.delete_one(self._one())

    def _bulk(self) -> None:
        one = self._one()
        self._rows.bulk_write(
            [
                pymongo.UpdateOne(one, self._operators()),
                pymongo.DeleteOne(self._one()),
                pymongo.InsertOne(row()),
                pymongo.UpdateOne(one, self._operators()),
            ],
            ordered=False,
        )

    def close(self) -> None:
        self._client.close()


class Library:
    """Writes through a provider of ours."""

    def __init__(self, uri: str, name: str) -> None:
        self._runner = asyncio.Runner()
        self._provider = AsyncMongoDBProvider(
            MongoDBConfig(uri, name, dimensions=DIMENSIONS, search_strategy="scan")
        )
        self._ids: list[tuple[str, dict[str, Any]]] = []

    def step(self) -> None:
        """One change; a row that is not there any more is no mistake."""
        with suppress(MemorizzAsyncError):
            self._runner.run(self._step())

    async def _step(self) -> None:
        scope = {"memory_id": random.choice(TENANTS), "user_id": random.choice(USERS)}
        fields = {
            "content": random.choice(WORDS), "embedding": random.choice(VECTORS),
            "role": random.choice("ab"),
        }  # fmt: skip
        if random.random() < 0.5 or not self._ids:
            memories = [dict(fields) for _ in range(random.randrange(1, 9))]
            stored = await self._provider.store_many_async(memories, KIND, **scope)
            self._ids += [(row_id, scope) for row_id in stored]
            return
        row_id, scope = random.choice(self._ids)
        if random.random() < 0.7:
            await self._provider.update_async(row_id, KIND, fields, **scope)
        else:
            await self._provider.delete_async(row_id, KIND, **scope)

    def close(self) -> None:
        self._runner.run(self._provider.close_async())
        self._runner.close()


def main(uri: str, name: str, seed: str, how: str) -> None:
    random.seed(seed)
    writer = Library(uri, name) if how == "library" else Driver(uri, name)
    for line in sys.stdin:
        for _ in range(int(line)):
            writer.step()
        print("done", flush=True)
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
