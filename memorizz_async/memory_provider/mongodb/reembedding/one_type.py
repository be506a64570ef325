"""Changing the embedding model of one collection, from where it stands to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from memorizz_async.errors import MemorizzAsyncError, ReembedError
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState
from memorizz_async.memory_provider.mongodb.embedding_models.states import GRACE_S, ModelStates
from memorizz_async.memory_provider.mongodb.pipelines import id_projection
from memorizz_async.memory_provider.mongodb.pipelines import models as queries
from memorizz_async.memory_provider.mongodb.reembedding.indexing import Indexing
from memorizz_async.memory_provider.mongodb.reembedding.lease import Lease
from memorizz_async.memory_provider.mongodb.reembedding.report import (
    SHOWN_IDS,
    OnUnembeddable,
    ReembedProgress,
    Step,
)
from memorizz_async.memory_provider.mongodb.reembedding.staging import Job, stage
from memorizz_async.memory_provider.mongodb.reembedding.switching import (
    drop_vectors,
    flip,
    now_on_the_server,
    tidy,
)

Tell = Callable[[ReembedProgress], None]


class OneType:
    """One collection's change of model, under its lease.

    alone: held while vectors are computed, so that of several types one is embedded at a time,
        while others switch.
    """

    def __init__(
        self,
        job: Job,
        lease: Lease,
        states: ModelStates,
        words: Words,
        *,
        on_unembeddable: OnUnembeddable,
        alone: asyncio.Lock,
        progress: Tell | None,
        indexing: Indexing,
    ) -> None:
        self._job = job
        self._lease = lease
        self._states = states
        self._words = words
        self._on_unembeddable = on_unembeddable
        self._alone = alone
        self._progress = progress
        self._indexing = indexing
        self._total = 0
        self._step: Step = "embedding"

    async def run(self) -> None:
        """Do it; an error of ours goes into the report of the type, and is not raised."""
        started, report = time.monotonic(), self._job.report
        self._job.tell = self.tell
        try:
            state = await self._lease.acquire()
            self._job.check = self._lease.check
            try:
                await self._from(state)
            finally:
                await self._lease.release()
        except MemorizzAsyncError as error:
            report.error = error
        finally:
            report.seconds = time.monotonic() - started

    def tell(self, step: Step | None = None) -> None:
        """Tell how far it is."""
        self._step = step or self._step
        if self._progress is not None:
            report = self._job.report
            rows = report.resumed + report.rows
            self._progress(
                ReembedProgress(
                    report.memory_type, report.collection, self._step, rows,
                    max(self._total, rows),
                )
            )  # fmt: skip

    async def _from(self, state: ModelState) -> None:
        job, report = self._job, self._job.report
        report.model_before, report.dimensions = state.model, job.dimensions
        self._check_target(state)
        await self._look(state)
        if state.model == job.model:
            await self._tidy_up(state)
            return
        if state.phase != "switching":
            await self._no_row_is_without_text()
            await self._lease.change(queries.begin_migrating(job.model, job.dimensions, _now()))
            async with self._alone:  # the last ones come once writers write with the new model
                await stage(job, leave=job.batch_size)
            self._nothing_failed()
            await self._no_row_is_without_text()
            await self._lease.change(queries.begin_switching(_now()))
        await self._switch()
        self.tell("done")
        report.index = await self._indexing.fits(job)

    def _check_target(self, state: ModelState) -> None:
        job = self._job
        if state.model == job.model and state.dimensions != job.dimensions:
            raise ReembedError(
                f"The rows of {job.collection!r} are of this model already, with another dimension",
                seen=f"{job.model!r} with {state.dimensions} numbers, not {job.dimensions}",
                fix="give the embedder another model_name, so that its rows can be told from those",
            )
        if state.phase == "switching" and state.target_model != job.model:
            raise ReembedError(
                f"The rows of {job.collection!r} are in the middle of changing to another model",
                seen=f"some are of {state.target_model!r} already",
                fix=f"end that first: {self._words.command(job.collection, state.target_model)}",
            )

    async def _look(self, state: ModelState) -> None:
        """Count what is there, for the progress and the report."""
        job, report = self._job, self._job.report
        todo = await job.count(queries.to_embed_filter(job.model))
        report.skipped = await job.count(queries.of_model(job.model))
        report.resumed = await job.count(
            {**queries.not_of_model(job.model), **queries.staged_filter(job.model)}
        )
        report.without_text = await job.count(queries.without_text_filter(job.model))
        self._total = report.resumed + todo
        self.tell("switching" if state.phase == "switching" else "embedding")

    async def _tidy_up(self, state: ModelState) -> None:
        """The model is in force already: single rows of others, and what a change to another one,
        which is hereby given up, has left behind.
        """
        job, report = self._job, self._job.report
        if state.phase != "active":
            await self._lease.change(
                queries.end_switching(job.model, job.dimensions, state.switched_at, _now())
            )
        if self._on_unembeddable == "drop_vector":
            report.dropped += await drop_vectors(job)
        async with self._alone:
            await self._settle()
        await tidy(job)
        self._nothing_failed()
        report.switched = True
        self.tell("done")

    async def _switch(self) -> None:
        """Turn all rows, then say that they are; see `embedding_models.states` for the pauses."""
        job, report = self._job, self._job.report
        self.tell("switching")
        await asyncio.sleep(GRACE_S)  # whoever believes the state from before has asked again
        if self._on_unembeddable == "drop_vector":
            report.dropped += await drop_vectors(job)
        await self._settle()
        await self._indexing.follows(job, job.last_flipped)
        at = await now_on_the_server(job)
        await self._lease.change(queries.end_switching(job.model, job.dimensions, at, _now()))
        report.switched = True
        await self._states.read(job.driver, [job.collection], job.deadline())
        await asyncio.sleep(GRACE_S)  # a write may have been on its way all the time
        if self._on_unembeddable == "drop_vector":
            report.dropped += await drop_vectors(job)
        await self._settle()
        await tidy(job)
        await self._no_row_is_without_text()
        self._nothing_failed()

    async def _settle(self) -> None:
        """Stage and turn rows until none is left of another model."""
        while True:
            flipped = await flip(self._job)
            if not flipped and not await stage(self._job):
                return

    async def _no_row_is_without_text(self) -> None:
        """Refuse to leave rows behind that no vector can be made for, unless that was asked for."""
        job = self._job
        if self._on_unembeddable == "drop_vector":
            return
        query = queries.without_text_filter(job.model)
        some = await job.driver.find(
            job.collection, query, projection=id_projection(), limit=SHOWN_IDS,
            deadline=job.pass_deadline(),
        )  # fmt: skip
        if some:
            job.report.without_text = count = await job.count(query)
            switched = job.report.switched  # they came meanwhile
            outcome = "they were left as they are" if switched else "nothing was switched"
            ids = ", ".join(str(row["_id"]) for row in some[:5])
            raise ReembedError(
                f"{count} rows of {job.collection!r} have a vector and no text: no other model can "
                f"embed them, and {outcome}",
                seen=f"rows {ids}{' and more' if count > len(some[:5]) else ''}",
                fix="give them content, delete them, or run it with "
                'on_unembeddable="drop_vector" (--drop-vectors): they stay, without a vector',
            )

    def _nothing_failed(self) -> None:
        report = self._job.report
        if report.failed_count:
            row_id, reason = next(iter(report.failed.items()))
            outcome = "is switched, but for those" if report.switched else "is not switched"
            raise ReembedError(
                f"{report.failed_count} rows of {report.collection!r} cannot be embedded: it "
                f"{outcome}",
                seen=f"row {row_id}: {reason}",
                fix="mend or delete those rows, then run it again: the others are done",
            )


def _now() -> datetime:
    return datetime.now(UTC)
