"""A memory as a row of a collection: how it is made, and how it leaves the API."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import bson
from bson import Binary, Code, ObjectId, Regex
from bson.errors import BSONError

from memorizz_async.enums import memory_type_of
from memorizz_async.errors import InvalidInputError, UnknownMemoryTypeError
from memorizz_async.memory_provider.mongodb.fields import (
    OWN_FIELDS,
    RESULT_NAMES,
    memory_fields,
)
from memorizz_async.memory_provider.mongodb.scope import Scope
from memorizz_async.memory_provider.mongodb.spoken import (
    PARTS,
    content_of,
    plain_message,
    with_message_text,
)
from memorizz_async.memory_provider.mongodb.values import DEFAULT_CODEC, Codec
from memorizz_async.redaction import shown
from memorizz_async.validation import check_depth, checked_text
from memorizz_async.vectors import Vector, stored_vector, to_bson

Row = dict[str, Any]

UuidForm = Callable[[UUID], Binary]
"""How a UUID is stored: the `uuidRepresentation` of the database's address says it."""

_NO_IDS = (list, tuple, set, frozenset, re.Pattern, Regex)
"""A pattern in a filter by `_id` would find other rows, too."""

TEXT_SCORE, FUSED_SCORE, RERANK_SCORE = (
    f"_memorizz_{name}" for name in ("text_score", "fused_score", "rerank_score")
)
"""What a search notes in a row under names that no field has, until the row becomes a hit."""

_SHOWN_AS_TEXT = (str, ObjectId)  # a tuple: it is asked for each row of a recall

_SCORE_FIELDS = {
    TEXT_SCORE: "text_score", FUSED_SCORE: "fused_score", RERANK_SCORE: "rerank_score",
}  # fmt: skip

_BY_ARGUMENT = ("_id", "embedding", "embedding_model")  # of `new_row`, which writes them

_BESIDE_A_VECTOR = 100
"""Bytes of an `embedding` field that are not its numbers."""


def draft(
    memory: str | Mapping[str, Any],
    codec: Codec = DEFAULT_CODEC,
    *,
    refused: Collection[str] = (),
) -> Row:
    """The caller's memory as fields: a string is the content. Raises InvalidInputError.

    codec: how the database writes values. refused: names of fields that the call does not take.
    """
    if isinstance(memory, str):
        memory = {"content": memory}
    memory = plain_message(memory)
    if not isinstance(memory, Mapping):
        raise InvalidInputError(
            "A memory must be a string or a mapping of fields", seen=f"a {type(memory).__name__}"
        )
    memory = with_message_text(memory, codec)
    fields = memory_fields(
        memory, codec, refused=refused, more_bytes=_vector_bytes(memory.get("embedding"))
    )
    content = fields.get("content")
    if not (content and content.strip()) and fields.get("embedding") is None:
        raise InvalidInputError(
            "A memory needs content or an embedding: without both it could never be recalled",
            seen=f"the fields {', '.join(shown(name, word=True) for name in fields) or 'none'}",
            fix="pass content='…'",
        )
    _check_identity(fields.get("_id"), fields.get("dedup_key"))
    return fields


def _vector_bytes(embedding: Any) -> int:
    """About what a vector takes as it is written; what is none is refused elsewhere."""
    if isinstance(embedding, Binary):
        return len(embedding) + _BESIDE_A_VECTOR
    try:
        return 4 * len(embedding) + _BESIDE_A_VECTOR
    except TypeError:
        return 0


def _check_identity(row_id: Any, dedup_key: Any) -> None:
    if row_id is not None:
        stored_id(row_id)
    if dedup_key is not None and row_id is not None:
        # Another row under this _id would be taken for this one, and this one would be lost.
        raise InvalidInputError(
            "A memory has both _id and dedup_key", fix="pass one: a dedup_key makes the _id"
        )


def new_row(
    fields: Row, scope: Scope, *, vector: Vector | None, model: str | None, now: datetime
) -> Row:
    """The row to insert: the caller's fields, the scope's, and ours."""
    row: Row = {
        "_id": _row_id(fields, scope),
        **scope.fields(),
        "content": "",
        "created_at": now,
        "updated_at": now,
        "importance": 0.5,
        "metadata": {},
    }
    row.update({name: value for name, value in fields.items() if name not in _BY_ARGUMENT})
    row.update(scope.fields())  # a field of the caller's never moves a row to another tenant
    row.setdefault("recall_count", 0)
    row.setdefault("last_recalled_at", None)
    if vector is not None:
        row["embedding"] = to_bson(vector)
        row["embedding_model"] = model
    return row


def _row_id(fields: Row, scope: Scope) -> Any:
    """The caller's `_id`, else one derived from `dedup_key`, else a new one.

    A derived id makes a repeated write meet its own first row: no second one can come to be.
    """
    if fields.get("_id") is not None:
        return stored_id(fields["_id"])
    dedup_key = fields.get("dedup_key")
    return ObjectId() if dedup_key is None else dedup_id(dedup_key, scope)


