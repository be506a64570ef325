"""Changing rows that are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from memorizz_async.deadline import CallTime
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.conversation import touches_turns
from memorizz_async.memory_provider.mongodb.pipelines import all_of
from memorizz_async.memory_provider.mongodb.pipelines import editing as edits
from memorizz_async.memory_provider.mongodb.pipelines.editing import Where
from memorizz_async.memory_provider.mongodb.pipelines.sessions import NOT_A_TURN
from memorizz_async.memory_provider.mongodb.protocol import Document, Update, WriteOutcome
from memorizz_async.memory_provider.mongodb.provider.changing import Changing
from memorizz_async.memory_provider.mongodb.rows import Row
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.spoken import text_of, with_message_text
from memorizz_async.memory_provider.mongodb.stored_rows import (
    EmbeddingForm,
    changes_to_write,
    check_owner,
    in_form,
    removed_with,
)
from memorizz_async.memory_provider.mongodb.values import Codec
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_flag, checked_mapping, checked_moment, iso_moment


class Editing(Changing):
    """Rows that change."""

    async def update_async(
        self,
        row_id: Any,
        memory_type: Any,
        changes: Mapping[str, Any],
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        embed: bool = True,
        embedding_form: EmbeddingForm = "bindata",
        as_record: bool = False,
        timeout_ms: int | None = None,
    ) -> bool:
        """Set fields of one row; whether the scope holds it.

        changes: fields and their new values, of the kinds that store_async takes. A dot leads into
            a field: `metadata.topic`. `updated_at` is now, unless it is among them. The tenant that
            the call names stays; where it names None, rows may be given to one.
        embed: a new `content` is embedded, unless `changes` has an `embedding`; False leaves the
            old embedding. A turn of a conversation is embedded with those before it, and what its
            neighbours hold of it is written again.
        as_record: the row is another program's, as put_async writes them: fields may have the forms
            that its program uses, such as ISO text in `created_at`.

        Raises ScopeError where no tenant is named, InvalidInputError, EmbeddingError, and
        EmbeddingModelMismatchError where the collection's rows are of another model.
        """
        return await self.compare_and_swap_async(
            row_id, memory_type, {}, changes, memory_id=memory_id, user_id=user_id, embed=embed,
            embedding_form=embedding_form, as_record=as_record, timeout_ms=timeout_ms,
        )  # fmt: skip

    async def compare_and_swap_async(
        self,
        row_id: Any,
        memory_type: Any,
        expected: Mapping[str, Any],
        changes: Mapping[str, Any],
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        embed: bool = True,
        embedding_form: EmbeddingForm = "bindata",
        as_record: bool = False,
        timeout_ms: int | None = None,
    ) -> bool:
        """Set fields of one row if its `expected` fields still have those values, in one step.

        False where they have others, or the scope holds no such row. The rest as update_async.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id)
        call = self._call(timeout_ms)
        fields = changes_of(changes, scope, embedding_form, self._codec, as_record=as_record)
        checked_mapping("expected", expected)
        query = edits.rows_filter(scope.owned(), self._where(expected), ids=self._ids([row_id]))
        embed = checked_flag("embed", embed) and "embedding" not in fields
        await self._check_told(kind, query, fields, call)

        async def write(query: Document) -> int:
            if embed:
                return await self._embed_and_write(
                    kind, Update(query, {}), fields, embedding_form, call
                )
            return (await self._check_and_write(kind, Update(query, {}), fields, call)).matched

        if not touches_turns(fields):
            return await write(query) == 1
        others = all_of(query, NOT_A_TURN)
        turns = partial(self._change_turns, kind, query, fields, call, embed=embed, many=False)
        if self._collections[kind] == self._collections[MemoryType.CONVERSATION_MEMORY]:
            return await turns() == 1 or await write(others) == 1
        return await write(others) == 1 or await turns() == 1

    async def update_many_async(
        self,
        memory_type: Any,
        changes: Mapping[str, Any],
        *,
        where: Where = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        as_record: bool = False,
        timeout_ms: int | None = None,
    ) -> int:
        """Set fields of every row of the tenant that equals `where`; how many there were.

        A new `content` is embedded, unless `changes` has an `embedding`; as_record: as in
        update_async, and nothing is embedded but turns of conversations. See update_async.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id)
        call = self._call(timeout_ms)
        fields = changes_of(changes, scope, "bindata", self._codec, as_record=as_record)
        query = edits.rows_filter(scope.owned(), self._where(where))
        embed = not as_record and "content" in fields and "embedding" not in fields
        turns = touches_turns(fields)
        await self._check_told(kind, query, fields, call)
        update = Update(all_of(query, NOT_A_TURN) if turns else query, {}, many=True)
        if embed:
            matched = await self._embed_and_write(kind, update, fields, "bindata", call)
        else:
            matched = (await self._check_and_write(kind, update, fields, call)).matched
        if turns:
            again = "embedding" not in fields
            matched += await self._change_turns(kind, query, fields, call, embed=again, many=True)
        return matched

    async def touch_many_async(
        self,
        ids: Iterable[Any],
        memory_type: Any,
        *,
        at: datetime | str | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> int:
        """Note that rows were used: `access_count` goes up, `last_accessed_at` is now, or `at`.

        Those are memorizz's fields, an ISO string the second; what a recall of ours returned is
        counted by itself. How many rows there were.
        """
        kind = memory_type_of(memory_type)
        own = Scope(memory_id, user_id).owned()
        wanted = self._ids(ids)
        text = _iso_text(datetime.now(UTC) if at is None else at)
        call = self._call(timeout_ms)
        if not wanted:
            return 0
        uncounted = edits.uncounted_filter(wanted, own)
        await self._change(
            kind, Update(uncounted, edits.fields_update({"access_count": 0}), many=True), call
        )
        used = edits.rows_filter(own, ids=wanted)
        outcome = await self._change(kind, Update(used, edits.access_update(text), many=True), call)
        return outcome.matched

    async def _embed_and_write(
        self, kind: MemoryType, change: Update, fields: Row, form: EmbeddingForm, call: CallTime
    ) -> int:
        """Change rows, a new content with its embedding by the collection's model; how many."""
        content = fields.get("content")
        if not isinstance(content, str) or not content.strip():
            return (await self._check_and_write(kind, change, fields, call)).matched
        driver = (await self._session(call)).driver

        async def write(embedder: Callable[[], Embedder]) -> WriteOutcome:
            model = embedder()
            encoded = partial(model.encode_documents_async, [text_of(content)])
            vectors = await call.within("embedding", encoded)
            embedding = in_form(vectors[0], form)
            named = {**fields, "embedding": embedding, "embedding_model": model.get_model_name()}
            return await self._check_and_write(kind, change, named, call)

        collection = self._collections[kind]
        return (await self._guard.by_the_active_model(driver, collection, write, call)).matched

    async def _check_and_write(
        self, kind: MemoryType, change: Update, fields: Row, call: CallTime
    ) -> WriteOutcome:
        """Write the fields, but no embedding of another model or dimension than the rows'."""
        await self._check_vector(kind, fields, call)
        update = edits.fields_update(
            {"updated_at": datetime.now(UTC), **fields}, removed_with(fields)
        )
        return await self._change(kind, replace(change, update=update), call)


def _iso_text(at: Any) -> str:
    """The time of a use as memorizz writes it. Raises InvalidInputError."""
    if isinstance(at, str):
        if iso_moment(at) is None:
            raise InvalidInputError("at must be a datetime or ISO 8601 text", seen=shown(at))
        return str.__str__(at)
    return checked_moment("at", at).isoformat()


def changes_of(
    changes: Mapping[str, Any],
    scope: Scope,
    form: EmbeddingForm,
    codec: Codec,
    *,
    as_record: bool = False,
) -> Row:
    """The fields to set on rows of a scope. Raises InvalidInputError, InvalidEmbeddingError."""
    checked_flag("as_record", as_record)
    fields = changes_to_write(
        with_message_text(changes, codec, changes=True)
        if isinstance(changes, Mapping) and not as_record
        else changes,
        form,
        codec,
        as_record=as_record,
    )
    check_owner(fields, scope, gives=True)
    if "_id" in fields:
        raise InvalidInputError("A row keeps its _id", fix="leave _id out of the changes")
    return fields
