"""The fields of a row: the names that have a meaning, and the values that they take.

Every write comes through one of three functions here, so that all of them take the same:

    memory_fields   a memory of the caller's: store, store_many, store_conversation
    changed_fields  fields to set on stored rows: update, update_many, compare-and-swap, upsert
    record_fields   a record of another program: put

A record keeps the forms that its program uses (memorizz writes `created_at` as ISO text, `content`
as a mapping), and the searches cope with them. Checked is what would make it invisible, or stop a
later write: its tenant, `_id`, `expires_at`, `recall_count` and `embedding_model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.pipelines import STAGED
from memorizz_async.memory_provider.mongodb.spoken import PARTS
from memorizz_async.memory_provider.mongodb.values import DEFAULT_CODEC, Codec, stored_values
from memorizz_async.redaction import shown

Row = dict[str, Any]

SCORE_NAMES: Final = ("score", "text_score", "fused_score", "rerank_score", "memory_signal")
"""What a search says of a row, in the hit."""

OWN_FIELDS: Final = "stored_fields"
"""Where a hit has what the row itself holds under a name of the search's."""

RESULT_NAMES: Final = frozenset({*SCORE_NAMES, "memory_type", OWN_FIELDS})
"""Names of a result. A memory of the caller's has no fields of these names; a record may."""

TURN_FIELDS: Final = ("turn", "context", "embedded_turns")
"""What writing a conversation gives to each turn."""

_INTERNAL_PREFIX = "_memorizz_"
_INTERNAL = frozenset({STAGED})
_LARGEST_COUNT = 2**53

Check = Callable[[str, Any], None]


def memory_fields(
    given: Mapping[str, Any],
    codec: Codec = DEFAULT_CODEC,
    *,
    refused: Collection[str] = (),
    more_bytes: int = 0,
) -> Row:
    """The fields of a memory, checked and copied; `embedding` as it was given.

    refused: more names that the call does not take. more_bytes: what is written besides.

    Raises InvalidInputError.
    """
    _check_names(given)
    for name in given:
        if name in RESULT_NAMES or name in refused:
            raise _taken(name)
    _check_known(given, _MEMORY)
    _check_model(given)
    return _copied(given, codec, dots=False, more_bytes=more_bytes)


def record_fields(given: Mapping[str, Any], codec: Codec = DEFAULT_CODEC) -> Row:
    """The fields of another program's record, checked and copied; `embedding` as it was given.

    Raises InvalidInputError.
    """
    _check_names(given)
    _check_known(given, _RECORD)
    return _copied(given, codec, dots=True)


def changed_fields(
    given: Mapping[str, Any], codec: Codec = DEFAULT_CODEC, *, as_record: bool = False
) -> Row:
    """Fields to set on a stored row, checked and copied; `embedding` as it was given.

    A dot in a name leads into a mapping or a list: `metadata.topic`, `steps.0`.

    as_record: the row is another program's, whose forms are taken as `record_fields` does.

    Raises InvalidInputError.
    """
    for name in given:
        check_path(name)
        root, _, rest = name.partition(".")
        if _is_internal(root) or (not as_record and root in RESULT_NAMES):
            raise _taken(name)
        if rest and (root in _WHOLE or root in _RECORD):
            raise InvalidInputError(
                "A change names a part of a field that has none",
                seen=shown(name, word=True),
                fix=f"set {root!r} as a whole",
            )
    check_overlap(given)
    if PARTS in given and "content" not in given:
        raise InvalidInputError(
            f"{PARTS} is changed without the content, which is its text",
            fix="set content to the parts of the message",
        )
    _check_known(given, _RECORD if as_record else _MEMORY)
    if not as_record:
        _check_model(given)
    return _copied(given, codec, dots=as_record)


def check_path(name: Any, error: type[InvalidInputError] = InvalidInputError) -> None:
    """Raise an error for what is no path of a field, such as `metadata.topic`."""
    parts = name.split(".") if isinstance(name, str) else [""]
    if any(not part or part.startswith("$") or "\0" in part for part in parts):
        raise error(
            "A key names no field of a row",
            seen=shown(name, word=True),
            fix="write {'name': 'value'}, or {'metadata.name': 'value'} for a part; operators are "
            "not taken here",
        )


def check_not_blank(fields: Mapping[str, Any]) -> None:
    """Raise InvalidInputError where a row would be left without content: no recall could find it,
    or only by the embedding of the text that it had.
    """
    if "content" not in fields or fields.get("embedding") is not None:
        return
    content = fields["content"]
    if not (content and content.strip()):
        raise InvalidInputError(
            "A memory needs content or an embedding: without both it could never be recalled",
            seen="an empty content",
            fix="pass content='…', or delete the row",
        )


