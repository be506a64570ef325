"""Values that are stored: copied as they will be read, or refused by a message without them."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson import Binary, DatetimeMS
from bson.binary import UuidRepresentation
from hypothesis import given
from support.bson_values import KEPT, VALUES, Colour, Size, as_read, nested, same

from memorizz_async import InvalidInputError, MongoDBConfig
from memorizz_async.memory_provider.mongodb.arguments import stored_uuid, with_stored_uuids
from memorizz_async.memory_provider.mongodb.codec import codec_options
from memorizz_async.memory_provider.mongodb.values import (
    DEFAULT_CODEC,
    MAX_DEPTH,
    stored_values,
)

EAST = timezone(timedelta(hours=14))


@given(VALUES)
def test_a_copy_is_what_bson_gives_back(value: Any) -> None:
    """Or an error of ours, whatever it is."""
    try:
        [copy] = stored_values({"f": value}).values()
    except InvalidInputError:
        return
    assert same(copy, bson.decode(bson.encode({"f": copy}), DEFAULT_CODEC)["f"])
    assert same(copy, as_read(value))


@given(KEPT)
def test_every_type_of_bson_is_taken(value: Any) -> None:
    """As itself, or as the plain value of its kind."""
    assert same(stored_values({"f": value})["f"], as_read(value))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Colour.RED, str),
        (Size.LARGE, int),
        ((1, 2), list),
        (Binary(b"a", 0), bytes),
        (DatetimeMS(5), datetime),
    ],
)
def test_a_subclass_is_kept_as_the_plain_value(value: Any, kept: type) -> None:
    """So that every kind of database gives back the same."""
    assert type(stored_values({"f": value})["f"]) is kept


@pytest.mark.parametrize(
    "value",
    [
        datetime(1, 1, 1, tzinfo=EAST),
        DatetimeMS(2**60),
        re.compile("secret"),
        {"$ref": "secret", "$id": 1},
        Binary(b"secret", 4),
        {"secret\0": 1},
        {"a.secret": 1},
        bson.Timestamp(0, 0),
        uuid.UUID(int=7),
        "secret \ud800",
        10**400,
    ],
    ids=repr,
)
def test_what_would_not_come_back_is_refused(value: Any) -> None:
    """By a message that names the field and shows no value."""
    with pytest.raises(InvalidInputError, match="'note'") as caught:
        stored_values({"note": value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("levels", [MAX_DEPTH, 180, 900, 100_000])
def test_nesting_ends_at_a_hundred_levels(levels: int) -> None:
    """The document is the first of them."""
    stored_values({"f": nested(MAX_DEPTH - 1)})
    with pytest.raises(InvalidInputError, match="100 levels"):
        stored_values({"f": nested(levels)})


def test_a_list_that_holds_itself_is_refused() -> None:
    """Once, or so often that no computer would see the end of it."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInputError, match="100 levels"):
        stored_values({"f": endless})
    wide: Any = [1] * 1000
    for _ in range(5):
        wide = [wide] * 1000
    with pytest.raises(InvalidInputError, match="larger"):
        stored_values({"f": wide})


def test_a_document_of_more_than_a_row_holds_is_refused() -> None:
    """With what is written besides."""
    text = "x" * 15_000_000
    stored_values({"f": text})
    with pytest.raises(InvalidInputError, match="larger"):
        stored_values({"f": text}, more_bytes=1_000_000)


def test_keys_of_other_programs_may_have_dots() -> None:
    """Where the caller says so; `$` and nothing at all may stand in any key inside a field."""
    assert stored_values({"f": {"a.b": 1}}, dots=True) == {"f": {"a.b": 1}}
    assert stored_values({"f": {"$a": {"": 1}}}) == {"f": {"$a": {"": 1}}}


@pytest.mark.parametrize(
    ("option", "subtype"),
    [("standard", 4), ("pythonLegacy", 3), ("JAVALEGACY", 3), ("csharpLegacy", 3)],
)
def test_uuids_are_written_as_the_address_says(option: str, subtype: int) -> None:
    """In rows and in filters."""
    value = uuid.uuid4()
    codec = codec_options(MongoDBConfig(f"mongodb://host/db?w=1&uuidrepresentation={option}"))
    stored = stored_values({"f": [value]}, codec)["f"][0]
    assert stored.subtype == subtype
    assert stored.as_uuid(codec.uuid_representation) == value
    wanted = with_stored_uuids({"f": [value]}, lambda one: stored_uuid(one, codec))
    assert wanted == {"f": [stored]}


@pytest.mark.parametrize("address", ["local", "memory://", "mongodb://h/?uuidRepresentation=odd"])
def test_without_a_word_in_the_address_filters_take_the_standard_form(address: str) -> None:
    """And rows take none."""
    codec = codec_options(MongoDBConfig(address))
    assert codec.uuid_representation == UuidRepresentation.UNSPECIFIED
    value = uuid.uuid4()
    assert stored_uuid(value, codec) == Binary.from_uuid(value)
    with pytest.raises(InvalidInputError, match="uuidRepresentation=standard"):
        stored_values({"f": value}, codec)
