"""Rows in order: listing, paging, and the history of a conversation, on every driver."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from memorizz_async import EVERY_TENANT, AsyncMongoDBProvider, InvalidInputError, ScopeError

Row = dict[str, Any]


async def test_a_list_holds_the_scope_and_nothing_else(provider: AsyncMongoDBProvider) -> None:
    """Three states of a user, and everybody, said aloud."""
    rows: list[Row] = [
        {"_id": "m-u", "memory_id": "m", "user_id": "u"},
        {"_id": "m-none", "memory_id": "m", "user_id": None},
        {"_id": "m-missing", "memory_id": "m"},
        {"_id": "n-u", "memory_id": "n", "user_id": "u"},
    ]
    await provider.put_many_async(rows, "ENTITY_MEMORY")
    await provider.put_many_async(rows, "TOOLBOX")

    async def ids(kind: str = "ENTITY_MEMORY", **scope: Any) -> set[str]:
        return {row["_id"] for row in await provider.list_async(kind, **scope)}

    everybody = {row["_id"] for row in rows}
    assert await ids(memory_id="m") == {"m-u", "m-none", "m-missing"}
    assert await ids(memory_id="m", user_id=None) == {"m-none", "m-missing"}
    assert await ids(memory_id="m", user_id="u") == {"m-u"}
    assert await ids(user_id="u") == {"m-u", "n-u"}
    assert await ids(memory_id=EVERY_TENANT) == everybody
    assert await ids(user_id=EVERY_TENANT) == everybody
    assert await ids("TOOLBOX", memory_id="m", user_id="u") == {"m-u", "m-none", "m-missing"}
    assert await ids("TOOLBOX", user_id="u") == {"m-u", "n-u"}
    assert await ids("TOOLBOX", memory_id=EVERY_TENANT, user_id="u") == everybody
    with pytest.raises(ScopeError, match="names no tenant"):
        await ids()


async def test_a_list_in_order_and_in_pages(provider: AsyncMongoDBProvider) -> None:
    """Ordered by fields, the pages one after the other."""
    await provider.put_many_async(
        [{"_id": f"r{number}", "group": number % 2, "n": number} for number in range(6)],
        "SUMMARIES",
        memory_id="m",
    )
    order = (("group", -1), ("n", 1))
    pages = [
        await provider.list_async("SUMMARIES", memory_id="m", order_by=order, limit=4, skip=skip)
        for skip in (0, 4)
    ]
    assert [[row["n"] for row in page] for page in pages] == [[1, 3, 5, 0], [2, 4]]
    for wrong in ({"limit": 0}, {"limit": True}, {"skip": -1}):
        with pytest.raises(InvalidInputError, match="whole number"):
            await provider.list_async("SUMMARIES", memory_id="m", **wrong)


async def test_rows_that_equal_what_is_asked_for(provider: AsyncMongoDBProvider) -> None:
    """Every field of one mapping, any mapping of several; None is also a field that is missing."""
    rows: list[Row] = [
        {"_id": "a", "name": "x", "kind": 1},
        {"_id": "b", "name": "x", "kind": None},
        {"_id": "c", "name": "y", "deep": {"er": 1}},
    ]
    await provider.put_many_async(rows, "PERSONAS", memory_id="m")

    async def ids(where: Any) -> str:
        found = await provider.list_async("PERSONAS", memory_id="m", where=where)
        return "".join(sorted(row["_id"] for row in found))

    assert await ids({"name": "x"}) == "ab"
    assert await ids({"name": "x", "kind": 1}) == "a"
    assert await ids({"kind": None}) == "bc"
    assert await ids([{"kind": 1}, {"name": "y"}]) == "ac"
    assert await ids({"deep": {"er": 1}}) == "c"
    assert await ids({"deep.er": 1}) == "c"
    assert await ids([{"kind": 1}]) == "a"
    assert await ids([{}]) == "abc"
    assert await ids([]) == ""


async def test_rows_look_like_memories_or_like_what_was_stored(
    provider: AsyncMongoDBProvider,
) -> None:
    """A memory has content, a tenant and its type; a record has its own fields."""
    stored = {"_id": "r", "memory_id": "m", "memory_type": "theirs", "embedding": [1.0, 2.0]}
    await provider.put_async(stored, "SUMMARIES")
    [memory] = await provider.list_async("SUMMARIES", memory_id="m")
    assert memory == {
        "_id": "r", "content": "", "memory_id": "m", "user_id": None, "memory_type": "SUMMARIES",
        "stored_fields": {"memory_type": "theirs"},
    }  # fmt: skip
    [record] = await provider.list_async(
        "SUMMARIES", memory_id="m", as_stored=True, include_embedding=True
    )
    assert record == stored


TIMES: dict[str, Any] = {
    "2026-01-01T12:00:00+02:00": 1,  # 10:00
    "2026-01-01T11:00:00+00:00": 2,
    "2026-01-01T11:30:00": 3,
    "2026-01-01T12:00:00Z": 4,
}


async def test_a_history_is_in_the_order_of_moments(provider: AsyncMongoDBProvider) -> None:
    """Texts with any offset, dates, and rows that know only when they were made."""
    rows: list[Row] = [{"timestamp": text, "n": n} for text, n in TIMES.items()]
    rows.append({"timestamp": datetime(2026, 1, 1, 11, 45, tzinfo=UTC), "n": 3.5})
    rows.append({"created_at": datetime(2026, 1, 1, 10, 30, tzinfo=UTC), "n": 1.5})
    rows.append({"created_at": "2026-01-01T10:31:00+00:00", "n": 1.6})
    rows.append({"timestamp": datetime(2026, 1, 1, 10, 32, tzinfo=UTC).timestamp(), "n": 1.7})
    rows.append({"n": 0})
    await provider.put_many_async(reversed(rows), "CONVERSATION_MEMORY", memory_id="m")
    history = await provider.history_async(memory_id="m")
    assert [row["n"] for row in history] == [0, 1, 1.5, 1.6, 1.7, 2, 3, 3.5, 4]
    assert [row["n"] for row in await provider.history_async(memory_id="m", limit=2)] == [3.5, 4]


async def test_times_in_seconds_are_ordered_by_themselves(provider: AsyncMongoDBProvider) -> None:
    """With a limit they are the last ones, too, whatever order the ids have."""
    rows = [{"_id": f"r{9 - n}", "timestamp": 1000.5 + n, "n": n} for n in range(9)]
    await provider.put_many_async(rows, "CONVERSATION_MEMORY", memory_id="m")
    assert [row["n"] for row in await provider.history_async(memory_id="m", limit=2)] == [7, 8]


async def test_a_history_keeps_to_its_thread_and_its_user(provider: AsyncMongoDBProvider) -> None:
    """The limit counts after that."""
    rows = [
        {"timestamp": f"2026-01-01T00:00:0{n}", "n": n, "thread_id": thread, "user_id": user}
        for n, (thread, user) in enumerate(
            [("a", "u"), ("b", "u"), ("a", "v"), ("a", None), ("a", "u"), ("b", "v")]
        )
    ]
    await provider.put_many_async(rows, "CONVERSATION_MEMORY", memory_id="m")

    async def numbers(**options: Any) -> list[int]:
        return [row["n"] for row in await provider.history_async(memory_id="m", **options)]

    assert await numbers(where={"thread_id": "a"}) == [0, 2, 3, 4]
    assert await numbers(where={"thread_id": "a"}, user_id="u") == [0, 4]
    assert await numbers(where={"thread_id": "a"}, user_id="u", limit=1) == [4]
    assert await numbers(user_id=None) == [3]
    with pytest.raises(ScopeError):
        await provider.history_async()


async def test_turns_of_one_moment_keep_their_order(provider: AsyncMongoDBProvider) -> None:
    """The question before the answer, as they were written."""
    at = "2026-01-01T00:00:00+00:00"
    for n in range(5):
        await provider.put_async({"memory_id": "m", "timestamp": at, "n": n}, "CONVERSATION_MEMORY")
    assert [row["n"] for row in await provider.history_async(memory_id="m")] == list(range(5))
    assert [row["n"] for row in await provider.history_async(memory_id="m", limit=2)] == [3, 4]
