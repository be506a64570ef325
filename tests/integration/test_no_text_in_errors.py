"""What a server says of a row quotes it; no error, cause or log record of ours repeats that."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pymongo
import pytest
from support.embedder import CountingEmbedder
from support.errors import everything_shown
from support.leaks import TEXT

from memorizz_async import (
    AsyncMongoDBProvider,
    DatabaseError,
    MemorizzAsyncError,
    MemoryType,
    MongoDBConfig,
    WriteError,
)

KB = MemoryType.LONG_TERM_MEMORY
Call = Callable[[AsyncMongoDBProvider], Coroutine[Any, Any, Any]]
Database = pymongo.database.Database[dict[str, Any]]
MARKED = {"content": TEXT, "metadata": {"note": TEXT}}


@pytest.fixture
def database(mongod: Any, db_name: str) -> Any:
    """The database of the test, as an operator sees it."""
    with pymongo.MongoClient[dict[str, Any]](mongod.uri) as client:
        yield client[db_name]


@pytest.fixture(params=["pymongo", "motor"])
async def provider(
    request: pytest.FixtureRequest, mongod: Any, db_name: str
) -> AsyncIterator[AsyncMongoDBProvider]:
    """With a row that holds the text."""
    config = MongoDBConfig(mongod.uri, db_name, driver=request.param, search_strategy="scan")
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as opened:
        await opened.store_async({**MARKED, "_id": "first"}, KB, memory_id="m")
        yield opened


def unique(database: Database) -> None:
    database[KB.collection].create_index("metadata.note", unique=True)


def geo(database: Database) -> None:
    database[KB.collection].create_index([("place", "2dsphere")])


def text(database: Database) -> None:
    database[KB.collection].create_index([("content", "text")])


def validated(database: Database) -> None:
    validator = {"metadata.note": {"$not": {"$type": "string"}}}
    database.command({"collMod": KB.collection, "validator": validator})


def nothing(database: Database) -> None:
    """The collection as it is."""


CASES: dict[str, tuple[Callable[[Database], None], Call]] = {
    "a path into a text": (
        nothing,
        lambda p: p.update_async("first", KB, {"metadata.note.day": 1}, memory_id="m"),
    ),
    "paths into texts of many": (
        nothing,
        lambda p: p.update_many_async(KB, {"metadata.note.day": 1}, memory_id="m"),
    ),
    "unique, one": (unique, lambda p: p.store_async(MARKED, KB, memory_id="m")),
    "unique, many": (unique, lambda p: p.store_many_async([MARKED, MARKED], KB, memory_id="m")),
    "unique, put": (
        unique,
        lambda p: p.put_async({**MARKED, "_id": "second", "memory_id": "m"}, KB),
    ),
    "geospatial": (geo, lambda p: p.store_async({**MARKED, "place": TEXT}, KB, memory_id="m")),
    "geospatial, update": (
        geo,
        lambda p: p.update_async("first", KB, {"place": TEXT}, memory_id="m"),
    ),
    "language": (text, lambda p: p.store_async({**MARKED, "language": TEXT}, KB, memory_id="m")),
    "validator": (validated, lambda p: p.store_async(MARKED, KB, memory_id="m")),
    "validator, many": (
        validated,
        lambda p: p.store_many_async([{"content": "b"}, MARKED], KB, memory_id="m"),
    ),
    "validator, put": (
        validated,
        lambda p: p.put_async({**MARKED, "_id": "second", "memory_id": "m"}, KB),
    ),
    "importance": (
        nothing,
        lambda p: p.store_async({"content": "b", "importance": TEXT}, KB, memory_id="m"),
    ),
    "unknown field of a filter": (
        nothing,
        lambda p: p.retrieve_memory_units_by_query_async(
            "q", memory_id="m", memory_type=KB, filter={TEXT: TEXT}
        ),
    ),
    "unknown type": (nothing, lambda p: p.get_async("x", TEXT, memory_id="m")),
    "mode": (
        nothing,
        lambda p: p.retrieve_memory_units_by_query_async(
            "q", memory_id="m", memory_type=KB, mode=TEXT
        ),
    ),
    "limit": (
        nothing,
        lambda p: p.retrieve_memory_units_by_query_async(
            "q", memory_id="m", memory_type=KB, limit=TEXT
        ),
    ),
    "name of a field": (
        nothing,
        lambda p: p.store_async({"content": "b", f"${TEXT}": 1}, KB, memory_id="m"),
    ),
    "value that is no BSON": (
        nothing,
        lambda p: p.store_async({"content": "b", "metadata": {TEXT: {TEXT}}}, KB, memory_id="m"),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_no_error_repeats_a_text(
    case: str,
    provider: AsyncMongoDBProvider,
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not its message, nor what is behind it, nor the log."""
    prepare, call = CASES[case]
    prepare(database)
    with caplog.at_level(logging.DEBUG, "memorizz_async"), pytest.raises(Exception) as caught:
        await call(provider)
    assert isinstance(caught.value, MemorizzAsyncError)
    assert not any(TEXT in said for said in everything_shown(caught.value))
    ours = [record for record in caplog.records if record.name.startswith("memorizz_async")]
    assert not any(TEXT in record.getMessage() for record in ours)


async def test_a_refused_write_says_what_happened_by_its_code(
    provider: AsyncMongoDBProvider, database: Database
) -> None:
    """Code, name and our own words, for each row; programs decide by the code."""
    validated(database)
    with pytest.raises(WriteError, match="validator of the collection") as caught:
        await provider.store_many_async([{"content": "b"}, MARKED], KB, memory_id="m")
    assert list(caught.value.failed) == [1]
    assert "code 121 (DocumentValidationFailure)" in caught.value.failed[1]
    with pytest.raises(DatabaseError, match=r"code 28 \(PathNotViable\)"):
        await provider.update_async("first", KB, {"metadata.note.day": 1}, memory_id="m")
