"""Writing the turns of conversations: appending, changing and deleting them.

One writer of a session at a time (`session_locks`), so that each number is given once, and what is
written of a turn's neighbours is true. What other turns hold of a turn, in their `context` and in
their vectors, is written before the turn itself is changed or deleted: a process that is killed in
between leaves a turn that its neighbours do not mention, and the repeated call ends the work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import (
    DuplicateMemoryError,
    EmbeddingModelMismatchError,
    InvalidInputError,
    MemorizzAsyncError,
    WriteError,
)
from memorizz_async.memory_provider.mongodb import writing
from memorizz_async.memory_provider.mongodb.conversation import (
    WINDOW,
    Rewriting,
    Session,
    Turn,
    is_turn,
    last_turns,
    mending,
    number_of,
    rewriting,
    turns_around,
)
from memorizz_async.memory_provider.mongodb.embedding_models.guard import ModelGuard
from memorizz_async.memory_provider.mongodb.pipelines import STAGED, all_of, rows_by_id_filter
from memorizz_async.memory_provider.mongodb.pipelines import sessions as queries
from memorizz_async.memory_provider.mongodb.protocol import (
    Delete,
    Document,
    Driver,
    Update,
    Write,
    WriteOutcome,
)
from memorizz_async.memory_provider.mongodb.rows import dedup_id, public_id
from memorizz_async.memory_provider.mongodb.session_locks import (
    Held,
    LockLostError,
    SessionLocks,
    SessionName,
    to_its_end,
)
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.memory_provider.mongodb.writing import Draft, Written
from memorizz_async.vectors import Vector, to_bson

log = logging.getLogger(__name__)

_SESSIONS_A_PAGE = 10_000
_SESSIONS_AT_ONCE = 50
_TURNS_AT_ONCE = 200
"""Of one session; so at most 10,000 turns are in work at a time."""
_ROWS_A_WRITE = 500


@dataclass
class TurnChange:
    """What becomes of one turn.

    after: the turn as it will be; None where it leaves its session. write: what does it. Where it
    sets `fields`, the turn's own context and vector go with it.
    embeds: whether the turn itself gets a new vector though it had none of a known model.
    keeps_vector: whether the turn's own vector is left alone, unless it holds words of turns before
    it that it may not hold any more.
    """

    after: Turn | None
    write: Write
    fields: Document | None = None
    removed: Sequence[str] = ()
    embeds: bool = False
    keeps_vector: bool = False

    def makes_vector(self, *, heard: bool) -> bool:
        """Whether the turn itself gets another vector. heard: it has other turns before it."""
        if self.fields is None or "embedding" in self.fields:
            return False
        return heard or not self.keeps_vector


Change = Callable[[SessionName, Turn], TurnChange]
"""What becomes of a turn that is stored."""


@dataclass
class _Piece:
    """Some changed turns of one session, and what is written again because of them."""

    changes: dict[Hashable, TurnChange]
    rewriting: Rewriting
    vectors: dict[int, Vector | None] = field(default_factory=dict)
    """By position; None: there is none any more."""


class ConversationWriter:
    """Writes turns of one collection, in one public call."""

    def __init__(
        self,
        driver: Driver,
        collection: str,
        *,
        locks: SessionLocks,
        guard: ModelGuard,
        call: CallTime,
        written: Written,
    ) -> None:
        self._driver = driver
        self._locks = locks
        self._collection = collection
        self._guard = guard
        self._call = call
        self._written = written

    # -- appending --------------------------------------------------------------------------

    async def append(
        self, drafts: Sequence[Draft], session_id: str | None, embedder: Callable[[], Embedder]
    ) -> list[str]:
        """Write the turns after those that are stored of their sessions; their ids, in order."""
        for at, draft in enumerate(drafts):
            draft.fields["session_id"] = _session_id(draft, session_id, at)
        names = {name.key(self._collection): name for name in map(_name_of, drafts)}
        while True:
            try:
                async with self._locks.hold(names, self._call.for_database()) as held:
                    return await self._append(drafts, names, held, embedder)
            except LockLostError:
                writing.forget_vectors(drafts)

    async def _append(
        self,
        drafts: Sequence[Draft],
        names: Mapping[str, SessionName],
        held: Held,
        embedder: Callable[[], Embedder],
    ) -> list[str]:
        deadline = self._call.for_database()
        repeated = _repeated(drafts)
        stored = await self._stored(drafts, deadline)
        where = [at for at in range(len(drafts)) if at not in stored and at not in repeated]
        rows = [drafts[at] for at in where]
        sessions = await self._sessions(rows, names, held, deadline)
        texts = _complete(sessions)
        await writing.embed(rows, [texts[id(row)] for row in rows], embedder, self._call)
        deadline = self._call.for_database()
        await writing.check(self._driver, self._collection, rows, deadline, self._guard)
        if rows:
            next_numbers = {
                session.name.key(self._collection): session.turns[-1].number + 1
                for session in sessions
            }
            await held.confirm(deadline, next_numbers)
        new_ids = await to_its_end(self._insert(sessions, rows, held, deadline))
        if isinstance(new_ids, WriteError):  # it counts among the rows that were sent
            new_ids.failed = {where[at]: reason for at, reason in new_ids.failed.items()}
            new_ids.written_ids = {where[at]: one for at, one in new_ids.written_ids.items()}
            raise new_ids
        ids = {**stored, **dict(zip(where, new_ids, strict=True))}
        return [ids[repeated.get(at, at)] for at in range(len(drafts))]

    async def _insert(
        self, sessions: Sequence[Session], rows: Sequence[Draft], held: Held, deadline: Deadline
    ) -> list[str] | WriteError:
        """Write the neighbours, then the rows.

        In this order a process that is killed in between leaves words of turns that do not exist,
        which the next append takes away: it writes the whole context of the last turns.
        """
        await self._write_all(_neighbours(sessions), deadline)
        repeated: set[int] = set()
        insert = partial(
            writing.insert, self._driver, self._collection, rows, deadline, self._guard,
            written=self._written, repeated=repeated.add,
        )  # fmt: skip
        try:
            ids = await insert()
        except WriteError as error:
            held.settled = error.__cause__ is None  # else the connection broke, and rows may come
            await self._without_missing(sessions, deadline)
            return error
        except (DuplicateMemoryError, InvalidInputError, EmbeddingModelMismatchError):
            held.settled = True
            await self._without_missing(sessions, deadline)
            raise
        held.settled = True
        if repeated:  # another call wrote them at the same time, to another session
            await self._without_missing(sessions, deadline)
        return ids

    async def _without_missing(self, sessions: Sequence[Session], deadline: Deadline) -> None:
        """Some turns were not written: take their words out of the others' context and vectors."""
        for session in sessions:
            numbers = [turn.number for turn in session.turns if turn.draft is not None]
            turns = await turns_around(
                self._driver, self._collection, session.name, numbers, deadline
            )
            piece = _Piece({}, mending(session.name, turns, numbers))
            await self._write_pieces([piece], deadline)

    async def _stored(self, drafts: Sequence[Draft], deadline: Deadline) -> dict[int, str]:
        """The drafts whose `dedup_key` is stored already: their positions, and the rows' ids."""
        keyed = {
            at: draft
            for at, draft in enumerate(drafts)
            if draft.fields.get("dedup_key") is not None
        }
        if not keyed:
            return {}
        ids = {at: dedup_id(draft.fields["dedup_key"], draft.scope) for at, draft in keyed.items()}
        there_now = rows_by_id_filter(list(ids.values()), {}, datetime.now(UTC))
        rows = await self._driver.find(
            self._collection, there_now, projection=queries.identity_projection(), deadline=deadline
        )
        there = {row["_id"]: row for row in rows}
        return {
            at: public_id(ids[at])
            for at, draft in keyed.items()
            if ids[at] in there
            and writing.is_row_of(there[ids[at]], draft.fields["dedup_key"], draft.scope.fields())
        }

    async def _sessions(
        self,
        drafts: Sequence[Draft],
        names: Mapping[str, SessionName],
        held: Held,
        deadline: Deadline,
    ) -> list[Session]:
        """The drafts in their sessions, after the turns that are stored there."""
        grouped: dict[str, list[Draft]] = {}
        for draft in drafts:
            key = _name_of(draft).key(self._collection)
            grouped.setdefault(key, []).append(draft)
        sessions = await asyncio.gather(
            *(last_turns(self._driver, self._collection, names[key], deadline) for key in grouped)
        )
        for session, (key, group) in zip(sessions, grouped.items(), strict=True):
            for draft in group:
                session.append(draft, held.first_numbers.get(key, 0))
        return sessions

    # -- changing and deleting --------------------------------------------------------------

    async def delete(self, query: Document, *, many: bool = True) -> int:
        """Delete the turns among the rows of a query; how many."""

        def gone(_: SessionName, turn: Turn) -> TurnChange:
            return TurnChange(None, Delete(all_of({"_id": turn.row_id}, query)))

        return (await self.change(query, gone, many=many)).deleted

    async def change(self, query: Document, change: Change, *, many: bool = True) -> WriteOutcome:
        """Change the turns among the rows of a query, and what others hold of them.

        Returns what became of the turns themselves. Raises EmbeddingError where the model that
        embedded the neighbours fails (nothing is changed in the batch at hand), WriteError.
        """
        total, after = WriteOutcome(), None
        while True:
            pipeline = queries.turn_sessions_pipeline(query, _SESSIONS_A_PAGE if many else 1, after)
            found = await self._driver.aggregate(
                self._collection, pipeline, deadline=self._call.for_database()
            )
            for start in range(0, len(found), _SESSIONS_AT_ONCE):
                names = [SessionName(**row["_id"]) for row in found[start:][:_SESSIONS_AT_ONCE]]
                done = await self._change_sessions(names, query, change, many=many)
                total = _sum(total, done)
            if not many or len(found) < _SESSIONS_A_PAGE:
                return total
            after = found[-1]["_id"]

    async def refresh(
        self, rows: Sequence[Mapping[str, Any]], *, kept: Collection[Hashable] = ()
    ) -> None:
        """Write the context and the vector of some turns again, and those of their neighbours.

        kept: the keys of those whose own vectors are left alone.
        """
        grouped: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            if is_turn(row):
                name = SessionName.of_row(row)
                grouped.setdefault(name.key(self._collection), []).append(row)
        for key, group in grouped.items():
            await self._refresh(key, group, kept)

    async def _refresh(
        self, key: str, rows: Sequence[Mapping[str, Any]], kept: Collection[Hashable]
    ) -> None:
        name, own = SessionName.of_row(rows[0]), {key_of(row["_id"]) for row in rows}
        numbers = [row["turn"] for row in rows]
        while True:
            try:
                async with self._locks.hold([key], self._call.for_database()) as held:
                    deadline = self._call.for_database()
                    turns = await turns_around(
                        self._driver, self._collection, name, numbers, deadline
                    )
                    touched: dict[Hashable, Turn | None] = {
                        turn.key: turn for turn in turns if turn.key in own
                    }
                    plan = rewriting(name, turns, touched)
                    plan.vectors = [
                        at for at in plan.vectors if plan.session.turns[at].key not in kept
                    ]
                    await self._write_pieces([_Piece({}, plan)], deadline, held)
                    return
            except LockLostError:
                continue

    async def _change_sessions(
        self, names: Sequence[SessionName], query: Document, change: Change, *, many: bool
    ) -> WriteOutcome:
        keys = [name.key(self._collection) for name in names]
        while True:
            try:
                async with self._locks.hold(keys, self._call.for_database()) as held:
                    return await self._change_held(names, query, change, held, many=many)
            except LockLostError:
                continue

    async def _change_held(
        self,
        names: Sequence[SessionName],
        query: Document,
        change: Change,
        held: Held,
        *,
        many: bool,
    ) -> WriteOutcome:
        deadline = self._call.for_database()
        some = await asyncio.gather(
            *(
                self._driver.find(
                    self._collection,
                    queries.turns_filter(query, name.scope, name.session_id),
                    projection=queries.turn_projection(),
                    limit=0 if many else 1,
                    deadline=deadline,
                )
                for name in names
            )
        )
        left = [sorted(rows, key=lambda row: number_of(row["turn"])) for rows in some]
        total = WriteOutcome()
        while any(left):
            taken = [rows[:_TURNS_AT_ONCE] for rows in left]
            left = [rows[_TURNS_AT_ONCE:] for rows in left]
            deadline = self._call.for_database()
            pieces = await asyncio.gather(
                *(
                    self._piece(name, rows, change, deadline)
                    for name, rows in zip(names, taken, strict=True)
                    if rows
                )
            )
            total = _sum(total, await self._write_pieces(pieces, deadline, held))
        return total

    async def _piece(
        self, name: SessionName, rows: Sequence[Document], change: Change, deadline: Deadline
    ) -> _Piece:
        wanted = {key_of(row["_id"]): row for row in rows}
        turns = await turns_around(
            self._driver, self._collection, name, [row["turn"] for row in rows], deadline,
            keep=wanted,
        )  # fmt: skip
        changes = {turn.key: change(name, turn) for turn in turns if turn.key in wanted}
        after = {key: each.after for key, each in changes.items()}
        return _Piece(changes, rewriting(name, turns, after))

    async def _write_pieces(
        self, pieces: Sequence[_Piece], deadline: Deadline, held: Held | None = None
    ) -> WriteOutcome:
        """Embed what has to be embedded again, write the neighbours, then the turns themselves."""

        async def write(embedder: Callable[[], Embedder] | None) -> WriteOutcome:
            await self._embed(pieces, embedder)
            deadline = self._call.for_database()
            if held is not None:
                await held.confirm(deadline)
            neighbours, own = self._writes(pieces)
            await self._write_all(neighbours, deadline)
            return await self._write_all(own, deadline)

        try:
            return await self._guard.by_the_active_model(
                self._driver, self._collection, write, self._call
            )
        except EmbeddingModelMismatchError:  # the rows are being changed to another model
            if any(own.embeds for piece in pieces for own in piece.changes.values()):
                raise
        return await write(None)

    async def _embed(
        self, pieces: Sequence[_Piece], embedder: Callable[[], Embedder] | None
    ) -> None:
        """The new vectors of the turns whose embedded text changes.

        A vector that names no model is the caller's own, and stays. One that was made here, of a
        model that this provider does not have, goes: it holds the meaning of what is deleted.

        embedder: None where no vector can be made that the collection takes.
        """
        wanted: list[tuple[_Piece, int, str]] = []
        dropped = 0
        for piece in pieces:
            session = piece.rewriting.session
            piece.vectors.clear()
            for at in piece.rewriting.vectors:
                turn = session.turns[at]
                own = piece.changes.get(turn.key)
                if own is not None and not own.makes_vector(heard=at in piece.rewriting.heard):
                    continue
                if turn.model is None and not (own is not None and own.embeds):
                    continue
                if not turn.text.strip():
                    piece.vectors[at] = None
                elif embedder is not None and (
                    (own is not None and own.embeds) or self.has_model(turn.model)
                ):
                    wanted.append((piece, at, session.embedded_text(at)))
                elif embedder is None or turn.in_context:
                    piece.vectors[at], dropped = None, dropped + 1
        if dropped:
            log.warning(
                "%d turns of %r lose their vectors, which hold the meaning of turns that are "
                "changed or deleted: this provider has no embedder of their model",
                dropped,
                self._collection,
            )
        if not wanted or embedder is None:
            return
        model = embedder()
        texts = [text for _, _, text in wanted]
        matrix = await self._call.within("embedding", partial(model.encode_documents_async, texts))
        name = model.get_model_name()
        await self._guard.check(
            self._driver, self._collection, [(vector, name) for vector in matrix],
            self._call.for_database(),
        )  # fmt: skip
        for (piece, at, _), vector in zip(wanted, matrix, strict=True):
            piece.vectors[at] = vector
            piece.rewriting.session.turns[at].model = name

    def has_model(self, name: str | None) -> bool:
        """Whether this provider can embed with the model of that name."""
        try:
            return self._guard.embedders.of_model(name) is not None
        except MemorizzAsyncError:  # there is no embedder at all, such as for want of a library
            return False

    def _writes(self, pieces: Sequence[_Piece]) -> tuple[list[Write], list[Write]]:
        """What is written to the neighbours, and to the changed turns themselves."""
        now = datetime.now(UTC)
        neighbours: list[Write] = []
        own: list[Write] = []
        for piece in pieces:
            session = piece.rewriting.session
            updates: dict[Hashable, Document] = {}
            for at in piece.rewriting.context:
                updates[session.turns[at].key] = _update_of(piece, at, now)
            for key, change in piece.changes.items():
                ours = updates.pop(key, None)
                own.append(change.write if change.fields is None else _own_update(change, ours))
            for turn in session.turns:
                if turn.key in updates:
                    row = all_of({"_id": turn.row_id}, session.name.scope)
                    neighbours.append(Update(row, updates[turn.key]))
        return neighbours, own

    async def _write_all(self, writes: Sequence[Write], deadline: Deadline) -> WriteOutcome:
        """Send writes in order. Raises WriteError for the first that the server refuses."""
        total = WriteOutcome()
        for start in range(0, len(writes), _ROWS_A_WRITE):
            outcome = await self._driver.write_many(
                self._collection, writes[start : start + _ROWS_A_WRITE], deadline=deadline
            )
            if outcome.at is not None:
                self._written(self._collection, outcome.at)
            total = _sum(total, outcome)
            for refusal in outcome.refused.values():
                raise WriteError(
                    f"Turns of {self._collection!r} were not changed",
                    failed={0: refusal.reason},
                    written_ids={},
                    seen=refusal.reason,
                    fix="mend what the server names, then repeat the call: some may be done",
                    code=refusal.code,
                )
        return total


