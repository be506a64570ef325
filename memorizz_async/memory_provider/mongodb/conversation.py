"""Turns of a conversation, each found by what was said around it: the pure part, and its reads.

"Yes, last summer!" answers a question that stands in the turn before. So a turn is embedded
together with the two turns before it, and its `context` field, which the text index covers, holds
the two turns on either side. Two on a side, so that of two speakers each is heard on each side.
Neither field is what a caller reads: `content` stays the turn alone.

A turn lends its words only to turns that expire no later than it does: the server deletes expired
rows without us, and what is deleted must be nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from bson import Decimal128

from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.pipelines.sessions import (
    LARGEST_TURN,
    session_tail_pipeline,
    turns_around_pipelines,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.session_locks import SessionName
from memorizz_async.memory_provider.mongodb.spoken import (
    BESIDE_CONTENT,
    PARTS,
    content_of,
    text_of,
)
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import alive_until
from memorizz_async.memory_provider.mongodb.writing import Draft

WINDOW = 2
"""How many turns on a side belong to a turn's context."""
_LONGEST_HEARD = 10_000
"""Characters of a neighbour; with the whole of long ones a row would exceed MongoDB's limit."""


@dataclass
class Turn:
    """A turn among its neighbours: one that is stored already, or one that is to be written.

    model: what its vector is of; None where it names none. in_context: whether we know that its
    vector was made with the turns before it.
    """

    text: str
    number: int
    row_id: Any = None
    expires_at: Any = None
    model: str | None = None
    in_context: bool = False
    draft: Draft | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Turn:
        model = row.get("embedding_model")
        return cls(
            text_of(content_of(row)),
            number_of(row["turn"]),
            row["_id"],
            row.get("expires_at"),
            model if isinstance(model, str) else None,
            row.get("embedded_turns") is not None,
        )

    @property
    def key(self) -> Hashable:
        return key_of(self.row_id)

    def lasts_as_long_as(self, other: Turn) -> bool:
        """Whether it does not expire before the other."""
        return end_of(self.expires_at) >= end_of(other.expires_at)

    def has_expired(self, now: datetime) -> bool:
        return end_of(self.expires_at) <= end_of(now)


@dataclass
class Session:
    """Turns of one session that follow each other, in order."""

    name: SessionName
    turns: list[Turn] = field(default_factory=list)

    def before(self, position: int) -> list[str]:
        return self._heard(position, self.turns[max(0, position - WINDOW) : position])

    def after(self, position: int) -> list[str]:
        return self._heard(position, self.turns[position + 1 : position + 1 + WINDOW])

    def context(self, position: int) -> str:
        return "\n".join([*self.before(position), *self.after(position)])

    def embedded_text(self, position: int) -> str:
        """The turn first: a model that cuts long texts then cuts its neighbours."""
        return "\n".join([self.turns[position].text, *self.before(position)])

    def append(self, draft: Draft, least: int = 0) -> None:
        """Add a turn with the next number, at least this one."""
        number = max(least, self.turns[-1].number + 1 if self.turns else 0)
        text = text_of(draft.fields.get("content") or "")
        expires_at = draft.fields.get("expires_at")
        self.turns.append(Turn(text, number, expires_at=expires_at, draft=draft))

    def _heard(self, position: int, neighbours: Sequence[Turn]) -> list[str]:
        turn = self.turns[position]
        return [other.text[:_LONGEST_HEARD] for other in neighbours if other.lasts_as_long_as(turn)]


@dataclass
class Rewriting:
    """What a change of some turns means for their session.

    session: as it is afterwards. context: the positions of those turns in it whose context changes.
    vectors: those whose embedded text changes. heard: those of them that are embedded with other
    turns before them than until now.
    """

    session: Session
    context: list[int]
    vectors: list[int]
    heard: set[int] = field(default_factory=set)


def rewriting(
    name: SessionName, turns: Sequence[Turn], changes: Mapping[Hashable, Turn | None]
) -> Rewriting:
    """What has to be written again where some turns change.

    turns: those that are stored, with twice the window on either side of the changed ones.
    changes: by key, the turn as it will be; None for one that leaves the session.
    """
    changed = {at for at, turn in enumerate(turns) if turn.key in changes}
    session, before = Session(name), Session(name, list(turns))
    context, vectors, until_now = [], [], {}
    for at, turn in enumerate(turns):
        after = changes.get(turn.key, turn)
        if after is None:
            continue
        if changed.intersection(range(at - WINDOW, at + WINDOW + 1)):
            context.append(len(session.turns))
        if changed.intersection(range(at - WINDOW, at + 1)):
            vectors.append(len(session.turns))
            until_now[len(session.turns)] = before.before(at)
        session.turns.append(after)
    heard = {at for at, texts in until_now.items() if session.before(at) != texts}
    return Rewriting(session, context, vectors, heard)


