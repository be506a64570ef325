"""What every change of stored rows goes through."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from memorizz_async.deadline import CallTime
from memorizz_async.enums import MemoryType
from memorizz_async.errors import DuplicateMemoryError, InvalidInputError, WriteError
from memorizz_async.memory_provider.mongodb.conversation import (
    Turn,
    changed_turn,
    moves_turns,
)
from memorizz_async.memory_provider.mongodb.conversation_writer import TurnChange
from memorizz_async.memory_provider.mongodb.pipelines import all_of, id_projection
from memorizz_async.memory_provider.mongodb.pipelines.sessions import (
    NOT_A_TURN,
    told_beside_filter,
    turn_projection,
)
from memorizz_async.memory_provider.mongodb.protocol import (
    DUPLICATE_KEY,
    Delete,
    Document,
    Refusal,
    Update,
    Write,
    WriteOutcome,
)
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.rows import Row
from memorizz_async.memory_provider.mongodb.session_locks import SessionName
from memorizz_async.memory_provider.mongodb.spoken import MESSAGE_FIELDS
from memorizz_async.memory_provider.mongodb.stored_rows import removed_with
from memorizz_async.redaction import describe_id
from memorizz_async.vectors import stored_vector

_ROWS_A_READ = 500


class Changing(ProviderCore):
    """Writes that are sent, made known to the searches, and reported.

    A call changes only rows that carry exactly the tenant that it names.
    """

    async def _write(
        self, kind: MemoryType, writes: Sequence[Write], call: CallTime, *, ordered: bool = True
    ) -> WriteOutcome:
        driver = (await self._session(call)).driver
        collection = self._collections[kind]
        outcome = await driver.write_many(
            collection, writes, ordered=ordered, deadline=call.for_database()
        )
        if outcome.at is not None:
            self._search.written(collection, outcome.at)
        return outcome

    async def _change(
        self, kind: MemoryType, write: Write, call: CallTime, *, row_id: str | None = None
    ) -> WriteOutcome:
        """Send one write. Raises WriteError where the server does not carry it out: it would look
        as if there had been no such row. DuplicateMemoryError for what a unique index refuses.

        row_id: of the row that it is about, where it is about one.
        """
        outcome = await self._write(kind, [write], call)
        for refusal in outcome.refused.values():
            if refusal.code == DUPLICATE_KEY:
                raise self._duplicate(kind, refusal, row_id)
            raise WriteError(
                f"Rows of {self._collections[kind]!r} were not changed",
                failed={0: refusal.reason},
                written_ids={},
                seen=refusal.reason,
                fix="mend what the server names, then repeat the call: some rows may be done",
                code=refusal.code,
            )
        return outcome

    async def _delete(
        self, kind: MemoryType, query: Document, call: CallTime, *, many: bool
    ) -> int:
        """Delete rows; how many. Turns of conversations go with what other turns hold of them."""
        others = Delete(all_of(query, NOT_A_TURN), many=many)
        deleted = (await self._change(kind, others, call)).deleted
        if many or not deleted:
            deleted += await (await self._conversations(kind, call)).delete(query, many=many)
        return deleted

    async def _check_vector(self, kind: MemoryType, fields: Row, call: CallTime) -> None:
        """Refuse an embedding of another model or dimension than the rows'; see ModelGuard."""
        if fields.get("embedding") is not None:
            driver = (await self._session(call)).driver
            modelled = (stored_vector(fields["embedding"]), fields.get("embedding_model"))
            await self._guard.check(
                driver, self._collections[kind], [modelled], call.for_database()
            )

    async def _check_told(
        self, kind: MemoryType, query: Document, fields: Row, call: CallTime
    ) -> None:
        """Refuse to change what the content of a message is made of, and leave its content.

        Raises InvalidInputError.
        """
        roots = {name.partition(".")[0] for name in fields}
        if "content" in roots or roots.isdisjoint(MESSAGE_FIELDS):
            return
        driver = (await self._session(call)).driver
        rows = await driver.find(
            self._collections[kind], all_of(query, told_beside_filter()),
            projection=id_projection(), limit=1, deadline=call.for_database(),
        )  # fmt: skip
        if rows:
            names = ", ".join(sorted(roots & MESSAGE_FIELDS))
            raise InvalidInputError(
                "The content of a message is the text of fields that are changed without it",
                seen=f"{names} of row {describe_id(rows[0]['_id'])}",
                fix="change content, too: None makes it the text of the new fields",
            )

    async def _change_turns(
        self,
        kind: MemoryType,
        query: Document,
        fields: Row,
        call: CallTime,
        *,
        embed: bool,
        many: bool,
    ) -> int:
        """Change turns of conversations, and what other turns hold of them; how many turns.

        A turn that changes its place (another session, number or tenant) first leaves its old
        neighbours and loses their words, then is written in its new place.
        """
        await self._check_vector(kind, fields, call)
        conversations = await self._conversations(kind, call)
        moves = moves_turns(fields)
        removed = removed_with(fields)
        text = isinstance(fields.get("content"), str)
        moved: list[Any] = []
        kept: set[Hashable] = set()

        def change(_: SessionName, turn: Turn) -> TurnChange:
            after = None if moves else changed_turn(turn, fields)
            own = all_of({"_id": turn.row_id}, query)
            moved.append(turn.row_id)
            # Its vector holds the words of the old neighbours: it gets another in its new place.
            made_here = turn.in_context or (
                embed and turn.model is not None and conversations.has_model(turn.model)
            )
            loses = moves and made_here and "embedding" not in fields
            lost = [*removed, "embedding"] if loses else removed
            if not (embed or loses):
                kept.add(turn.key)
            return TurnChange(
                after, Update(own, {}), {"updated_at": datetime.now(UTC), **fields}, lost,
                embeds=embed and text, keeps_vector=not embed,
            )  # fmt: skip

        outcome = await conversations.change(query, change, many=many)
        if moves and moved:
            for start in range(0, len(moved), _ROWS_A_READ):
                driver = (await self._session(call)).driver
                rows = await driver.find(
                    self._collections[kind], {"_id": {"$in": moved[start : start + _ROWS_A_READ]}},
                    projection=turn_projection(), deadline=call.for_database(),
                )  # fmt: skip
                await conversations.refresh(rows, kept=kept)
        return outcome.matched

    def _duplicate(
        self, kind: MemoryType, refusal: Refusal, row_id: str | None
    ) -> DuplicateMemoryError:
        return DuplicateMemoryError(
            f"{self._collections[kind]!r} holds another row with this _id, or one that a unique "
            "index knows",
            seen=None if row_id is None else describe_id(row_id),
            fix="leave _id out, or name the tenant whose row it is",
            code=refusal.code,
        )

    def _refused(
        self, kind: MemoryType, ids: Sequence[str], refused: Mapping[int, Refusal]
    ) -> DuplicateMemoryError | WriteError:
        collection = self._collections[kind]
        position, first = next(iter(refused.items()))
        if len(ids) == 1 and first.code == DUPLICATE_KEY:
            return self._duplicate(kind, first, ids[position])
        return WriteError(
            f"{len(refused)} of {len(ids)} rows were not written to {collection!r}",
            failed={at: refusal.reason for at, refusal in refused.items()},
            written_ids={at: row_id for at, row_id in enumerate(ids) if at not in refused},
            seen=f"row {position}: {first.reason}",
            fix="write those that `failed` names again; the others are stored",
            code=first.code,
        )
