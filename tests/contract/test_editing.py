"""Changing, putting and deleting rows, on every driver."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Binary, ObjectId
from support.internals import session_of

from memorizz_async import (
    EVERY_TENANT,
    AsyncMongoDBProvider,
    DuplicateMemoryError,
    InvalidEmbeddingError,
    InvalidFilterError,
    InvalidInputError,
    ScopeError,
    WriteError,
)

NOW = datetime.now(UTC)
Row = dict[str, Any]


async def raw(provider: AsyncMongoDBProvider, kind: str = "SUMMARIES", **options: Any) -> list[Row]:
    """Every row of a type, as it is stored."""
    return await provider.list_async(
        kind, memory_id=EVERY_TENANT, include_embedding=True, as_stored=True, **options
    )


async def test_a_row_is_put_as_it_is(provider: AsyncMongoDBProvider) -> None:
    """No field of ours, nothing embedded; ids as strings, whatever they are stored as."""
    first = {"_id": "turn-1", "memory_id": "m", "period_end": "2026-01-01", "facts": {"a": [1]}}
    ids = await provider.put_many_async([first, {"memory_id": "m", "n": 2}], "SUMMARIES")
    assert ids[0] == "turn-1"
    assert await raw(provider, ids=ids[:1]) == [first]
    assert await raw(provider, ids=ids[1:]) == [{"_id": ids[1], "memory_id": "m", "n": 2}]


async def test_putting_a_row_again_replaces_it(provider: AsyncMongoDBProvider) -> None:
    """The old fields go; without `replace` the second one is refused."""
    row = {"_id": "r", "memory_id": "m", "old": 1}
    await provider.put_async(row, "SUMMARIES")
    await provider.put_async({"_id": "r", "memory_id": "m", "new": 2}, "SUMMARIES")
    assert await raw(provider) == [{"_id": "r", "memory_id": "m", "new": 2}]
    with pytest.raises(DuplicateMemoryError, match="another row"):
        await provider.put_async(row, "SUMMARIES", replace=False)


async def test_a_tenant_cannot_put_over_anothers_row(provider: AsyncMongoDBProvider) -> None:
    """The row of that id is another's: refused, and the others of the call are written."""
    await provider.put_async({"_id": "r", "memory_id": "theirs", "n": 1}, "SUMMARIES")
    with pytest.raises(DuplicateMemoryError):
        await provider.put_async({"_id": "r", "n": 2}, "SUMMARIES", memory_id="mine")
    with pytest.raises(WriteError) as caught:
        await provider.put_many_async(
            [{"_id": "r", "n": 2}, {"_id": "s"}], "SUMMARIES", memory_id="mine"
        )
    assert list(caught.value.failed) == [0]
    assert caught.value.written_ids == {1: "s"}
    assert {row["_id"]: row["memory_id"] for row in await raw(provider)} == {
        "r": "theirs",
        "s": "mine",
    }


async def test_whose_a_put_row_is_must_be_said(provider: AsyncMongoDBProvider) -> None:
    """By the row, by the call, or by EVERY_TENANT, which lets stand that it is nobody's."""
    with pytest.raises(ScopeError, match="names no tenant"):
        await provider.put_async({"_id": "r"}, "SUMMARIES")
    with pytest.raises(InvalidInputError, match="differ"):
        await provider.put_async({"memory_id": "a"}, "SUMMARIES", memory_id="b")
    await provider.put_async({"_id": "r"}, "SUMMARIES", memory_id=EVERY_TENANT)
    assert await raw(provider) == [{"_id": "r"}]
    with pytest.raises(ScopeError, match="belongs to one tenant"):
        await provider.store_async("text", memory_id=EVERY_TENANT)


@pytest.mark.parametrize("form", ["bindata", "array"])
async def test_an_embedding_is_put_in_the_form_asked_for(
    provider: AsyncMongoDBProvider, form: str
) -> None:
    """And is found by a search, and leaves as floats, in both."""
    vector = [0.5, -1.0, 0.25, 0, 0, 0, 0, 1]
    await provider.put_async(
        {"_id": "r", "memory_id": "m", "embedding": vector},
        "SUMMARIES",
        embedding_form=form,  # type: ignore[arg-type]
    )
    session = await session_of(provider)
    from memorizz_async.deadline import Deadline

    [stored] = await session.driver.find("summaries", {}, deadline=Deadline.after(5_000))
    assert isinstance(stored["embedding"], Binary if form == "bindata" else list)
    [row] = await raw(provider)
    assert row["embedding"] == vector
    assert all(type(number) is float for number in row["embedding"])
    with pytest.raises(InvalidEmbeddingError, match="not a vector"):
        await provider.put_async({"memory_id": "m", "embedding": "text"}, "SUMMARIES")