def mending(name: SessionName, turns: Sequence[Turn], numbers: Sequence[int]) -> Rewriting:
    """What is written again where it is not known what was written about the turns of some numbers.

    turns: those that are stored, from twice the window before the numbers to as many after them.
    """
    first = sum(turn.number < min(numbers) for turn in turns)
    end = sum(turn.number <= max(numbers) for turn in turns)
    near = range(max(0, first - WINDOW), min(len(turns), end + WINDOW))
    return Rewriting(Session(name, list(turns)), [*near], [at for at in near if at >= first])


async def last_turns(
    driver: Driver, collection: str, name: SessionName, deadline: Deadline
) -> Session:
    """The last turns of a session: twice the window, so that of the last ones all neighbours are
    known.
    """
    rows = await driver.aggregate(
        collection,
        session_tail_pipeline(name.scope, name.session_id, 2 * WINDOW, datetime.now(UTC)),
        deadline=deadline,
    )
    return Session(name, [Turn.of_row(row) for row in reversed(rows)])


async def turns_around(
    driver: Driver,
    collection: str,
    name: SessionName,
    numbers: Sequence[Any],
    deadline: Deadline,
    *,
    keep: Mapping[Hashable, Any] | None = None,
) -> list[Turn]:
    """The turns of a session between the lowest and the highest of some numbers, and twice the
    window on either side, in order.

    keep: keys of expired turns that are wanted all the same.
    """
    now = datetime.now(UTC)
    within, before, after = await asyncio.gather(
        *(
            driver.aggregate(collection, pipeline, deadline=deadline)
            for pipeline in turns_around_pipelines(
                name.scope, name.session_id, min(numbers, key=number_of),
                max(numbers, key=number_of), limit=2 * WINDOW, now=now,
            )
        )
    )  # fmt: skip
    inside = sorted(within, key=lambda row: (number_of(row["turn"]), str(row["_id"])))
    turns = [Turn.of_row(row) for row in (*reversed(before), *inside, *after)]
    return [turn for turn in turns if turn.key in (keep or {}) or not turn.has_expired(now)]


def is_turn(row: Mapping[str, Any]) -> bool:
    """Whether a row is a turn of a session, as `store_conversation_async` writes them."""
    turn = row.get("turn")
    if isinstance(turn, bool) or not isinstance(turn, int | float | Decimal128):
        return False
    whose = (row.get("memory_id"), row.get("user_id"))
    if not all(one is None or isinstance(one, str) for one in whose):
        return False  # another program's: no call can name such a tenant
    as_float = float(turn.to_decimal()) if isinstance(turn, Decimal128) else float(turn)
    return -LARGEST_TURN < as_float < LARGEST_TURN and isinstance(row.get("session_id"), str)


def number_of(turn: Any) -> int:
    """A stored turn number, of whatever numeric type, as a whole number."""
    return int(turn.to_decimal() if isinstance(turn, Decimal128) else turn)


def end_of(expires_at: Any) -> float:
    """When a row expires, in milliseconds since the epoch; what is no date never does."""
    if isinstance(expires_at, datetime) and expires_at.tzinfo is None:
        expires_at = expires_at.replace(tzinfo=UTC)
    return alive_until({"expires_at": expires_at})


_TEXT = frozenset({"content", PARTS, *BESIDE_CONTENT, "expires_at"})
_PLACE = frozenset({"session_id", "turn", "memory_id", "user_id"})


def touches_turns(fields: Mapping[str, Any]) -> bool:
    """Whether setting these fields of a turn changes what other turns may hold of it."""
    return not (_TEXT | _PLACE).isdisjoint(name.partition(".")[0] for name in fields)


def moves_turns(fields: Mapping[str, Any]) -> bool:
    """Whether it changes the place of a turn, or its text in a way that only the server knows."""
    beside = () if "content" in fields else BESIDE_CONTENT
    return any(
        (root := name.partition(".")[0]) in _PLACE
        or root in beside
        or (root != name and root in _TEXT)
        for name in fields
    )


def changed_turn(turn: Turn, fields: Mapping[str, Any]) -> Turn:
    """The turn as it is with these fields."""
    text, expires_at = turn.text, turn.expires_at
    if "content" in fields:
        text = text_of(content_of(fields))
    return replace(turn, text=text, expires_at=fields.get("expires_at", expires_at))
