"""The text that the vector of a row is made of: its content; of a turn, with those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.conversation import (
    WINDOW,
    Session,
    told_of,
    turn_number,
)
from memorizz_async.memory_provider.mongodb.pipelines.models import turns_before_pipeline
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of

_AT_ONCE = 16


async def texts_of(
    driver: Driver, collection: str, rows: Sequence[Document], deadline: Deadline
) -> list[str]:
    """What each row is embedded as, in order; turns as `store_conversation_async` embeds them.

    rows: with `content`, a string, and the fields that say which turn of which session they are.
    """
    texts = [str(row["content"]) for row in rows]
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


def is_turn(row: Document) -> bool:
    """Whether a row is a turn of a session, as `store_conversation_async` writes them."""
    whose = (row.get("memory_id"), row.get("user_id"))
    return (
        turn_number(row.get("turn")) is not None
        and isinstance(row.get("session_id"), str)
        and all(one is None or isinstance(one, str) for one in whose)
    )


async def _told(
    driver: Driver, collection: str, turns: Sequence[Document], deadline: Deadline
) -> dict[Any, str]:
    """The embedded text of some turns of one session, by the key of their ids."""
    first = turns[0]
    scope = {"memory_id": first.get("memory_id"), "user_id": first.get("user_id")}
    numbers = [number for turn in turns if (number := turn_number(turn["turn"])) is not None]
    within, before = await asyncio.gather(
        *(
            driver.aggregate(collection, pipeline, deadline=deadline)
            for pipeline in turns_before_pipeline(
                scope, first["session_id"], min(numbers), max(numbers), WINDOW
            )
        )
    )
    known = sorted(told_of(within), key=lambda turn: (turn.number, str(turn.row_id)))
    session = Session(scope, [*reversed(told_of(before)), *known])
    return {
        key_of(turn.row_id): session.embedded_text(position)
        for position, turn in enumerate(session.turns)
    }
