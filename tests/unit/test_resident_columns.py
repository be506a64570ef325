"""Filters over columns in memory: the rows that the stand-in's matcher finds, of any rows."""

from __future__ import annotations

import threading
import tracemalloc
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import numpy as np
import pytest
from atlas_standin import filters as standin
from bson import Binary, Code, CodecOptions, DatetimeConversion, DBRef, Decimal128, Int64, ObjectId
from bson.binary import UuidRepresentation
from bson.datetime_ms import DatetimeMS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.filter_strategies import filters_over

from memorizz_async.memory_provider.mongodb.filters import (
    EVERY_ROW,
    NO_ROW,
    for_vector_search,
    parse_filter,
)
from memorizz_async.memory_provider.mongodb.vector_search.field_values import MOST_BYTES, values_of
from memorizz_async.memory_provider.mongodb.vector_search.resident_columns import Columns

PATHS = ("_id", "f", "g", "deep.f")
AS_STORED: CodecOptions[Any] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
)
IDS = [ObjectId(f"{number:024x}") for number in (1, 2)]
UUIDS = [uuid.UUID(int=number) for number in (1, 2)]
DATES = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=m) for m in (0, 400, 1000)]

numbers = st.one_of(
    st.integers(-2, 2), st.sampled_from([-1.0, 0.5, 1.0, 2.0**53, 2**53, 2**53 + 1, 2**62])
)
ordered: tuple[st.SearchStrategy[Any], ...] = (
    numbers,
    st.sampled_from(["", "a", "b", "B", "ab", "é", "\U0001f600", "\uffff"]),
    st.sampled_from(DATES),
    st.sampled_from(IDS),
)
unordered: tuple[st.SearchStrategy[Any], ...] = (st.booleans(), st.sampled_from(UUIDS))
typed = (*ordered, *unordered)
scalars = st.one_of(*typed, st.none())
kept = st.one_of(
    scalars.map(lambda value: Binary.from_uuid(value) if isinstance(value, uuid.UUID) else value),
    st.sampled_from([float("nan"), float("inf"), -0.0, Int64(1), b"raw", Binary(bytes(16), 3)]),
    st.sampled_from([DatetimeMS(-(2**62)), DatetimeMS(2**53 + 1), DatetimeMS(2**62)]),
)
values = st.one_of(kept, st.lists(kept, max_size=3), st.just({"x": 1}), st.just([[1]]))
deep = st.fixed_dictionaries({}, optional={"f": values})
rows = st.lists(
    st.fixed_dictionaries(
        {"_id": st.one_of(st.sampled_from(IDS), st.sampled_from(["a", "b", 1]))},
        optional={
            "f": values,
            "g": values,
            "deep": st.one_of(deep, st.lists(deep, max_size=2), kept),
        },
    ),
    max_size=12,
)
filters = filters_over(
    PATHS, numbers=numbers, ordered=ordered, typed=typed, scalars=scalars, max_leaves=6
)


def as_stored(document: Any) -> Any:
    """What a change stream brings of it."""
    return bson.decode(bson.encode(document), codec_options=AS_STORED)


def columns_of(stored: list[Any]) -> Columns:
    columns = Columns(PATHS, len(stored) + 3)
    read = values_of(PATHS)
    for start in range(0, len(stored), 5):  # some at once, as they come
        columns.append([read(row) for row in stored[start : start + 5]])
    return columns


@settings(max_examples=400, deadline=None)
@given(rows, filters)
@example([{"_id": 1, "f": True}, {"_id": 2, "f": 1}, {"_id": 3, "f": 1.0}], {"f": 1})
@example([{"_id": 1, "f": [1, 5]}], {"f": {"$gte": 2, "$lt": 4}})
@example([{"_id": 1, "f": [None]}, {"_id": 2}, {"_id": 3, "f": []}], {"f": None})
@example([{"_id": 1, "f": DATES[1]}], {"f": DATES[0]})
def test_columns_find_what_the_matcher_finds(given_rows: list[Any], wanted: Any) -> None:
    """Missing, null, lists, types that do not compare, numbers that float64 cannot tell apart."""
    stored = [as_stored(row) for row in given_rows]
    columns = columns_of(stored)
    condition = parse_filter(wanted, PATHS)
    found = columns.where(condition, len(stored)).tolist()
    if condition == NO_ROW:
        assert not any(found)
        return
    plain = as_stored(for_vector_search(condition))
    matcher = standin.parse_filter(plain, "filter")
    assert found == [
        matcher.matches({path: standin.values_at(row, path) for path in PATHS}) for row in stored
    ]
    assert all(columns.without_values(path, len(stored)) is None for path in PATHS)


