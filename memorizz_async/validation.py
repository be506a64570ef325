"""Arguments that several parts take, checked before anything is sent."""

from __future__ import annotations

from typing import Any

from memorizz_async.errors import InvalidLimitError, InvalidQueryError
from memorizz_async.redaction import describe

MAX_LIMIT = 10_000
"""The most rows that `$vectorSearch` returns; the other strategies keep to it."""


def checked_limit(value: Any) -> int:
    """The limit, a whole number from 1 to 10,000. Raises InvalidLimitError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT:
        raise InvalidLimitError(
            f"limit must be a whole number from 1 to {MAX_LIMIT}", seen=describe(value)
        )
    return value


def checked_query(value: Any) -> str:
    """The query, a string with something in it. Raises InvalidQueryError."""
    if not isinstance(value, str):
        raise InvalidQueryError("The query must be a string", seen=f"a {type(value).__name__}")
    if not value.strip():
        raise InvalidQueryError("The query is empty", fix="pass the text to recall memories for")
    return value
