"""Recall by hand: what a careful person would write against the driver alone, for one kind of row.

It knows what ours has to find out: that every row is `{_id: ObjectId, embedding: BinData}` of one
dimension and of unit length. It asks the server the very same things, in the same batches.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pymongo
from bson import ObjectId
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.pipelines import (
    row_projection,
    rows_by_id_filter,
    scan_filter,
    scan_projection,
)

_ID = slice(9, 21)  # where the ObjectId is in such a row
_BATCH = 520  # as the exact scan of 384 dimensions


class BareRecall:
    """Three queries in a bare `asyncio.gather`. It belongs to the running loop."""

    def __init__(self, driver: str, address: str, name: str) -> None:
        self._client: Any
        if driver == "motor":
            from motor.motor_asyncio import AsyncIOMotorClient

            self._client = AsyncIOMotorClient(address, tz_aware=True)
        else:
            self._client = pymongo.AsyncMongoClient(address, tz_aware=True)
        self._database = self._client[name]

    async def recall(
        self, collections: Sequence[str], memory_id: str, vector: NDArray[np.float32], limit: int
    ) -> list[list[dict[str, Any]]]:
        return await asyncio.gather(
            *(self._one(self._database[name], memory_id, vector, limit) for name in collections)
        )

    async def close(self) -> None:
        closing = self._client.close()
        if closing is not None:  # Motor's is not a coroutine
            await closing

    async def _one(
        self, collection: Any, memory_id: str, vector: NDArray[np.float32], limit: int
    ) -> list[dict[str, Any]]:
        scope, now = {"memory_id": memory_id}, datetime.now(UTC)
        best = _Best(vector, limit)
        async for batch in collection.find_raw_batches(
            scan_filter(scope, now), scan_projection(), batch_size=_BATCH
        ):
            best.look_at(batch)
        scores = best.scores()
        found = await collection.find(
            rows_by_id_filter(list(scores), scope, now), row_projection(False)
        ).to_list(None)
        return _hits(found, scores)


class BareSyncRecall:
    """One query at a time, by the blocking driver: the same calls. Safe in several threads."""

    def __init__(self, address: str, name: str) -> None:
        self._client: Any = pymongo.MongoClient(address, tz_aware=True)
        self._database = self._client[name]

    def one(
        self, collection: str, memory_id: str, vector: NDArray[np.float32], limit: int
    ) -> list[dict[str, Any]]:
        scope, now = {"memory_id": memory_id}, datetime.now(UTC)
        best = _Best(vector, limit)
        rows = self._database[collection]
        for batch in rows.find_raw_batches(
            scan_filter(scope, now), scan_projection(), batch_size=_BATCH
        ):
            best.look_at(batch)
        scores = best.scores()
        return _hits(
            rows.find(rows_by_id_filter(list(scores), scope, now), row_projection(False)), scores
        )

    def close(self) -> None:
        self._client.close()


class _Best:
    """The rows most similar to a vector, of batches of raw BSON."""

    def __init__(self, vector: NDArray[np.float32], limit: int) -> None:
        self._vector, self._limit = vector, limit
        self._ids: list[ObjectId] = []
        self._scores: list[NDArray[np.float32]] = []

    def look_at(self, batch: bytes) -> None:
        (length,) = struct.unpack_from("<i", batch)
        rows = np.frombuffer(batch, dtype=np.uint8).reshape(-1, length)
        numbers = rows[:, length - 1 - 4 * self._vector.size : length - 1]
        scores = np.ascontiguousarray(numbers).view("<f4") @ self._vector
        top = np.argpartition(-scores, min(self._limit, len(scores) - 1))[: self._limit]
        self._ids += [ObjectId(rows[position, _ID].tobytes()) for position in top.tolist()]
        self._scores.append(scores[top])

    def scores(self) -> dict[ObjectId, float]:
        every = np.concatenate(self._scores)
        order = np.argsort(-every)[: self._limit].tolist()
        return {self._ids[position]: float((1 + every[position]) / 2) for position in order}


def _hits(found: Iterable[dict[str, Any]], scores: dict[ObjectId, float]) -> list[dict[str, Any]]:
    return sorted(
        ({**row, "score": scores[row["_id"]]} for row in found), key=lambda hit: -hit["score"]
    )