def _update_of(piece: _Piece, at: int, now: datetime) -> Document:
    """The context of a turn, and its vector where that changes."""
    session = piece.rewriting.session
    update = queries.context_update(session.context(at), now)
    if at in piece.rewriting.vectors:  # what is staged was made with the old words
        update["$unset"] = {STAGED: ""}
    if at in piece.vectors:
        vector = piece.vectors[at]
        fields, removed = queries.vector_update(
            None if vector is None else to_bson(vector),
            session.turns[at].model,
            len(session.before(at)),
        )
        update["$set"].update(fields)
        update["$unset"] = dict.fromkeys(removed, "")
    return update


def _own_update(change: TurnChange, ours: Document | None) -> Update:
    """The caller's change of a turn, with the context and the vector that it has then."""
    assert isinstance(change.write, Update)
    assert change.fields is not None
    update: Document = {"$set": {}, "$unset": dict.fromkeys(change.removed, "")}
    for part in ({"$set": {"context": ""}} if ours is None else ours, {"$set": change.fields}):
        update["$set"].update(part["$set"])
        update["$unset"].update(part.get("$unset", {}))
    for name in update["$set"]:
        update["$unset"].pop(name, None)
    if not update["$unset"]:
        del update["$unset"]
    return Update(change.write.query, update)


