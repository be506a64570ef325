"""Arguments that several parts take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memorizz_async import InvalidLimitError, InvalidQueryError
from memorizz_async.validation import MAX_LIMIT, checked_limit, checked_query, shown


@pytest.mark.parametrize("value", [1, 5, MAX_LIMIT])
def test_a_limit_goes_from_1_to_10_000(value: int) -> None:
    """Both bounds count."""
    assert checked_limit(value) == value


@pytest.mark.parametrize(
    "value", [0, -1, MAX_LIMIT + 1, 5.0, "5", None, True, False, [5], float("inf"), np.float32(5)]
)
def test_what_is_no_limit_is_refused(value: Any) -> None:
    """The message shows what came, or its type where it may be long."""
    with pytest.raises(InvalidLimitError, match="whole number from 1 to 10000") as caught:
        checked_limit(value)
    assert caught.value.seen == shown(value)


@pytest.mark.parametrize("value", ["x", " padded ", "多言語", "😀"])
def test_a_query_stays_as_it_is(value: str) -> None:
    """Not stripped, not lowered: the model decides."""
    assert checked_query(value) == value


@pytest.mark.parametrize("value", ["", " ", "\n\t ", "\u3000", None, 5, b"x", ["x"]])
def test_an_empty_query_or_none_at_all_is_refused(value: Any) -> None:
    """The message says the type, never the text."""
    with pytest.raises(InvalidQueryError):
        checked_query(value)