async def test_an_update_changes_what_it_names(provider: AsyncMongoDBProvider) -> None:
    """And `updated_at`; whether the scope holds the row is the answer."""
    old = {"content": "old", "updated_at": NOW - timedelta(days=1)}
    row_id = await provider.store_async(old, "SUMMARIES", memory_id="m", user_id="u")
    assert await provider.update_async(row_id, "SUMMARIES", {"importance": 1.0}, memory_id="m")
    [row] = await raw(provider)
    assert row["importance"] == 1.0
    assert row["updated_at"] > old["updated_at"]
    for other in ({"memory_id": "n"}, {"user_id": "v"}, {"memory_id": "m", "user_id": None}):
        assert not await provider.update_async(row_id, "SUMMARIES", {"importance": 0.0}, **other)
    with pytest.raises(ScopeError):
        await provider.update_async(row_id, "SUMMARIES", {"importance": 0.0})
    with pytest.raises(InvalidInputError, match="keeps its _id"):
        await provider.update_async(row_id, "SUMMARIES", {"_id": "other"}, memory_id="m")


async def test_new_content_is_embedded_anew(provider: AsyncMongoDBProvider) -> None:
    """The row is found by what it says now; where the caller embeds, the model is not ours."""
    row_id = await provider.store_async("the old text", "SUMMARIES", memory_id="m")
    before = (await raw(provider))[0]["embedding"]
    await provider.update_async(row_id, "SUMMARIES", {"content": "new text"}, memory_id="m")
    [changed] = await raw(provider)
    assert changed["embedding"] != before
    assert changed["embedding_model"]
    await provider.update_async(
        row_id, "SUMMARIES", {"content": "kept", "embedding": before}, memory_id="m"
    )
    [given] = await raw(provider)
    assert given["embedding"] == before
    assert "embedding_model" not in given
    await provider.update_async(
        row_id, "SUMMARIES", {"content": "untouched"}, memory_id="m", embed=False
    )
    assert (await raw(provider))[0]["embedding"] == before


async def test_a_swap_needs_what_was_expected(provider: AsyncMongoDBProvider) -> None:
    """One step on the server: the second of two that read the same loses."""
    await provider.put_async({"_id": "s", "memory_id": "m", "content": "1"}, "SHARED_MEMORY")
    swap = provider.compare_and_swap_async
    kind = "SHARED_MEMORY"
    assert await swap("s", kind, {"content": "1"}, {"content": "2"}, memory_id="m", embed=False)
    assert not await swap("s", kind, {"content": "1"}, {"content": "3"}, memory_id="m", embed=False)
    assert not await swap("s", kind, {"content": "2"}, {"content": "3"}, memory_id="n", embed=False)
    assert [row["content"] for row in await raw(provider, kind)] == ["2"]


async def test_expected_values_are_never_operators(provider: AsyncMongoDBProvider) -> None:
    """A value that looks like an operator is a value, and a name that does is refused."""
    await provider.put_async({"_id": "s", "memory_id": "m", "n": 1}, "SUMMARIES")
    anything = {"n": {"$gt": 0}}
    assert not await provider.delete_async("s", "SUMMARIES", expected=anything, memory_id="m")
    assert not await provider.delete_many_async("SUMMARIES", where=anything, memory_id="m")
    assert not await provider.list_async("SUMMARIES", where=anything, memory_id="m")
    with pytest.raises(InvalidFilterError):
        await provider.delete_many_async("SUMMARIES", where={"$where": "1"}, memory_id="m")
    assert len(await raw(provider)) == 1


