"""Which search a server gets: `$vectorSearch` where an index can serve it, else an exact one."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any

from bson import Timestamp

from memorizz_async.config import MongoDBConfig
from memorizz_async.errors import (
    AuthenticationError,
    DatabaseError,
    StoredEmbeddingError,
    UnsupportedOperationError,
)
from memorizz_async.fork import ForkSafeLock
from memorizz_async.memory_provider.mongodb.filters import paths_of
from memorizz_async.memory_provider.mongodb.pipelines import (
    id_projection,
    other_vectors_filter,
    scan_filter,
    scan_projection,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search import (
    atlas,
    halves,
    index_state,
    scan,
)
from memorizz_async.memory_provider.mongodb.vector_search.own_model import refuse_others
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    Unsearchable,
    step,
    wrong_dimension,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident import ResidentStore
from memorizz_async.memory_provider.mongodb.vector_search.resident_ranking import (
    ResidentRanking,
)
from memorizz_async.vectors import stored_vector

log = logging.getLogger(__name__)

_Need = tuple[str, int, frozenset[str]]  # a collection, a dimension, the fields of the filter

_ASK_AGAIN_S = 30.0
"""How long an index that could not serve is left alone before it is looked at again."""
_BELIEVE_S = 300.0
"""How long an index that could serve is believed in, where its answers give no reason to doubt: it
may have been given another similarity meanwhile, which no answer shows."""


_NOT_ON_A_VIEW = frozenset({166, 167})
"""CommandNotSupportedOnView, OptionNotSupportedOnView."""
_ENSURE = "ensure_indexes_async()"
_NO_EXISTS = "$vectorSearch of this age of server cannot ask for rows that have no owner"


class PreparedSearch:
    """One search whose strategy is chosen.

    ranking: how the rows rank, where there are any in memory: for who wants fewer rows than ranks.
    """

    def __init__(
        self,
        request: SearchRequest,
        work: Callable[[], Awaitable[SearchAnswer]],
        ranking: ResidentRanking | None = None,
    ) -> None:
        self._request, self._work = request, work
        self.ranking = ranking

    async def search(self) -> SearchAnswer:
        """The best rows. Raises DatabaseError, StoredEmbeddingError, and of those
        EmbeddingModelMismatchError where one of the rows is of another model than the query.
        """
        answer = await self._work()
        refuse_others(self._request, (row for row, _ in answer.rows))
        return answer


class VectorSearch:
    """Chooses the strategy of each search, and remembers what the server can do.

    With `search_strategy="auto"` an index that is missing, still being built or short of a filter
    field leads to an exact search, slower and right, with one line in the log; with "atlas" it is
    an error. "resident" and "scan" never ask. An exact search is one in memory where the server has
    change streams, and else a scan.

    An index is looked at before it is first used, and again when it gives reason to: an error about
    the index, or an empty answer for a scope that has rows. On Atlas an index that was dropped
    answers with no rows and no error, and that must never look like "no memories".
    """

    def __init__(self, config: MongoDBConfig) -> None:
        self._strategy = config.search_strategy
        self.index_name = config.vector_index_name
        self._no_search: str | None = (
            None
            if self._strategy in ("auto", "atlas")
            else f"search_strategy is {self._strategy!r}"
        )
        self._usable_until: dict[_Need, float] = {}
        self._left_alone: dict[_Need, tuple[float, str]] = {}
        self._said: set[str] = set()
        self._no_exists = False
        self._written: dict[str, Timestamp] = {}
        self._written_lock = ForkSafeLock()  # a provider may be used from loops in many threads

    async def prepare(
        self, driver: Driver, residents: ResidentStore, request: SearchRequest
    ) -> PreparedSearch:
        """Choose the strategy of a search, and do what comes before it. Raises DatabaseError."""
        if request.changing is not None:
            _note(request, "rows are changing their embedding model: each by its own", None)
            return PreparedSearch(request, partial(halves.search, driver, request))
        if request.only:
            _note(request, "rows of other embedding models are left out", None)
            return PreparedSearch(request, partial(scan.search, driver, request))
        if request.consistency == "strong":
            _note(request, "consistency is 'strong': the server was asked", None)
            return PreparedSearch(request, partial(scan.search, driver, request))
        with step(request.trace, "choice of the strategy"):
            why_not = await self.why_not_the_index(driver, request)
        if why_not is None:
            by_index = partial(self._by_index_or_exactly, driver, residents, request)
            return PreparedSearch(request, by_index)
        return await self._exactly(driver, residents, request, why_not)

    async def _exactly(
        self, driver: Driver, residents: ResidentStore, request: SearchRequest, why: str
    ) -> PreparedSearch:
        """A search in memory, else a scan. why: why it is not by the index."""
        _note(request, why, None)
        if self._strategy != "scan":
            ranking = await residents.ranking(request, self._written.get(request.collection))
            if isinstance(ranking, ResidentRanking):
                in_memory = partial(self._in_memory, driver, request, ranking, why)
                return PreparedSearch(request, in_memory, ranking if ranking.has_rows else None)
            _note(request, f"{why}; {ranking}", None)
        return PreparedSearch(request, partial(scan.search, driver, request))

    async def _by_index_or_exactly(
        self, driver: Driver, residents: ResidentStore, request: SearchRequest
    ) -> SearchAnswer:
        answer = await self._by_index(driver, request)
        if isinstance(answer, SearchAnswer):
            _note(request, f"{self.index_name!r} serves it", self.index_name)
            if request.trace is not None and answer.unsearchable is None:
                answer.unsearchable = await _left_out_by_the_index(driver, request)
            return answer
        return await (await self._exactly(driver, residents, request, answer)).search()

    async def _in_memory(
        self, driver: Driver, request: SearchRequest, ranking: ResidentRanking, why: str
    ) -> SearchAnswer:
        found = await ranking.search()
        if isinstance(found, SearchAnswer):
            return found
        _note(request, f"{why}; {found}", None)
        return await scan.search(driver, request)

    def written(self, collection: str, at: Timestamp) -> None:
        """Rows were written: what is searched for from now on must know of them."""
        with self._written_lock:
            self._written[collection] = max(at, self._written.get(collection, at))

    def forget(self) -> None:
        """Look at the indexes anew on the next search: they have just been changed."""
        self._usable_until.clear()
        self._left_alone.clear()
        self._said.clear()

    async def why_not_the_index(self, driver: Driver, request: SearchRequest) -> str | None:
        """Why the index cannot serve the request; None where it can.

        Raises DatabaseError where the server fails, and with "atlas" where the index cannot serve.
        """
        if self._no_search is not None:
            return self._no_search
        if self._no_exists and self._strategy == "auto" and atlas.asks_for_nobodys(request.scope):
            return _NO_EXISTS
        need, now = _need(request), time.monotonic()
        if now < self._usable_until.get(need, 0.0):
            return None
        again_at, reason = self._left_alone.get(need, (0.0, ""))
        if now < again_at:
            return reason
        return await self._look(driver, request)

    async def _look(self, driver: Driver, request: SearchRequest) -> str | None:
        need = _need(request)
        try:
            state = await index_state.look(
                driver, request.collection, self.index_name, request.deadline
            )
        except DatabaseError as error:
            return self._given_up(driver, request, error)
        if state is None:
            problem: str | None = (
                f"{request.collection!r} has no search index named {self.index_name!r}"
            )
        else:
            problem = index_state.problem(
                state,
                dimensions=request.vector.size,
                similarity=request.similarity,
                filter_paths=need[2],
            )
        if problem is None:
            self._usable_until[need] = time.monotonic() + _BELIEVE_S
            return None
        if self._strategy == "atlas":
            self._usable_until.pop(need, None)
            raise DatabaseError(
                "The search index cannot serve this query",
                seen=problem,
                fix='run ensure_indexes_async(), or use search_strategy="auto"',
            )
        return self._leave_alone(need, problem)

    async def _by_index(self, driver: Driver, request: SearchRequest) -> SearchAnswer | str:
        """The answer of the index, or why another strategy has to give it."""
        try:
            answer = await atlas.search(
                driver, request, self.index_name, exists=not self._no_exists
            )
        except DatabaseError as error:
            if self._no_exists or not atlas.takes_no_exists(error):
                return self._given_up(driver, request, error)
            self._no_exists = True
            log.info("%s: searching exactly for those", _NO_EXISTS)
            return _NO_EXISTS if self._strategy == "auto" else await self._by_index(driver, request)
        return answer if answer.rows else await self._believed(driver, request, answer)

    async def _believed(
        self, driver: Driver, request: SearchRequest, empty: SearchAnswer
    ) -> SearchAnswer | str:
        """The empty answer where there is nothing; else why another strategy has to answer."""
        with step(request.trace, "is there really nothing?"):
            there = await driver.find(
                request.collection,
                scan_filter(request.conditions, request.now),
                projection=id_projection(),
                limit=1,
                deadline=request.deadline,
            )
            if not there:
                return empty
            why_not = await self._look(driver, request)
        if why_not is not None:
            return why_not
        if self._strategy == "atlas":
            return empty
        return f"{self.index_name!r} has not caught up with the rows of this scope"

    def _given_up(self, driver: Driver, request: SearchRequest, error: DatabaseError) -> str:
        """Why another strategy has to answer; raises the error where none can."""
        if atlas.has_no_search(error) or isinstance(error, UnsupportedOperationError):
            return self._no_search_here(driver, error)
        if self._strategy == "auto" and _is_not_allowed(error):
            reason = f"{request.collection!r}: {error.what} (code {error.code})"
            return self._leave_alone(_need(request), reason, "the action listSearchIndexes")
        explained = atlas.trouble(error)
        if explained is None:
            raise error
        if self._strategy == "atlas":
            self._usable_until.pop(_need(request), None)
            raise explained from error
        return self._leave_alone(_need(request), f"{request.collection!r}: {explained}")

    def _leave_alone(self, need: _Need, reason: str, mends: str = _ENSURE) -> str:
        self._usable_until.pop(need, None)
        self._left_alone[need] = (time.monotonic() + _ASK_AGAIN_S, reason)
        if reason not in self._said:
            self._said.add(reason)
            log.warning("%s: searching without it; %s mends it", reason, mends)
        return reason

    def _no_search_here(self, driver: Driver, error: DatabaseError) -> str:
        if self._strategy == "atlas":
            raise UnsupportedOperationError(
                f"The server at {driver.address} has no $vectorSearch",
                seen=error.seen,
                fix='use search_strategy="auto", or connect to Atlas or a server with mongot',
                code=error.code,
            ) from error
        if self._no_search is None:  # several first searches may run at once: say it once
            self._no_search = f"no $vectorSearch at {driver.address}"
            log.info("%s: searching exactly", self._no_search)
        return self._no_search


async def _left_out_by_the_index(
    driver: Driver, request: SearchRequest
) -> StoredEmbeddingError | None:
    """The rows of the scope that no index of this dimension has, for who wants an explanation."""
    rows = await driver.find(
        request.collection,
        other_vectors_filter(request.conditions, request.vector.size, request.now),
        projection=scan_projection(),
        limit=Unsearchable.remembered,
        deadline=request.deadline,
    )
    found = Unsearchable()
    for row in rows:
        try:
            stored = stored_vector(row.get("embedding")).size
            found.add(row["_id"], wrong_dimension(stored, request.vector.size))
        except (TypeError, ValueError) as error:
            found.add(row["_id"], str(error))
    return found.error(request.collection, request.vector.size)


def _is_not_allowed(error: DatabaseError) -> bool:
    """Whether the user may not look at search indexes, or the collection is a view without any.

    An exact search needs no more than the right to read, and says so itself where that is missing.
    """
    return isinstance(error, AuthenticationError) or error.code in _NOT_ON_A_VIEW


def _need(request: SearchRequest) -> _Need:
    paths = frozenset((*_paths(request.scope), *paths_of(request.filter)))
    return (request.collection, request.vector.size, paths)


def _note(request: SearchRequest, why: str, index: str | None) -> None:
    if request.trace is not None:
        request.trace.why, request.trace.index = why, index


def _paths(conditions: Mapping[str, Any]) -> Iterator[str]:
    """The fields that a filter names."""
    for key, value in conditions.items():
        if key.startswith("$"):
            for part in value:
                yield from _paths(part)
        else:
            yield key
