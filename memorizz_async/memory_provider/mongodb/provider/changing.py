"""What every change of stored rows goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memorizz_async.deadline import CallTime
from memorizz_async.enums import MemoryType
from memorizz_async.errors import DuplicateMemoryError, WriteError
from memorizz_async.memory_provider.mongodb.pipelines import all_of
from memorizz_async.memory_provider.mongodb.pipelines.sessions import NOT_A_TURN
from memorizz_async.memory_provider.mongodb.protocol import (
    DUPLICATE_KEY,
    Delete,
    Document,
    Refusal,
    Write,
    WriteOutcome,
)
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore


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

    async def _delete(self, kind: MemoryType, query: Document, call: CallTime, *, many: bool) -> int:
        """Delete rows; how many. Turns of conversations go with what other turns hold of them."""
        others = Delete(all_of(query, NOT_A_TURN), many=many)
        deleted = (await self._change(kind, others, call)).deleted
        if many or not deleted:
            deleted += await (await self._conversations(kind, call)).delete(query, many=many)
        return deleted

    def _duplicate(
        self, kind: MemoryType, refusal: Refusal, row_id: str | None
    ) -> DuplicateMemoryError:
        return DuplicateMemoryError(
            f"{self._collections[kind]!r} holds another row with this _id, or one that a unique "
            "index knows",
            seen=row_id,
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
