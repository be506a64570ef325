"""Memories on their way into the database: scoped, embedded, checked, inserted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from bson import Binary, Timestamp

from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import (
    DatabaseError,
    DuplicateMemoryError,
    InvalidInputError,
    WriteError,
)
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.pipelines import expired_filter
from memorizz_async.memory_provider.mongodb.pipelines.sessions import identity_projection
from memorizz_async.memory_provider.mongodb.protocol import (
    DUPLICATE_KEY,
    REFUSED_BY_VALIDATOR,
    Driver,
    Refusal,
)
from memorizz_async.memory_provider.mongodb.rows import (
    Row,
    UuidForm,
    draft,
    new_row,
    public_id,
)
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped, check_tenant
from memorizz_async.memory_provider.mongodb.spoken import plain_message
from memorizz_async.memory_provider.mongodb.values import DEFAULT_CODEC, Codec
from memorizz_async.memory_provider.mongodb.vector_search.row_matching import alive_until
from memorizz_async.redaction import describe_id
from memorizz_async.slices import in_slices
from memorizz_async.validation import checked_list
from memorizz_async.vectors import Vector, checked_vector

Written = Callable[[str, Timestamp], None]
"""Told a collection and the server's logical time after a write to it."""

_ROUNDS = 3

_TAKEN = "the id that this dedup_key makes is another row's, of another tenant or without the key"

_ROWS_A_WRITE = 500
"""A few milliseconds of BSON encoding on the loop between two awaits."""


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
    memory = plain_message(memory)
    if not isinstance(memory, Mapping):
        return memory  # refused with the others, in the same words
    if memory.get("embedding") is not None:
        raise InvalidInputError(
            "The memory has an embedding, and the argument gives another", fix="pass one of them"
        )
    return {**memory, "embedding": embedding}


async def drafts(
    given: Iterable[str | Mapping[str, Any]],
    *,
    memory_id: Scoped,
    user_id: Scoped,
    codec: Codec = DEFAULT_CODEC,
    uuid_form: UuidForm = Binary.from_uuid,
    refused: Collection[str] = (),
) -> list[Draft]:
    """The memories, checked; nothing has been sent. Raises InvalidInputError, naming which one.

    codec: how the database writes values. uuid_form: how an `_id` that is a UUID is stored.
    refused: names of fields that the call does not take.
    """
    # Copied before other tasks run: they may change what the caller passed.
    memories = [
        dict(one) if isinstance(one, Mapping) else plain_message(one)
        for one in checked_list("memories", given, single="use store_async for one, or pass a list")
    ]
    if not memories:  # a tenant of a wrong kind is an error also where there is nothing to write
        check_tenant("memory_id", memory_id)
        check_tenant("user_id", user_id)
    checked: list[Draft] = []
    async for position, memory in in_slices(enumerate(memories)):
        if isinstance(memory, dict) and isinstance(memory.get("_id"), UUID):
            memory["_id"] = uuid_form(memory["_id"])
        try:
            checked.append(_draft(memory, memory_id, user_id, codec, refused))
        except InvalidInputError as error:
            if len(memories) > 1:
                error.add_note(f"in memory {position} of {len(memories)}; none was written")
            raise
    return checked


def _draft(
    memory: str | Mapping[str, Any],
    memory_id: Scoped,
    user_id: Scoped,
    codec: Codec,
    refused: Collection[str],
) -> Draft:
    fields = draft(memory, codec, refused=refused)
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


async def embed(
    items: Sequence[Draft],
    texts: Sequence[str],
    embedder: Callable[[], Embedder],
    call: CallTime,
) -> None:
    """Give a vector to each item that has none: its text's. The embedder is made where needed."""
    missing = [(i, t) for i, t in zip(items, texts, strict=True) if i.needs_embedding]
    if not missing:
        return
    model = embedder()
    wanted = [text for _, text in missing]
    matrix = await call.within("embedding", partial(model.encode_documents_async, wanted))
    for (item, _), vector in zip(missing, matrix, strict=True):
        item.vector, item.model = vector, model.get_model_name()


def forget_vectors(items: Sequence[Draft]) -> None:
    """Take the vectors off that an earlier `embed` gave: they may be of another model by now."""
    for item in items:
        if item.fields.get("embedding") is None:
            item.vector = item.model = None


async def check(
    driver: Driver,
    collection: str,
    items: Sequence[Draft],
    deadline: Deadline,
    guard: ModelGuard,
) -> None:
    """Refuse vectors of another model or dimension than the collection's; see ModelGuard.check."""
    vectors = [(item.vector, item.model) for item in items if item.vector is not None]
    if vectors:
        await guard.check(driver, collection, vectors, deadline)


