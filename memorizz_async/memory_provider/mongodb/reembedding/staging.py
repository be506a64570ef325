"""Making vectors of another model beside those that answer: in batches, resumable, idempotent.

There is no place to remember: a row that is staged says so, and is not read again. What is staged
names the text that it was made of, so that a row that is edited meanwhile is simply done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import (
    EmbeddingError,
    OperationTimeoutError,
    ReembedError,
    ServerUnavailableError,
)
from memorizz_async.memory_provider.mongodb.codec import decode_rows
from memorizz_async.memory_provider.mongodb.conversation import is_turn
from memorizz_async.memory_provider.mongodb.pipelines import id_projection
from memorizz_async.memory_provider.mongodb.pipelines import models as queries
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver, Update
from memorizz_async.memory_provider.mongodb.reembedding.report import TypeReport
from memorizz_async.memory_provider.mongodb.reembedding.texts import texts_of
from memorizz_async.vectors import Vector, to_bson

_PASS_MS = 600_000
"""A pass over the rows that takes longer is simply followed by another."""
_IN_FLIGHT = 2
"""Batches at once: while one is written and the next is read, the model has work."""
_MOST_FAILED = 1_000
_IDLE_PASSES = 20
_IDS_AT_ONCE = 1_000


@dataclass
class Job:
    """One collection on its way to a model.

    check: called between batches; raises where the right to go on is lost.
    tell: called whenever rows have been staged.
    """

    driver: Driver
    collection: str
    embedder: Embedder
    model: str
    dimensions: int
    batch_size: int
    call: CallTime
    report: TypeReport
    check: Callable[[], None]
    tell: Callable[[], None]
    in_vain: list[Any] = field(default_factory=list)
    last_flipped: Any = None

    def deadline(self) -> Deadline:
        return self.call.for_database()

    def pass_deadline(self) -> Deadline:
        """Of one pass over the rows: the caller's where there is one."""
        return self.call.bounded(_PASS_MS)

    async def count(self, query: Document) -> int:
        """How many rows match."""
        found = await self.driver.aggregate(
            self.collection, queries.count_pipeline(query), deadline=self.pass_deadline()
        )
        return int(found[0]["rows"]) if found else 0


async def stage(job: Job, *, leave: int = 0) -> int:
    """Embed every row that needs it, and what comes meanwhile, until no more are left; how many.

    leave: so many may be: while others write, there are always some.

    Rows that cannot be embedded are left out and reported. Raises EmbeddingError where the model
    fails altogether, DatabaseError, ReembedError.
    """
    staged = idle = 0
    while True:
        before = job.report.rows
        try:
            found, done = await _one_pass(job)
        except (ServerUnavailableError, OperationTimeoutError):
            if job.report.rows == before:
                raise
            # A long pass, or a connection that broke in it: what is staged stays so. Go on.
            staged += job.report.rows - before
            continue
        staged += done
        if found <= leave:
            return staged
        idle = 0 if done else idle + 1
        if idle == _IDLE_PASSES:
            raise ReembedError(
                f"Rows of {job.collection!r} change faster than they can be embedded",
                seen=f"{found} rows, none of which kept its text",
                fix="run it again at a quieter time",
            )


async def _one_pass(job: Job) -> tuple[int, int]:
    """Once over the rows; how many needed a vector, and how many have got one."""
    found, work = 0, _Work()
    batches = job.driver.raw_batches(
        job.collection,
        queries.to_embed_filter(job.model, job.in_vain),
        projection=queries.to_embed_projection(),
        batch_size=job.batch_size,
        deadline=job.pass_deadline(),
    )
    try:
        async with aclosing(batches):
            async for batch in batches:
                rows, undecodable = decode_rows(batch)
                found += len(rows)
                for row in undecodable:
                    _fail(job, row["_id"], "its text is not UTF-8")
                for start in range(0, len(rows), job.batch_size):
                    await work.room()
                    job.check()
                    work.start(_stage_rows(job, rows[start : start + job.batch_size]))
        await work.room(_IN_FLIGHT)
    finally:
        await work.end()
    return found, work.done


