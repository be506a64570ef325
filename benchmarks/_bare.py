"""Recall by hand: what a careful person would write against the driver alone, for one kind of row.

It knows what ours has to find out: that every row is `{_id: ObjectId, embedding: BinData}` of one
dimension and of unit length. It asks the server the very same things, in the same batches.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
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
        ids: list[ObjectId] = []
        best: list[NDArray[np.float32]] = []
        async for batch in collection.find_raw_batches(
            scan_filter(scope, now), scan_projection(), batch_size=_BATCH
        ):
            (length,) = struct.unpack_from("<i", batch)
            rows = np.frombuffer(batch, dtype=np.uint8).reshape(-1, length)
            numbers = rows[:, length - 1 - 4 * vector.size : length - 1]
            scores = np.ascontiguousarray(numbers).view("<f4") @ vector
            top = np.argpartition(-scores, min(limit, len(scores) - 1))[:limit]
            ids += [ObjectId(rows[position, _ID].tobytes()) for position in top.tolist()]
            best.append(scores[top])
        every = np.concatenate(best)
        order = np.argsort(-every)[:limit].tolist()
        score = {ids[position]: float((1 + every[position]) / 2) for position in order}
        found = await collection.find(
            rows_by_id_filter(list(score), scope, now), row_projection(False)
        ).to_list(None)
        hits = [{**row, "score": score[row["_id"]]} for row in found]
        hits.sort(key=lambda hit: -hit["score"])
        return hits
