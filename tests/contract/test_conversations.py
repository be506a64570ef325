"""Turns are stored with what was said around them, all at once or one at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.embedder import CountingEmbedder, vector_of

from memorizz_async import (
    AsyncMongoDBProvider,
    InvalidEmbeddingError,
    InvalidInputError,
    MemoryType,
    WriteError,
)

TALK = [f"{speaker}: {number}" for number, speaker in enumerate("ABABABA")]
KIND = MemoryType.CONVERSATION_MEMORY
WHOLE = {"memory_id": "m", "user_id": None}


async def rows_of(provider: AsyncMongoDBProvider, ids: list[str], **scope: Any) -> list[Any]:
    return [
        await provider.get_async(row_id, KIND, include_embedding=True, **(scope or WHOLE))
        for row_id in ids
    ]


def expected(turns: list[str]) -> list[tuple[Any, ...]]:
    """What each row must hold, by its place in the session."""
    rows = []
    for at, turn in enumerate(turns):
        before, after = turns[max(0, at - 2) : at], turns[at + 1 : at + 3]
        vector = vector_of("\n".join([turn, *before])).tolist()
        rows.append((turn, at, "\n".join([*before, *after]), vector))
    return rows


def seen(rows: list[Any]) -> list[tuple[Any, ...]]:
    return [(row["content"], row["turn"], row["context"], row["embedding"]) for row in rows]


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [2, 1, 4]])
async def test_turns_are_the_same_however_they_came(
    provider: AsyncMongoDBProvider, sizes: list[int]
) -> None:
    """In one call, one by one, or in parts: the same numbers, contexts and vectors."""
    ids: list[str] = []
    for size in sizes:
        turns = TALK[len(ids) : len(ids) + size]
        ids += await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    assert seen(await rows_of(provider, ids)) == expected(TALK)


async def test_sessions_and_tenants_do_not_mix(provider: AsyncMongoDBProvider) -> None:
    """Neighbours are of the same session and of the very same tenant."""
    for scope in (WHOLE, {"memory_id": "m", "user_id": "u"}, {"memory_id": "n", "user_id": None}):
        turns = [{"content": text, "session_id": f"s{at % 2}"} for at, text in enumerate(TALK)]
        ids = await provider.store_conversation_async(turns, **scope)
        rows = await rows_of(provider, ids, **scope)
        assert [row["session_id"] for row in rows] == [turn["session_id"] for turn in turns]
        assert seen(rows[::2]) == expected(TALK[::2])
        assert seen(rows[1::2]) == expected(TALK[1::2])


async def test_a_repeated_call_changes_nothing(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """With dedup_key the same turns again, and some new ones, continue where it stopped."""
    turns = [{"content": text, "dedup_key": text} for text in TALK]
    first = await provider.store_conversation_async(turns[:4], session_id="s", **WHOLE)
    embedder.texts.clear()
    assert await provider.store_conversation_async(turns[:4], session_id="s", **WHOLE) == first
    assert embedder.texts == []
    ids = await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    assert ids[:4] == first
    assert len(embedder.texts) == 3
    assert seen(await rows_of(provider, ids)) == expected(TALK)


async def test_an_expired_turn_makes_way_for_its_repetition(
    provider: AsyncMongoDBProvider,
) -> None:
    """Nobody can see it any more: it does not count as stored."""
    gone = {
        "content": "A: hello",
        "dedup_key": "k",
        "expires_at": datetime.now(UTC) - timedelta(seconds=1),
    }
    await provider.store_conversation_async([gone], session_id="s", **WHOLE)
    turns = ["B: first", {"content": "A: hello", "dedup_key": "k"}]
    ids = await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    assert seen(await rows_of(provider, ids)) == expected(["B: first", "A: hello"])


async def test_what_cannot_be_stored_is_refused_and_nothing_changes(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """No session, no list, a vector that does not fit: the rows before stay as they are."""
    assert await provider.store_conversation_async([], session_id="s", **WHOLE) == []
    ids = await provider.store_conversation_async(TALK[:2], session_id="s", **WHOLE)
    embedder.texts.clear()
    for turns, session_id in ((["a"], None), (["a"], ""), ("a", "s"), ([{"session_id": 7}], "s")):
        with pytest.raises(InvalidInputError):
            await provider.store_conversation_async(
                turns,  # type: ignore[arg-type]
                session_id=session_id,
                **WHOLE,
            )
    assert embedder.texts == []
    odd = [{"content": "a", "embedding": [1.0, 2.0]}]
    with pytest.raises(InvalidEmbeddingError):
        await provider.store_conversation_async(odd, session_id="s", **WHOLE)
    assert seen(await rows_of(provider, ids)) == expected(TALK[:2])


async def test_a_refused_turn_is_named_by_its_place_in_the_call(
    provider: AsyncMongoDBProvider,
) -> None:
    """Also where turns before it were stored already."""
    known = {"content": "known", "dedup_key": "k"}
    await provider.store_conversation_async([known], session_id="s", **WHOLE)
    await provider.store_async({"content": "x", "_id": "taken"}, KIND, **WHOLE)
    turns = [known, "new", {"content": "bad", "_id": "taken"}]
    with pytest.raises(WriteError) as caught:
        await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    assert set(caught.value.failed) == {2}
    assert set(caught.value.written_ids) == {1}


@pytest.mark.needs_text
async def test_a_turn_is_found_by_the_words_around_it(
    provider: AsyncMongoDBProvider, backend: str
) -> None:
    """The answer does not repeat the question's words; its neighbours have them."""
    await provider.ensure_indexes_async([KIND])
    talk = ["Ada: hello", "Ben: which instrument do you play?", "Ada: the second one", "Ben: oh"]
    await provider.store_conversation_async(talk, session_id="s", **WHOLE)
    hits = await provider.retrieve_memory_units_by_query_async(
        "instruments", memory_id="m", memory_type=KIND, mode="text"
    )
    assert hits[0]["content"] == talk[1]
    assert {hit["content"] for hit in hits} == set(talk)
