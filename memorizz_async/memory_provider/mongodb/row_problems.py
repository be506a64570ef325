"""Stored rows that a read cannot use in full: what is wrong with each, logged once.

Another program may have stored anything. Such a row comes back with the others; what it cannot take
part in is left out, and the row is named with its id and what to do, never with its text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from types import NoneType
from typing import Any

from bson.datetime_ms import DatetimeMS

from memorizz_async.memory_provider.mongodb.rows import Row
from memorizz_async.redaction import describe_id
from memorizz_async.timestamps import number_of, seconds_of
from memorizz_async.vectors import stored_vector

log = logging.getLogger(__name__)

_MOST_NAMED = 10_000
_TEXTS = (str, NoneType)
_NUMBERS = (int, float)
_DATES = (datetime, DatetimeMS)


def problem_of(row: Row, shown: Row) -> str | None:
    """What of a row cannot be used, and what to do; None for an ordinary row.

    Args:
        row: As it is stored.
        shown: As it leaves the API, where an embedding that cannot be read is None.
    """
    found: list[str] = []
    embedding = row.get("embedding")
    if embedding is not None and shown["embedding"] is None:
        found.append(f"its embedding cannot be read ({_reason(embedding)}): embed it again")
    if not isinstance(row.get("content"), _TEXTS):
        kind = type(row["content"]).__name__
        found.append(f"its content is no text ({kind}): words do not find it; store text")
    expires_at = row.get("expires_at")
    if expires_at is not None and not isinstance(expires_at, _DATES):
        kind = type(expires_at).__name__
        found.append(f"its expires_at is no date ({kind}), so it never expires: store a date")
    recall_count = row.get("recall_count", 0)
    if type(recall_count) not in _NUMBERS and number_of(recall_count) is None:
        kind = type(recall_count).__name__
        found.append(f"its recall_count is no number ({kind}) and is not counted: remove it")
    timestamp = row.get("timestamp")
    if timestamp is not None and seconds_of(timestamp) is None:
        kind = type(timestamp).__name__
        found.append(f"its timestamp is no time ({kind}), so created_at is used: store a date")
    return "; ".join(found) or None


def _reason(embedding: Any) -> str:
    try:
        stored_vector(embedding)
    except (TypeError, ValueError) as error:
        return str(error)
    return "no vector"


class RowProblems:
    """Logs each problem of a row once. One for each provider."""

    def __init__(self) -> None:
        self._named: set[tuple[str, str, str]] = set()

    def check(self, collection: str, row: Row, shown: Row) -> None:
        """Log what of a row cannot be used, where that is new; see `problem_of`."""
        problem = problem_of(row, shown)
        if problem is not None:
            self.name(collection, {str(shown["_id"]): problem})

    def name(self, collection: str, problems: Mapping[str, str]) -> None:
        """Log the problems of rows that have not been logged yet.

        Args:
            collection: Whose rows these are.
            problems: What is wrong with each row, by its id as text.
        """
        for row_id, problem in problems.items():
            one = (collection, row_id, problem)
            if one in self._named:
                continue
            if len(self._named) >= _MOST_NAMED:
                return
            self._named.add(one)
            log.warning(
                "Row %s of %r cannot be used in full: %s", describe_id(row_id), collection, problem
            )
            if len(self._named) == _MOST_NAMED:
                log.warning("%d rows were named: no more will be", _MOST_NAMED)
