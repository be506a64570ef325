"""One filter, one meaning: the scan over a plain mongod, the search in memory and `$vectorSearch`
find the same rows.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from bson import Binary, ObjectId
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.embedder import DIMENSIONS
from support.filter_strategies import filters_over
from support.internals import session_of

from memorizz_async import AsyncMongoDBProvider, MemoryType, MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.driver import change_stream

KB = MemoryType.LONG_TERM_MEMORY
QUERY = [1.0] * DIMENSIONS
FIELDS = ["f", "g", "deep.f"]

IDS = [ObjectId(f"{number:024x}") for number in (1, 2)]
UUIDS = [uuid.UUID(int=number) for number in (1, 2)]
DATES = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]

numbers = st.one_of(st.integers(-2, 2), st.sampled_from([-1.0, 0.5, 1.0, 2.0**40, 2**40]))
ordered: tuple[st.SearchStrategy[Any], ...] = (
    numbers,
    st.sampled_from(["", "a", "b", "B", "ab", "é"]),
    st.sampled_from(DATES),
    st.sampled_from(IDS),
)
unordered: tuple[st.SearchStrategy[Any], ...] = (st.booleans(), st.sampled_from(UUIDS))
typed = (*ordered, *unordered)
scalars = st.one_of(*typed, st.none())


def stored(value: Any) -> Any:
    """Drivers take a UUID only as BSON's."""
    if isinstance(value, list):
        return [stored(item) for item in value]
    return Binary.from_uuid(value) if isinstance(value, uuid.UUID) else value


values = st.one_of(scalars, st.lists(scalars, max_size=3)).map(stored)
rows = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "f": st.one_of(values, st.just({"x": 1})),
            "g": values,
            "deep": st.one_of(
                st.fixed_dictionaries({}, optional={"f": values}),
                st.lists(st.fixed_dictionaries({}, optional={"f": values}), max_size=2),
                scalars.map(stored),
            ),
        },
    ),
    min_size=1,
    max_size=8,
)
filters = filters_over(
    FIELDS, numbers=numbers, ordered=ordered, typed=typed, scalars=scalars, max_leaves=5
)


class EveryWay:
    """A plain server, by scan and in memory, and before the same data the stand-in, each searched
    by its own provider.
    """

    def __init__(self, mongod: Any, standin: AtlasStandin, db_name: str) -> None:
        self.runner = asyncio.Runner()
        self.standin = standin
        plain = MongoDBConfig(
            mongod.uri,
            db_name=db_name,
            dimensions=DIMENSIONS,
            filter_fields=FIELDS,
            search_strategy="scan",
        )
        self.scan = AsyncMongoDBProvider(plain)
        self.resident = AsyncMongoDBProvider(replace(plain, search_strategy="resident"))
        atlas = replace(plain, uri=standin.uri, search_strategy="atlas")
        self.atlas = AsyncMongoDBProvider(atlas)
        self.tenants = itertools.count()
        self.runner.run(self.atlas.ensure_indexes_async([KB]))

    def found(self, given_rows: list[dict[str, Any]], wanted: Any) -> list[list[str]]:
        return self.runner.run(self._found(given_rows, wanted))

    async def _found(self, given_rows: list[dict[str, Any]], wanted: Any) -> list[list[str]]:
        tenant = f"tenant {next(self.tenants)}"
        first = len(given_rows) // 2
        # Half of the rows are loaded into memory, the others come by the change stream.
        await self._write(tenant, given_rows[:first])
        await self._ids(self.resident, tenant, wanted)
        await self._write(tenant, given_rows[first:])
        await self.standin.sync()
        return [
            await self._ids(provider, tenant, wanted)
            for provider in (self.scan, self.resident, self.atlas)
        ]

    async def _write(self, tenant: str, given_rows: list[dict[str, Any]]) -> None:
        if not given_rows:
            return
        written = [
            {"_id": ObjectId(), "memory_id": tenant, "embedding": [1.0] * DIMENSIONS, **row}
            for row in given_rows
        ]
        driver = (await session_of(self.resident)).driver
        outcome = await driver.insert_many(KB.collection, written, deadline=Deadline.after(10_000))
        assert outcome.at is not None
        self.resident._search.written(KB.collection, outcome.at)

    async def _ids(self, provider: AsyncMongoDBProvider, tenant: str, wanted: Any) -> list[str]:
        hits = await provider.retrieve_memory_units_by_query_async(
            None, QUERY, tenant, KB, 100, filter=wanted
        )
        if hits:
            assert hits.strategy == provider.config.search_strategy
        return sorted(hit["_id"] for hit in hits)

    def close(self) -> None:
        for provider in (self.scan, self.resident, self.atlas):
            self.runner.run(provider.close_async())
        self.runner.close()


@pytest.fixture
def every_way(mongod: Any, db_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[EveryWay]:
    """All of them, open for the whole of a property's examples."""
    monkeypatch.setattr(change_stream, "CHANGES_WAIT_MS", 20)
    with AtlasStandin(mongod.host, mongod.port, lag_s=0).in_thread() as standin:
        opened = EveryWay(mongod, standin, db_name)
        try:
            yield opened
        finally:
            opened.close()
    assert standin.failures == []


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows, filters)
@example([{"f": None}, {}, {"f": [None, 1]}, {"f": []}], {"f": None})
@example([{"f": None}, {}, {"f": [None, 1]}, {"f": []}], {"f": {"$ne": None}})
@example([{}, {"f": [1, 2]}, {"f": 3}], {"f": {"$nin": [2]}})
@example([{"deep": [{"f": 1}, {}]}, {"deep": {"f": None}}], {"deep.f": None})
@example([{"f": True}, {"f": 1}], {"f": True})
@example([{"f": 1}, {"f": 1.0}, {"f": "1"}], {"f": {"$lte": 1}})
@example([{"f": [1, 5]}], {"f": {"$gte": 2, "$lt": 4}})
def test_every_way_finds_the_same_rows(
    every_way: EveryWay, given_rows: list[dict[str, Any]], wanted: Any
) -> None:
    """Missing, null, lists, types that do not compare: whatever the rows, the same ids."""
    by_scan, in_memory, by_index = every_way.found(given_rows, wanted)
    assert by_scan == in_memory == by_index
