"""Exact search on any server: every vector of the scope is streamed past the query once.

Memory stays flat however many rows there are: a batch of vectors at a time, and the best `limit`.
"""

from __future__ import annotations

from contextlib import aclosing

import bson
import numpy as np

from memorizz_async.memory_provider.mongodb.pipelines import (
    row_projection,
    rows_by_id_filter,
    scan_filter,
    scan_projection,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.raw_vectors import (
    VectorBlock,
    read_vectors,
)
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    Unsearchable,
    step,
)
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.memory_provider.mongodb.vector_search.top_k import TopK

NAME = "scan"
_NUMBERS_A_BATCH = 200_000
"""About a millisecond of work on the loop between two awaits, whatever the dimension."""


async def search(driver: Driver, request: SearchRequest) -> SearchAnswer:
    """The best rows of the scope, exactly.

    Raises StoredEmbeddingError where the scope has vectors and none can be compared with the query;
    where some cannot, they are reported in the answer.
    """
    best = TopK(request.limit)
    unsearchable = Unsearchable()
    batches = driver.raw_batches(
        request.collection,
        scan_filter(request.conditions, request.now),
        projection=scan_projection(),
        batch_size=max(32, _NUMBERS_A_BATCH // request.vector.size),
        deadline=request.deadline,
    )
    with step(request.trace, "scan"):
        async with aclosing(batches):
            async for batch in batches:
                _offer(batch, request, best, unsearchable)
    report = unsearchable.error(request.collection, request.vector.size)
    found = best.best()
    if report is not None and not found:
        raise report
    with step(request.trace, "rows of the hits"):
        return SearchAnswer(NAME, await _rows(driver, request, found), report)


def _offer(batch: bytes, request: SearchRequest, best: TopK, unsearchable: Unsearchable) -> None:
    read = read_vectors(batch)
    for row_id, reason in read.unreadable:
        unsearchable.add(row_id, reason)
    for block in read.blocks:
        dimensions = block.matrix.shape[1]
        if dimensions != request.vector.size:
            reason = f"{dimensions} numbers, not {request.vector.size}"
            for position in range(len(block.rows)):
                _add(unsearchable, block, position, reason)
            continue
        result = scores(block.matrix, request.vector, request.similarity)
        for position in np.flatnonzero(np.isnan(result)).tolist():
            _add(unsearchable, block, position, "all zeros, or a value that is not finite")
        best.offer(result, block.id_at)


def _add(unsearchable: Unsearchable, block: VectorBlock, position: int, reason: str) -> None:
    unsearchable.add(block.id_at(position), reason)


async def _rows(
    driver: Driver, request: SearchRequest, found: list[tuple[object, float]]
) -> list[tuple[dict[str, object], float]]:
    if not found:
        return []
    rows = await driver.find(
        request.collection,
        rows_by_id_filter([row_id for row_id, _ in found], request.conditions, request.now),
        projection=row_projection(request.include_embedding),
        deadline=request.deadline,
    )
    by_id = {_key(row["_id"]): row for row in rows}
    keyed = [(_key(row_id), score) for row_id, score in found]
    # A row that was deleted between the scan and this read is simply not there any more.
    return [(by_id[key], score) for key, score in keyed if key in by_id]


def _key(row_id: object) -> bytes:
    """An id as a key of a dict: another program's may be a sub-document, which is none."""
    return bson.encode({"": row_id})
