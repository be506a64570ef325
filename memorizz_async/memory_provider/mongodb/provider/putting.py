"""Writing rows as they are."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from memorizz_async.deadline import CallTime
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import DuplicateMemoryError, InvalidInputError
from memorizz_async.memory_provider.mongodb.conversation import (
    Turn,
    is_turn,
    number_of,
    touches_turns,
)
from memorizz_async.memory_provider.mongodb.conversation_writer import TurnChange
from memorizz_async.memory_provider.mongodb.fields import check_overlap
from memorizz_async.memory_provider.mongodb.pipelines import all_of, id_projection
from memorizz_async.memory_provider.mongodb.pipelines import editing as edits
from memorizz_async.memory_provider.mongodb.pipelines.sessions import A_TURN, NOT_A_TURN
from memorizz_async.memory_provider.mongodb.protocol import (
    DUPLICATE_KEY,
    Document,
    Insert,
    Refusal,
    Replace,
    Update,
    Write,
)
from memorizz_async.memory_provider.mongodb.provider.changing import Changing
from memorizz_async.memory_provider.mongodb.rows import public_id, stored_id
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.session_locks import SessionName
from memorizz_async.memory_provider.mongodb.spoken import with_message_text
from memorizz_async.memory_provider.mongodb.stored_rows import (
    EmbeddingForm,
    changes_to_write,
    check_owner,
    key_to_write,
    removed_with,
    row_to_put,
)
from memorizz_async.memory_provider.mongodb.vector_search.hits import key_of
from memorizz_async.slices import in_slices
from memorizz_async.validation import (
    checked_choice,
    checked_flag,
    checked_list,
    checked_mapping,
)

_ROWS_A_WRITE = 500


def _several(rows: Any) -> Iterable[Any]:
    """The rows, if they are several. Raises InvalidInputError."""
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise InvalidInputError(
            "rows must be several rows", fix="use put_async for one, or pass a list"
        )
    return rows


class Putting(Changing):
    """Records of other programs, and of archives: kept as they are."""

    async def put_async(
        self,
        row: Mapping[str, Any],
        memory_type: Any,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        replace: bool = True,
        embedding_form: EmbeddingForm = "bindata",
        timeout_ms: int | None = None,
    ) -> str:
        """Write one row as it is; its id. See put_many_async.

        Raises DuplicateMemoryError where the `_id` is another tenant's row, or, without `replace`,
        any row's.
        """
        ids = await self.put_many_async(
            [row], memory_type, memory_id=memory_id, user_id=user_id, replace=replace,
            embedding_form=embedding_form, timeout_ms=timeout_ms,
        )  # fmt: skip
        return ids[0]

    async def put_many_async(
        self,
        rows: Iterable[Mapping[str, Any]],
        memory_type: Any,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        replace: bool = True,
        embedding_form: EmbeddingForm = "bindata",
        timeout_ms: int | None = None,
    ) -> list[str]:
        """Write rows as they are, with nothing added and nothing embedded; their ids, in order.

        For records of other programs and for restoring: a memory goes by store_async. A row with an
        `_id` takes the place of the tenant's row of that id; `replace=False` refuses it instead.
        Fields have the forms that their program gave them, but for those that would hide the row or
        stop a later write: `expires_at` is a datetime, `recall_count` a whole number, and
        `embedding_model` a name.

        memory_id, user_id: whose the rows are, where they do not say it themselves; EVERY_TENANT
            lets stand what each says, also nothing.
        embedding_form: `bindata` (float32), or `array` of doubles, for programs that read no other.
            A vector that no search could use is kept, and reported by the search.

        Raises InvalidInputError (nothing is written), DuplicateMemoryError for one row, WriteError
        for several, which says which were written.
        """
        kind = memory_type_of(memory_type)
        call = self._call(timeout_ms)
        writes: list[Write] = []
        ids: list[str] = []
        owners: dict[int, Document] = {}
        checked_flag("replace", replace)
        checked_choice("embedding_form", embedding_form, ("bindata", "array"))
        # Copied before other tasks run: they may change what the caller passed.
        several = [
            dict(row) if isinstance(row, Mapping) else row for row in checked_list("rows", rows)
        ]
        async for at, given in in_slices(enumerate(several)):
            try:
                row, scope = row_to_put(
                    given,
                    memory_id,
                    user_id,
                    embedding_form,
                    self._codec,
                    uuid_form=self._stored_uuid,
                )
            except InvalidInputError as error:
                if len(several) > 1:
                    error.add_note(f"in row {at} of {len(several)}; none was written")
                raise
            ids.append(public_id(row["_id"]))
            if replace and given.get("_id") is not None:
                own = edits.rows_filter(scope.owned(), ids=[row["_id"]])
                owners[len(writes)] = own
                # A turn of a conversation is refused here, and written below.
                writes.append(Replace(all_of(own, NOT_A_TURN), row, upsert=True))
            else:
                writes.append(Insert(row))
        refused = await self._write_all(kind, dict(enumerate(writes)), call)
        # Of two that put one new row at once the server refuses one, which then finds the other's.
        again = {
            at: write
            for at, refusal in refused.items()
            if refusal.code == DUPLICATE_KEY and isinstance(write := writes[at], Replace)
        }
        if again:
            refused = {at: refused[at] for at in refused.keys() - again.keys()}
            turns = await self._replace_turns(kind, again, owners, call)
            others = {at: again[at] for at in again.keys() - turns}
            refused |= await self._write_all(kind, others, call)
        if refused:
            raise self._refused(kind, ids, dict(sorted(refused.items())))
        return ids

    async def _replace_turns(
        self,
        kind: MemoryType,
        writes: Mapping[int, Replace],
        owners: Mapping[int, Document],
        call: CallTime,
    ) -> set[int]:
        """Replace rows that are turns of a conversation, and what other turns hold of them; the
        numbers of those writes.
        """
        done: set[int] = set()
        conversations = await self._conversations(kind, call)
        for start in range(0, len(writes), _ROWS_A_WRITE):
            some = list(writes)[start : start + _ROWS_A_WRITE]
            numbers = {key_of(writes[at].row["_id"]): at for at in some}

            def change(
                name: SessionName, turn: Turn, numbers: Mapping[Hashable, int] = numbers
            ) -> TurnChange:
                at = numbers[turn.key]
                row = writes[at].row
                done.add(at)
                stays = is_turn(row) and SessionName.of_row(row) == name
                after = (
                    Turn.of_row(row) if stays and number_of(row["turn"]) == turn.number else None
                )
                return TurnChange(after, Replace(owners[at], row))

            await conversations.change({"$or": [owners[at] for at in some]}, change)
        return done

    async def _write_all(
        self, kind: MemoryType, writes: Mapping[int, Write], call: CallTime
    ) -> dict[int, Refusal]:
        """Send writes, some at a time; those that were refused, by their number."""
        refused: dict[int, Refusal] = {}
        numbers = list(writes)
        for start in range(0, len(numbers), _ROWS_A_WRITE):
            some = numbers[start : start + _ROWS_A_WRITE]
            outcome = await self._write(kind, [writes[at] for at in some], call, ordered=False)
            refused.update({some[at]: refusal for at, refusal in outcome.refused.items()})
        return refused

    async def upsert_async(
        self,
        memory_type: Any,
        key: Mapping[str, Any],
        row: Mapping[str, Any],
        *,
        where_new: Mapping[str, Any] | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        as_record: bool = False,
        timeout_ms: int | None = None,
    ) -> bool:
        """Set fields of the tenant's row that equals `key`, or make it; whether it was made.

        key, row: fields of the kinds that store_async takes; nothing is embedded. A dot leads into
            a field, as in update_async.
        where_new: what only a new row gets. Its `_id` makes two that come at once one row: the
            second to arrive finds the first.
        as_record: the row is another program's; see update_async.

        Raises InvalidInputError (nothing is written), EmbeddingModelMismatchError where the
        collection's rows are of another model than an embedding that is given.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id)
        call = self._call(timeout_ms)
        fields = self._to_write(row, as_record=as_record)
        fields.pop("_id", None)
        new = self._to_write({} if where_new is None else where_new, as_record=as_record)
        key = key_to_write(checked_mapping("key", key), self._codec, as_record=as_record)
        whole = {**new, **key, **fields}
        check_overlap(whole)
        check_owner(whole, scope)
        new.update(scope.owned())
        for given in (new, key):
            if given.get("_id") is not None:
                given["_id"] = stored_id(given["_id"], self._stored_uuid)
        own = edits.rows_filter(scope.owned(), self._where(key))
        if not as_record:
            await self._check_vector(kind, whole, call)
        await self._check_told(kind, own, fields, call)
        if touches_turns(fields):
            driver = (await self._session(call)).driver
            turns = await driver.find(
                self._collections[kind], all_of(own, A_TURN), projection=id_projection(), limit=1,
                deadline=call.for_database(),
            )  # fmt: skip
            for turn in turns:
                one = all_of({"_id": turn["_id"]}, own)
                embed = "embedding" not in fields
                await self._change_turns(kind, one, fields, call, embed=embed, many=False)
                return False
        update = edits.upsert_update(
            {**key, **fields},
            {name: new[name] for name in new.keys() - {*key, *fields}},
            removed=removed_with(fields) if "content" in fields else (),
        )
        change = Update(own, update, upsert=True)
        try:
            outcome = await self._change(kind, change, call)
        except DuplicateMemoryError:  # the other one was faster: now it is there
            row_id = None if new.get("_id") is None else public_id(new["_id"])
            outcome = await self._change(kind, change, call, row_id=row_id)
        return outcome.upserted == 1

    def _to_write(self, given: Any, *, as_record: bool) -> Document:
        if not checked_flag("as_record", as_record) and isinstance(given, Mapping):
            given = with_message_text(given, self._codec, changes=True)
        return changes_to_write(given, "bindata", self._codec, as_record=as_record)
