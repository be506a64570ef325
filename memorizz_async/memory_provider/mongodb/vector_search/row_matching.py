"""Whether a row is in a scope and until when it lives, decided here as the server decides it.

A change stream brings rows; which resident scope they belong to must be known without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from bson.datetime_ms import DatetimeMS

Matcher = Callable[[Mapping[str, Any]], bool]

FOREVER = float("inf")


def matcher_of(scope: Mapping[str, Any]) -> Matcher:
    """A function that says whether a row is in the scope.

    scope: a tenant filter: equalities of fields to strings or None, and `$or` of such filters.
    Raises ValueError for anything else: a filter that is not understood must not be guessed at.
    """
    tests: list[Matcher] = []
    for key, wanted in scope.items():
        if key == "$or" and isinstance(wanted, list):
            tests.append(_any_of([matcher_of(part) for part in wanted]))
        elif not key.startswith("$") and (wanted is None or isinstance(wanted, str)):
            tests.append(_equals(key, wanted))
        else:
            raise ValueError(f"a condition on {key!r} of another kind")
    if len(tests) == 1:
        return tests[0]
    return lambda row: all(test(row) for test in tests)


def _any_of(tests: list[Matcher]) -> Matcher:
    return lambda row: any(test(row) for test in tests)


def _equals(field: str, wanted: str | None) -> Matcher:
    """Equality as MongoDB has it: None is a missing field, too, and an array each of its values."""
    if wanted is None:
        return lambda row: (
            (value := row.get(field)) is None or (isinstance(value, list) and None in value)
        )
    return lambda row: (
        (value := row.get(field)) == wanted or (isinstance(value, list) and wanted in value)
    )


def has_vector(row: Mapping[str, Any]) -> bool:
    """Whether the row has an embedding: what `pipelines.any_embedded_filter` asks for.

    A list that holds a null is one, though it equals null to the server: it is reported as odd.
    """
    return row.get("embedding") is not None


def alive_until(row: Mapping[str, Any]) -> float:
    """When the row expires, in milliseconds since the epoch: what `pipelines.alive` asks for.

    FOREVER where `expires_at` is missing, or no date.
    """
    return _until(row.get("expires_at"))


def _until(value: Any) -> float:
    if isinstance(value, DatetimeMS):
        return float(int(value))
    if isinstance(value, datetime):
        return float(int(DatetimeMS(value)))
    if isinstance(value, list):  # of several dates, the first
        return min((_until(each) for each in value if not isinstance(each, list)), default=FOREVER)
    return FOREVER
