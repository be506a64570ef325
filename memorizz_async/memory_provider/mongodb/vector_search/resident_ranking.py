"""How the rows of a scope in memory rank by one query: known without reading any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW
from memorizz_async.memory_provider.mongodb.pipelines import id_projection, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.hits import Found, rows_of_the_best
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    step,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident_scope import ResidentScope
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores

NAME = "resident"

_ON_THE_LOOP = 8_000_000
"""So many numbers take a millisecond, and the detour through a thread as long on a busy machine.
More go to a worker thread; numpy lets the loop run meanwhile.
"""


class ResidentRanking:
    """One query of a scope in memory, as that is at the moment when this is made.

    unsearchable: the rows that cannot be compared with the query, if there are any.
    """

    name = NAME

    def __init__(self, driver: Driver, scope: ResidentScope, request: SearchRequest) -> None:
        self._driver, self._scope, self._request = driver, scope, request
        dimensions, now_ms = request.vector.size, request.now_ms
        self._snapshot = scope.snapshot(dimensions, now_ms, request.filter)
        found = scope.unsearchable(dimensions, now_ms, request.filter)
        self.unsearchable = found.error(request.collection, dimensions)

    @property
    def has_rows(self) -> bool:
        """Whether the scope has rows that can be compared, whatever a filter says of them."""
        return self._snapshot.numbers > 0

    async def best(self, without: Set[Hashable] = frozenset()) -> Found:
        """The best `limit` rows of the request, as a scan would find them; without some keys.

        Of whatever model they are, which is not known here: see `own_model.refuse_others`.
        """
        request = self._request
        arguments = (request.vector, request.similarity, request.limit, without)
        with step(request.trace, "search in memory"):
            if self._snapshot.numbers <= _ON_THE_LOOP:
                return self._snapshot.best(*arguments)
            return await asyncio.to_thread(self._snapshot.best, *arguments)

    def scores_of(self, keys: Sequence[Hashable]) -> NDArray[np.float32]:
        """The scores of rows that were found otherwise; NaN for one that cannot be compared.

        As they are now: a row that changed since then has its new score.
        """
        result = np.full(len(keys), np.nan, dtype=np.float32)
        at, vectors = self._scope.vectors_of(self._request.vector.size, keys)
        if at:
            result[at] = scores(vectors, self._request.vector, self._request.similarity)
        return result

    async def search(self) -> SearchAnswer | str:
        """The best rows with their scores, or why a scan has to give the answer.

        Raises DatabaseError.
        """
        rows = await rows_of_the_best(self._driver, self._request, self.best)
        if rows is None:
            return "much has changed in this very moment"
        if not rows:
            return await self._nothing()
        return SearchAnswer(NAME, rows, self.unsearchable)

    async def _nothing(self) -> SearchAnswer | str:
        """Nothing is said without having asked: the server may be gone."""
        request = self._request
        if self.unsearchable is not None or request.filter == EVERY_ROW or not self.has_rows:
            return "nothing in memory, and the server was asked"  # a scan of nothing costs little
        await self._driver.find(
            request.collection,
            rows_by_id_filter([], request.scope, request.now),
            projection=id_projection(),
            deadline=request.deadline,
        )
        return SearchAnswer(NAME, [])
