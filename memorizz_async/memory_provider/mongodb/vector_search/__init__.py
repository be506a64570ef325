"""Which search a server gets: `$vectorSearch` where an index can serve it, else the exact scan."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from bson import Timestamp

from memorizz_async.config import MongoDBConfig
from memorizz_async.errors import DatabaseError, UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search import atlas, scan
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident import ResidentStore

log = logging.getLogger(__name__)

_Need = tuple[str, int, frozenset[str]]  # a collection, a dimension, the fields of the filter

_ASK_AGAIN_S = 30.0
"""How long an index that could not serve is left alone before it is looked at again."""


class VectorSearch:
    """Chooses the strategy of each search, and remembers what the server can do.

    With `search_strategy="auto"` an index that is missing, still being built or short of a filter
    field leads to an exact search, slower and right, with one line in the log; with "atlas" it is
    an error. "resident" and "scan" never ask. An exact search is one in memory where the server has
    change streams, and else a scan.
    """

    def __init__(self, config: MongoDBConfig) -> None:
        self._strategy = config.search_strategy
        self._index = config.vector_index_name
        asks = self._strategy in ("auto", "atlas")
        self._server_has_search: bool | None = None if asks else False
        self._written: dict[str, Timestamp] = {}
        self._written_lock = threading.Lock()  # a provider may be used from loops in many threads
        self._usable: set[_Need] = set()
        self._look_again: dict[_Need, float] = {}

    async def search(
        self, driver: Driver, residents: ResidentStore, request: SearchRequest
    ) -> SearchAnswer:
        """The best rows of the scope. Raises DatabaseError and StoredEmbeddingError."""
        if request.consistency == "strong":
            return await scan.search(driver, request)
        if await self._can_use_index(driver, request):
            return await atlas.search(driver, request, self._index)
        if self._strategy != "scan":
            answer = await residents.search(request, self._written.get(request.collection))
            if answer is not None:
                return answer
        return await scan.search(driver, request)

    def written(self, collection: str, at: Timestamp) -> None:
        """Rows were written: what is searched for from now on must know of them."""
        with self._written_lock:
            self._written[collection] = max(at, self._written.get(collection, at))

    def forget(self) -> None:
        """Look at the indexes anew on the next search: they have just been changed."""
        self._usable.clear()
        self._look_again.clear()

    async def _can_use_index(self, driver: Driver, request: SearchRequest) -> bool:
        need = (request.collection, request.vector.size, frozenset(_paths(request.scope)))
        if self._server_has_search is False:
            return False
        if need in self._usable:
            return True
        if time.monotonic() < self._look_again.get(need, 0.0):
            return False
        try:
            problem = await atlas.index_problem(driver, request, self._index, need[2])
        except DatabaseError as error:
            if not (atlas.has_no_search(error) or isinstance(error, UnsupportedOperationError)):
                raise
            self._no_search(driver, error)
            return False
        self._server_has_search = True
        if problem is None:
            self._usable.add(need)
            return True
        if self._strategy == "atlas":
            raise DatabaseError(
                "The search index cannot serve this query",
                seen=problem,
                fix='run ensure_indexes_async(), or use search_strategy="auto"',
            )
        self._look_again[need] = time.monotonic() + _ASK_AGAIN_S
        log.warning("%s: searching without it; ensure_indexes_async() mends it", problem)
        return False

    def _no_search(self, driver: Driver, error: DatabaseError) -> None:
        if self._strategy == "atlas":
            raise UnsupportedOperationError(
                f"The server at {driver.address} has no $vectorSearch",
                seen=error.seen,
                fix='use search_strategy="auto", or connect to Atlas or a server with mongot',
                code=error.code,
            ) from error
        if self._server_has_search is None:  # several first searches may run at once: say it once
            log.info("no $vectorSearch at %s: searching exactly", driver.address)
        self._server_has_search = False


def _paths(conditions: Mapping[str, Any]) -> Iterator[str]:
    """The fields that a filter names."""
    for key, value in conditions.items():
        if key.startswith("$"):
            for part in value:
                yield from _paths(part)
        else:
            yield key
