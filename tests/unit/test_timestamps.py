"""Times as rows hold them: what counts as a time, and that nothing makes the reading fail."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson import Decimal128, MinKey, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.timestamps import (
    datetime_of,
    iso_text,
    number_of,
    row_datetime,
    row_seconds,
    seconds_of,
)

FIRST_OF_2026 = datetime(2026, 1, 1, tzinfo=UTC)
FAR = DatetimeMS(260_000_000_000_000)


@pytest.mark.parametrize(
    "value",
    [
        FIRST_OF_2026,
        datetime(2026, 1, 1),
        datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=5))),
        "2026-01-01T02:00:00+02:00",
        "2026-01-01T00:00:00Z",
        " 2026-01-01 ",
        1767225600,
        1767225600.0,
        Decimal128("1767225600"),
        bson.Int64(1767225600),
        Timestamp(1767225600, 3),
        DatetimeMS(1767225600000),
    ],
    ids=repr,
)
def test_one_time_in_all_its_forms(value: Any) -> None:
    """Dates, ISO text, seconds since the epoch; UTC where no offset is named."""
    assert seconds_of(value) == FIRST_OF_2026.timestamp()
    assert datetime_of(value) == FIRST_OF_2026
    assert datetime_of(value).tzinfo is UTC  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "value",
    [
        None, True, "", "yesterday", math.nan, math.inf, -math.inf, 10**400, {}, [], [1], b"5",
        Decimal128("sNaN"), Decimal128("-Infinity"), Decimal128("1E+6000"), Regex("a"), MinKey(),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_time(value: Any) -> None:
    """None, and no exception."""
    assert seconds_of(value) is None
    assert datetime_of(value) is None


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", FAR])
def test_a_time_outside_pythons_years_has_seconds_alone(value: Any) -> None:
    """It is older or newer than others; no datetime can say it."""
    assert seconds_of(value) is not None
    assert datetime_of(value) is None


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.binary(),
    st.datetimes(timezones=st.none() | st.timezones()), st.lists(st.integers(), max_size=2),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.decimals(allow_nan=True, allow_infinity=True, places=3).map(lambda d: Decimal128(str(d))),
)  # fmt: skip


@given(values, values)
def test_every_row_has_a_time_or_none(timestamp: Any, created_at: Any) -> None:
    """Whatever stands there; where there is a time it is finite, and both readings agree."""
    row = {"timestamp": timestamp, "created_at": created_at}
    seconds, at = row_seconds(row), row_datetime(row)
    assert seconds is None or math.isfinite(seconds)
    if at is not None:
        assert seconds is not None
        assert at.timestamp() == pytest.approx(seconds, abs=1e-3)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_stored_date_has_a_text(milliseconds: int) -> None:
    """Python's own within its years, else with a sign and six digits: JSON can say every row."""
    text = iso_text(DatetimeMS(milliseconds))
    json.dumps(text)
    if abs(milliseconds) < 60_000_000_000_000:
        assert datetime.fromisoformat(text).timestamp() == pytest.approx(milliseconds / 1000)
    elif not -62_135_596_800_000 <= milliseconds <= 253_402_300_799_999:
        assert text[0] in "+-"
    assert iso_text(FAR) == "+010209-01-27T06:13:20.000+00:00"


def test_a_number_is_finite_and_no_boolean() -> None:
    """Of whatever type MongoDB has for it."""
    assert [number_of(each) for each in (1, 0.5, bson.Int64(2), Decimal128("2.5"))] == [
        1.0, 0.5, 2.0, 2.5,
    ]  # fmt: skip
    assert [number_of(each) for each in (True, "1", None, math.nan, Decimal128("NaN"))] == [
        None
    ] * 5
