"""What a recall gives back: found under whatever name the caller knows the type by."""

from __future__ import annotations

import copy
import pickle
from enum import Enum
from typing import Any

import pytest

from memorizz_async import (
    BatchResults,
    DatabaseError,
    Hits,
    MemoryType,
    RecallResults,
    StoredEmbeddingError,
)


class CurrentMemorizz(Enum):
    """As memorizz 0.17 has it."""

    KNOWLEDGE_BASE = "knowledge_base"
    CONVERSATION_MEMORY = "conversation_memory"


class OldMemorizz(Enum):
    """As memorizz 0.0.36 had it."""

    LONG_TERM_MEMORY = "long_term_memory"
    CONVERSATION_MEMORY = "conversation_memory"


FACTS = Hits([{"_id": "1", "content": "fact"}], strategy="scan")
TURNS = Hits([], strategy="scan")


def recalled(**hits: Hits) -> RecallResults:
    types = {name: MemoryType(name) for name in hits}
    return RecallResults(BatchResults(hits, types=types), total_ms=3.0)


SAME_STORE = [
    MemoryType.LONG_TERM_MEMORY,
    MemoryType.KNOWLEDGE_BASE,
    CurrentMemorizz.KNOWLEDGE_BASE,
    OldMemorizz.LONG_TERM_MEMORY,
    "LONG_TERM_MEMORY",
    "long_term_memory",
    "Knowledge_Base",
    "KNOWLEDGE_BASE",
]


@pytest.mark.parametrize("asked", ["LONG_TERM_MEMORY", "KNOWLEDGE_BASE", "knowledge_base"])
@pytest.mark.parametrize("key", SAME_STORE, ids=str)
def test_every_name_of_a_store_finds_its_hits(asked: str, key: Any) -> None:
    """Our enum, memorizz's old and new, strings in any case; by [], get and in."""
    results = recalled(**{asked: FACTS, "CONVERSATION_MEMORY": TURNS})
    assert results[key] is FACTS
    assert results.get(key) is FACTS
    assert key in results


@pytest.mark.parametrize(
    "key", [MemoryType.CONVERSATION_MEMORY, *CurrentMemorizz, *OldMemorizz, "conversation_MEMORY"]
)
def test_names_do_not_find_another_types_hits(key: Any) -> None:
    """Each finds its own."""
    results = recalled(LONG_TERM_MEMORY=FACTS, CONVERSATION_MEMORY=TURNS)
    is_turns = "conversation" in str(getattr(key, "value", key)).lower()
    assert results[key] is (TURNS if is_turns else FACTS)


def test_iteration_gives_the_callers_names() -> None:
    """In the caller's order, as a plain dict would."""
    results = recalled(long_term_memory=FACTS, CONVERSATION_MEMORY=TURNS)
    assert list(results) == ["long_term_memory", "CONVERSATION_MEMORY"]
    assert list(results.items()) == [("long_term_memory", FACTS), ("CONVERSATION_MEMORY", TURNS)]
    assert len(results) == 2
    assert results == {
        "long_term_memory": [{"_id": "1", "content": "fact"}],
        "CONVERSATION_MEMORY": [],
    }


def test_empty_hits_are_there() -> None:
    """Asked for and nothing found is not the same as not asked for."""
    results = recalled(CONVERSATION_MEMORY=TURNS)
    assert MemoryType.CONVERSATION_MEMORY in results
    assert results.get(MemoryType.CONVERSATION_MEMORY, ["default"]) == []


@pytest.mark.parametrize(
    "key", ["SUMMARIES", MemoryType.SUMMARIES, "no such type", None, 5, ("a",)]
)
def test_what_was_not_asked_for_is_missing(key: Any) -> None:
    """[] says what was asked for, get gives the default, in is false."""
    results = recalled(LONG_TERM_MEMORY=FACTS, CONVERSATION_MEMORY=TURNS)
    assert key not in results
    assert results.get(key) is None
    assert results.get(key, []) == []
    with pytest.raises(KeyError, match=r"was not asked for.*LONG_TERM_MEMORY, CONVERSATION_MEMORY"):
        results[key]


@pytest.mark.parametrize("key", SAME_STORE, ids=str)
def test_a_query_that_failed_is_no_empty_result(key: Any) -> None:
    """A failure never looks like "no memories": [] raises and says why, under every name."""
    batch = BatchResults(
        {"CONVERSATION_MEMORY": TURNS},
        types={
            "CONVERSATION_MEMORY": MemoryType.CONVERSATION_MEMORY,
            "LONG_TERM_MEMORY": MemoryType.LONG_TERM_MEMORY,
        },
        errors={"LONG_TERM_MEMORY": DatabaseError("It broke")},
    )
    results = RecallResults(batch, total_ms=1.0)
    assert key not in results
    with pytest.raises(KeyError, match="LONG_TERM_MEMORY failed: It broke"):
        results[key]
    assert set(results.errors) == {"LONG_TERM_MEMORY"}


def test_two_names_of_one_store_keep_their_own_hits() -> None:
    """Asked for under both names, with other limits: the same word finds its own."""
    first, second = Hits(FACTS), Hits([])
    results = recalled(KNOWLEDGE_BASE=first, LONG_TERM_MEMORY=second)
    assert results[MemoryType.KNOWLEDGE_BASE] is first
    assert results[MemoryType.LONG_TERM_MEMORY] is second
    assert results["long_term_memory"] is second
    assert results[OldMemorizz.LONG_TERM_MEMORY] is second


def test_an_enum_of_the_callers_own_names_keys_its_results() -> None:
    """The key is the caller's word, and the memory type finds it too."""
    batch = BatchResults({"procedural": FACTS}, types={"procedural": MemoryType.WORKFLOW_MEMORY})
    results = RecallResults(batch, total_ms=1.0)
    assert results["procedural"] is FACTS
    assert results[MemoryType.WORKFLOW_MEMORY] is FACTS
    assert "LONG_TERM_MEMORY" not in results


def test_it_says_where_the_time_went() -> None:
    """Embedding, each query, the whole."""
    batch = BatchResults({"SUMMARIES": TURNS}, embedding_ms=1.5, queries_ms={"SUMMARIES": 2.5})
    results = RecallResults(batch, total_ms=4.0)
    assert results.timings.embedding_ms == 1.5
    assert results.timings.queries_ms == {"SUMMARIES": 2.5}
    assert results.timings.total_ms == 4.0


def test_hits_are_a_list_that_knows_how_it_came_about() -> None:
    """The guide's tests ask for a list."""
    report = StoredEmbeddingError("1 row", rows={"a": "b"}, count=1)
    hits = Hits([{"_id": "1"}], strategy="atlas", unsearchable=report)
    assert isinstance(hits, list)
    assert hits == [{"_id": "1"}]
    assert (hits.strategy, hits.unsearchable) == ("atlas", report)
    assert (Hits().strategy, Hits().unsearchable) == ("", None)


@pytest.mark.parametrize(
    "move", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_results_can_be_copied_and_sent(move: Any) -> None:
    """To another process, into a cache."""
    batch = BatchResults(
        {"LONG_TERM_MEMORY": FACTS},
        types={"LONG_TERM_MEMORY": MemoryType.LONG_TERM_MEMORY},
        errors={"SUMMARIES": DatabaseError("It broke", code=5)},
    )
    moved = move(RecallResults(batch, total_ms=3.0))
    assert moved["KNOWLEDGE_BASE"] == FACTS
    assert moved["KNOWLEDGE_BASE"].strategy == "scan"
    assert moved.timings.total_ms == 3.0
    assert str(moved.errors["SUMMARIES"]) == "It broke."
