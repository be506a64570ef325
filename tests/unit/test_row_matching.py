"""Whether a row is in a scope, decided as the server decides it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS

from memorizz_async.enums import MemoryType
from memorizz_async.memory_provider.mongodb.scope import Scope
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import (
    FOREVER,
    alive_until,
    has_vector,
    matcher_of,
)

KB, CONVERSATION = MemoryType.LONG_TERM_MEMORY, MemoryType.CONVERSATION_MEMORY


@pytest.mark.parametrize(
    ("scope", "kind", "row", "matches"),
    [
        (Scope("m"), KB, {"memory_id": "m"}, True),
        (Scope("m"), KB, {"memory_id": "n"}, False),
        (Scope("m"), KB, {}, False),
        (Scope("m"), KB, {"memory_id": ["n", "m"]}, True),
        (Scope("m"), KB, {"memory_id": {"m": 1}}, False),
        (Scope(None), KB, {}, True),
        (Scope(None), KB, {"memory_id": None}, True),
        (Scope(None), KB, {"memory_id": [None]}, True),
        (Scope(None), KB, {"memory_id": []}, False),
        (Scope("m", "u"), KB, {"memory_id": "m", "user_id": "u"}, True),
        (Scope("m", "u"), KB, {"memory_id": "m"}, True),
        (Scope("m", "u"), KB, {"memory_id": "m", "user_id": "v"}, False),
        (Scope("m", "u"), KB, {"memory_id": "n", "user_id": "u"}, False),
        (Scope("m", "u"), CONVERSATION, {"memory_id": "m"}, False),
        (Scope("m", None), CONVERSATION, {"memory_id": "m"}, True),
    ],
)
def test_a_scope_matches(scope: Scope, kind: MemoryType, row: Any, matches: bool) -> None:
    """None is a missing field, too, and an array each of its values."""
    assert matcher_of(scope.filter(kind))(row) is matches


@pytest.mark.parametrize("scope", [{"a": {"$gt": 1}}, {"$nor": []}, {"a": 1}, {"$or": "x"}])
def test_what_is_not_understood_is_not_guessed_at(scope: Any) -> None:
    """Another kind of filter is refused: it would be searched by scan."""
    with pytest.raises(ValueError, match="another kind"):
        matcher_of(scope)


MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "until"),
    [
        ({}, FOREVER),
        ({"expires_at": None}, FOREVER),
        ({"expires_at": MOMENT}, MOMENT.timestamp() * 1000),
        ({"expires_at": DatetimeMS(5)}, 5.0),
        ({"expires_at": [DatetimeMS(5), DatetimeMS(7)]}, 5.0),
        ({"expires_at": [None, DatetimeMS(7)]}, 7.0),
        ({"expires_at": []}, FOREVER),
        ({"expires_at": "soon"}, FOREVER),
        ({"expires_at": 5}, FOREVER),
    ],
)
def test_a_row_lives_until(row: Any, until: float) -> None:
    """As the filter of every read has it."""
    assert alive_until(row) == until


@pytest.mark.parametrize(
    ("row", "has"),
    [
        ({}, False),
        ({"embedding": None}, False),
        ({"embedding": [1.0, None]}, True),  # equal to null, to the server, and reported as odd
        ({"embedding": [[None]]}, True),
        ({"embedding": []}, True),
        ({"embedding": "text"}, True),
        ({"embedding": [1.0]}, True),
    ],
)
def test_a_row_has_a_vector(row: Any, has: bool) -> None:
    """As the filter of a scan has it."""
    assert has_vector(row) is has


def test_an_expiry_is_whole_milliseconds() -> None:
    """As BSON keeps it: what the server compares."""
    assert alive_until({"expires_at": MOMENT + timedelta(microseconds=1_999)}) == (
        MOMENT.timestamp() * 1000 + 1
    )