@pytest.mark.parametrize(
    "changes",
    [{"memory_id": "b"}, {"memory_id": None}, {"memory_id.x": 1}, {"user_id": {"$gt": ""}}],
)
async def test_a_change_moves_no_row_to_another_tenant(
    provider: AsyncMongoDBProvider, changes: Row
) -> None:
    """Nor to one that no call can name; neither an update nor an upsert does, of no row at all."""
    await provider.put_async({"_id": "r", "memory_id": "a", "n": 1}, "SUMMARIES")
    refused = (InvalidInputError, ScopeError)
    with pytest.raises(refused):
        await provider.update_async("r", "SUMMARIES", changes, memory_id="a")
    with pytest.raises(refused):
        await provider.update_many_async("SUMMARIES", changes, memory_id="a")
    for key, row, new in (({"n": 2}, changes, {}), ({**changes}, {}, {}), ({"n": 2}, {}, changes)):
        with pytest.raises(refused):
            await provider.upsert_async("SUMMARIES", key, row, where_new=new, memory_id="a")
    assert await raw(provider) == [{"_id": "r", "memory_id": "a", "n": 1}]


async def test_a_user_does_not_change_what_serves_every_user(
    provider: AsyncMongoDBProvider,
) -> None:
    """Rows without a user are seen by each in an agent-wide store, and are none of theirs."""
    await provider.put_async({"_id": "shared", "memory_id": "m", "user_id": None}, "KNOWLEDGE_BASE")
    mine = {"memory_id": "m", "user_id": "u"}
    assert [row["_id"] for row in await provider.list_async("KNOWLEDGE_BASE", **mine)] == ["shared"]
    assert not await provider.update_async("shared", "KNOWLEDGE_BASE", {"n": 1}, **mine)
    assert not await provider.delete_async("shared", "KNOWLEDGE_BASE", **mine)
    assert await provider.delete_many_async("KNOWLEDGE_BASE", **mine) == 0
    assert len(await raw(provider, "KNOWLEDGE_BASE")) == 1


async def test_many_rows_are_changed_at_once(provider: AsyncMongoDBProvider) -> None:
    """Those of the scope that equal what is asked for, and no others."""
    rows = [
        {"_id": f"{memory}-{user}", "memory_id": memory, "user_id": user}
        for memory in ("m", "n")
        for user in (None, "u")
    ]
    await provider.put_many_async(rows, "ENTITY_MEMORY")
    changed = await provider.update_many_async(
        "ENTITY_MEMORY", {"user_id": "v"}, memory_id="m", user_id=None
    )
    assert changed == 1
    stored = {row["_id"]: row["user_id"] for row in await raw(provider, "ENTITY_MEMORY")}
    assert stored == {"m-None": "v", "m-u": "u", "n-None": None, "n-u": "u"}


async def test_an_upsert_makes_a_row_or_changes_it(provider: AsyncMongoDBProvider) -> None:
    """What only a new row gets stays as it was the first time."""
    key = {"agent_id": "a"}
    for name, made in (("first", True), ("second", False)):
        assert made is await provider.upsert_async(
            "MEMAGENT",
            key,
            {"name": name},
            where_new={"_id": "a", "made_by": name},
            memory_id=EVERY_TENANT,
        )
    assert await raw(provider, "MEMAGENT") == [
        {"_id": "a", "agent_id": "a", "name": "second", "made_by": "first"}
    ]


async def test_an_upserted_row_has_its_id_in_the_form_of_all_others(
    provider: AsyncMongoDBProvider,
) -> None:
    """24 hexadecimal digits are an ObjectId here too: a put of that id replaces the row."""
    row_id = str(ObjectId())
    await provider.upsert_async("SUMMARIES", {"n": 1}, {}, where_new={"_id": row_id}, memory_id="m")
    await provider.put_async({"_id": row_id, "n": 2}, "SUMMARIES", memory_id="m")
    assert await raw(provider) == [{"_id": row_id, "memory_id": "m", "n": 2}]


async def test_of_puts_at_once_one_stays(provider: AsyncMongoDBProvider) -> None:
    """The server refuses a new row that another call has just made: that one is then replaced."""
    for name in range(20):
        puts = [{"_id": f"r{name}", "by": by} for by in range(8)]
        await asyncio.gather(*(provider.put_async(row, "SUMMARIES", memory_id="m") for row in puts))
    assert len(await raw(provider)) == 20


