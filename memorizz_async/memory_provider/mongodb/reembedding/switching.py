"""The moment of a change of model: rows turn from their old vector to the one staged beside it."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from bson import Timestamp

from memorizz_async.errors import UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.pipelines import STAGED, all_of
from memorizz_async.memory_provider.mongodb.pipelines import models as queries
from memorizz_async.memory_provider.mongodb.protocol import Update
from memorizz_async.memory_provider.mongodb.reembedding.staging import Job, ids_of


async def flip(job: Job) -> int:
    """Turn every row whose staged vector is of the text that it has; how many. On the server, a
    thousand at a time, each row in one step.
    """
    flipped = 0
    async with aclosing(ids_of(job, queries.staged_filter(job.model))) as some:
        async for ids in some:
            flipped += await _flip_some(job, ids)
            job.last_flipped = ids[-1]
    return flipped


async def _flip_some(job: Job, ids: list[Any]) -> int:
    staged = queries.staged_filter(job.model, ids)
    try:
        return await job.driver.update_many(
            job.collection, staged, queries.flip_update(), deadline=job.deadline()
        )
    except UnsupportedOperationError:  # memory:// knows no updates by pipeline
        rows = await job.driver.find(
            job.collection, staged, projection={STAGED: 1}, deadline=job.deadline()
        )
        outcome = await job.driver.write_many(
            job.collection,
            [
                Update(
                    queries.staged_filter(job.model, [row["_id"]]), queries.flip_one(row[STAGED])
                )
                for row in rows
            ],
            deadline=job.deadline(),
        )
        return outcome.matched


async def drop_vectors(job: Job) -> int:
    """Take the old vectors off the rows that have no text to make a new one of; how many."""
    dropped = 0
    query = queries.without_text_filter(job.model)
    async with aclosing(ids_of(job, query)) as some:
        async for ids in some:
            dropped += await job.driver.update_many(
                job.collection,
                all_of({"_id": {"$in": ids}}, query),
                queries.drop_vector_update(),
                deadline=job.deadline(),
            )
    return dropped


async def tidy(job: Job) -> None:
    """Remove what is still staged: of an earlier change to another model that was given up."""
    async with aclosing(ids_of(job, queries.any_staged_filter())) as some:
        async for ids in some:
            await job.driver.update_many(
                job.collection,
                {"_id": {"$in": ids}},
                queries.unstage_update(),
                deadline=job.deadline(),
            )


async def now_on_the_server(job: Job) -> Timestamp | None:
    """The server's logical time; None where it has none."""
    try:
        reply = await job.driver.command({"ping": 1}, deadline=job.deadline())
    except UnsupportedOperationError:
        return None
    at = reply.get("operationTime")
    return at if isinstance(at, Timestamp) else None