def dedup_id(dedup_key: str, scope: Scope) -> ObjectId:
    """The id that a `dedup_key` gives in its tenant."""
    # JSON: the same on every version of Python, and no part can be mistaken for another.
    identity = json.dumps([*scope.fields().values(), dedup_key])
    digest = hashlib.sha256(identity.encode()).digest()
    return ObjectId(digest[:12])


def stored_id(row_id: Any, uuid_form: UuidForm = Binary.from_uuid) -> Any:
    """The id as it is stored: 24 hexadecimal digits are an ObjectId, as memorizz writes them.

    Any other value that MongoDB takes as an `_id` is itself: numbers, bytes, dates, documents.
    Raises InvalidInputError for the rest: None, lists, patterns, and what BSON does not hold.

    uuid_form: how a UUID is stored.
    """
    if isinstance(row_id, str) and not isinstance(row_id, Code):
        if ObjectId.is_valid(row_id):
            return ObjectId(row_id)
        return str.__str__(checked_text("An id", row_id))
    if isinstance(row_id, ObjectId):
        return row_id
    if isinstance(row_id, UUID):
        return uuid_form(row_id)
    if row_id is None or isinstance(row_id, _NO_IDS):
        raise _no_id(row_id)
    if isinstance(row_id, Mapping):
        check_depth("An id", row_id)
        if not _names_no_operator(row_id):
            raise _no_id(row_id)
    if not _encodes(row_id):
        raise _no_id(row_id)
    return row_id


def _names_no_operator(value: Any) -> bool:
    """Whether no key of a mapping in it begins with $: in an `_id` the server takes none."""
    if isinstance(value, Mapping):
        names_fit = all(isinstance(name, str) and not name.startswith("$") for name in value)
        return names_fit and all(_names_no_operator(each) for each in value.values())
    return not isinstance(value, list | tuple) or all(_names_no_operator(each) for each in value)


def _encodes(value: Any) -> bool:
    """Whether BSON takes it. The error of one that it does not take quotes it, and ends here."""
    try:
        bson.encode({"_id": value})
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError):
        return False
    return True


def _no_id(row_id: Any) -> InvalidInputError:
    return InvalidInputError(
        "An id must be a non-empty string, an ObjectId, or another value that MongoDB takes as _id",
        seen=shown(row_id),
        fix="pass the _id of a hit or of a listed row, as it is",
    )


def stored_ids(row_id: Any, uuid_form: UuidForm = Binary.from_uuid) -> list[Any]:
    """Every form in which an id may be stored. See stored_id."""
    first = stored_id(row_id, uuid_form)
    if isinstance(first, ObjectId):
        return [first, str(first)]  # 24 hexadecimal digits may also have been stored as a string
    return [first]


def public_id(row_id: Any) -> Any:
    """The id as it leaves the API: a string for a string and an ObjectId, else the value itself, so
    that it can be given back. Code is not a string to the server, though it is one to Python.
    """
    as_text = isinstance(row_id, _SHOWN_AS_TEXT) and not isinstance(row_id, Code)
    return str(row_id) if as_text else row_id


def public_row(row: Row, memory_type: str) -> Row:
    """The row as it leaves the API: its id as `public_id` has it, vectors as `list[float]`."""
    shown: Row = {
        "_id": public_id(row["_id"]),
        "content": content_of(row),
        "memory_id": row.get("memory_id"),
        "user_id": row.get("user_id"),
        "memory_type": memory_type,
    }
    shown.update({name: value for name, value in row.items() if name not in shown})
    if "memory_type" in row and not _is_type(row["memory_type"], memory_type):
        shown[OWN_FIELDS] = {name: row[name] for name in ("memory_type", OWN_FIELDS) if name in row}
    if isinstance(row.get("content"), list):  # a message that another program wrote
        shown[PARTS] = row["content"]
    if shown.get("embedding") is not None:
        shown["embedding"] = public_embedding(shown["embedding"])
    return shown


def hit_of(row: Row, memory_type: str, score: float) -> Row:
    """A row that a search found, as it leaves the API, with its scores.

    What the row itself has under a name of a result stands in `stored_fields`.
    """
    scores = {name: row.pop(field) for field, name in _SCORE_FIELDS.items() if field in row}
    hit = public_row(row, memory_type)
    own = RESULT_NAMES & row.keys()
    if own and own != {"memory_type"}:
        hit[OWN_FIELDS] = {name: row[name] for name in own}
        for name in own - {OWN_FIELDS, "memory_type"}:
            del hit[name]
    hit.update(scores)
    hit["score"] = score
    return hit


@lru_cache(maxsize=256)
def _names_type(own: str, memory_type: str) -> bool:
    try:
        return memory_type_of(own).store is memory_type_of(memory_type).store
    except UnknownMemoryTypeError:
        return False


def _is_type(own: Any, memory_type: str) -> bool:
    """Whether a row says of itself that it is of this type, as memorizz's rows do."""
    return type(own) is str and _names_type(own, memory_type)


def public_embedding(stored: Any) -> list[float] | None:
    """A stored vector as it leaves the API; None for one that cannot be read.

    `row_problems.problem_of` says why: one such row must not hide the others.
    """
    try:
        numbers: list[float] = stored_vector(stored).tolist()
    except (TypeError, ValueError):
        return None
    return numbers
