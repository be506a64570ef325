"""What a search and a recall give back: lists and dicts that also know how they came about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from memorizz_async.config import RecallMode
from memorizz_async.enums.memory_type import MemoryType, memory_type_of, name_of
from memorizz_async.errors import MemorizzAsyncError, StoredEmbeddingError, UnknownMemoryTypeError
from memorizz_async.markup import Summarized, hits_html, recall_html

Hit = dict[str, Any]


@dataclass(frozen=True)
class FoundBy(Summarized):
    """One way in which a hit was found. rank counts from 1; score is of that way alone."""

    how: str
    rank: int
    score: float


@dataclass(frozen=True)
class HitExplanation(Summarized):
    """How one hit came to its place: its `_id`, final rank (from 1) and score, and every way in
    which it was found, as it was before they were put together.
    """

    id: Any
    rank: int
    score: float
    found_by: tuple[FoundBy, ...]


@dataclass(frozen=True, repr=False)
class Explanation(Summarized):
    """How a query was answered.

    strategy: as in `Hits`; why: the reason for it; index: the search index that answered, or None.
    exact: whether every row of the scope was compared.
    scope, filter: what was in force; filter is `{}` where there was none, and None where it could
        match no row, so that nobody was asked.
    problems: what is wrong with rows that could not be used in full, and what to do, by their `_id`
        as text: of the hits, and the first 20 of those that could not be compared with the query.
    hits: in their order. steps_ms: milliseconds by step; the embedding is shared by its batch.
    """

    strategy: str
    why: str
    index: str | None
    exact: bool
    scope: Mapping[str, Any]
    filter: Mapping[str, Any] | None
    hits: Sequence[HitExplanation]
    steps_ms: Mapping[str, float]
    problems: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> Mapping[str, object]:
        """Without the scope and the filter, whose values are the caller's."""
        return {
            "strategy": self.strategy,
            "why": self.why,
            "index": self.index,
            "exact": self.exact,
            "hits": len(self.hits),
            "steps_ms": self.steps_ms,
        }

    def details(self) -> Sequence[Mapping[str, object]]:
        """How each hit was found."""
        return [
            {
                "rank": hit.rank,
                "_id": hit.id,
                "score": hit.score,
                "found by": ", ".join(
                    f"{way.how} (rank {way.rank}, score {way.score:.4g})" for way in hit.found_by
                ),
            }
            for hit in self.hits
        ]


class Hits(list[Hit]):
    """The rows that a query found, the best first.

    strategy: how their vectors were searched: `atlas`, `resident` or `scan`; `text` where only
        words were; `none` where no row could match the filter.
    mode: `hybrid`, `vector` or `text`: what the order of the hits comes from.
    unsearchable: rows of the scope that could not be compared with the query, where there are any.
    explain: how they were found, where the query had `explain=True`.
    """

    def __init__(
        self,
        rows: Iterable[Hit] = (),
        *,
        strategy: str = "",
        unsearchable: StoredEmbeddingError | None = None,
        explain: Explanation | None = None,
        mode: RecallMode = "vector",
    ) -> None:
        super().__init__(rows)
        self.strategy = strategy
        self.mode = mode
        self.explain = explain
        self.unsearchable = unsearchable

    def __repr__(self) -> str:
        left_out = f", {self.unsearchable.count} rows unsearchable" if self.unsearchable else ""
        return f"<Hits {len(self)}, mode {self.mode}, strategy {self.strategy or None}{left_out}>"

    def __str__(self) -> str:
        """The hits in full, as a list shows them: for `print`."""
        return list.__repr__(self)

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        about = f"{len(self)} hits, searched by {self.strategy or 'nobody'}, mode {self.mode}"
        if self.unsearchable is not None:
            about += f"; {self.unsearchable}"
        return hits_html(self, about)


