"""Ids are put into the order of the server, whatever their types."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest
from bson import (
    Binary,
    Code,
    CodecOptions,
    DatetimeConversion,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
)
from bson.datetime_ms import DatetimeMS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pymongo.errors import BulkWriteError
from support.internals import session_of

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.ordering import by_id, id_key

AS_STORED: CodecOptions[Any] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
NUMBERS = (
    *(0, -0.0, 1, 1.0, Int64(1), 2, 1.5, -3, 2**53, float(2**53), 2**53 + 1, 2**62, 2.0**62),
    *(float("nan"), float("inf"), float("-inf"), 5e-324, -(2**63), 2**63 - 1, 1e300, 0.1),
    *map(Decimal128, ("0.1", "1", "1.50", "9007199254740993.5", "NaN", "Infinity", "-1E+6000")),
)
TEXTS = ("", "a", "A", "ab", "a\0b", "b", "é", "\uffff", "\U0001f600", "507f1f77bcf86cd799439011")
DATA = (b"", b"\xff", b"\0\0", *(Binary(b"ab", kind) for kind in (0, 2, 4, 5, 9, 128)))
DATES = (DatetimeMS(-(2**62)), DatetimeMS(2**62), DatetimeMS(0), datetime(2026, 1, 1, tzinfo=UTC))
OTHERS = (
    *(None, True, False, MinKey(), MaxKey(), Timestamp(1, 2), Timestamp(4_000_000_000, 1)),
    *(ObjectId("0" * 24), ObjectId("f" * 24), Code("x"), Code("a", {"b": 1}), DBRef("c", 1)),
)
plain = st.sampled_from([*NUMBERS, *TEXTS, *DATA, *DATES, *OTHERS])
inside = st.recursive(
    st.one_of(plain, st.sampled_from([Regex("a", "i"), Regex("a", "m"), Regex("b")])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abcA"), inner, max_size=3),
    ),
    max_leaves=4,
)
ids = st.one_of(plain, st.dictionaries(st.sampled_from("ab"), inside, max_size=2))


@pytest.fixture(scope="module")
def collection(mongod: Any) -> Iterator[Any]:
    """An empty collection, for all examples."""
    with pymongo.MongoClient(mongod.uri) as client:
        database = client["test_id_order"]
        yield database.get_collection("ids", codec_options=AS_STORED)
        client.drop_database(database.name)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(given_ids=st.lists(ids, max_size=30))
@example([*NUMBERS, *TEXTS, *DATA, *DATES, *OTHERS])
@example([{"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": 2}, {"a": [1]}, {"a": {"b": 1}}, {}])
def test_ids_are_sorted_as_the_server_sorts_them(collection: Any, given_ids: list[Any]) -> None:
    """Types in their order, numbers of all types by value, texts by their bytes, nested values."""
    collection.delete_many({})
    if given_ids:
        try:
            collection.insert_many([{"_id": each} for each in given_ids], ordered=False)
        except BulkWriteError as error:  # equal ids, of which the first stays
            assert {each["code"] for each in error.details["writeErrors"]} == {11000}
    expected = [row["_id"] for row in collection.find().sort("_id", 1)]
    shuffled = random.Random(1).sample(expected, len(expected))
    for most in (None, 1, 3):
        found = [shuffled[at] for at in by_id(shuffled, most)]
        assert repr(found) == repr(expected[:most])


@settings(max_examples=300, deadline=None)
@given(st.lists(inside, min_size=2, max_size=12))
@example([*NUMBERS])
@example([{"a": number} for number in NUMBERS])
def test_ids_that_are_one_to_the_server_have_one_key(given_ids: list[Any]) -> None:
    """Of whatever types their numbers are."""
    for one, other in itertools.combinations(given_ids, 2):
        assert (key_of(one) == key_of(other)) == (id_key(one) == id_key(other)), (one, other)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, 1.0),
        (1.0, Int64(1)),
        (Int64(1), Decimal128("1.0")),
        (0.0, -0.0),
        ({"a": 1}, {"a": 1.0}),
    ],
    ids=str,
)
async def test_a_row_that_was_replaced_by_one_of_an_equal_id_is_found_in_memory(
    mongod: Any, db_name: str, before: Any, after: Any
) -> None:
    """The change stream names the row by the id of one type, and the row has the other."""
    config = MongoDBConfig(mongod.uri, db_name, search_strategy="resident")
    with pymongo.MongoClient(mongod.uri) as client:
        rows = client[db_name]["knowledge_base"]
        row = {"memory_id": "ada", "content": "bees", "embedding": [1.0, 0.0]}
        rows.insert_one({**row, "_id": before})
        async with AsyncMongoDBProvider(config) as provider:
            for content in ("bees", "nuts"):
                hits = await provider.retrieve_memory_units_by_query_async(
                    query_embedding=[1.0, 0.0], memory_id="ada"
                )
                assert [hit["content"] for hit in hits] == [content]
                assert hits.strategy == "resident"
                rows.replace_one({"_id": before}, {**row, "_id": after, "content": "nuts"})
                session = await session_of(provider)
                assert await session.residents.caught_up(Deadline.after(10_000))
            rows.delete_one({"_id": before})
            assert await session.residents.caught_up(Deadline.after(10_000))
            assert not await provider.retrieve_memory_units_by_query_async(
                query_embedding=[1.0, 0.0], memory_id="ada"
            )


def test_what_no_server_stores_has_a_key_too() -> None:
    """An in-process database may hold any object; sorting never fails."""
    values = [frozenset({1}), object, 1, "a"]
    assert [values[at] for at in by_id(values)][:2] == [1, "a"]
    assert id_key(float("nan")) == id_key(Decimal128("sNaN"))
