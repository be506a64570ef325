"""Values on their way into a document: copied, and in the form in which they are read back.

What BSON cannot hold, or would turn into something else, is refused here, before anything is sent:
found while rows are written it would stop a write half-way.

    str, int, float       also their subclasses (enums, numpy's float64), as the plain value
    datetime              in UTC (one without an offset is taken for UTC), to the millisecond
    mapping, list, tuple  as dict and list
    UUID                  as the address says (uuidRepresentation); refused where it says nothing
    Binary                subtype 0 as bytes
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import bson
from bson import Binary, CodecOptions, DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId
from bson.binary import OLD_UUID_SUBTYPE, UUID_SUBTYPE, UuidRepresentation
from bson.errors import BSONError

from memorizz_async.errors import InvalidInputError
from memorizz_async.redaction import shown

Codec = CodecOptions[Any]
DEFAULT_CODEC: Final[Codec] = CodecOptions(tz_aware=True)

MAX_DEPTH: Final = 100
"""MongoDB's documented limit of nesting: mappings and lists, the document itself included."""
MAX_BYTES: Final = 16_000_000
"""Of the server's 16 MiB, which leaves room for the fields of ours and a computed vector."""

_MOST_VALUES = 6_000_000  # no document of 16 MiB has more; a list may hold itself many times over
_UUID_BYTES = 16
_SCALARS: Final = frozenset(
    {str, int, float, bool, type(None), bytes, ObjectId, Int64, Decimal128, MinKey, MaxKey}
)
_FAILURES = (BSONError, ValueError, TypeError, OverflowError, RecursionError)


def stored_values(
    fields: Mapping[str, Any],
    codec: Codec = DEFAULT_CODEC,
    *,
    dots: bool = False,
    more_bytes: int = 0,
) -> dict[str, Any]:
    """A copy of the fields with the values that the database will give back.

    dots: whether keys of nested mappings may hold dots, as other programs' do; no filter and no
        change can name such a key.
    more_bytes: what the document will hold besides.

    Raises InvalidInputError, which names the field and never shows a value.
    """
    stored = _stored(fields, _Copier(codec, dots), more_bytes)
    if isinstance(stored, InvalidInputError):
        raise stored  # here, outside of any `except`: what BSON says quotes values
    return stored


def _stored(
    fields: Mapping[str, Any], copier: _Copier, more_bytes: int
) -> dict[str, Any] | InvalidInputError:
    copy: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            copy[name] = value if type(value) in _SCALARS else copier.copy(value, 2)
            if type(value) is bson.Timestamp and not (value.time or value.inc):
                raise _NotStorableError("the server replaces an empty Timestamp by its own time")
        except InvalidInputError as error:  # a ValueError, too
            return error
        except _FAILURES as error:
            return _not_storable(name, value, error)
    try:
        check_size(copy, more_bytes)
    except InvalidInputError as error:
        return error
    except _FAILURES as error:
        return _first_not_storable(copy, fields, error)
    return copy


def check_size(document: Mapping[str, Any], more_bytes: int = 0) -> None:
    """Raise InvalidInputError for a document of more bytes than a row may have."""
    size = more_bytes + len(bson.encode(document))
    if size > MAX_BYTES:
        raise _too_large(f"{size:,} bytes, not at most {MAX_BYTES:,}")


class _NotStorableError(ValueError):
    """Why a value cannot be stored, in words fit for a message: no value of the user's."""


