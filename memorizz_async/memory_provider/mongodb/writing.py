"""Memories on their way into the database: scoped, embedded, checked, inserted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import Timestamp

from memorizz_async.deadline import Deadline
from memorizz_async.errors import (
    DatabaseError,
    DuplicateMemoryError,
    InvalidInputError,
    WriteError,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.rows import Row, draft, new_row, public_id
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.vectors import Vector, checked_vector

_ROWS_A_WRITE = 500
"""A few milliseconds of BSON encoding on the loop between two awaits."""
_DUPLICATE_KEY = 11000


@dataclass
class Draft:
    """A memory of the caller's, checked, with its scope, and its vector where it brought one."""

    fields: Row
    scope: Scope
    vector: Vector | None
    model: str | None

    @property
    def needs_embedding(self) -> bool:
        return self.vector is None

    def row(self, now: datetime) -> Row:
        return new_row(self.fields, self.scope, vector=self.vector, model=self.model, now=now)


def with_embedding(memory: Any, embedding: Any) -> Any:
    """The memory with its embedding as one of its fields."""
    if isinstance(memory, str):
        memory = {"content": memory}
    if not isinstance(memory, Mapping):
        return memory  # refused with the others, in the same words
    if memory.get("embedding") is not None:
        raise InvalidInputError(
            "The memory has an embedding, and the argument gives another", fix="pass one of them"
        )
    return {**memory, "embedding": embedding}


def drafts(
    memories: Sequence[str | Mapping[str, Any]], *, memory_id: Scoped, user_id: Scoped
) -> list[Draft]:
    """The memories, checked; nothing has been sent. Raises InvalidInputError, naming which one."""
    checked = []
    for position, memory in enumerate(memories):
        try:
            checked.append(_draft(memory, memory_id, user_id))
        except InvalidInputError as error:
            if len(memories) > 1:
                error.add_note(f"in memory {position} of {len(memories)}; none was written")
            raise
    return checked


def _draft(memory: str | Mapping[str, Any], memory_id: Scoped, user_id: Scoped) -> Draft:
    fields = draft(memory)
    scope = Scope(_agreed("memory_id", memory_id, fields), _agreed("user_id", user_id, fields))
    embedding = fields.get("embedding")
    vector = None if embedding is None else checked_vector(embedding, name="embedding")
    return Draft(fields, scope, vector, fields.get("embedding_model"))


def _agreed(name: str, argument: Scoped, fields: Row) -> Scoped:
    """The tenant that the argument and the field name; an error where they differ."""
    if name not in fields:
        return argument
    value: Scoped = fields[name]
    if argument is not UNSET and argument != value:
        raise InvalidInputError(
            f"The argument {name} and the memory's own {name} differ",
            fix="pass it once, or the same twice",
        )
    return value


async def insert(
    driver: Driver,
    collection: str,
    items: Sequence[Draft],
    deadline: Deadline,
    *,
    written: Callable[[str, Timestamp], None],
) -> list[str]:
    """Write the rows; their ids in the order of the items.

    written: told the server's logical time after each write to the collection.

    A row whose `dedup_key` is there already counts as written. Raises DuplicateMemoryError for one
    row, WriteError for several where some were refused or the connection broke half-way: both after
    everything that could be written was.
    """
    now = datetime.now(UTC)
    rows = [item.row(now) for item in items]
    failed: dict[int, str] = {}
    codes: set[int] = set()
    for start in range(0, len(rows), _ROWS_A_WRITE):
        chunk = rows[start : start + _ROWS_A_WRITE]
        try:
            outcome = await driver.insert_many(collection, chunk, deadline=deadline)
        except DatabaseError as error:
            if start == 0:
                raise
            failed.update(dict.fromkeys(range(start, len(rows)), str(error)))
            raise _write_error(rows, failed, collection, error.code) from error
        if outcome.at is not None and len(outcome.refused) < len(chunk):
            written(collection, outcome.at)
        for position, refusal in outcome.refused.items():
            if refusal.same_id and rows[start + position].get("dedup_key"):
                continue  # the row that an earlier write of this key made
            failed[start + position] = refusal.reason
            codes.add(refusal.code)
    if not failed:
        return [public_id(row["_id"]) for row in rows]
    if len(rows) == 1 and codes == {_DUPLICATE_KEY}:
        raise DuplicateMemoryError(
            f"{collection!r} holds a row with this _id already",
            seen=public_id(rows[0]["_id"]),
            fix="leave _id out, or pass a dedup_key, which makes a repeated write harmless",
            code=_DUPLICATE_KEY,
        )
    raise _write_error(rows, failed, collection, codes.pop() if len(codes) == 1 else None)


def _write_error(
    rows: Sequence[Row], failed: Mapping[int, str], collection: str, code: int | None
) -> WriteError:
    position, reason = next(iter(failed.items()))
    return WriteError(
        f"{len(failed)} of {len(rows)} rows were not written to {collection!r}",
        failed=failed,
        written_ids={
            index: public_id(row["_id"]) for index, row in enumerate(rows) if index not in failed
        },
        seen=f"row {position}: {reason}",
        fix="write those that `failed` names again; the others are stored",
        code=code,
    )
