"""Times as rows hold them: one reading of every BSON value, which never raises.

A time is a date, ISO text (UTC where it names no offset), a number of seconds since the epoch, or
MongoDB's own timestamp. Everything else, NaN and infinity among it, is no time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import Decimal128, Timestamp
from bson.datetime_ms import DatetimeMS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_FIELDS = ("timestamp", "created_at")


def seconds_of(value: Any) -> float | None:
    """The time as seconds since the epoch, always finite.

    Args:
        value: Any value of a stored row.

    Returns:
        None for what is no time.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (aware - _EPOCH).total_seconds()
    if isinstance(value, DatetimeMS):
        return int(value) / 1000
    if isinstance(value, Timestamp):
        return float(value.time)
    return number_of(value)


def number_of(value: Any) -> float | None:
    """The number that a stored value is, always finite; None for any other value."""
    if isinstance(value, Decimal128):
        decimal = value.to_decimal()
        value = float(decimal) if decimal.is_finite() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def datetime_of(value: Any) -> datetime | None:
    """The time in UTC; None for what is no time, or lies outside the years 1 to 9999."""
    seconds = seconds_of(value)
    if seconds is None:
        return None
    try:
        if isinstance(value, datetime):  # to the microsecond, which a float cannot hold
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None


def row_seconds(row: Mapping[str, Any]) -> float | None:
    """When a memory came about, in seconds since the epoch: its `timestamp`, else `created_at`."""
    for name in _TIME_FIELDS:
        seconds = seconds_of(row.get(name))
        if seconds is not None:
            return seconds
    return None


def row_datetime(row: Mapping[str, Any]) -> datetime | None:
    """The same in UTC; None also where it lies outside Python's years."""
    for name in _TIME_FIELDS:
        if seconds_of(row.get(name)) is not None:
            return datetime_of(row[name])
    return None


def iso_text(value: datetime | DatetimeMS) -> str:
    """A stored date as ISO 8601 text.

    Outside Python's years it has a sign and six digits of the year, as in ECMAScript:
    `+010209-02-08T14:13:20.000+00:00`.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    try:
        return (_EPOCH + timedelta(milliseconds=int(value))).isoformat()
    except OverflowError:
        # The Gregorian calendar repeats itself after 400 years of 146,097 days.
        days, milliseconds = divmod(int(value), 86_400_000)
        cycles, days = divmod(days, 146_097)
        within = _EPOCH + timedelta(days=days, milliseconds=milliseconds)
        year = within.year + 400 * cycles
        rest = within.isoformat(timespec="milliseconds")[4:]
        return f"{'-' if year < 0 else '+'}{abs(year):06d}{rest}"