async def test_uses_are_counted(provider: AsyncMongoDBProvider) -> None:
    """From one, also where the count was no number; only of the scope's rows."""
    rows: list[Row] = [
        {"_id": "a", "memory_id": "m"},
        {"_id": "b", "memory_id": "m", "access_count": 4},
        {"_id": "c", "memory_id": "m", "access_count": None},
        {"_id": "d", "memory_id": "n"},
    ]
    await provider.put_many_async(rows, "SUMMARIES")
    assert await provider.touch_many_async(list("abcd"), "SUMMARIES", at=NOW, memory_id="m") == 3
    assert await provider.touch_many_async([], "SUMMARIES", memory_id="m") == 0
    stored = {row["_id"]: row for row in await raw(provider)}
    assert [stored[key].get("access_count") for key in "abcd"] == [1, 5, 1, None]
    assert stored["a"]["last_accessed_at"] == NOW.isoformat()


async def test_deleting_stays_in_the_scope(provider: AsyncMongoDBProvider) -> None:
    """One row, those that equal something, those of these ids, all: of the tenant's."""
    for memory in ("m", "n"):
        await provider.put_many_async(
            [{"_id": f"{memory}{number}", "number": number} for number in range(6)],
            "SUMMARIES",
            memory_id=memory,
        )
    assert await provider.delete_async("m0", "SUMMARIES", memory_id="m")
    assert not await provider.delete_async("m0", "SUMMARIES", memory_id="m")
    assert not await provider.delete_async("n0", "SUMMARIES", memory_id="m")
    assert await provider.delete_many_async("SUMMARIES", where={"number": 1}, memory_id="m") == 1
    assert await provider.delete_many_async("SUMMARIES", ids=["m2", "n2"], memory_id="m") == 1
    assert await provider.delete_many_async("SUMMARIES", ids=[], memory_id="m") == 0
    assert await provider.delete_many_async("SUMMARIES", memory_id="m") == 3
    assert sorted(row["_id"] for row in await raw(provider)) == [f"n{n}" for n in range(6)]


async def test_an_empty_scope_deletes_nothing(provider: AsyncMongoDBProvider) -> None:
    """It raises; everybody's rows go only where the call says so."""
    await provider.put_async({"_id": "r", "memory_id": "m"}, "SUMMARIES")
    for deleting in (
        provider.delete_many_async("SUMMARIES"),
        provider.delete_async("r", "SUMMARIES"),
        provider.delete_expired_async("SUMMARIES"),
        provider.delete_many_async("SUMMARIES", where={"memory_id": "m"}),
    ):
        with pytest.raises(ScopeError):
            await deleting
    assert len(await raw(provider)) == 1
    assert await provider.delete_many_async("SUMMARIES", memory_id=EVERY_TENANT) == 1


async def test_what_has_expired_is_deleted(provider: AsyncMongoDBProvider) -> None:
    """By now or by then; a row without an end stays."""
    ends = {"past": NOW - timedelta(hours=1), "future": NOW + timedelta(hours=1), "never": None}
    await provider.put_many_async(
        [{"_id": name, "memory_id": "m", "expires_at": end} for name, end in ends.items()],
        "SEMANTIC_CACHE",
    )
    alive = await provider.list_async("SEMANTIC_CACHE", memory_id="m")
    assert {row["_id"] for row in alive} == {"future", "never"}
    assert await provider.delete_expired_async("SEMANTIC_CACHE", memory_id="m") == 1
    soon = NOW + timedelta(hours=2)
    assert await provider.delete_expired_async("SEMANTIC_CACHE", before=soon, memory_id="m") == 1
    assert [row["_id"] for row in await raw(provider, "SEMANTIC_CACHE")] == ["never"]


async def test_a_changed_row_is_searched_as_it_is_now(
    provider: AsyncMongoDBProvider, settle: Any
) -> None:
    """After a put, an update and a delete of this provider a search sees what they left."""
    memory = {"memory_id": "m"}
    await provider.put_async({"_id": "r", "embedding": [1.0] * 8}, "SUMMARIES", **memory)
    search = provider.retrieve_memory_units_by_query_async

    async def scores() -> list[float]:
        await settle()
        hits = await search(None, [1.0] * 8, memory_type="SUMMARIES", **memory)
        return [round(hit["score"], 3) for hit in hits]

    assert await scores() == [1.0]
    await provider.update_async("r", "SUMMARIES", {"embedding": [-1.0] * 8}, **memory)
    assert await scores() == [0.0]
    await provider.delete_async("r", "SUMMARIES", **memory)
    assert await scores() == []
