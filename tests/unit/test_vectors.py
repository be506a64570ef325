"""Embeddings as numbers: what is taken, what is refused, and the form they are written in."""

from __future__ import annotations

import decimal
from typing import Any

import bson
import numpy as np
import pytest
from bson.binary import Binary, BinaryVectorDtype
from hypothesis import given
from hypothesis import strategies as st
from support.ids import stable_repr

from memorizz_async import InvalidEmbeddingError
from memorizz_async.vectors import checked_vector, stored_vector, to_bson

floats = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
vectors = st.lists(floats, min_size=1, max_size=20).filter(any)


@given(vectors)
def test_the_written_form_is_bsons_own_float32_vector(values: list[float]) -> None:
    """BinData subtype 9 as `Binary.from_vector` writes it, and as every driver reads it back."""
    written = to_bson(np.array(values, dtype=np.float32))
    assert written == Binary.from_vector(values, BinaryVectorDtype.FLOAT32)
    assert written.as_vector().data == values


@given(vectors)
def test_a_vector_survives_the_way_through_the_database(values: list[float]) -> None:
    """Written as BinData or, as memorizz does, as doubles: read back as the same float32."""
    expected = np.array(values, dtype=np.float32)
    for stored in (to_bson(expected), values, tuple(values)):
        document = bson.decode(bson.encode({"embedding": stored}))
        read = stored_vector(document["embedding"])
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected)


@given(vectors, st.sampled_from([list, tuple, np.float64, np.float16, np.float32, to_bson]))
def test_every_common_form_of_a_vector_is_taken(values: list[float], form: Any) -> None:
    """Lists, tuples, arrays of any float type, BinData: one float32 array of shape (n,)."""
    if isinstance(form, type) and issubclass(form, np.generic):
        with np.errstate(over="ignore", under="ignore"):
            given_form: Any = np.array(values).astype(form)
        if not np.isfinite(given_form).all() or not given_form.any():
            return
    else:
        given_form = form(np.array(values, dtype=np.float32) if form is to_bson else values)
    vector = checked_vector(given_form, name="x")
    assert vector.dtype == np.float32
    assert vector.shape == (len(values),)
    if form is not np.float16:
        np.testing.assert_array_equal(vector, np.array(values, dtype=np.float32))


def test_whole_numbers_are_numbers() -> None:
    """A vector of ints, also of numpy's."""
    np.testing.assert_array_equal(checked_vector([1, 2], name="x"), [1.0, 2.0])
    np.testing.assert_array_equal(checked_vector(np.arange(3, dtype=np.int8), name="x"), [0, 1, 2])


def test_the_callers_array_is_not_shared() -> None:
    """A batch of texts may reuse its buffer after the call."""
    mine = np.ones(3, dtype=np.float32)
    taken = checked_vector(mine, name="x")
    mine[0] = 9
    assert taken[0] == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "one dimension"),
        (np.empty((0,)), "one dimension"),
        ([[1.0, 2.0]], "one dimension"),
        (3.5, "one dimension"),
        ("1.0, 2.0", "not a vector of numbers"),
        (["1.0"], "not a vector of numbers"),
        (b"\x27\x00abcd", "not a vector of numbers"),
        ([True, False], "not a vector of numbers"),
        ([1.0, None], "not a vector of numbers"),
        ([[1.0], [1.0, 2.0]], "not a vector of numbers"),
        ([1 + 2j], "not a vector of numbers"),
        ([decimal.Decimal(1)], "not a vector of numbers"),
        ([10**400], "not a vector of numbers"),
        ({"a": 1.0}, "not a vector of numbers"),
        (iter([1.0]), "not a vector of numbers"),
        (object(), "not a vector of numbers"),
        (Binary(b"\x27\x00abcd", 0), "subtype 0"),
        (Binary(b"\x03\x00abcd", 9), "not float32"),
        (Binary(b"\x27\x00abc", 9), "broken length"),
        (Binary(b"\x27", 9), "not float32"),
        (Binary(b"\x27\x00", 9), "one dimension"),
        ([1.0, float("nan")], "nan at position 1"),
        ([float("-inf"), 1.0], "-inf at position 0"),
        ([1e39, 1.0], "inf at position 0"),
        ([0.0, -0.0], "all zeros"),
        ([1e-60], "all zeros"),
    ],
    ids=stable_repr,
)
def test_what_cannot_be_searched_is_refused(value: Any, message: str) -> None:
    """No vector of numbers, no numbers, no direction: the message says whose and why."""
    with pytest.raises(InvalidEmbeddingError, match=message) as caught:
        checked_vector(value, name="The query's embedding")
    assert "The query's embedding" in str(caught.value)


def test_another_dimension_is_refused_with_both_numbers() -> None:
    """The one that came and the one that is right."""
    with pytest.raises(InvalidEmbeddingError, match="3 numbers, not 384"):
        checked_vector([1.0, 2.0, 3.0], name="x", dimensions=384)
    assert checked_vector([1.0, 2.0, 3.0], name="x", dimensions=3).size == 3


@pytest.mark.parametrize("value", [None, "text", 1.0, {"0": 1.0}, [None], ["a"], b"abc"])
def test_a_stored_value_that_is_no_vector_says_why(value: Any) -> None:
    """With a TypeError or ValueError, which the search reports with the row's id."""
    with pytest.raises((TypeError, ValueError), match=r"."):
        stored_vector(value)
