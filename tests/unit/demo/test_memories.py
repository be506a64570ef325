"""Conversations as memories, and which questions are asked."""

from __future__ import annotations

from unit.demo.locomo_shape import TALK

from memorizz_async.demo.evaluation import chosen_questions
from memorizz_async.demo.locomo import conversations_of
from memorizz_async.demo.memories import memories_of
from memorizz_async.enums import MemoryType
from memorizz_async.terminal.memory_table import label


def test_each_part_becomes_a_memory_type() -> None:
    """Turns, observations and summaries; a type without memories is left out."""
    [talk] = conversations_of([TALK])
    memories = memories_of(talk)
    assert {kind: len(rows) for kind, rows in memories.items()} == {
        MemoryType.CONVERSATION_MEMORY: 2,
        MemoryType.LONG_TERM_MEMORY: 2,
        MemoryType.SUMMARIES: 1,
    }


def test_a_turn_makes_sense_alone() -> None:
    """Its content names the speaker and describes the picture; its time is its session's."""
    [talk] = conversations_of([TALK])
    row = memories_of(talk)[MemoryType.CONVERSATION_MEMORY][1]
    assert row["content"] == "Bo: Look at this! [shares a photo of a red kite]"
    assert row["timestamp"] == talk.turns[1].at
    assert row["dia_ids"] == ["D1:2"]
    assert row["session_id"] == "talk/session-1"


def test_dedup_keys_differ_and_stay() -> None:
    """Each memory has a key of its own, and the same one the next time."""
    [talk] = conversations_of([TALK])
    keys = [row["dedup_key"] for rows in memories_of(talk).values() for row in rows]
    again = [row["dedup_key"] for rows in memories_of(talk).values() for row in rows]
    assert len(set(keys)) == len(keys)
    assert keys == again


def test_questions_are_spread_over_the_conversations() -> None:
    """As many from each, and no more than there are."""
    talks = conversations_of([TALK, {**TALK, "sample_id": "other"}])
    assert [talk.name for talk, _ in chosen_questions(talks, 3)] == ["talk", "talk", "other"]
    assert len(chosen_questions(talks, 100)) == 4


def test_labels_are_short() -> None:
    """The table shows `long-term`, not `LONG_TERM_MEMORY`."""
    assert label("LONG_TERM_MEMORY") == "long-term"
    assert label("summaries") == "summaries"
