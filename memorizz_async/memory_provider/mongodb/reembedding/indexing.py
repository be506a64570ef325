"""The search index beside a change of model: it follows the rows, or gets their new dimension."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError, OperationTimeoutError, ReembedError
from memorizz_async.memory_provider.mongodb.filters import parse_filter
from memorizz_async.memory_provider.mongodb.indexes import ensure_search, server_has_search
from memorizz_async.memory_provider.mongodb.pipelines import scan_projection
from memorizz_async.memory_provider.mongodb.reembedding.staging import Job
from memorizz_async.memory_provider.mongodb.vector_search import atlas
from memorizz_async.memory_provider.mongodb.vector_search.index_state import IndexState, look
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.vectors import readable_vector

log = logging.getLogger(__name__)

_FOLLOWS_WITHIN_MS = 60_000
_PAUSE_S = 0.2
_SAME = 1e-3
"""How far a score may be off that an index gives a row for its own vector."""


class Indexing:
    """The search indexes of one provider's collections.

    filter_fields: collection -> what its index covers besides the vector.
    """

    def __init__(self, config: MongoDBConfig, filter_fields: Mapping[str, Sequence[str]]) -> None:
        self._config = config
        self._filter_fields = filter_fields

    async def follows(self, job: Job, row_id: Any) -> None:
        """Wait until the index has a row's new vector, and so all that were changed before it.

        Until then it would compare old vectors with new queries. Returns at once where no index
        serves this dimension; where one takes more than a minute, with a warning.
        """
        index = await self._index(job)
        served = index is not None and index.is_vector and index.queryable
        if row_id is None or not served or self._dimensions(index) != job.dimensions:
            return
        deadline = job.call.bounded(_FOLLOWS_WITHIN_MS)
        rows = await job.driver.find(
            job.collection, {"_id": row_id}, projection=scan_projection(), deadline=deadline
        )
        if not rows:  # deleted meanwhile
            return
        vector = readable_vector(rows[0])
        if vector is None:  # overwritten meanwhile, by another program
            return
        similarity = self._config.similarity
        wanted = float(scores(vector[np.newaxis], vector, similarity)[0])
        request = SearchRequest(
            collection=job.collection,
            scope={},
            vector=vector,
            limit=1,
            similarity=similarity,
            include_embedding=False,
            now=datetime.now(UTC),
            deadline=deadline,
            filter=parse_filter({"_id": {"$in": [row_id]}}, ("_id",)),
            exact=True,
        )
        try:
            while True:
                answer = await atlas.search(job.driver, request, self._config.vector_index_name)
                if answer.rows and abs(answer.rows[0][1] - wanted) <= _SAME * max(1.0, abs(wanted)):
                    return
                job.check()
                await asyncio.sleep(min(_PAUSE_S, deadline.remaining_s("waiting for the index")))
        except OperationTimeoutError:
            log.warning(
                "the search index of %r has not followed its rows: for a while it may find less",
                job.collection,
            )
        except DatabaseError as error:  # an index made by hand, without the field _id
            log.info("the search index of %r cannot be watched: %s", job.collection, error)

    async def fits(self, job: Job) -> str | None:
        """Give the index the new dimension, where there is an index; what became of it.

        Meanwhile searches compare rows exactly. Raises ReembedError.
        """
        index = await self._index(job)
        if index is None:
            return None
        if self._dimensions(index) == job.dimensions:
            return "present"
        try:
            done = await ensure_search(
                job.driver,
                {job.collection: self._filter_fields[job.collection]},
                config=self._config,
                dimensions=job.dimensions,
                deadline=job.pass_deadline(),
            )
        except DatabaseError as error:
            raise ReembedError(
                f"The rows of {job.collection!r} are switched, but their search index is not ready",
                seen=str(error),
                fix="run ensure_indexes_async(); until then searches compare rows exactly",
            ) from error
        return done[job.collection]

    async def _index(self, job: Job) -> IndexState | None:
        deadline: Deadline = job.deadline()
        if not await server_has_search(job.driver, job.collection, deadline):
            return None
        return await look(job.driver, job.collection, self._config.vector_index_name, deadline)

    @staticmethod
    def _dimensions(index: IndexState | None) -> int | None:
        fields = () if index is None else index.definition.get("fields", ())
        return next(
            (field.get("numDimensions") for field in fields if field.get("path") == "embedding"),
            None,
        )