# -- names ------------------------------------------------------------------------------------


def _check_names(fields: Mapping[str, Any]) -> None:
    for name in fields:
        _check_name(name)


@lru_cache(maxsize=1024)  # rows have the same names; an error is not kept
def _check_name(name: Any) -> None:
    bad = not isinstance(name, str) or not name or name.startswith("$") or "." in name
    if bad or "\0" in name:
        raise InvalidInputError(
            "A field of a memory has a name that MongoDB does not take, or takes for a path",
            seen=shown(name, word=True),
            fix="leave out dots, and $ at the beginning; nest what belongs together",
        )
    if _is_internal(name):
        raise _taken(name)


def _is_internal(name: str) -> bool:
    return name in _INTERNAL or name.startswith(_INTERNAL_PREFIX)


def _taken(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"The name {name!r} is not free for a field: this package writes it",
        fix="use another name, or put it into metadata",
    )


def check_overlap(names: Iterable[str]) -> None:
    """Raise InvalidInputError for a field and a part of it: the server would set neither."""
    ordered = sorted(names)
    given = set(ordered)
    for name in ordered:
        parts = name.split(".")
        for length in range(1, len(parts)):
            whole = ".".join(parts[:length])
            if whole in given:
                raise InvalidInputError(
                    "Changes name a field and a part of it",
                    seen=f"{shown(whole, word=True)} and {shown(name, word=True)}",
                )


# -- values -----------------------------------------------------------------------------------


def _copied(given: Mapping[str, Any], codec: Codec, *, dots: bool, more_bytes: int = 0) -> Row:
    others = {name: value for name, value in given.items() if name != "embedding"}
    row = stored_values(others, codec, dots=dots, more_bytes=more_bytes)
    if "embedding" in given:
        row["embedding"] = given["embedding"]
    return row


def _check_known(fields: Mapping[str, Any], known: Mapping[str, Check]) -> None:
    for name in fields.keys() & known.keys():
        value = fields[name]
        if value is not None or name in _NEVER_NONE:
            known[name](name, value)


def _check_model(fields: Mapping[str, Any]) -> None:
    """The name of another model would hide a vector that we make, or that is there."""
    if fields.get("embedding_model") is not None and fields.get("embedding") is None:
        raise InvalidInputError(
            "embedding_model stands without the embedding that it is about",
            fix="leave it out: a memory that is embedded here names its model by itself",
        )


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidInputError(f"{name} must be a string", seen=f"a {type(value).__name__}")


def _name(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(
            f"{name} must be a non-empty string",
            seen=shown(value),
        )


def _date(name: str, value: Any) -> None:
    """What is no moment is never in the future: such an `expires_at` would hide the row."""
    if not isinstance(value, datetime):
        raise InvalidInputError(f"{name} must be a datetime", seen=f"a {type(value).__name__}")


def _time(name: str, value: Any) -> None:
    if isinstance(value, str | datetime) or _is_number(value):
        return
    raise InvalidInputError(
        f"{name} must be a datetime, ISO text or seconds since the epoch",
        seen=f"a {type(value).__name__}",
    )


def _importance(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        seen = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
        raise InvalidInputError(f"{name} must be a number from 0 to 1", seen=seen)


def _count(name: str, value: Any) -> None:
    """Recalls add to it on the server, which refuses that for what is no number."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 0 <= value <= _LARGEST_COUNT:
        raise InvalidInputError(
            f"{name} must be a whole number from 0 to 2**53", seen=f"a {type(value).__name__}"
        )


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InvalidInputError(
            f"{name} must be a mapping of fields", seen=f"a {type(value).__name__}"
        )


def _texts(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise InvalidInputError(
            f"{name} must be a list of strings", seen=f"a {type(value).__name__}"
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


_RECORD: Final[Mapping[str, Check]] = {
    "expires_at": _date,
    "recall_count": _count,
    "embedding_model": _name,
}
_MEMORY: Final[Mapping[str, Check]] = {
    **_RECORD,
    "content": _text,
    "created_at": _date,
    "updated_at": _date,
    "last_recalled_at": _date,
    "timestamp": _time,
    "importance": _importance,
    "session_id": _name,
    "dedup_key": _name,
    "metadata": _mapping,
    "tags": _texts,
    "turn": _count,
    "context": _text,
    "access_count": _count,
}
_NEVER_NONE = frozenset({"recall_count"})
_WHOLE = frozenset({*_MEMORY, PARTS, "_id", "embedding", "memory_id", "user_id"}) - {"metadata"}