async def insert(
    driver: Driver,
    collection: str,
    items: Sequence[Draft],
    deadline: Deadline,
    guard: ModelGuard,
    *,
    written: Written,
    repeated: Callable[[int], None] | None = None,
) -> list[str]:
    """Write the rows; their ids in the order of the items.

    written: told the server's logical time after each write to the collection.
    repeated: told the position of each item whose `dedup_key` was there already.

    A row whose `dedup_key` is there already counts as written. Raises, with nothing written,
    InvalidEmbeddingError for a vector of another dimension and EmbeddingModelMismatchError for one
    of another model; DuplicateMemoryError for one row, WriteError for several where some were
    refused or the connection broke half-way: both after everything that could be written was.
    """
    await check(driver, collection, items, deadline, guard)
    now = datetime.now(UTC)
    ids: list[Any] = []
    failed: dict[int, Refusal] = {}
    for start in range(0, len(items), _ROWS_A_WRITE):
        rows = [item.row(now) for item in items[start : start + _ROWS_A_WRITE]]
        ids += [row["_id"] for row in rows]
        try:
            refused, known = await _insert_rows(
                driver, collection, rows, now, deadline, written=written
            )
        except DatabaseError as error:
            if start == 0:
                raise
            unknown = Refusal(error.code or 0, str(error), same_id=False)
            failed.update(dict.fromkeys(range(start, len(items)), unknown))
            ids += [None] * (len(items) - len(ids))
            raise _write_error(ids, failed, collection) from error
        failed.update({start + position: refusal for position, refusal in refused.items()})
        if repeated is not None:
            for position in known:
                repeated(start + position)
    if not failed:
        return [public_id(row_id) for row_id in ids]
    if len(items) == 1 and failed[0].code == DUPLICATE_KEY:
        raise DuplicateMemoryError(
            f"{collection!r} holds a row with this _id already"
            if failed[0].same_id and failed[0].reason != _TAKEN
            else f"Nothing was written to {collection!r}: {_TAKEN}"
            if failed[0].reason == _TAKEN
            else f"A unique index of {collection!r} does not take the row",
            seen=describe_id(ids[0]),
            fix="write it with another dedup_key, or delete that row"
            if failed[0].reason == _TAKEN
            else "leave _id out, or pass a dedup_key, which makes a repeated write harmless",
            code=DUPLICATE_KEY,
        )
    raise _write_error(ids, failed, collection)


async def _insert_rows(
    driver: Driver,
    collection: str,
    rows: Sequence[Row],
    now: datetime,
    deadline: Deadline,
    *,
    written: Written,
) -> tuple[dict[int, Refusal], list[int]]:
    """Write some rows; those that were refused, by position, and those that are there already.

    A `dedup_key` that is there already is no refusal, unless its row has expired: then that one
    makes way, since nobody can see it.

    Where the id that the key makes is taken by another row, of another tenant for instance, the row
    is refused: with another id, a repeated write could come twice when the first is free again.
    """
    refused = await _insert_once(driver, collection, rows, deadline, written=written)
    known: list[int] = []
    for _ in range(_ROUNDS):
        again = [
            position
            for position, refusal in refused.items()
            if refusal.same_id and refusal.reason != _TAKEN and rows[position].get("dedup_key")
        ]
        if not again:
            break
        ids = [rows[position]["_id"] for position in again]
        there = await driver.find(
            collection, {"_id": {"$in": ids}}, projection=identity_projection(), deadline=deadline
        )
        by_id = {row["_id"]: row for row in there}
        retried: list[int] = []
        expired: list[Any] = []
        for position in again:
            row = rows[position]
            stored = by_id.get(row["_id"])
            if stored is None:  # deleted meanwhile
                retried.append(position)
            elif not is_row_of(stored, row["dedup_key"], row):
                refused[position] = Refusal(DUPLICATE_KEY, _TAKEN, same_id=True)
            elif alive_until(stored) <= now.timestamp() * 1000:
                expired.append(row["_id"])
                retried.append(position)
            else:
                known.append(position)
                del refused[position]
        if expired:
            await driver.delete_many(collection, expired_filter(expired, now), deadline=deadline)
        if retried:
            some = [rows[position] for position in retried]
            outcome = await _insert_once(driver, collection, some, deadline, written=written)
            for at, position in enumerate(retried):
                del refused[position]
                if at in outcome:
                    refused[position] = outcome[at]
    return dict(sorted(refused.items())), known


def is_row_of(stored: Row, dedup_key: str, owner: Mapping[str, Any]) -> bool:
    """Whether a stored row is the one that a `dedup_key` of a tenant means.

    owner: what names the tenant, such as the row to write.
    """
    return stored.get("dedup_key") == dedup_key and all(
        stored.get(name) == owner[name] for name in ("memory_id", "user_id")
    )


async def _insert_once(
    driver: Driver, collection: str, rows: Sequence[Row], deadline: Deadline, *, written: Written
) -> dict[int, Refusal]:
    outcome = await driver.insert_many(collection, rows, deadline=deadline)
    if outcome.at is not None and len(outcome.refused) < len(rows):
        written(collection, outcome.at)
    return dict(outcome.refused)


def _write_error(ids: Sequence[Any], failed: Mapping[int, Refusal], collection: str) -> WriteError:
    position, refusal = next(iter(failed.items()))
    codes = {each.code for each in failed.values()}
    fix = (
        "write those that `failed` names again, with a dedup_key where the connection broke, "
        "so that none comes twice; the others are stored"
    )
    if codes == {REFUSED_BY_VALIDATOR}:
        fix = f"give the rows what the validator of {collection!r} wants, or change it (collMod)"
    return WriteError(
        f"{len(failed)} of {len(ids)} rows were not written to {collection!r}, or not for certain",
        failed={index: each.reason for index, each in failed.items()},
        written_ids={
            index: public_id(row_id) for index, row_id in enumerate(ids) if index not in failed
        },
        seen=f"row {position}: {refusal.reason}",
        fix=fix,
        code=codes.pop() if len(codes) == 1 else None,
    )
