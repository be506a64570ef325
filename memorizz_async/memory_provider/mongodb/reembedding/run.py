"""Embedding the rows of memory types again: every type of a call, and its report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import ConfigurationError, ReembedError
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.states import ModelStates
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.reembedding.indexing import Indexing
from memorizz_async.memory_provider.mongodb.reembedding.lease import Lease
from memorizz_async.memory_provider.mongodb.reembedding.one_type import OneType, Tell
from memorizz_async.memory_provider.mongodb.reembedding.report import (
    OnUnembeddable,
    ReembedReport,
    TypeReport,
)
from memorizz_async.memory_provider.mongodb.reembedding.staging import Job

BATCH_SIZE = 256


async def reembed(
    driver: Driver,
    types: Mapping[str, str],
    embedder: Embedder,
    *,
    config: MongoDBConfig,
    filter_fields: Mapping[str, Sequence[str]],
    states: ModelStates,
    words: Words,
    batch_size: int,
    on_unembeddable: OnUnembeddable,
    progress: Tell | None,
    call: CallTime,
) -> ReembedReport:
    """Embed the rows of collections again. types: collection -> the name of its memory type.

    filter_fields: collection -> what its search index covers besides the vector.

    Raises ReembedError, with the report, where a type did not end; the others have. Raises
    ConfigurationError where the embedder's dimension is not the configured one.
    """
    started = time.monotonic()
    probe = await call.within("embedding", partial(embedder.encode_documents_async, ["dimension"]))
    model, dimensions = embedder.get_model_name(), int(probe.shape[1])
    if config.dimensions not in (None, dimensions):
        raise ConfigurationError(
            "The embedder's vectors are of another dimension than the one that is configured",
            seen=f"{model!r} makes {dimensions} numbers, MongoDBConfig(dimensions="
            f"{config.dimensions})",
            fix="leave dimensions out of the configuration while the model changes",
        )
    alone, indexing = asyncio.Lock(), Indexing(config, filter_fields)

    async def one(collection: str) -> TypeReport | None:
        if await states.derived(driver, collection, call.for_database(), writing=True) is None:
            return None
        report = TypeReport(types[collection], collection, model)
        job = Job(
            driver, collection, embedder, model, dimensions, batch_size, call, report,
            check=_always, tell=_always,
        )  # fmt: skip
        await OneType(
            job, Lease(driver, collection, call), states, words,
            on_unembeddable=on_unembeddable, alone=alone, progress=progress, indexing=indexing,
        ).run()  # fmt: skip
        return report

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(collection)) for collection in types]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    reports = [report for task in tasks if (report := task.result()) is not None]
    result = ReembedReport(
        model, dimensions, {one.memory_type: one for one in reports}, time.monotonic() - started
    )
    failed = [report for report in reports if report.error is not None]
    if failed:
        raise _unfinished(result, failed)
    return result


def _unfinished(report: ReembedReport, failed: Sequence[TypeReport]) -> ReembedError:
    first = failed[0].error
    assert first is not None
    names = ", ".join(one.memory_type for one in failed)
    error = ReembedError(
        f"{len(failed)} of {len(report.types)} memory types were not changed to {report.model!r} "
        f"to the end: {names}",
        report=report,
        seen=first.what if first.seen is None else f"{first.what.rstrip('.')}: {first.seen}",
        fix=first.fix or "run it again: it goes on where it stands",
    )
    error.__cause__ = first
    return error


def _always(*_: object) -> None:
    """Nothing forbids to go on, nobody wants to be told; until the type has begun."""
