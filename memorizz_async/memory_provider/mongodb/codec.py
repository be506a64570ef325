"""How values become BSON and back: UUIDs as the address says, and no stored value stops a read.

A date outside Python's years is a `DatetimeMS`; bytes of a text that are not UTF-8 are U+FFFD.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import bson
from bson import CodecOptions, DatetimeConversion
from bson.binary import UuidRepresentation
from bson.errors import InvalidBSON

from memorizz_async.config import MongoDBConfig

REPLACEMENT = "\ufffd"
"""What stands in a decoded text for bytes that are not UTF-8; it may also have been stored so."""

READ_OPTIONS: dict[str, Any] = {
    "tz_aware": True,
    "datetime_conversion": "DATETIME_AUTO",
    "unicode_decode_error_handler": "replace",
}
"""What a client is opened with."""

READ_CODEC: CodecOptions[Any] = CodecOptions(
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
"""The same, whatever else the address asks for."""

DATES_AS_NUMBERS: CodecOptions[Any] = CodecOptions(
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)
"""For what stays inside: every date as milliseconds, compared as the server compares them."""

_STRICT: CodecOptions[Any] = DATES_AS_NUMBERS.with_options(unicode_decode_error_handler="strict")


def split(batch: bytes) -> Iterator[memoryview]:
    """The documents of a batch, which stand end to end."""
    view, position = memoryview(batch), 0
    while position < len(view):
        (length,) = struct.unpack_from("<i", view, position)
        yield view[position : position + length]
        position += length


def decode_rows(batch: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The documents of a batch: those that are valid, and those with text that is not UTF-8.

    A query that names such a text does not find its row again.
    """
    try:
        return bson.decode_all(batch, _STRICT), []
    except InvalidBSON:
        pass
    valid: list[dict[str, Any]] = []
    invalid: list[dict[str, Any]] = []
    for document in split(batch):
        try:
            valid.append(bson.decode(document, codec_options=_STRICT))
        except InvalidBSON:
            invalid.append(bson.decode(document, codec_options=DATES_AS_NUMBERS))
    return valid, invalid


_REPRESENTATIONS = {
    "standard": UuidRepresentation.STANDARD,
    "pythonlegacy": UuidRepresentation.PYTHON_LEGACY,
    "javalegacy": UuidRepresentation.JAVA_LEGACY,
    "csharplegacy": UuidRepresentation.CSHARP_LEGACY,
}


def codec_options(config: MongoDBConfig) -> CodecOptions[dict[str, Any]]:
    """The options with which the driver encodes and decodes the rows of a configuration.

    Use them to check whether a value can be stored, and to encode a UUID of a filter: without
    `uuidRepresentation` in the address a UUID cannot be encoded, and is read as `bson.Binary`.
    """
    name = str(config.driver_option("uuidRepresentation") or "").lower()
    representation = _REPRESENTATIONS.get(name, UuidRepresentation.UNSPECIFIED)
    return CodecOptions(tz_aware=True, uuid_representation=representation)
