"""Ids of every type that MongoDB takes: what a hit shows finds its row again, and no other."""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Decimal128, ObjectId
from support.internals import session_of

from memorizz_async import AsyncMongoDBProvider, InvalidFilterError

FACTS = "LONG_TERM_MEMORY"
Settle = Callable[[], Awaitable[None]]

A_UUID = uuid.UUID(int=7)
ANY_ID: list[Any] = [
    "a", "b", "ab", "1", ObjectId(), str(ObjectId()) + "x", 1, 2**40, 2.5, b"ab",
    Binary.from_uuid(A_UUID), Binary(b"ab", 128),
    {"a": 1, "b": "x"}, datetime(2026, 1, 2, tzinfo=UTC), True, math.nan, Decimal128("3.5"),
]  # fmt: skip


@pytest.fixture
def ids(backend: str) -> list[Any]:
    """Ids of every type. To mongomock True is 1, and it finds no date, NaN or Decimal128."""
    return ANY_ID[:-4] if backend == "memory" else ANY_ID


async def stored(insert_raw: Callable[..., Any], ids: list[Any]) -> None:
    await insert_raw(
        "knowledge_base",
        *(
            {
                "_id": row_id, "n": n, "content": f"bees {n}", "memory_id": "ada",
                "user_id": None, "embedding": [1.0, n / 100] * 4,
            }
            for n, row_id in enumerate(ids)
        ),
    )  # fmt: skip


async def test_the_id_of_a_hit_finds_its_row_in_every_call(
    provider: AsyncMongoDBProvider, ids: list[Any], insert_raw: Callable[..., Any], settle: Settle
) -> None:
    """get, list, update, touch, wait and delete, one after the other."""
    await stored(insert_raw, ids)
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async(
        query_embedding=[1.0, 0.0] * 4, memory_id="ada", limit=100, mode="vector", explain=True
    )
    assert sorted(hit["n"] for hit in hits) == list(range(len(ids)))
    assert hits.explain is not None
    assert [told.id for told in hits.explain.hits] == [hit["_id"] for hit in hits]
    for hit in hits:
        row_id, n = hit["_id"], hit["n"]
        row = await provider.get_async(row_id, FACTS, memory_id="ada")
        assert row is not None
        assert row["n"] == n
        listed = await provider.list_async(FACTS, ids=[row_id], memory_id="ada")
        assert [row["n"] for row in listed] == [n]
        assert await provider.update_async(row_id, FACTS, {"seen": n}, memory_id="ada")
        assert await provider.touch_many_async([row_id], FACTS, memory_id="ada") == 1
    rows = await provider.list_async(FACTS, ids=[hit["_id"] for hit in hits], memory_id="ada")
    assert len(rows) == len(ids)
    assert all(row["seen"] == row["n"] and row["access_count"] == 1 for row in rows)
    as_uuid = await provider.get_async(A_UUID, FACTS, memory_id="ada")
    assert as_uuid is not None
    assert as_uuid["n"] == ids.index(Binary.from_uuid(A_UUID))
    left = len(ids)
    for hit in hits:
        assert await provider.delete_async(hit["_id"], FACTS, memory_id="ada")
        left -= 1
        assert len(await provider.list_async(FACTS, memory_id="ada")) == left


def in_utc(row_id: Any) -> str:
    """The repr of an id: the driver's time zone is UTC, and another object than Python's."""
    return repr(row_id.astimezone(UTC) if isinstance(row_id, datetime) else row_id)


async def test_a_row_of_any_id_is_put_back_as_it_was_listed(
    provider: AsyncMongoDBProvider, ids: list[Any], insert_raw: Callable[..., Any], backend: str
) -> None:
    """An archive is restored row by row."""
    if backend == "memory":
        pytest.skip("mongomock replaces no row by the _id of a document")
    await stored(insert_raw, ids)
    before = await provider.list_async(FACTS, memory_id="ada", as_stored=True)
    put = await provider.put_many_async(before, FACTS)
    assert list(map(in_utc, put)) == [in_utc(row["_id"]) for row in before]
    after = await provider.list_async(FACTS, memory_id="ada", as_stored=True)
    assert [(row["n"], repr(row["_id"])) for row in after] == [
        (row["n"], repr(row["_id"])) for row in before
    ]
    assert await provider.delete_many_async(FACTS, ids=put, memory_id="ada") == len(ids)


async def test_rows_of_unusual_ids_are_waited_for(
    provider: AsyncMongoDBProvider,
    ids: list[Any],
    insert_raw: Callable[..., Any],
    settle: Settle,
    on_atlas: bool,
) -> None:
    """Where searches are exact at once; an index is asked by ids that it can filter by."""
    await stored(insert_raw, ids)
    await settle()
    plain = [row_id for row_id in ids if isinstance(row_id, str | ObjectId | bool | int)]
    await provider.wait_until_searchable_async(plain, FACTS, memory_id="ada")
    if on_atlas:
        with pytest.raises(InvalidFilterError):
            await provider.wait_until_searchable_async([b"ab"], FACTS, memory_id="ada")
    else:
        await provider.wait_until_searchable_async(ids, FACTS, memory_id="ada")


async def test_rows_of_unusual_ids_are_counted(
    provider: AsyncMongoDBProvider, ids: list[Any], insert_raw: Callable[..., Any], settle: Settle
) -> None:
    """Each by itself, True and 1 too, which are one key of a dict."""
    await stored(insert_raw, ids)
    await settle()
    for _ in range(2):
        await provider.retrieve_memory_units_by_query_async(
            query_embedding=[1.0, 0.0] * 4, memory_id="ada", limit=100, mode="vector"
        )
    session = await session_of(provider)
    await session.tracker._write()
    rows = await provider.list_async(FACTS, memory_id="ada")
    assert [row.get("recall_count") for row in rows] == [2] * len(ids)
