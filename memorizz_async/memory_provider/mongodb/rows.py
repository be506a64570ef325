"""A memory as a row of a collection: how it is made, and how it leaves the API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import bson
from bson import ObjectId
from bson.errors import BSONError

from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import ConfigurationError, InvalidInputError, StoredEmbeddingError
from memorizz_async.memory_provider.mongodb.scope import Scope
from memorizz_async.memory_provider.mongodb.spoken import PARTS, content_of, with_message_text
from memorizz_async.vectors import Vector, stored_vector, to_bson

Row = dict[str, Any]

_LARGEST = 16_000_000  # of the server's 16 MiB, with room for our own fields and the vector

_OURS = ("embedding", "embedding_model", "recall_count", "last_recalled_at")


def draft(memory: str | Mapping[str, Any]) -> Row:
    """The caller's memory as fields: a string is the content. Raises InvalidInputError."""
    if isinstance(memory, str):
        memory = {"content": memory}
    if not isinstance(memory, Mapping):
        raise InvalidInputError(
            "A memory must be a string or a mapping of fields", seen=f"a {type(memory).__name__}"
        )
    fields = with_message_text(memory)
    check_names(fields)
    content = fields.get("content")
    if content is not None and not isinstance(content, str):
        raise InvalidInputError("content must be a string", seen=f"a {type(content).__name__}")
    if not (content and content.strip()) and fields.get("embedding") is None:
        raise InvalidInputError(
            "A memory needs content or an embedding: without both it could never be recalled",
            seen=f"the fields {', '.join(fields) or 'none'}",
            fix="pass content='…'",
        )
    _check_importance(fields.get("importance"))
    _check_expiry(fields.get("expires_at"))
    _check_identity(fields.get("_id"), fields.get("dedup_key"))
    check_storable(fields)
    return fields


def check_names(fields: Row) -> None:
    """Raise InvalidInputError for a name that a field cannot have."""
    for name in fields:
        if not isinstance(name, str) or not name or name.startswith("$") or "\0" in name:
            raise InvalidInputError(
                "A field of a memory has a name that MongoDB does not take", seen=repr(name)
            )


def _check_importance(importance: Any) -> None:
    if importance is None:
        return
    valid = isinstance(importance, int | float) and not isinstance(importance, bool)
    if not valid or not 0 <= importance <= 1:
        raise InvalidInputError("importance must be a number from 0 to 1", seen=repr(importance))


def _check_expiry(expires_at: Any) -> None:
    """What is no moment is never in the future: such a row would never be recalled."""
    if expires_at is not None and not isinstance(expires_at, datetime):
        raise InvalidInputError(
            "expires_at must be a datetime", seen=f"a {type(expires_at).__name__}"
        )


def _check_identity(row_id: Any, dedup_key: Any) -> None:
    if row_id is not None:
        stored_id(row_id)
    if dedup_key is None:
        return
    if not isinstance(dedup_key, str) or not dedup_key:
        raise InvalidInputError("dedup_key must be a non-empty string", seen=repr(dedup_key))
    if row_id is not None:
        # Another row under this _id would be taken for this one, and this one would be lost.
        raise InvalidInputError(
            "A memory has both _id and dedup_key", fix="pass one: a dedup_key makes the _id"
        )


def check_storable(fields: Row) -> None:
    """Raise InvalidInputError for a value that BSON does not take, or too much of it.

    Seen only while writing, it would stop a write half-way.
    """
    storable = {name: value for name, value in fields.items() if name != "embedding"}
    size = _bson_size(storable)
    if size is not None and size <= _LARGEST:
        return
    if size is not None:
        raise InvalidInputError(
            "A memory is larger than MongoDB stores",
            seen=f"{size:,} bytes, not at most {_LARGEST:,}",
            fix="split it; what is recalled should be short",
        )
    name = next(name for name, value in storable.items() if _bson_size({name: value}) is None)
    raise InvalidInputError(
        f"The field {name!r} of a memory holds a value that MongoDB cannot store",
        seen=f"a {type(storable.get(name)).__name__}",  # never the value: it is the user's
        fix="use strings (valid Unicode), numbers of at most 64 bits, datetimes, lists, and "
        "mappings with strings as keys",
    )


def _bson_size(document: Row) -> int | None:
    """Its bytes as BSON; None where it cannot be BSON."""
    try:
        return len(bson.encode(document))
    except (BSONError, ValueError, TypeError, OverflowError, RecursionError):
        return None


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
    row.update({name: value for name, value in fields.items() if name not in ("_id", *_OURS)})
    row.update(scope.fields())  # a field of the caller's never moves a row to another tenant
    row["recall_count"] = 0
    row["last_recalled_at"] = None
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


def stored_id(row_id: Any) -> Any:
    """The id as it is stored: 24 hexadecimal digits are an ObjectId, as memorizz writes them."""
    if isinstance(row_id, str) and ObjectId.is_valid(row_id):
        return ObjectId(row_id)
    if isinstance(row_id, str | ObjectId) and row_id:
        return row_id
    raise InvalidInputError(
        "An id must be a non-empty string or an ObjectId", seen=f"a {type(row_id).__name__}"
    )


def stored_ids(row_id: Any) -> list[Any]:
    """Every form in which an id may be stored."""
    first = stored_id(row_id)
    if str(row_id) != row_id or first != row_id:
        return [first, str(row_id)]  # 24 hexadecimal digits may also have been stored as a string
    return [first]


def public_id(row_id: Any) -> str:
    """The id as it leaves the API: always a string."""
    return str(row_id)


def public_row(row: Row, memory_type: str) -> Row:
    """The row as it leaves the API: ids as strings, vectors as `list[float]`."""
    shown: Row = {
        "_id": public_id(row["_id"]),
        "content": content_of(row),
        "memory_id": row.get("memory_id"),
        "user_id": row.get("user_id"),
        "memory_type": memory_type,
    }
    shown.update({name: value for name, value in row.items() if name not in shown})
    if isinstance(row.get("content"), list):  # a message that another program wrote
        shown[PARTS] = row["content"]
    if shown.get("embedding") is not None:
        shown["embedding"] = public_embedding(shown["_id"], shown["embedding"])
    return shown


def public_embedding(row_id: str, stored: Any) -> list[float]:
    """A stored vector as it leaves the API. Raises StoredEmbeddingError, naming the row."""
    try:
        numbers: list[float] = stored_vector(stored).tolist()
    except (TypeError, ValueError) as error:
        raise StoredEmbeddingError(
            "The stored embedding of a row cannot be read",
            rows={row_id: str(error)},
            count=1,
            seen=f"row {row_id}: {error}",
            fix="ask without include_embedding, or embed the row again",
        ) from error
    return numbers


def collection_names(overrides: Mapping[str, str]) -> dict[MemoryType, str]:
    """The collection of every memory type, with the configuration's own names.

    Raises UnknownMemoryTypeError for an override of a type that does not exist.
    """
    by_store: dict[MemoryType, str] = {}
    for name, collection in overrides.items():
        store = memory_type_of(name).store
        if by_store.setdefault(store, collection) != collection:
            raise ConfigurationError(
                f"{store.name} has two collections: LONG_TERM_MEMORY and KNOWLEDGE_BASE are one "
                "store",
                seen=f"{by_store[store]!r} and {collection!r}",
                fix="name it once",
            )
    return {kind: by_store.get(kind.store, kind.collection) for kind in MemoryType}
