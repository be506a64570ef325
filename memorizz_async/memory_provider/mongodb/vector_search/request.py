"""What a search is asked, and what it answers, whichever way it is carried out."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

from bson.datetime_ms import DatetimeMS

from memorizz_async.config import Consistency, RecallMode, Similarity
from memorizz_async.deadline import Deadline
from memorizz_async.errors import StoredEmbeddingError
from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW, Condition, for_find
from memorizz_async.memory_provider.mongodb.pipelines import all_of
from memorizz_async.memory_provider.mongodb.vector_search.ordering import id_key
from memorizz_async.results import FoundBy
from memorizz_async.vectors import Vector

NO_SCORE = "all zeros, or a value that is not finite"


def wrong_dimension(stored: int, asked: int) -> str:
    """Why a row of another dimension cannot be compared."""
    return f"{stored} numbers, not {asked}"


@dataclass
class Trace:
    """How a search went, for `explain=True`: who asks for none has none, and pays nothing.

    why: why this strategy. index: the search index that answered. steps_ms: milliseconds by step.
    found_by: for each row of the answer, in its order, how it was found; empty where each was found
        by the one strategy, and stands where that put it.
    """

    why: str = ""
    index: str | None = None
    steps_ms: dict[str, float] = field(default_factory=dict)
    found_by: list[tuple[FoundBy, ...]] = field(default_factory=list)


@contextmanager
def step(trace: Trace | None, name: str) -> Iterator[None]:
    """Note how long the block takes; a step that comes again is added up."""
    if trace is None:
        yield
        return
    started = time.perf_counter()
    try:
        yield
    finally:
        took = (time.perf_counter() - started) * 1000
        trace.steps_ms[name] = trace.steps_ms.get(name, 0.0) + took


@dataclass(frozen=True)
class Changing:
    """While rows change their embedding model: those of `model` are compared with `vector`."""

    model: str
    vector: Vector


@dataclass(frozen=True)
class SearchRequest:
    """One vector query: the best `limit` rows of a collection inside a scope, and of a filter.

    exact, num_candidates: for `$vectorSearch` alone; the other strategies are always exact.
    trace: where to note how it went, if anybody wants to know.
    model: what embedded the query; None where that is not known. Rows that name another are not
        compared with it.
    changing: what the rows of another model are compared with, while rows are changing theirs.
    only: more conditions on the rows that are compared, not on those that come back: a row may
        change its model in between. For a scan alone.
    """

    collection: str
    scope: Mapping[str, Any]
    vector: Vector
    limit: int
    similarity: Similarity
    include_embedding: bool
    now: datetime
    deadline: Deadline
    filter: Condition = EVERY_ROW
    exact: bool = False
    num_candidates: int | None = None
    consistency: Consistency = "session"
    trace: Trace | None = None
    model: str | None = None
    changing: Changing | None = None
    only: Mapping[str, Any] = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        """`now` in milliseconds since the epoch, as BSON sends it to the server."""
        return int(DatetimeMS(self.now))

    @property
    def conditions(self) -> dict[str, Any]:
        """Scope and filter for `find`. A filter never widens a scope: both must hold."""
        return all_of(self.scope, for_find(self.filter))


@dataclass
class SearchAnswer:
    """Rows with their scores, the best first, and the rows that could not be compared."""

    strategy: str
    rows: list[tuple[dict[str, Any], float]]
    unsearchable: StoredEmbeddingError | None = None
    mode: RecallMode = "vector"


@dataclass
class Unsearchable:
    """Counts rows that cannot be compared with a query, and remembers those with the lowest ids."""

    remembered: int = 20
    count: int = 0
    _first: list[tuple[Any, str, str]] = field(default_factory=list)

    def add(self, row_id: Any, reason: str) -> None:
        """Count a row; rows may come in any order."""
        self.count += 1
        key = id_key(row_id)
        if len(self._first) < self.remembered or key < self._first[-1][0]:
            insort(self._first, (key, str(row_id), reason), key=itemgetter(0))
            del self._first[self.remembered :]

    def error(self, collection: str, dimensions: int) -> StoredEmbeddingError | None:
        """The error that says so; None where there is nothing to say."""
        if not self.count:
            return None
        _, row_id, reason = self._first[0]
        noun = "row has a vector" if self.count == 1 else "rows have vectors"
        return StoredEmbeddingError(
            f"{self.count} {noun} in {collection!r} that cannot be compared with this query "
            f"of {dimensions} dimensions",
            rows={name: why for _, name, why in self._first},
            count=self.count,
            seen=f"row {row_id}: {reason}",
            fix="embed those rows again with the model of the query (`memorizz-async reembed`, or "
            "provider.reembed_async()), or delete them",
        )