class _Copier:
    """Copies the values of one document, in the form in which they will be read back."""

    def __init__(self, codec: Codec, dots: bool) -> None:
        self._codec = codec
        self._dots = dots
        self._left = _MOST_VALUES

    def copy(self, value: Any, level: int) -> Any:  # noqa: PLR0911, PLR0912 - one a kind of value
        """level: how deep the value would be nested as a mapping or a list; the document is 1."""
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is dict:  # the usual ones first: the patterns below take a microsecond and more
            return self._mapping(value, level)
        if kind is datetime:
            return moment_stored(value)
        match value:
            case Mapping():
                return self._mapping(value, level)
            case list() | tuple():
                self._enter(len(value), level)
                return [
                    each if type(each) in _SCALARS else self.copy(each, level + 1) for each in value
                ]
            case datetime():
                return moment_stored(value)
            case UUID():
                return self._uuid(value)
            case Binary():
                return _binary(value)
            case DatetimeMS():
                return moment_stored(value.as_datetime())
            case bytes():
                return bytes(value)
            case bson.Code():
                return self._unchanged(value, value.scope, level)
            case bson.DBRef():
                return self._unchanged(value, dict(value.as_doc()), level)
            case str():
                return str.__str__(value)
            case int():
                return int(value)
            case float():
                return float(value)
        return self._unchanged(value, None, level)

    def _mapping(self, given: Mapping[Any, Any], level: int) -> dict[str, Any]:
        self._enter(len(given), level)
        copy: dict[str, Any] = {}
        for key, value in given.items():
            if not isinstance(key, str):
                raise _NotStorableError("a mapping with a key that is no string")
            if "." in key and not self._dots:
                raise _NotStorableError(
                    "a key with a dot, which filters and changes take for a path"
                )
            copy[str.__str__(key)] = (
                value if type(value) in _SCALARS else self.copy(value, level + 1)
            )
        if "$ref" in copy and "$id" in copy:
            raise _NotStorableError(
                "a mapping with $ref and $id, which would be read back as a DBRef"
            )
        return copy

    def _enter(self, members: int, level: int) -> None:
        if level > MAX_DEPTH:
            raise _NotStorableError(f"nesting of more than {MAX_DEPTH} levels")
        self._left -= members
        if self._left < 0:
            raise _too_large("more values than a document can hold")

    def _uuid(self, value: UUID) -> Binary:
        representation = self._codec.uuid_representation
        if representation == UuidRepresentation.UNSPECIFIED:
            raise _NotStorableError(
                "a UUID, and the address does not say how to write it: add "
                "uuidRepresentation=standard"
            )
        return Binary.from_uuid(value, representation)

    def _unchanged(self, value: Any, inside: Mapping[str, Any] | None, level: int) -> Any:
        """A value of a rarer type, if BSON gives it back as it is. inside: what it contains."""
        self._enter(0, level)
        for each in (inside or {}).values():
            self.copy(each, level + 1)
        if bson.decode(bson.encode({"": value}), DEFAULT_CODEC)[""] != value:
            raise _NotStorableError("a value that would be read back as another one")
        return value


def moment_stored(value: datetime) -> datetime:
    """A moment as it is read back: in UTC, to the millisecond.

    Raises ValueError where that is no date of Python's.
    """
    try:
        at = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return datetime(
            at.year, at.month, at.day, at.hour, at.minute, at.second,
            at.microsecond // 1000 * 1000, tzinfo=UTC,
        )  # fmt: skip
    except (OverflowError, ValueError, TypeError) as error:
        raise _NotStorableError("a date outside the years 1 to 9999 in UTC") from error


def _binary(value: Binary) -> bytes:
    if value.subtype in (UUID_SUBTYPE, OLD_UUID_SUBTYPE) and len(value) != _UUID_BYTES:
        raise _NotStorableError("a Binary marked as a UUID whose length is not 16")
    return bytes(value) if value.subtype == 0 else value


def _too_large(seen: str) -> InvalidInputError:
    return InvalidInputError(
        "A memory is larger than MongoDB stores",
        seen=seen,
        fix="split it; what is recalled should be short",
    )


def _first_not_storable(
    copy: Mapping[str, Any], fields: Mapping[str, Any], error: Exception
) -> InvalidInputError:
    """What is wrong with the first field that BSON does not take."""
    for name, value in copy.items():
        try:
            bson.encode({name: value})
        except _FAILURES as own:
            return _not_storable(name, fields[name], own)
    return _not_storable("", fields, error)


def _not_storable(name: str, value: Any, error: Exception) -> InvalidInputError:
    reason = (
        f": {error}" if isinstance(error, _NotStorableError) else ""
    )  # others may quote the value
    return InvalidInputError(
        f"The field {shown(name, word=True)} of a memory holds a value that MongoDB cannot "
        f"store{reason}",
        seen=f"a {type(value).__name__}",
        fix="use strings (valid Unicode), numbers of at most 64 bits, datetimes, lists, and "
        "mappings with strings as keys",
    )
