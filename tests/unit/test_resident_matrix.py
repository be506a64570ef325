"""Vectors in memory: the same rows, scores and order as a scan of them, whatever came before."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.memory_provider.mongodb.filters import EVERY_ROW, parse_filter
from memorizz_async.memory_provider.mongodb.vector_search import resident_matrix
from memorizz_async.memory_provider.mongodb.vector_search.resident_matrix import VectorTable
from memorizz_async.memory_provider.mongodb.vector_search.resident_snapshot import NewRow
from memorizz_async.memory_provider.mongodb.vector_search.scoring import scores
from memorizz_async.memory_provider.mongodb.vector_search.top_k import TopK

Similarity = Literal["cosine", "dotProduct", "euclidean"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dotProduct", "euclidean")
scales = st.sampled_from([1.0, 1e-5, 1e-20, 1e18])
ones_and_twos = st.integers(1, 2)
rows = st.lists(st.tuples(*[st.integers(-2, 2)] * 3).filter(any), max_size=40)


def id_of(number: int) -> int:
    """The ids of rows are in another order than the rows."""
    return number * 7 % 41


def scanned(kept: dict[int, Any], query: Any, similarity: Similarity, limit: int) -> Any:
    """What a scan in the order of the rows finds."""
    best = TopK(limit)
    for number, vector in kept.items():
        best.offer(scores(vector[np.newaxis], query, similarity), lambda _, n=number: id_of(n))
    return best.best()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@given(
    vectors=rows,
    removed=st.one_of(
        st.sets(st.integers(0, 39)),
        st.builds(
            lambda first, step: set(range(first, 40, step)), st.integers(0, 6), ones_and_twos
        ),
    ),
    expired=st.sets(st.integers(0, 39)),
    query=st.tuples(*[st.integers(-2, 2)] * 3).filter(any),
    limit=st.integers(1, 12),
    scale=scales,
    query_scale=scales,
    every=st.integers(1, 9),
)
def test_a_table_finds_what_a_scan_finds(  # noqa: PLR0917 - hypothesis passes them by name
    similarity: Similarity,
    vectors: list[Any],
    removed: set[int],
    expired: set[int],
    query: Any,
    limit: int,
    scale: float,
    query_scale: float,
    every: int,
) -> None:
    """To the last bit, ties by id, after removals and rewriting of chunks, at any length, with a
    filter that few rows pass, many, or all.
    """
    table = VectorTable(3, ["f"])
    wanted = parse_filter({"f": 0}, ["f"])
    kept = {}
    asked = np.array(query, np.float32) * np.float32(query_scale)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resident_matrix, "_CHUNK_NUMBERS", 24)
        for number, vector in enumerate(vectors):
            row = np.array([vector], np.float32) * np.float32(scale)
            until = 5.0 if number in expired else np.inf
            values = (("number", number % every),)
            table.add(row, [NewRow(number, id_of(number), until)], [values])
            kept[number] = row[0]
        before, filtered = table.snapshot(0.0), table.snapshot(0.0, wanted)
        seen = before.best(asked, similarity, limit)
        passing = filtered.best(asked, similarity, limit)
        for number in removed & kept.keys():
            assert table.remove(number)
            del kept[number]
    assert len(table) == len(kept)
    assert before.best(asked, similarity, limit) == seen  # what a search sees stays as it was
    assert filtered.best(asked, similarity, limit) == passing
    here, of_rows = table.vectors_of(range(-1, len(vectors)))
    assert [number - 1 for number in here] == list(kept)
    assert of_rows.tolist() == [vector.tolist() for vector in kept.values()]
    alive = {number: vector for number, vector in kept.items() if number not in expired}
    assert len(table.snapshot(9.0)) == len(alive)
    assert sorted(row.key for row in table.snapshot(9.0).rows()) == sorted(alive)
    assert table.snapshot(9.0).best(asked, similarity, limit) == scanned(
        alive, asked, similarity, limit
    )
    some = {number: vector for number, vector in alive.items() if number % every == 0}
    found = table.snapshot(9.0, wanted)
    assert len(found) == len(some)
    assert sorted(row.key for row in found.rows()) == sorted(some)
    for _ in range(2):
        in_order = [row.row_id for row in table.lowest_ids(9.0, wanted, limit)]
        assert in_order == sorted(map(id_of, some))[:limit]
    assert found.best(asked, similarity, limit) == scanned(some, asked, similarity, limit)


def test_rows_left_out_are_replaced_by_the_next_best() -> None:
    """As many hits as asked for, without those that are known to be gone."""
    vectors = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    table = VectorTable(16)
    table.add(vectors, [NewRow(n, n, np.inf) for n in range(500)])
    snapshot = table.snapshot(0.0)
    ten = [row_id for row_id, _ in snapshot.best(vectors[3], "cosine", 10)]
    gone = set(ten[:4])
    six = [row_id for row_id, _ in snapshot.best(vectors[3], "cosine", 6, gone)]
    assert six == ten[4:]


def test_rows_that_memory_cannot_tell_are_known_for_as_long_as_they_live() -> None:
    """Neither an expired nor a removed one counts, before and after a chunk is written anew."""
    table = VectorTable(2, ["f", "g"])
    for number in range(6):
        values = (None if number == 0 else (), None if number == 1 else ())
        until = 5.0 if number == 1 else np.inf
        table.add(np.ones((1, 2), np.float32), [NewRow(number, number, until)], [values])
    assert (table.cannot_tell("f", 0.0), table.cannot_tell("g", 0.0)) == (True, True)
    assert (table.cannot_tell("f", 9.0), table.cannot_tell("g", 9.0)) == (True, False)
    for number in (2, 3, 4, 5):
        table.remove(number)
        assert table.cannot_tell("f", 0.0)
    table.remove(0)
    assert (table.cannot_tell("f", 0.0), table.cannot_tell("g", 0.0)) == (False, True)


def test_bytes_follow_what_is_held() -> None:
    """They grow with rows, and shrink when most of them have gone."""
    table = VectorTable(8)
    empty = table.nbytes
    table.add(np.ones((1000, 8), np.float32), [NewRow(n, n, np.inf) for n in range(1000)])
    full = table.nbytes
    assert full >= 1000 * 8 * 4
    for number in range(990):
        table.remove(number)
    assert empty < table.nbytes < full / 10


def test_the_lowest_ids_follow_what_comes_goes_and_expires() -> None:
    """What was asked for once is not taken for what is there now."""
    table = VectorTable(1)

    def add(number: int, until: float = np.inf) -> None:
        table.add(np.ones((1, 1), np.float32), [NewRow(number, number, until)])

    def lowest(now: float) -> list[int]:
        return [row.row_id for row in table.lowest_ids(now, EVERY_ROW, 2)]

    assert lowest(0.0) == []
    for number, until in ((5, np.inf), (3, 7.0), (4, np.inf)):
        add(number, until)
    assert lowest(0.0) == lowest(6.0) == [3, 4]
    assert lowest(7.0) == [4, 5]
    add(1)
    assert lowest(7.0) == [1, 4]
    table.remove(4)
    assert lowest(8.0) == [1, 5]
