"""Exact search on any server: every vector of the scope is streamed past the query once.

Memory stays flat however many rows there are: a batch of vectors at a time, and the best `limit`.
"""

from __future__ import annotations

from contextlib import aclosing

import numpy as np

from memorizz_async.memory_provider.mongodb.pipelines import (
    all_of,
    scan_filter,
    scan_projection,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.hits import hit_rows
from memorizz_async.memory_provider.mongodb.vector_search.raw_vectors import (
    VectorBlock,
    read_vectors,
)
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    NO_SCORE,
    SearchAnswer,
    SearchRequest,
    Unsearchable,
    step,
    wrong_dimension,
)
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.memory_provider.mongodb.vector_search.top_k import TopK

NAME = "scan"
_NUMBERS_A_BATCH = 400_000
"""About two milliseconds of work on the loop between two awaits, whatever the dimension; half as
many make a scan take a tenth longer. Asking for the next batch ahead of time gains nothing."""


async def search(driver: Driver, request: SearchRequest) -> SearchAnswer:
    """The best rows of the scope, exactly.

    Raises StoredEmbeddingError where the scope has vectors and none can be compared with the query;
    where some cannot, they are reported in the answer.
    """
    best = TopK(request.limit)
    unsearchable = Unsearchable()
    batches = driver.raw_batches(
        request.collection,
        scan_filter(all_of(request.conditions, request.only), request.now),
        projection=scan_projection(),
        batch_size=batch_size(request.vector.size),
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
        rows = await hit_rows(driver, request, found)
    return SearchAnswer(NAME, list(rows.values()), report)


def _offer(batch: bytes, request: SearchRequest, best: TopK, unsearchable: Unsearchable) -> None:
    read = read_vectors(batch)
    for row in read.unreadable:
        unsearchable.add(row.row_id, row.reason)
    for block in read.blocks:
        dimensions = block.matrix.shape[1]
        if dimensions != request.vector.size:
            reason = wrong_dimension(dimensions, request.vector.size)
            for position in range(len(block.rows)):
                _add(unsearchable, block, position, reason)
            continue
        result = scores(block.matrix, request.vector, request.similarity)
        for position in np.flatnonzero(np.isnan(result)).tolist():
            _add(unsearchable, block, position, NO_SCORE)
        best.offer(result, block.id_at)


def _add(unsearchable: Unsearchable, block: VectorBlock, position: int, reason: str) -> None:
    unsearchable.add(block.id_at(position), reason)


def batch_size(dimensions: int) -> int:
    """How many rows are read at once."""
    return max(32, _NUMBERS_A_BATCH // dimensions)
