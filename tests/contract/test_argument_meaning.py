"""Arguments that the back end has to understand as they are meant."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest
from bson import Binary

from memorizz_async import AsyncMongoDBProvider, InvalidInputError

FACTS = "LONG_TERM_MEMORY"


async def test_iso_text_finds_rows_by_their_dates(
    provider: AsyncMongoDBProvider, settle: Callable[[], Awaitable[None]]
) -> None:
    """In the filter of a recall, in `where` and in `expected`."""
    for year in (2024, 2026):
        memory = {"_id": f"of {year}", "content": "bees", "created_at": datetime(year, 1, 2, 3)}
        await provider.store_async(memory, FACTS, memory_id="ada")
    await settle()
    hits = await provider.retrieve_memory_units_by_query_async(
        "bees", memory_id="ada", filter={"created_at": {"$gt": "2025-01-01"}}, mode="vector"
    )
    assert [hit["_id"] for hit in hits] == ["of 2026"]
    rows = await provider.list_async(
        FACTS, memory_id="ada", where={"created_at": "2024-01-02T03:00:00+00:00"}
    )
    assert [row["_id"] for row in rows] == ["of 2024"]
    expected = {"created_at": "2024-01-02T03:00:00Z"}
    assert not await provider.delete_async("of 2026", FACTS, expected=expected, memory_id="ada")
    assert await provider.delete_async("of 2024", FACTS, expected=expected, memory_id="ada")


async def test_a_wrong_argument_changes_no_row(provider: AsyncMongoDBProvider) -> None:
    """A text in place of a list is not its characters, an empty `before` is not now."""
    for row_id in ("a", "b", "ab"):
        await provider.store_async({"_id": row_id, "content": row_id}, FACTS, memory_id="ada")
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: provider.delete_many_async(FACTS, ids="ab", memory_id="ada"),  # type: ignore[arg-type]
        lambda: provider.delete_many_async(FACTS, where="ab", memory_id="ada"),  # type: ignore[arg-type]
        lambda: provider.delete_expired_async(FACTS, before="", memory_id="ada"),  # type: ignore[arg-type]
        lambda: provider.compare_and_swap_async(
            "a", FACTS, None, {"content": "c"}, memory_id="ada"  # type: ignore[arg-type]
        ),
        lambda: provider.put_many_async([{"_id": "a"}, 5], FACTS, memory_id="ada"),  # type: ignore[list-item]
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidInputError):
            await call()
    rows = await provider.list_async(FACTS, memory_id="ada")
    assert sorted(row["content"] for row in rows) == ["a", "ab", "b"]


async def test_a_uuid_in_a_condition_is_found_as_it_is_stored(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any]
) -> None:
    """Without an option in the address: as BSON's own type for UUIDs."""
    trace = uuid.uuid4()
    row = {"trace": Binary.from_uuid(trace), "memory_id": "ada", "user_id": None}
    await insert_raw("knowledge_base", row, {**row, "trace": Binary.from_uuid(uuid.uuid4())})
    found = await provider.list_async(FACTS, memory_id="ada", where={"trace": trace})
    assert len(found) == 1
