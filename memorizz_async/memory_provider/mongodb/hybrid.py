"""Recall by vectors and by words at once, fused into one order.

Where the vectors are in memory, the searches bring no rows but their ids and scores, and only the
rows that have won are read: one trip more to the server, and a fraction of what goes over the wire
and has to be decoded. Elsewhere both bring their rows, as the words' have to be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from math import isnan
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from memorizz_async.config import FusionName
from memorizz_async.errors import (
    EmbeddingModelMismatchError,
    StoredEmbeddingError,
    UnsupportedOperationError,
)
from memorizz_async.memory_provider.mongodb.pipelines import all_of, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.pipelines.models import (
    model_alone_projection,
    not_comparable_with,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.queries import Query
from memorizz_async.memory_provider.mongodb.rows import FUSED_SCORE, TEXT_SCORE
from memorizz_async.memory_provider.mongodb.text_search import (
    NAME,
    TextAnswer,
    TextIndex,
    TextSearch,
)
from memorizz_async.memory_provider.mongodb.vector_search import PreparedSearch
from memorizz_async.memory_provider.mongodb.vector_search.hits import (
    Found,
    key_of,
    rows_of_the_best,
)
from memorizz_async.memory_provider.mongodb.vector_search.ordering import by_id
from memorizz_async.memory_provider.mongodb.vector_search.own_model import comparable, refuse_others
from memorizz_async.memory_provider.mongodb.vector_search.request import (
    SearchAnswer,
    SearchRequest,
    step,
)
from memorizz_async.memory_provider.mongodb.vector_search.resident_ranking import (
    ResidentRanking,
)
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.results import FoundBy
from memorizz_async.retrieval.fusion import FUSIONS
from memorizz_async.validation import MAX_LIMIT
from memorizz_async.vectors import Vector, readable_vector

_AT_LEAST, _TIMES_THE_LIMIT = 50, 5
_MOST_BY_IDS = 1_000
"""With more candidates, comparing and fusing them takes the loop too long: a thread does it."""

Row = dict[str, Any]
Prepare = Callable[[SearchRequest], Awaitable[PreparedSearch]]
T = TypeVar("T")


class Standing(NamedTuple):
    """A candidate and its scores: NaN by vectors where it cannot be compared, by words where it has
    none of them.
    """

    key: Hashable
    row_id: Any
    vector: float
    text: float
    fused: float


def candidates_for(limit: int) -> int:
    """How many rows each search of a hybrid recall brings: 5 times the limit, at least 50."""
    return min(MAX_LIMIT, max(_AT_LEAST, _TIMES_THE_LIMIT * limit))


def wider(request: SearchRequest, limit: int) -> SearchRequest:
    """The request for more rows; an index must look at no fewer than are wanted of it."""
    least = None if request.num_candidates is None else max(request.num_candidates, limit)
    return replace(request, limit=limit, num_candidates=least)


def no_words(mode: str, reason: str) -> UnsupportedOperationError:
    """Why a mode that needs the words cannot be had."""
    return UnsupportedOperationError(
        f"A recall in mode {mode!r} needs a text index",
        seen=reason,
        fix="run ensure_indexes_async() or `memorizz-async indexes` on a MongoDB server, or use "
        'mode="vector"',
    )


@dataclass(frozen=True)
class HybridSearch:
    """One query by both searches, side by side, and the fusion of what they found."""

    driver: Driver
    texts: TextSearch
    index: TextIndex
    fusion: FusionName
    query: Query
    request: SearchRequest

    async def search(self, prepare: Prepare) -> SearchAnswer:
        """The rows that are the best by both; by the vectors alone where the words cannot be asked
        and no mode was asked for.

        Raises DatabaseError, StoredEmbeddingError, UnsupportedOperationError.
        """
        wide = wider(self.request, candidates_for(self.request.limit))
        prepared = await prepare(wide)
        answer = None
        if prepared.ranking is not None and wide.limit <= _MOST_BY_IDS:
            answer = await self._by_ids(wide, prepared, prepared.ranking)
        return answer or await self._by_rows(wide, prepared)

    async def _by_ids(
        self, wide: SearchRequest, prepared: PreparedSearch, ranking: ResidentRanking
    ) -> SearchAnswer | None:
        """Rank by what is in memory and by the words' scores, then read the winners.

        None where nothing passes the filter in memory, or too many of the winners are gone.
        """
        words = self._words(wide, order_only=True)
        by_words, best = await _both(words, self._best(wide, ranking))
        if isinstance(by_words, str):
            return self._without_words(by_words, await prepared.search())
        if not best:
            return None
        with step(wide.trace, "fusion"):
            found = {key_of(row_id): (row_id, score) for row_id, score in best}
            of_words = {key_of(row["_id"]): (row, score) for row, score in by_words.rows}
            others = [key for key in of_words if key not in found]
            for key, score in zip(others, ranking.scores_of(others).tolist(), strict=True):
                row = of_words[key][0]
                found[key] = (row["_id"], score if comparable(wide, row) else np.nan)
            order = self._order(found, of_words, complete=by_words.complete)

        async def winners(without: Set[Hashable]) -> Found:
            left = ((one.row_id, one.vector) for one in order if one.key not in without)
            return list(islice(left, self.request.limit))

        rows = await rows_of_the_best(self.driver, self.request, winners)
        if rows is None or len(rows) < min(self.request.limit, len(order)):
            return None
        refuse_others(wide, (row for row, score in rows if not isnan(score)))
        in_hand = {key_of(row["_id"]): row for row, _ in rows}
        won = [one for one in order if one.key in in_hand]
        self._explain(won, {ranking.name: best, NAME: _ids(by_words.rows)})
        return SearchAnswer(ranking.name, _shown(won, in_hand), ranking.unsearchable, "hybrid")

    async def _best(self, wide: SearchRequest, ranking: ResidentRanking) -> Found:
        """The candidates by their vectors; an error where one is of another model than the query.

        Memory knows no models. A candidate that does not win counts, too: its score, which means
        nothing, would shift what the others' are measured by.
        """
        await asyncio.sleep(0)  # the words of every type are on their way first
        best = await ranking.best()
        if best and wide.model is not None:
            with step(wide.trace, "models of the candidates"):
                ids = [row_id for row_id, _ in best]
                strays = await self.driver.find(
                    wide.collection,
                    all_of(
                        rows_by_id_filter(ids, wide.conditions, wide.now),
                        not_comparable_with(wide.model),
                    ),
                    projection=model_alone_projection(),
                    deadline=wide.deadline,
                )
            refuse_others(wide, strays)
        return best

    async def _by_rows(self, wide: SearchRequest, prepared: PreparedSearch) -> SearchAnswer:
        """Rank the rows that both searches bring."""
        # With vectors: a row found by its words alone is compared without another trip.
        with_vectors = replace(wide, include_embedding=True)
        by_words, by_vector = await _both(self._words(with_vectors), _or_report(prepared))
        if by_vector.unsearchable is not None and not by_vector.rows:
            return self._words_alone(by_words, by_vector.unsearchable)
        if isinstance(by_words, str):
            return self._without_words(by_words, by_vector)
        with step(wide.trace, "fusion"):  # in a thread: it may be of thousands of vectors
            won, rows = await asyncio.to_thread(self._fused, by_vector, by_words)
        self._explain(won, {by_vector.strategy: _ids(by_vector.rows), NAME: _ids(by_words.rows)})
        return replace(by_vector, rows=_shown(won, rows), mode="hybrid")

    async def _words(self, request: SearchRequest, *, order_only: bool = False) -> TextAnswer | str:
        words = self.query.words
        assert words is not None
        with step(request.trace, "words"):
            return await self.texts.search(
                self.driver, self.index, request, words, order_only=order_only
            )

    def _without_words(self, reason: str, by_vector: SearchAnswer) -> SearchAnswer:
        if self.query.mode is not None:
            raise no_words(self.query.mode, reason)
        return replace(by_vector, rows=by_vector.rows[: self.request.limit])

    def _words_alone(
        self, by_words: TextAnswer | str, report: StoredEmbeddingError
    ) -> SearchAnswer:
        """The rows that have the words, where no vector can be compared with the query.

        Rows without a vector have no part in that: they are not to be hidden by it. Where all that
        are found have one, raise the report.
        """
        if isinstance(by_words, str) or all(
            row.get("embedding") is not None for row, _ in by_words.rows
        ):
            raise report
        rows = by_words.rows[: self.request.limit]
        for row, _ in rows:
            if not self.request.include_embedding:
                row.pop("embedding", None)
        if self.request.trace is not None:
            self.request.trace.why += f"; no vector can be compared, {self.index.name!r} answers"
        return answer_by_words(rows, self.request, report)

    def _fused(
        self, by_vector: SearchAnswer, by_words: TextAnswer
    ) -> tuple[list[Standing], dict[Hashable, Row]]:
        """The winners, and all rows by their keys."""
        found = {key_of(row["_id"]): (row["_id"], score) for row, score in by_vector.rows}
        rows = {key_of(row["_id"]): row for row, _ in by_vector.rows}
        of_words = {key_of(row["_id"]): (row, score) for row, score in by_words.rows}
        others = {key: row for key, (row, _) in of_words.items() if key not in rows}
        exact = _exact(list(others.values()), self.request).tolist()
        for (key, row), score in zip(others.items(), exact, strict=True):
            if not self.request.include_embedding:
                row.pop("embedding", None)
            rows[key], found[key] = row, (row["_id"], score)
        order = self._order(found, of_words, complete=by_words.complete)
        return order[: self.request.limit], rows

    def _order(
        self,
        found: Mapping[Hashable, tuple[Any, float]],
        of_words: Mapping[Hashable, tuple[Row, float]],
        *,
        complete: bool,
    ) -> list[Standing]:
        """All candidates, the best first; of equals, the one with the lower id.

        found: the id and the vector's score by key. of_words: the row and its score by the words.
        complete: whether no other row has any of them.
        """
        if not found:
            return []
        # By id, whatever the searches: sums round by their order, and equals stay in it.
        keys, pairs = list(found), list(found.values())
        in_order = by_id([row_id for row_id, _ in pairs])
        keys, pairs = [keys[at] for at in in_order], [pairs[at] for at in in_order]
        vector = np.array([score for _, score in pairs], dtype=np.float64)
        scored = [of_words[key][1] if key in of_words else np.nan for key in keys]
        text = np.array(scored, dtype=np.float64)
        known = text
        if self.fusion == "zscore" and complete:
            known = np.nan_to_num(text, nan=0.0)  # that a row has none of the words is known, too
        fused = FUSIONS[self.fusion](vector, known)
        candidates = list(zip(keys, pairs, text.tolist(), fused.tolist(), strict=True))
        return [
            Standing(key, row_id, score, words, both)
            for key, (row_id, score), words, both in map(
                candidates.__getitem__, np.argsort(-fused, kind="stable").tolist()
            )
        ]

    def _explain(self, won: Sequence[Standing], found: Mapping[str, Found]) -> None:
        """Note how each search found each of the winners, where it did."""
        trace = self.request.trace
        if trace is None:
            return
        trace.why += f"; {self.index.name!r} has the words"
        ways: dict[Hashable, tuple[FoundBy, ...]] = {}
        for how, ranked in found.items():
            for rank, (row_id, score) in enumerate(ranked, start=1):
                key = key_of(row_id)
                ways[key] = (*ways.get(key, ()), FoundBy(how, rank, score))
        trace.found_by = [ways[one.key] for one in won]


async def _or_report(prepared: PreparedSearch) -> SearchAnswer:
    """The answer; without rows where no vector of the scope can be compared."""
    try:
        return await prepared.search()
    except EmbeddingModelMismatchError:
        raise
    except StoredEmbeddingError as report:
        return SearchAnswer("none", [], report)


def answer_by_words(
    found: Sequence[tuple[Row, float]],
    request: SearchRequest,
    unsearchable: StoredEmbeddingError | None = None,
) -> SearchAnswer:
    """The answer that words alone give. found: rows with their text scores, the best first."""
    if request.trace is not None:
        request.trace.found_by = [
            (FoundBy(NAME, rank, score),) for rank, (_, score) in enumerate(found, start=1)
        ]
    rows = [({**row, TEXT_SCORE: score}, score / (1 + score)) for row, score in found]
    return SearchAnswer(NAME, rows, unsearchable, mode="text")


async def _both(
    words: Awaitable[TextAnswer | str], vectors: Awaitable[T]
) -> tuple[TextAnswer | str, T]:
    """Both, side by side; of two errors the vectors'. The words first: the server works on them
    while what is in memory is searched.
    """
    by_words, by_vector = await asyncio.gather(words, vectors, return_exceptions=True)
    if isinstance(by_vector, BaseException):
        raise by_vector
    if isinstance(by_words, BaseException):
        raise by_words
    return by_words, by_vector


def _shown(won: Sequence[Standing], rows: Mapping[Hashable, Row]) -> list[tuple[Row, float]]:
    """The rows of the winners with all their scores; 0 for one that is not known."""
    shown = []
    for one in won:
        row = rows[one.key]
        row[TEXT_SCORE] = 0.0 if isnan(one.text) else one.text
        row[FUSED_SCORE] = one.fused
        shown.append((row, 0.0 if isnan(one.vector) else one.vector))
    return shown


def _ids(rows: Sequence[tuple[Row, float]]) -> Found:
    return [(row["_id"], score) for row, score in rows]


def _exact(rows: Sequence[Row], request: SearchRequest) -> NDArray[np.float32]:
    """The vector score of each row; NaN for one whose vector cannot be compared, or is missing."""
    result = np.full(len(rows), np.nan, dtype=np.float32)
    for query, some in _by_query(rows, request):
        known: dict[int, Vector] = {}
        for position in some:
            vector = readable_vector(rows[position])
            if vector is not None and vector.shape == query.shape:
                known[position] = vector
        if known:
            stacked = np.stack(list(known.values()))
            result[list(known)] = scores(stacked, query, request.similarity)
    return result


def _by_query(rows: Sequence[Row], request: SearchRequest) -> list[tuple[Vector, list[int]]]:
    """The query's vectors, each with the positions of the rows that are of its model."""
    changing = request.changing
    if changing is None:
        return [(request.vector, [at for at, row in enumerate(rows) if comparable(request, row)])]
    new = [at for at, row in enumerate(rows) if row.get("embedding_model") == changing.model]
    old = sorted(set(range(len(rows))) - set(new))
    return [(request.vector, old), (changing.vector, new)]
