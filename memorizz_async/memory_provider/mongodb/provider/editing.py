"""Changing rows that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from memorizz_async.deadline import CallTime
from memorizz_async.enums import memory_type_of
from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb import edits
from memorizz_async.memory_provider.mongodb.edits import Where
from memorizz_async.memory_provider.mongodb.protocol import Update
from memorizz_async.memory_provider.mongodb.provider.changing import Changing
from memorizz_async.memory_provider.mongodb.rows import Row, public_id, stored_ids
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope, Scoped
from memorizz_async.memory_provider.mongodb.stored_rows import (
    EmbeddingForm,
    changes_to_write,
    check_owner,
)


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
        timeout_ms: int | None = None,
    ) -> bool:
        """Set fields of one row; whether the scope holds it.

        changes: fields and their new values. `updated_at` is now, unless it is among them. The
            tenant that the call names stays; where it names None, rows may be given to one.
        embed: a new `content` is embedded, unless `changes` has an `embedding`; False leaves the
            old embedding.

        Raises ScopeError where no tenant is named, InvalidInputError, EmbeddingError.
        """
        return await self.compare_and_swap_async(
            row_id, memory_type, {}, changes, memory_id=memory_id, user_id=user_id, embed=embed,
            embedding_form=embedding_form, timeout_ms=timeout_ms,
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
        timeout_ms: int | None = None,
    ) -> bool:
        """Set fields of one row if its `expected` fields still have those values, in one step.

        False where they have others, or the scope holds no such row. The rest as update_async.
        """
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id)
        call = self._call(timeout_ms)
        update = await self._update(changes, scope, embed, embedding_form, call)
        query = edits.rows_filter(scope.owned(), expected, ids=stored_ids(row_id))
        outcome = await self._write(kind, [Update(query, update)], call)
        self._raise_refused(kind, [public_id(row_id)], outcome)
        return outcome.matched == 1

    async def update_many_async(
        self,
        memory_type: Any,
        changes: Mapping[str, Any],
        *,
        where: Where = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> int:
        """Set fields of every row of the tenant that equals `where`; how many there were."""
        kind = memory_type_of(memory_type)
        scope = Scope(memory_id, user_id)
        call = self._call(timeout_ms)
        update = await self._update(changes, scope, False, "bindata", call)
        query = edits.rows_filter(scope.owned(), where)
        outcome = await self._change(kind, Update(query, update, many=True), call)
        return outcome.matched

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
        wanted = [form for row_id in ids for form in stored_ids(row_id)]
        if not wanted:
            return 0
        moment = datetime.now(UTC) if at is None else at
        text = moment if isinstance(moment, str) else moment.isoformat()
        call = self._call(timeout_ms)
        uncounted = edits.uncounted_filter(wanted, own)
        await self._change(
            kind, Update(uncounted, edits.fields_update({"access_count": 0}), many=True), call
        )
        used = edits.rows_filter(own, ids=wanted)
        outcome = await self._change(kind, Update(used, edits.access_update(text), many=True), call)
        return outcome.matched

    async def _update(
        self,
        changes: Mapping[str, Any],
        scope: Scope,
        embed: bool,
        form: EmbeddingForm,
        call: CallTime,
    ) -> Row:
        fields = changes_to_write(changes, form)
        check_owner(fields, scope, gives=True)
        if "_id" in fields:
            raise InvalidInputError("A row keeps its _id", fix="leave _id out of the changes")
        removed: list[str] = []
        content = fields.get("content")
        if embed and "embedding" not in fields and isinstance(content, str) and content.strip():
            model = self.embedder
            encoded = partial(model.encode_documents_async, [content])
            vectors = await call.within("embedding", encoded)
            fields.update(changes_to_write({"embedding": vectors[0]}, form))
            fields["embedding_model"] = model.get_model_name()
        elif "embedding" in fields and "embedding_model" not in fields:
            removed.append("embedding_model")  # of the old one, which this one may not be of
        fields.setdefault("updated_at", datetime.now(UTC))
        return edits.fields_update(fields, removed)