@given(rows, st.sets(st.integers(0, 11)))
@example([{"_id": 1, "f": 1.0}, {"_id": 2, "f": 1}], {1})
def test_rows_come_out_as_they_went_in(given_rows: list[Any], positions: set[int]) -> None:
    """For a chunk that is written anew; of equal numbers, 1 and 1.0, one stands for both."""
    stored = [as_stored(row) for row in given_rows]
    some = np.array(sorted(at for at in positions if at < len(stored)), dtype=np.intp)
    read = values_of(PATHS)
    again = Columns(PATHS, len(some))
    again.append(columns_of(stored).rows(some))
    assert told(again.rows(np.arange(len(some)))) == told([read(stored[at]) for at in some])


def told(rows: list[Any]) -> str:
    """Rows in words, which are the same for NaN and NaN, and for equal numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(plain(each) for each in value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) + 0.0 if is_number and float(value) == value else value

    return repr([plain(row) for row in rows])


@pytest.mark.parametrize(
    "value",
    [
        Decimal128("1.0"),
        [1, Decimal128("2")],
        Code("a"),
        "x" * (MOST_BYTES + 1),
        b"x" * (MOST_BYTES + 1),
        list(range(MOST_BYTES)),
        bson.Regex("a"),
        bson.Timestamp(1, 1),
        DBRef("a", 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_only_the_server_compares_is_not_kept(value: Any) -> None:
    """Types with an order of their own, and what is too large, are said to be unknown."""
    stored = [as_stored({"_id": 1, "f": value}), as_stored({"_id": 2, "f": 1})]
    columns = columns_of(stored)
    unknown = columns.without_values("f", 2)
    assert unknown is not None
    assert unknown.tolist() == [True, False]
    assert columns.without_values("g", 2) is None
    assert columns.without_values("_id", 2) is None


def test_a_reference_that_bson_makes_of_a_document_is_not_walked_through() -> None:
    """`{"$ref", "$id", "f"}` comes as a DBRef: what it has at a path is the server's to say."""
    row = as_stored({"_id": 1, "deep": {"$ref": "c", "$id": 1, "f": 2}})
    assert values_of(["deep.f"])(row) == (None,)


def test_numbers_are_compared_exactly() -> None:
    """As the server does, beyond what float64 can tell apart."""
    stored = [as_stored({"_id": n, "f": 2**53 + n}) for n in range(3)]
    columns = columns_of(stored)
    for wanted, found in [(2**53 + 1, [0, 1, 0]), (2.0**53, [1, 0, 0])]:
        mask = columns.where(parse_filter({"f": wanted}, PATHS), 3)
        assert mask.tolist() == [bool(each) for each in found]
    assert columns.where(EVERY_ROW, 3).all()
    alone = columns_of([as_stored({"_id": 1, "f": 2**53 + 1})])  # as float64 it is 2**53
    for wanted in ({"$lte": 2.0**53}, {"$gt": 2**53 + 1}, {"$in": [2**53, 2.0**53 + 2]}):
        assert not alone.where(parse_filter({"f": wanted}, PATHS), 1).any()


def test_bytes_follow_what_is_held() -> None:
    """Equal values are kept once, long ones count by their length."""
    few, many, long = (Columns(["f"], 1000) for _ in range(3))
    few.append([(("string", "a"),)] * 1000)
    many.append([(("number", n),) for n in range(1000)])
    long.append([(("string", f"{n}" * 200),) for n in range(1000)])
    assert few.nbytes < 1000 * 5
    assert many.nbytes > 1000 * 100
    assert long.nbytes > many.nbytes + 1000 * 190


def test_a_thread_sees_the_rows_of_its_moment_while_others_are_added() -> None:
    """Whatever values come meanwhile, of kinds seen and not seen before."""
    columns = Columns(["f"], 20_000)
    columns.append([(("number", n % 7),) for n in range(100)])
    condition = parse_filter({"f": {"$lt": 3}}, ["f"])
    expected = [n % 7 < 3 for n in range(100)]
    stop, wrong = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            if columns.where(condition, 100).tolist() != expected:
                wrong.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    for n in range(19_000):
        columns.append([(("number" if n % 2 else f"kind {n}", n),)])
    stop.set()
    thread.join()
    assert not wrong


@pytest.mark.parametrize("kind", ["floats", "letters", "numbers"])
def test_no_more_memory_is_taken_than_is_counted(kind: str) -> None:
    """What is counted is what `resident_memory_mb` bounds."""
    made: dict[str, Callable[[int], tuple[Any, ...]]] = {
        "floats": lambda n: tuple(x for m in range(200) for x in ("number", n + m / 999)),
        "letters": lambda n: ("string", "\u6f22" * 1000 + str(n)),
        "numbers": lambda n: ("number", n + 10**6),
    }
    tracemalloc.start()
    try:
        columns = Columns(["p"], 1000)
        columns.append([(made[kind](n),) for n in range(1000)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= columns.nbytes
