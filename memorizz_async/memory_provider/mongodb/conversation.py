"""Turns of a conversation, each stored so that it is found by what was said around it.

"Yes, last summer!" answers a question that stands in the turn before. So a turn is embedded
together with the two turns before it, and its `context` field, which the text index covers, holds
the two turns on either side. Two on a side, so that of two speakers each is heard on each side.
Neither field is what a caller reads: `content` stays the turn alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import InvalidInputError, WriteError
from memorizz_async.memory_provider.mongodb import writing
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.pipelines import (
    LARGEST_TURN,
    context_update,
    id_projection,
    rows_by_id_filter,
    session_tail_pipeline,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.rows import dedup_id, public_id
from memorizz_async.memory_provider.mongodb.spoken import text_of
from memorizz_async.memory_provider.mongodb.writing import Draft, Written
from memorizz_async.redaction import shown
from memorizz_async.timestamps import number_of

WINDOW = 2
"""How many turns on a side belong to a turn's context."""


@dataclass
class Told:
    """A turn among its neighbours: one that is stored already, or one that is to be written."""

    content: str
    number: int
    row_id: Any = None
    draft: Draft | None = None


@dataclass
class Session:
    """The last turns that are stored of a session, then those to be written, in order."""

    scope: dict[str, str | None]
    turns: list[Told] = field(default_factory=list)

    def before(self, position: int) -> list[str]:
        return [turn.content for turn in self.turns[max(0, position - WINDOW) : position]]

    def after(self, position: int) -> list[str]:
        return [turn.content for turn in self.turns[position + 1 : position + 1 + WINDOW]]

    def context(self, position: int) -> str:
        return "\n".join([*self.before(position), *self.after(position)])

    def embedded_text(self, position: int) -> str:
        """The turn first: a model that cuts long texts then cuts its neighbours."""
        return "\n".join([self.turns[position].content, *self.before(position)])

    def append(self, draft: Draft) -> None:
        number = self.turns[-1].number + 1 if self.turns else 0
        self.turns.append(Told(str(draft.fields.get("content") or ""), number, draft=draft))


async def store(
    driver: Driver,
    collection: str,
    drafts: Sequence[Draft],
    session_id: str | None,
    *,
    embedder: Callable[[], Embedder],
    guard: ModelGuard,
    call: CallTime,
    written: Written,
) -> list[str]:
    """Write the turns after those that are stored of their sessions; their ids, in order."""
    named = [_session_id(draft, session_id, at) for at, draft in enumerate(drafts)]
    deadline = call.for_database()
    stored = await _stored(driver, collection, drafts, deadline)
    for draft, name in zip(drafts, named, strict=True):
        draft.fields["session_id"] = name
    missing = [draft for at, draft in enumerate(drafts) if at not in stored]
    sessions = await _sessions(driver, collection, missing, deadline)
    new = _complete(sessions)
    await writing.embed([d for d, _ in new], [text for _, text in new], embedder, call)
    deadline = call.for_database()
    await writing.check(driver, collection, [draft for draft, _ in new], deadline, guard)
    # First, so that an error here means that nothing was written: the call can be repeated.
    await _tell_neighbours(driver, collection, sessions, deadline)
    where = [at for at in range(len(drafts)) if at not in stored]
    rows = [drafts[at] for at in where]
    try:
        new_ids = await writing.insert(driver, collection, rows, deadline, guard, written=written)
    except WriteError as error:  # it counts among the rows that were sent
        error.failed = {where[at]: reason for at, reason in error.failed.items()}
        error.written_ids = {where[at]: row_id for at, row_id in error.written_ids.items()}
        raise
    ids = {**stored, **dict(zip(where, new_ids, strict=True))}
    return [ids[at] for at in range(len(drafts))]


async def _sessions(
    driver: Driver, collection: str, drafts: Sequence[Draft], deadline: Deadline
) -> list[Session]:
    """The drafts in their sessions, after the turns that are stored there."""
    grouped: dict[tuple[Any, ...], list[Draft]] = {}
    for draft in drafts:
        key = (*draft.scope.fields().values(), draft.fields["session_id"])
        grouped.setdefault(key, []).append(draft)
    sessions = await asyncio.gather(
        *(_tail(driver, collection, group[0], deadline) for group in grouped.values())
    )
    for session, group in zip(sessions, grouped.values(), strict=True):
        for draft in group:
            session.append(draft)
    return sessions


def _complete(sessions: Sequence[Session]) -> list[tuple[Draft, str]]:
    """Give each new turn its number and its context; the drafts with the text to embed."""
    found = []
    for session in sessions:
        for position, turn in enumerate(session.turns):
            if turn.draft is not None:
                turn.draft.fields.update(turn=turn.number, context=session.context(position))
                found.append((turn.draft, session.embedded_text(position)))
    return found


async def _tell_neighbours(
    driver: Driver, collection: str, sessions: Sequence[Session], deadline: Deadline
) -> None:
    """Write the new turns into the context of the stored ones before them.

    The whole context is written, so that doing it again changes nothing and mends what an
    interrupted write left.
    """
    now = datetime.now(UTC)
    updates = []
    for session in sessions:
        stored = [at for at, turn in enumerate(session.turns) if turn.draft is None]
        # The tail that was read is twice the window: of the last ones all neighbours are known.
        for at in stored[-WINDOW:]:
            row = rows_by_id_filter([session.turns[at].row_id], session.scope, now)
            update = context_update(session.context(at), now)
            updates.append(driver.update_many(collection, row, update, deadline=deadline))
    await asyncio.gather(*updates)


def _session_id(draft: Draft, session_id: str | None, position: int) -> str:
    own = draft.fields.get("session_id", session_id)
    if not isinstance(own, str) or not own:
        raise InvalidInputError(
            "A turn needs the session that it belongs to, a non-empty string",
            seen=f"{shown(own)} in turn {position}",
            fix="pass session_id, or give each turn its own",
        )
    return own


async def _stored(
    driver: Driver, collection: str, drafts: Sequence[Draft], deadline: Deadline
) -> dict[int, str]:
    """The drafts whose `dedup_key` is stored already: their positions, and the rows' ids."""
    ids = {
        at: dedup_id(draft.fields["dedup_key"], draft.scope)
        for at, draft in enumerate(drafts)
        if draft.fields.get("dedup_key") is not None
    }
    if not ids:
        return {}
    there_now = rows_by_id_filter(list(ids.values()), {}, datetime.now(UTC))
    rows = await driver.find(collection, there_now, projection=id_projection(), deadline=deadline)
    there = {row["_id"] for row in rows}
    return {at: public_id(row_id) for at, row_id in ids.items() if row_id in there}


async def _tail(driver: Driver, collection: str, first: Draft, deadline: Deadline) -> Session:
    scope, session_id = first.scope.fields(), str(first.fields["session_id"])
    rows = await driver.aggregate(
        collection,
        session_tail_pipeline(scope, session_id, 2 * WINDOW, datetime.now(UTC)),
        deadline=deadline,
    )
    return Session(scope, told_of(reversed(rows)))


def told_of(rows: Iterable[Mapping[str, Any]]) -> list[Told]:
    """The turns that rows are, in their order; a row whose `turn` is no number is none."""
    numbered = ((row, turn_number(row.get("turn"))) for row in rows)
    return [
        Told(text_of(row.get("content")), number, row["_id"])
        for row, number in numbered
        if number is not None
    ]


def turn_number(value: Any) -> int | None:
    """The number of a turn; None for what is none, such as NaN, infinity or text."""
    number = number_of(value)
    if number is None or abs(number) > LARGEST_TURN:
        return None
    return int(number)