def _name_of(draft: Draft) -> SessionName:
    scope = draft.scope.fields()
    return SessionName(scope["memory_id"], scope["user_id"], str(draft.fields["session_id"]))


def _repeated(drafts: Sequence[Draft]) -> dict[int, int]:
    """The drafts that repeat an earlier one of the same call, and which one each repeats."""
    first: dict[Any, int] = {}
    repeated = {}
    for at, draft in enumerate(drafts):
        if draft.fields.get("dedup_key") is not None:
            known = first.setdefault(dedup_id(draft.fields["dedup_key"], draft.scope), at)
            if known != at:
                repeated[at] = known
    return repeated


def _complete(sessions: Sequence[Session]) -> dict[int, str]:
    """Give each new turn its number and its context; the text to embed, by the draft's identity."""
    texts = {}
    for session in sessions:
        for position, turn in enumerate(session.turns):
            if turn.draft is None:
                continue
            fields = turn.draft.fields
            fields.update(turn=turn.number, context=session.context(position))
            fields.pop("embedded_turns", None)
            if fields.get("embedding") is None:
                fields["embedded_turns"] = len(session.before(position))
            texts[id(turn.draft)] = session.embedded_text(position)
    return texts


def _neighbours(sessions: Sequence[Session]) -> list[Write]:
    """The new turns in the context of the stored ones before them.

    The whole context is written, so that doing it again changes nothing and mends what an
    interrupted write left.
    """
    now = datetime.now(UTC)
    updates: list[Write] = []
    for session in sessions:
        stored = [at for at, turn in enumerate(session.turns) if turn.draft is None]
        for at in stored[-WINDOW:]:
            row = rows_by_id_filter([session.turns[at].row_id], session.name.scope, now)
            updates.append(Update(row, queries.context_update(session.context(at), now)))
    return updates


def _session_id(draft: Draft, session_id: str | None, position: int) -> str:
    own = draft.fields.get("session_id", session_id)
    if not isinstance(own, str) or not own:
        raise InvalidInputError(
            "A turn needs the session that it belongs to, a non-empty string",
            seen=f"a {type(own).__name__} in turn {position}" if own else f"turn {position}",
            fix="pass session_id, or give each turn its own",
        )
    return own


def _sum(one: WriteOutcome, other: WriteOutcome) -> WriteOutcome:
    return WriteOutcome(
        matched=one.matched + other.matched,
        upserted=one.upserted + other.upserted,
        inserted=one.inserted + other.inserted,
        deleted=one.deleted + other.deleted,
    )
