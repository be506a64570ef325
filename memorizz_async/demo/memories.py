"""A conversation as memories: which row each turn, observation, summary and workflow becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from memorizz_async.demo.locomo import Conversation, Note, Turn
from memorizz_async.enums import MemoryType

Row = dict[str, Any]


def turn_memories(conversation: Conversation) -> list[Row]:
    """The turns, one memory each, in order."""
    return [_turn(conversation, turn) for turn in conversation.turns]


def memories_of(conversation: Conversation) -> dict[MemoryType, list[Row]]:
    """Everything that the conversation holds, by memory type; types without memories are left out.

    A memory's `timestamp` is the moment of its session, so that its age is the conversation's and
    not the import's. `dia_ids` are the turns that it comes from.
    """
    by_type = {
        MemoryType.CONVERSATION_MEMORY: turn_memories(conversation),
        MemoryType.LONG_TERM_MEMORY: _notes(conversation, "fact", conversation.observations),
        MemoryType.SUMMARIES: _notes(conversation, "summary", conversation.summaries),
        MemoryType.WORKFLOW_MEMORY: _notes(conversation, "workflow", conversation.workflows),
    }
    return {kind: rows for kind, rows in by_type.items() if rows}


def digest_of(texts: Sequence[str]) -> str:
    """A short fingerprint of texts: what was stored once is known again, what changed is new."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _turn(conversation: Conversation, turn: Turn) -> Row:
    # With its speaker and its picture: what is recalled has to make sense alone.
    content = f"{turn.speaker}: {turn.text}"
    if turn.caption:
        content += f" [shares {turn.caption}]"
    return _row(
        conversation,
        turn.dia_id,
        content,
        session=turn.session,
        at=turn.at,
        speaker=turn.speaker,
        dia_ids=[turn.dia_id],
    )


def _notes(conversation: Conversation, kind: str, notes: Sequence[Note]) -> list[Row]:
    return [
        _row(
            conversation,
            f"{kind}-{number}",
            note.text,
            session=note.session,
            at=note.at,
            speaker=note.speaker,
            dia_ids=list(note.evidence),
        )
        for number, note in enumerate(notes, 1)
    ]


def _row(
    conversation: Conversation,
    key: str,
    content: str,
    *,
    session: int | None,
    at: datetime | None,
    **fields: Any,
) -> Row:
    row: Row = {
        "content": content,
        "dedup_key": f"{conversation.name}/{key}/{digest_of([content])}",
        **{name: value for name, value in fields.items() if value is not None},
    }
    if session is not None:
        row["session"] = session
        row["session_id"] = f"{conversation.name}/session-{session}"
    if at is not None:
        row["timestamp"] = at
    return row
