"""Chat messages with parts: stored, found and shown by their text, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.embedder import CountingEmbedder, vector_of

from memorizz_async import (
    AsyncMongoDBProvider,
    ContextWindowManager,
    DuplicateMemoryError,
    MemoryType,
    WriteError,
)

KIND = MemoryType.CONVERSATION_MEMORY
WHOLE = {"memory_id": "m", "user_id": None}
PARTS = [
    {"type": "text", "text": "Which nuts?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TALK: list[Any] = [
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "hazel"}]},
    {"role": "assistant", "content": [PARTS[1]]},
]
TEXTS = ["Which nuts?", "look({})", "hazel", "[image]"]


async def test_messages_are_stored_whole_and_recalled_as_text(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """What is embedded, what is context, and what a hit says is their text."""
    ids = await provider.store_conversation_async(TALK, session_id="s", **WHOLE)
    assert sorted(embedder.texts) == sorted(
        "\n".join([text, *TEXTS[max(0, at - 2) : at]]) for at, text in enumerate(TEXTS)
    )
    rows = [await provider.get_async(row_id, KIND, memory_id="m") for row_id in ids]
    assert [row and row["content"] for row in rows] == TEXTS
    assert rows[0] is not None
    assert rows[0]["context"] == "\n".join(TEXTS[1:3])
    assert [row and row.get("content_parts") for row in rows] == [
        PARTS, None, TALK[2]["content"], [PARTS[1]],
    ]  # fmt: skip
    assert rows[1] is not None
    assert rows[1]["tool_calls"] == [CALL]
    await provider.update_async(ids[0], KIND, {"content": "no parts"}, memory_id="m")
    changed = await provider.list_async(KIND, ids=[ids[0]], memory_id="m", as_stored=True)
    assert "nuts" not in str(changed)
    await provider.update_async(ids[0], KIND, {"content": PARTS}, memory_id="m")
    changed = await provider.list_async(KIND, ids=[ids[0]], memory_id="m", include_embedding=True)
    assert (changed[0]["content"], changed[0]["content_parts"]) == (TEXTS[0], PARTS)
    assert changed[0]["embedding"] == vector_of(TEXTS[0]).tolist()


async def test_messages_of_other_programs_are_neighbours_and_prompt(
    provider: AsyncMongoDBProvider, insert_raw: Callable[..., Any], settle: Callable[[], Any]
) -> None:
    """A list of parts where we write text: a session goes on after it, a prompt has its text."""
    raw = {**WHOLE, "session_id": "s", "embedding": vector_of("q").tolist()}
    await insert_raw("conversation_memory", {**raw, "turn": 0, "content": PARTS})
    (new,) = await provider.store_conversation_async(["Ben: hazel"], session_id="s", **WHOLE)
    row = await provider.get_async(new, KIND, memory_id="m")
    assert row is not None
    assert (row["turn"], row["context"]) == (1, TEXTS[0])
    await settle()
    manager = ContextWindowManager(provider, memory_id="m", limits={KIND: 3}, count_tokens=len)
    window = await manager.build_async("q")
    assert TEXTS[0] in window.context
    assert "type" not in window.context


async def test_a_taken_dedup_id_is_refused(provider: AsyncMongoDBProvider) -> None:
    """Another tenant's row, or another row of one's own: never "stored" without a row."""
    memory = {"content": "of the victim", "dedup_key": "k"}
    wanted = await provider.store_async(dict(memory), KIND, memory_id="victim")
    await provider.delete_async(wanted, KIND, memory_id="victim")
    await provider.store_async({"content": "squatted", "_id": wanted}, KIND, memory_id="other")
    with pytest.raises(DuplicateMemoryError):
        await provider.store_async(dict(memory), KIND, memory_id="victim")
    with pytest.raises(DuplicateMemoryError):
        await provider.store_conversation_async([memory], session_id="s", memory_id="victim")
    with pytest.raises(WriteError) as caught:
        await provider.store_many_async([memory, "another"], KIND, memory_id="victim")
    assert (set(caught.value.failed), set(caught.value.written_ids)) == ({0}, {1})
    await provider.delete_async(wanted, KIND, memory_id="other")
    for _ in range(2):
        assert await provider.store_async(dict(memory), KIND, memory_id="victim") == wanted
    moves = {"memory_id": "victim", "user_id": None}
    await provider.update_async(wanted, KIND, {"user_id": "u"}, **moves)
    with pytest.raises(DuplicateMemoryError):
        await provider.store_async(dict(memory), KIND, memory_id="victim")
