"""Rows as they are: what another program's record needs to be kept whole, and given back whole.

A memory that is stored (`rows`) gets fields of ours. A record that is put, or listed as stored, has
its own, with two exceptions: an embedding is written in the form that is asked for, and leaves as
`list[float]` (None where it cannot be read); the id of an ObjectId leaves as a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from bson import Binary, ObjectId

from memorizz_async.errors import InvalidEmbeddingError, InvalidInputError
from memorizz_async.memory_provider.mongodb.fields import (
    changed_fields,
    check_not_blank,
    record_fields,
)
from memorizz_async.memory_provider.mongodb.pipelines.rows import STAGED
from memorizz_async.memory_provider.mongodb.rows import (
    Row,
    UuidForm,
    public_embedding,
    public_id,
    stored_id,
)
from memorizz_async.memory_provider.mongodb.scope import EVERY_TENANT, UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.spoken import PARTS
from memorizz_async.memory_provider.mongodb.values import DEFAULT_CODEC, Codec, check_size
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_choice, checked_flag
from memorizz_async.vectors import Vector, array_of, checked_vector, stored_vector, to_bson

EmbeddingForm = Literal["bindata", "array"]
"""How an embedding is written: BinData float32, or an array of doubles, as memorizz reads it."""


_FORMS: tuple[EmbeddingForm, ...] = get_args(EmbeddingForm)


def row_to_put(
    given: Mapping[str, Any],
    memory_id: Scoped,
    user_id: Scoped,
    form: EmbeddingForm,
    codec: Codec = DEFAULT_CODEC,
    *,
    uuid_form: UuidForm = Binary.from_uuid,
) -> tuple[Row, Scope]:
    """A record as the row to write, and whose it is. Raises InvalidInputError."""
    row = record_fields(_mapping(given), codec)
    if row.get("embedding") is not None:
        row["embedding"] = _as_given(row["embedding"], form)
        check_size(row)
    if row.get("_id") is None:
        row["_id"] = ObjectId()
    else:
        row["_id"] = stored_id(row["_id"], uuid_form)
    scope = _owner(row, memory_id, user_id)
    row.update(scope.owned())
    return row, scope


def check_owner(changes: Mapping[str, Any], scope: Scope, *, gives: bool = False) -> None:
    """Changed fields leave rows with the tenant of the scope; where it is open, with one that a
    call can name. Raises InvalidInputError, ScopeError.

    gives: whether a row that has no tenant may be given to one.
    """
    for name in changes:
        if name.startswith(("memory_id.", "user_id.")):
            raise InvalidInputError(
                "A change names a part of a memory_id or a user_id, which are texts",
                seen=shown(name, word=True),
                fix="name the whole field",
            )
    whose = (scope.memory_id, scope.user_id)
    _owner(changes, *(EVERY_TENANT if gives and one is None else one for one in whose))


def _owner(row: Mapping[str, Any], memory_id: Scoped, user_id: Scoped) -> Scope:
    return Scope(_tenant("memory_id", memory_id, row), _tenant("user_id", user_id, row))


def _tenant(name: str, argument: Scoped, row: Mapping[str, Any]) -> Scoped:
    """Whose row it is: what the argument says, or the row itself where that is left open."""
    if name not in row:
        return argument
    own: Scoped = row[name]
    if argument is UNSET or argument is EVERY_TENANT:
        return own
    if argument != own:
        raise InvalidInputError(
            f"The argument {name} and the row's own {name} differ",
            fix="pass it once, or the same twice",
        )
    return own


def changes_to_write(
    given: Mapping[str, Any],
    form: EmbeddingForm,
    codec: Codec = DEFAULT_CODEC,
    *,
    as_record: bool = False,
) -> Row:
    """Fields to set, as they are written. Raises InvalidInputError, InvalidEmbeddingError.

    as_record: of another program's row; see `fields`.
    """
    checked_choice("embedding_form", form, _FORMS)
    checked_flag("as_record", as_record)
    row = changed_fields(_mapping(given), codec, as_record=as_record)
    if not as_record:
        check_not_blank(row)
    if row.get("embedding") is not None:
        row["embedding"] = (_as_given if as_record else _searchable)(row["embedding"], form)
        check_size(row)
    return row


def key_to_write(
    given: Mapping[str, Any], codec: Codec = DEFAULT_CODEC, *, as_record: bool = False
) -> Row:
    """Fields that a row equals, and has where it comes to be by that. Raises InvalidInputError."""
    key = changed_fields(_mapping(given), codec, as_record=as_record)
    if not as_record:
        check_not_blank(key)
    if key.get("embedding") is not None:
        raise InvalidInputError("A key holds an embedding", fix="name the row by other fields")
    return key


def _mapping(given: Any) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    raise InvalidInputError("A row must be a mapping of fields", seen=f"a {type(given).__name__}")


def _searchable(value: Any, form: EmbeddingForm) -> Any:
    """The embedding in that form, if a search can use it, as store_async asks."""
    return in_form(checked_vector(value, name="embedding"), form)


def in_form(vector: Vector, form: EmbeddingForm) -> Any:
    """A vector as it is written."""
    return to_bson(vector) if form == "bindata" else vector.tolist()


def _as_given(value: Any, form: EmbeddingForm) -> Any:
    """The embedding in that form. What could not be searched with is kept: a search reports it."""
    try:
        plain = value if isinstance(value, list | tuple | Binary) else array_of(value).tolist()
        vector = stored_vector(plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidEmbeddingError(
            "The embedding of a row is not a vector of numbers",
            seen=f"{type(value).__name__}: {error}",
        ) from error
    if vector.ndim != 1:
        raise InvalidEmbeddingError(
            "The embedding of a row must have one dimension", seen=f"shape {vector.shape}"
        )
    if form == "bindata":
        return to_bson(vector)
    if isinstance(plain, Binary):
        return vector.tolist()
    return [float(number) for number in plain]


def as_stored(row: Row) -> Row:
    """The row with the fields that it has, its id as `public_id` has it, its embedding as
    `list[float]`.
    """
    shown = {**row, "_id": public_id(row["_id"])}
    if isinstance(shown.get("embedding"), Binary):
        shown["embedding"] = public_embedding(shown["embedding"])
    return shown


def removed_with(fields: Row) -> list[str]:
    """The fields of a row that go where others are set: what the old ones alone were right for."""
    removed = []
    if "embedding" in fields:
        if "embedding_model" not in fields:
            removed.append("embedding_model")  # of the old one, which this one may not be of
        removed.append("embedded_turns")
    if "content" in fields:
        removed += [STAGED] if PARTS in fields else [STAGED, PARTS]  # they hold the old text
    return removed