class _Work:
    """A few batches at once, owned: `end` leaves none behind. done: the sum of what they return."""

    def __init__(self) -> None:
        self.done = 0
        self._running: set[asyncio.Task[int]] = set()

    async def room(self, places: int = 1) -> None:
        """Wait until so many more may start; raises what one of them has raised."""
        while len(self._running) > _IN_FLIGHT - places:
            ended, self._running = await asyncio.wait(
                self._running, return_when=asyncio.FIRST_COMPLETED
            )
            failed = [task for task in ended if task.exception() is not None]
            self.done += sum(task.result() for task in ended if task not in failed)
            if failed:
                failed[0].result()

    def start(self, work: Coroutine[Any, Any, int]) -> None:
        self._running.add(asyncio.create_task(work, name="memorizz-async reembed"))

    async def end(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _stage_rows(job: Job, rows: Sequence[Document]) -> int:
    fit = [row for row in rows if isinstance(row.get("content"), str | list)]
    given = await texts_of(job.driver, job.collection, fit, job.deadline())
    known = [(row, text) for row, text in zip(fit, given, strict=True) if text.strip()]
    fit, texts = [row for row, _ in known], [text for _, text in known]
    embedded = {id(row) for row in fit}
    for row in rows:
        if id(row) not in embedded:
            _fail(job, row["_id"], "its content is no text")
    if not fit:
        return 0
    updates: list[Update] = []
    ids: list[Any] = []
    for row, vector in zip(fit, await _embedded(job, texts), strict=True):
        if isinstance(vector, EmbeddingError):
            _fail(job, row["_id"], vector.what)
            continue
        if vector.size != job.dimensions:
            _fail(job, row["_id"], f"a vector of {vector.size} numbers, not {job.dimensions}")
            continue
        updates.append(
            Update(
                # A turn is also made of those before it, which a change of its context tells.
                queries.stage_filter(
                    row["_id"],
                    row["content"],
                    job.model,
                    {"context": row.get("context")} if is_turn(row) else {},
                ),
                queries.stage_update(job.model, to_bson(vector), row["content"]),
            )
        )
        ids.append(row["_id"])
    if not updates:
        return 0
    outcome = await job.driver.write_many(
        job.collection, updates, ordered=False, deadline=job.deadline()
    )
    for position, refusal in outcome.refused.items():
        _fail(job, ids[position], refusal.reason)  # such as a row that has grown too large
    job.report.rows += outcome.matched
    job.tell()
    return outcome.matched


async def _embedded(job: Job, texts: Sequence[str]) -> list[Vector | EmbeddingError]:
    """The vector of each text; where the batch failed, each alone, so that a bad text fails alone.

    Raises EmbeddingError where all do: then it is not the texts.
    """
    embed = job.embedder.encode_documents_async
    try:
        return list(await job.call.within("embedding", partial(embed, texts)))
    except EmbeddingError:
        outcomes: list[Vector | EmbeddingError] = []
        for text in texts:
            try:
                [vector] = await job.call.within("embedding", partial(embed, [text]))
                outcomes.append(vector)
            except EmbeddingError as reason:
                outcomes.append(reason)
        if len(texts) > 1 and all(isinstance(each, EmbeddingError) for each in outcomes):
            raise
        return outcomes


def _fail(job: Job, row_id: Any, reason: str) -> None:
    if row_id in job.in_vain:  # an id that is not UTF-8 cannot be left out of the next pass
        return
    job.in_vain.append(row_id)
    job.report.fail(str(row_id), reason)
    if len(job.in_vain) > _MOST_FAILED:
        raise ReembedError(
            f"More than {_MOST_FAILED} rows of {job.collection!r} cannot be embedded",
            seen=f"row {row_id}: {reason}",
            fix="look at the model and at those rows",
        )


async def ids_of(job: Job, query: Document) -> AsyncGenerator[list[Any], None]:
    """The ids of the rows that match, many at a time."""
    batches = job.driver.raw_batches(
        job.collection,
        query,
        projection=id_projection(),
        batch_size=_IDS_AT_ONCE,
        deadline=job.pass_deadline(),
    )
    async with aclosing(batches):
        async for batch in batches:
            ids = [row["_id"] for row in decode_rows(batch)[0]]
            for start in range(0, len(ids), _IDS_AT_ONCE):
                job.check()
                yield ids[start : start + _IDS_AT_ONCE]
