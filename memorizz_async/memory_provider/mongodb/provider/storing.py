"""Writing memories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.memory_provider.mongodb import writing
from memorizz_async.memory_provider.mongodb.fields import TURN_FIELDS
from memorizz_async.memory_provider.mongodb.provider.core import ProviderCore
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scoped
from memorizz_async.memory_provider.mongodb.spoken import text_of
from memorizz_async.validation import checked_text
from memorizz_async.vectors import EmbeddingLike


class Storing(ProviderCore):
    """Memories on their way in."""

    async def store_async(
        self,
        memory: str | Mapping[str, Any],
        memory_type: Any = MemoryType.LONG_TERM_MEMORY,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        embedding: EmbeddingLike | None = None,
        timeout_ms: int | None = None,
    ) -> str:
        """Write one memory; its id.

        memory: the content, or a mapping with `content` and fields of your own. Known fields:
            `importance` (0 to 1), `expires_at` (a datetime), `metadata`, `session_id`, `embedding`,
            `memory_id` and `user_id` (in place of the arguments), `_id`, and `dedup_key`: a second
            write of one key in one scope changes nothing and returns the first's id. `content` may
            be the parts of a chat message: they are kept in `content_parts`, and `content` is their
            text.
        embedding: shape (dimensions,). None embeds the content.

        Raises InvalidInputError and, where the collection's rows are of another embedding model,
        EmbeddingModelMismatchError (nothing is written); DuplicateMemoryError, EmbeddingError.
        """
        if embedding is not None:
            memory = writing.with_embedding(memory, embedding)
        ids = await self.store_many_async(
            [memory], memory_type, memory_id=memory_id, user_id=user_id, timeout_ms=timeout_ms
        )
        return ids[0]

    async def store_many_async(
        self,
        memories: Iterable[str | Mapping[str, Any]],
        memory_type: Any = MemoryType.LONG_TERM_MEMORY,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> list[str]:
        """Write memories of one type; their ids, in order. See store_async for what a memory is.

        All are checked before any is written, and all that have no embedding are embedded together.
        Raises InvalidInputError and EmbeddingModelMismatchError (nothing is written), WriteError
        (says which rows were written and which were not), EmbeddingError.
        """
        collection = self._collections[memory_type_of(memory_type)]
        call = self._call(timeout_ms)
        items = await writing.drafts(
            memories,
            memory_id=memory_id,
            user_id=user_id,
            codec=self._codec,
            uuid_form=self._stored_uuid,
        )
        if not items:
            return []
        driver = (await self._session(call)).driver
        texts = [text_of(item.fields.get("content")) for item in items]

        async def write(embedder: Callable[[], Embedder]) -> list[str]:
            writing.forget_vectors(items)
            await writing.embed(items, texts, embedder, call)
            deadline = call.for_database()
            return await writing.insert(
                driver, collection, items, deadline, self._guard, written=self._search.written
            )

        return await self._guard.by_the_active_model(driver, collection, write, call)

    async def store_conversation_async(
        self,
        turns: Iterable[str | Mapping[str, Any]],
        memory_type: Any = MemoryType.CONVERSATION_MEMORY,
        *,
        session_id: str | None = None,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        timeout_ms: int | None = None,
    ) -> list[str]:
        """Append turns to their session, each findable by what was said around it; their ids.

        turns: as in store_many_async, in order, one or many a call; best with the speaker's name in
            `content` ("Ada: yes"). Each gets `turn`, its number in the session, and `context`, the
            two turns on either side, and is embedded with the two before it.
        session_id: of turns that name none.

        Turns of several calls at once, also of several processes, are numbered one call after the
        other, each number once; those of one call stay together, in order. A turn whose `dedup_key`
        is stored already is not written again, and its id is returned.

        Raises as store_many_async does.
        """
        kind = memory_type_of(memory_type)
        collection = self._collections[kind]
        call = self._call(timeout_ms)
        if session_id is not None:
            checked_text("session_id", session_id)
        items = await writing.drafts(
            turns,
            memory_id=memory_id,
            user_id=user_id,
            codec=self._codec,
            uuid_form=self._stored_uuid,
            refused=TURN_FIELDS,
        )
        if not items:
            return []
        driver = (await self._session(call)).driver
        conversations = await self._conversations(kind, call)

        async def write(embedder: Callable[[], Embedder]) -> list[str]:
            writing.forget_vectors(items)
            return await conversations.append(items, session_id, embedder)

        return await self._guard.by_the_active_model(driver, collection, write, call)
