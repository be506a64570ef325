"""What a turn says is nowhere once it is deleted, changed or expired: not with its neighbours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.embedder import CountingEmbedder, vector_of

from memorizz_async import EVERY_TENANT, AsyncMongoDBProvider, InvalidInputError, MemoryType

KIND = MemoryType.CONVERSATION_MEMORY
WHOLE = {"memory_id": "m", "user_id": None}
TALK = [f"{speaker}{number}" for number, speaker in enumerate("ABABABAB")]
GIVEN = [1.0] * 8


async def stored(provider: AsyncMongoDBProvider, **scope: Any) -> list[dict[str, Any]]:
    rows = await provider.list_async(
        KIND,
        include_embedding=True,
        include_expired=True,
        as_stored=True,
        order_by=(("turn", 1),),
        **(scope or WHOLE),
    )
    return sorted(rows, key=lambda row: (row["session_id"], row["turn"]))


def seen(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["content"], row["context"], row["embedding"]) for row in rows]


def expected(turns: list[str]) -> list[tuple[Any, ...]]:
    """What rows hold of which these are all, in order."""
    rows = []
    for at, turn in enumerate(turns):
        before, after = turns[max(0, at - 2) : at], turns[at + 1 : at + 3]
        vector = vector_of("\n".join([turn, *before])).tolist()
        rows.append((turn, "\n".join([*before, *after]), vector))
    return rows


async def talked(provider: AsyncMongoDBProvider, **fields: Any) -> list[str]:
    turns = [{"content": text, **fields} for text in TALK]
    return await provider.store_conversation_async(turns, session_id="s", **WHOLE)


async def test_others_forget_a_deleted_turn(provider: AsyncMongoDBProvider) -> None:
    """By whichever method it goes: the rest is as if it had never been said."""
    ids = await talked(provider)
    left = list(TALK)
    assert await provider.delete_async(ids[3], KIND, expected={"content": TALK[3]}, memory_id="m")
    left.remove(TALK[3])
    assert seen(await stored(provider)) == expected(left)
    assert await provider.delete_many_async(KIND, ids=[ids[0], ids[5]], memory_id=EVERY_TENANT) == 2
    left = [text for text in left if text not in {TALK[0], TALK[5]}]
    assert seen(await stored(provider)) == expected(left)
    assert await provider.delete_many_async(KIND, where={"content": TALK[6]}, memory_id="m") == 1
    left.remove(TALK[6])
    assert seen(await stored(provider)) == expected(left)
    assert not await provider.delete_async(ids[3], KIND, memory_id="m")
    assert await provider.delete_many_async(KIND, memory_id="m") == 4
    assert await stored(provider) == []


async def test_others_have_the_new_words_of_a_changed_turn(provider: AsyncMongoDBProvider) -> None:
    """By whichever method it changes: the rows are as if that had been said at once."""
    ids = await talked(provider)
    now = list(TALK)
    assert await provider.update_async(ids[2], KIND, {"content": "new2"}, memory_id="m")
    now[2] = "new2"
    assert seen(await stored(provider)) == expected(now)
    swap = provider.compare_and_swap_async
    assert not await swap(ids[4], KIND, {"content": "?"}, {"content": "x"}, memory_id="m")
    assert await swap(ids[4], KIND, {"content": TALK[4]}, {"content": "new4"}, memory_id="m")
    now[4] = "new4"
    where = {"content": TALK[5]}
    assert await provider.update_many_async(KIND, {"content": "5"}, where=where, memory_id="m") == 1
    now[5] = "5"
    where = {"content": TALK[7]}
    await provider.update_many_async(
        KIND, {"content": "7"}, where=where, as_record=True, memory_id="m"
    )
    now[7] = "7"
    assert not await provider.upsert_async(KIND, {"turn": 6}, {"content": "six"}, memory_id="m")
    now[6] = "six"
    rows = await stored(provider)
    assert seen(rows) == expected(now)
    await provider.put_async({**rows[1], "content": "put1"}, KIND, memory_id="m")
    after = await stored(provider)
    now[1] = "put1"
    assert [row[1] for row in seen(after)] == [row[1] for row in expected(now)]
    assert seen(after)[2:] == expected(now)[2:]
    assert after[1]["embedding"] == rows[1]["embedding"], "a row that is put stays as it is"
    assert "embedding_next" not in str(after)


async def test_a_turn_that_moves_leaves_no_words_behind_and_takes_none_along(
    provider: AsyncMongoDBProvider,
) -> None:
    """To another session, or to another tenant."""
    ids = await talked(provider)
    assert await provider.update_async(ids[3], KIND, {"session_id": "t"}, memory_id="m")
    rows = await stored(provider)
    assert seen(rows) == [*expected([*TALK[:3], *TALK[4:]]), *expected([TALK[3]])]
    mine = {"memory_id": None, "user_id": "u"}
    await provider.store_conversation_async(["one", "two"], session_id="s", **mine)
    moved = await provider.update_many_async(
        KIND, {"memory_id": "n"}, where={"content": "two"}, **mine
    )
    assert moved == 1
    assert seen(await stored(provider, **mine)) == expected(["one"])
    assert seen(await stored(provider, memory_id="n", user_id="u")) == expected(["two"])
    moves = {"user_id": "v"}
    assert await provider.update_async(ids[5], KIND, moves, embed=False, **WHOLE)
    left = [*TALK[:3], TALK[4], *TALK[6:]]
    assert [row for row in seen(await stored(provider)) if row[0] != TALK[3]] == expected(left)
    assert seen(await stored(provider, memory_id="m", user_id="v")) == expected([TALK[5]])


async def test_a_turn_lends_its_words_to_none_that_lives_longer(
    provider: AsyncMongoDBProvider,
) -> None:
    """The server deletes what has expired without us: also where its end is set later."""
    end = datetime.now(UTC) + timedelta(hours=1)
    turns: list[Any] = ["A0", {"content": "B1", "expires_at": end}, "A2"]
    ids = await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    await provider.store_conversation_async(["B3"], session_id="s", **WHOLE)
    rows = await stored(provider)
    assert [row["context"] for row in rows] == ["A2", "A0\nA2\nB3", "A0\nB3", "A2"]
    assert rows[2]["embedding"] == vector_of("A2\nA0").tolist()
    assert rows[1]["embedding"] == vector_of("B1\nA0").tolist()
    assert await provider.update_async(ids[2], KIND, {"expires_at": end}, memory_id="m")
    rows = await stored(provider)
    assert [row["context"] for row in rows] == ["", "A0\nA2\nB3", "A0\nB1\nB3", ""]
    assert rows[3]["embedding"] == vector_of("B3").tolist()
    for row_id in ids[1:]:
        assert await provider.update_async(row_id, KIND, {"expires_at": None}, memory_id="m")
    assert seen(await stored(provider)) == expected(["A0", "B1", "A2", "B3"])
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert await provider.update_async(ids[1], KIND, {"expires_at": past}, memory_id="m")
    assert await provider.delete_expired_async(KIND, memory_id="m") == 1
    assert seen(await stored(provider)) == expected(["A0", "A2", "B3"])


@pytest.mark.parametrize("method", ["update_async", "update_many_async"])
async def test_a_vector_holds_no_words_of_turns_that_expire_before_it(
    provider: AsyncMongoDBProvider, method: str
) -> None:
    """Also where the call that lets the turn live longer embeds no text."""
    end = datetime.now(UTC) + timedelta(hours=1)
    ids = await talked(provider, expires_at=end)
    assert seen(await stored(provider)) == expected(TALK)
    longer = {"expires_at": None}
    if method == "update_async":
        await provider.update_async(ids[2], KIND, longer, embed=False, memory_id="m")
    else:
        where = {"content": TALK[2]}
        await provider.update_many_async(KIND, longer, where=where, as_record=True, memory_id="m")
    rows = await stored(provider)
    assert rows[2]["context"] == ""
    assert rows[2]["embedding"] == vector_of(TALK[2]).tolist()


async def test_tool_calls_change_with_the_text_that_they_are(
    provider: AsyncMongoDBProvider,
) -> None:
    """Their old words are nowhere afterwards; a content of its own stays as it is."""

    def calls(word: str) -> list[Any]:
        return [{"id": "1", "type": "function", "function": {"name": "look", "arguments": word}}]

    turns: list[Any] = [
        "A0",
        {"content": "Let me see", "tool_calls": calls("old")},
        {"content": None, "tool_calls": calls("secret")},
        "A3",
    ]
    ids = await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    await provider.update_async(ids[1], KIND, {"tool_calls": calls("new")}, memory_id="m")
    changes: list[dict[str, Any]] = [
        {"tool_calls": calls("new")},
        {"tool_calls.0.function.arguments": "new"},
    ]
    for change in changes:
        with pytest.raises(InvalidInputError, match="without it"):
            await provider.update_async(ids[2], KIND, change, memory_id="m")
        with pytest.raises(InvalidInputError, match="without it"):
            await provider.update_many_async(KIND, change, where={"turn": 2}, memory_id="m")
        with pytest.raises(InvalidInputError, match="without it"):
            await provider.upsert_async(KIND, {"turn": 2}, change, memory_id="m")
    change = {"content": None, "tool_calls": calls("new")}
    await provider.update_async(ids[2], KIND, change, memory_id="m")
    rows = await stored(provider)
    assert seen(rows) == expected(["A0", "Let me see", "look(new)", "A3"])
    assert "secret" not in str(rows)


async def test_parts_change_with_the_text_that_they_are(provider: AsyncMongoDBProvider) -> None:
    """No field of the row says what another of its fields does not say any more."""
    turns: list[Any] = ["A0", {"content": [{"type": "text", "text": "secret"}]}, "A2"]
    ids = await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    parts = [{"type": "text", "text": "new"}]
    with pytest.raises(InvalidInputError, match="as a whole"):
        await provider.update_async(ids[1], KIND, {"content_parts.0.text": "new"}, memory_id="m")
    for number, change in enumerate([{"content_parts": parts}, {"content": parts}]):
        await provider.update_async(ids[1], KIND, change, memory_id="m")
        rows = await stored(provider)
        assert seen(rows) == expected(["A0", "new", "A2"]), number
        assert rows[1]["content_parts"] == parts
        assert "secret" not in str(rows)


async def test_long_neighbours_are_cut(provider: AsyncMongoDBProvider) -> None:
    """The context of a turn does not make its row larger than MongoDB takes."""
    talk = [letter * 4_000_000 for letter in "abcde"]
    ids = await provider.store_conversation_async(talk, session_id="s", **WHOLE)
    await provider.delete_async(ids[2], KIND, memory_id="m")
    rows = await stored(provider)
    assert [row["content"] for row in rows] == [*talk[:2], *talk[3:]]
    assert all(len(row["context"]) < 100_000 for row in rows)


async def test_vectors_of_the_caller_stay_as_they_were_given(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """Only their caller can make them; no model is asked for anything."""
    ids = await talked(provider, embedding=GIVEN)
    await provider.delete_async(ids[1], KIND, memory_id="m")
    await provider.update_async(ids[4], KIND, {"content": "x"}, embed=False, memory_id="m")
    rows = await stored(provider)
    now = [TALK[0], *TALK[2:4], "x", *TALK[5:]]
    assert [row["context"] for row in rows] == [row[1] for row in expected(now)]
    assert all(row["embedding"] == GIVEN for row in rows)
    assert embedder.texts == []
