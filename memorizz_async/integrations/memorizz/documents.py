"""memorizz's records as rows, and rows as memorizz's records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

from bson import Binary, Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS

from memorizz_async.enums import MemoryType
from memorizz_async.errors import InvalidInputError
from memorizz_async.integrations.memorizz.framework import is_unset
from memorizz_async.redaction import shown as shown_kind
from memorizz_async.timestamps import datetime_of, iso_text, number_of
from memorizz_async.validation import check_depth

Record = dict[str, Any]

_PLAIN = (str, int, float, bool, datetime, ObjectId, bytes, type(None))


def record_of(value: Any) -> Record:
    """A record as a mapping: memorizz passes dicts, pydantic models and plain objects.

    Raises InvalidInputError for what has no fields.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, type) or not (hasattr(value, "__dict__") or hasattr(value, "dict")):
        raise InvalidInputError("A record must be a mapping or an object", seen=shown_kind(value))
    for name in ("model_dump", "to_dict", "dict"):
        method = getattr(value, name, None)
        if callable(method):
            return dict(method())
    return dict(vars(value))


def row_of(record: Mapping[str, Any]) -> Record:
    """A record as a row: of values that MongoDB stores, under an `_id` if it names one."""
    check_depth("A record", record)
    row = {str(name): storable(value) for name, value in record.items() if not is_unset(value)}
    own_id = row.pop("id", None)
    row_id = row.pop("_id", None)
    if row_id is None and own_id is not None:
        row_id = own_id if isinstance(own_id, ObjectId) else str(own_id)
    if row_id is not None:
        row["_id"] = row_id
    if row.get("expires_at") is not None:
        row["expires_at"] = moment(row["expires_at"])
    return row


def storable(value: Any) -> Any:  # noqa: PLR0911 - one return a kind of value
    """A value as MongoDB stores it.

    memorizz's files hold JSON, so it passes whatever JSON can be made of: enums, models, sets,
    arrays. A function (a tool's) is None; what nothing else is known of is its text.
    """
    if isinstance(value, Enum):
        return storable(value.value)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {
            str(name): storable(each)
            for name, each in value.items()
            if not is_unset(each) and not (name == "function" and callable(each))
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [storable(each) for each in value]
    if hasattr(value, "tolist") and not isinstance(value, type):  # numpy's arrays and numbers
        return storable(value.tolist())
    for name in ("model_dump", "to_dict"):
        method = getattr(value, name, None)
        if callable(method) and not isinstance(value, type):
            return storable(method())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return storable(dataclasses.asdict(value))
    if is_unset(value) or callable(value):
        return None
    return value.isoformat() if isinstance(value, date) else str(value)


def moment(value: Any) -> Any:
    """The end of a row as a date, which alone the database understands; text that names none is
    left as it is.
    """
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    at = datetime_of(value)
    return value if at is None else at


def shown(row: Mapping[str, Any]) -> Record:
    """A row as memorizz expects records: everything as JSON has it, dates as ISO text."""
    record = {name: value if name == "_id" else plain(value) for name, value in row.items()}
    if record.get("thread_id") is None and record.get("conversation_id") is not None:
        record["thread_id"] = record["conversation_id"]  # the name of old versions
    return record


def plain(value: Any) -> Any:  # noqa: PLR0911 - one return a kind of value
    """A stored value as JSON has it."""
    if isinstance(value, datetime | DatetimeMS):
        return iso_text(value)
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        if all(isinstance(each, float) for each in value):  # an embedding: nothing in it to change
            return value
        return [plain(each) for each in value]
    if isinstance(value, Decimal128):
        return number_of(value)
    if isinstance(value, _PLAIN) and not isinstance(value, ObjectId | bytes):
        return value
    if isinstance(value, Binary | bytes):
        return bytes(value).hex()
    return str(value)


def now_iso() -> str:
    """Now, as memorizz writes it."""
    return datetime.now(UTC).isoformat()


_WITH_AGENT = frozenset({MemoryType.TOOLBOX, MemoryType.SKILLBOX})


def with_scope(row: Record, kind: MemoryType) -> Record:
    """The row with what searches filter by written out: a null is found where nothing is not."""
    if kind is MemoryType.MEMAGENT:
        return row
    named = ("memory_id", "user_id", *(("agent_id",) if kind.store in _WITH_AGENT else ()))
    if kind is MemoryType.SHARED_MEMORY:
        # memorizz's own provider makes its memory_id unique there, nulls included.
        named = named[1:]
    return {**dict.fromkeys(named), **row}