class BatchResults(dict[str, Hits]):
    """The hits of each query of a batch under its key, in the order of the batch.

    errors: key -> what went wrong: a query that failed (its key then has no hits, rather than an
        empty list), or rows of its scope that could not be searched (its key then has the others).
    embedding_ms: how long embedding took; 0.0 where every query brought its own.
    queries_ms: key -> how long its query took, in milliseconds; they ran at the same time.
    types: key -> the memory type that was asked, also of queries that failed.
    """

    def __init__(
        self,
        hits: Mapping[str, Hits] | None = None,
        *,
        types: Mapping[str, MemoryType] | None = None,
        errors: Mapping[str, MemorizzAsyncError] | None = None,
        embedding_ms: float = 0.0,
        queries_ms: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(hits or {})
        self.types: dict[str, MemoryType] = dict(types or {})
        self.embedding_ms = embedding_ms
        self.errors: dict[str, MemorizzAsyncError] = dict(errors or {})
        self.queries_ms: dict[str, float] = dict(queries_ms or {})

    def __repr__(self) -> str:
        found = ", ".join(f"{key}: {len(hits)}" for key, hits in self.items())
        failed = f", errors: {', '.join(self.errors)}" if self.errors else ""
        return f"<{type(self).__name__} {found or 'no hits'}{failed}>"

    def __str__(self) -> str:
        """The hits in full, as a dict shows them: for `print`."""
        return "{" + ", ".join(f"{key!r}: {hits}" for key, hits in self.items()) + "}"

    @property
    def explain(self) -> dict[str, Explanation]:
        """How each query was answered, by its key: of those that had `explain=True`."""
        return {key: hits.explain for key, hits in self.items() if hits.explain is not None}

    def _repr_html_(self) -> str:
        """Failures, hits by key, and where the time went, for notebooks."""
        return recall_html(
            self, self.errors, embedding_ms=self.embedding_ms, queries_ms=self.queries_ms
        )


@dataclass(frozen=True, repr=False)
class Timings(Summarized):
    """Where the time of a recall went, in milliseconds.

    embedding_ms: computing the query's embedding; 0.0 where the caller gave one.
    queries_ms: each query, by the key of its results; they ran at the same time.
    total_ms: the whole call.
    """

    embedding_ms: float = 0.0
    queries_ms: Mapping[str, float] = field(default_factory=dict)
    total_ms: float = 0.0

    def summary(self) -> Mapping[str, object]:
        """All of it."""
        return {
            "total_ms": self.total_ms,
            "embedding_ms": self.embedding_ms,
            "queries_ms": self.queries_ms,
        }


class RecallResults(BatchResults):
    """Memories by memory type, under the names that the caller used.

    `results["LONG_TERM_MEMORY"]`, `results[MemoryType.LONG_TERM_MEMORY]`, memorizz's own enum and
    the type's value all find the same hits; so do `in` and `get`.

    timings: where the time went. errors: see BatchResults.
    """

    def __init__(self, batch: BatchResults, *, total_ms: float) -> None:
        super().__init__(
            batch,
            types=batch.types,
            errors=batch.errors,
            embedding_ms=batch.embedding_ms,
            queries_ms=batch.queries_ms,
        )
        self.timings = Timings(batch.embedding_ms, batch.queries_ms, total_ms)

    def _repr_html_(self) -> str:
        """As of a batch, with the time of the whole call."""
        times = self.timings
        return recall_html(
            self,
            self.errors,
            embedding_ms=times.embedding_ms,
            queries_ms=times.queries_ms,
            total_ms=times.total_ms,
        )

    def __getitem__(self, key: Any) -> Hits:
        found = self._key(key)
        if found is None:
            failed = self._named(self.errors, key)
            if failed is not None:
                raise KeyError(f"the query of {failed} failed: {self.errors[failed]}")
            there = ", ".join(self) or "none"
            raise KeyError(f"{name_of(key)} was not asked for; there are {there}")
        return super().__getitem__(found)

    def __contains__(self, key: object) -> bool:
        return self._key(key) is not None

    def get(self, key: Any, default: Any = None) -> Any:
        """The hits of a memory type, however it is named, else the default."""
        found = self._key(key)
        return default if found is None else super().__getitem__(found)

    def _key(self, key: object) -> str | None:
        return self._named(self.keys(), key)

    def _named(self, names: Iterable[str], key: object) -> str | None:
        """The name, of those given, that means the memory type of the key: the same word first."""
        if not isinstance(key, str | Enum):
            return None
        known = list(names)
        if name_of(key) in known:
            return name_of(key)
        try:
            wanted = memory_type_of(key)
        except UnknownMemoryTypeError:
            return None
        same_type = [name for name in known if self.types.get(name) is wanted]
        same_store = [
            name for name in known if name in self.types and self.types[name].store is wanted.store
        ]
        return next(iter(same_type + same_store), None)
