"""The text that the vector of a row is made of: its content; of a turn, with those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.conversation import Session, is_turn, turns_around
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.memory_provider.mongodb.session_locks import SessionName
from memorizz_async.memory_provider.mongodb.spoken import content_of, text_of
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of

_AT_ONCE = 16


async def texts_of(
    driver: Driver, collection: str, rows: Sequence[Document], deadline: Deadline
) -> list[str]:
    """What each row is embedded as, in order; turns as `store_conversation_async` embeds them.

    rows: with `content` and the fields that say which turn of which session they are. "" is the
    text of a row that has none.
    """
    texts = [text_of(content_of(row)) for row in rows]
    sessions: dict[tuple[Any, ...], list[int]] = {}
    for at, row in enumerate(rows):
        if is_turn(row):
            name = (row.get("memory_id"), row.get("user_id"), row["session_id"])
            sessions.setdefault(tuple(map(repr, name)), []).append(at)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(positions: list[int]) -> None:
        async with slots:
            told = await _told(driver, collection, [rows[at] for at in positions], deadline)
        for at in positions:
            texts[at] = told.get(key_of(rows[at]["_id"]), texts[at])

    await asyncio.gather(*(one(positions) for positions in sessions.values()))
    return texts


async def _told(
    driver: Driver, collection: str, turns: Sequence[Document], deadline: Deadline
) -> dict[Any, str]:
    """The embedded text of some turns of one session, by the key of their ids."""
    name = SessionName.of_row(turns[0])
    numbers = [turn["turn"] for turn in turns]
    wanted = {key_of(turn["_id"]): turn for turn in turns}
    session = Session(
        name, await turns_around(driver, collection, name, numbers, deadline, keep=wanted)
    )
    return {
        turn.key: session.embedded_text(position) for position, turn in enumerate(session.turns)
    }
