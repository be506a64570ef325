"""Conversations into the database, once: a second run finds them there and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from memorizz_async.demo.locomo import Conversation
from memorizz_async.demo.memories import Row, digest_of, memories_of
from memorizz_async.enums import MemoryType
from memorizz_async.errors import DuplicateMemoryError
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

_ROWS_A_CALL = 128
"""Two batches of the model: enough to be packed by length, few enough to show progress."""


@dataclass(frozen=True)
class Import:
    """The memories of one conversation, on their way into the database.

    They are stored under the conversation's name as their `memory_id`, each with a `dedup_key`, so
    that an import that was interrupted is finished by the next one without duplicates. A receipt,
    itself a memory of who talked to whom, is written last: where it is, all the others are, and
    nothing needs to be embedded again.
    """

    conversation: Conversation
    memories: Mapping[MemoryType, Sequence[Row]]

    @classmethod
    def of(cls, conversation: Conversation) -> Import:
        """All memory types of the conversation."""
        return cls(conversation, memories_of(conversation))

    @property
    def count(self) -> int:
        """How many memories there are, without the receipt."""
        return sum(map(len, self.memories.values()))

    async def is_stored(self, provider: AsyncMongoDBProvider) -> bool:
        """Whether the database has them all, embedded by this provider's model."""
        receipt = await provider.get_async(
            self._receipt_id(provider), MemoryType.ENTITY_MEMORY, memory_id=self.conversation.name
        )
        return receipt is not None

    async def store(
        self, provider: AsyncMongoDBProvider, advance: Callable[[int], None] = lambda rows: None
    ) -> None:
        """Write them; `advance` receives the number of rows of each write."""
        memory_id = self.conversation.name
        for kind, rows in self.memories.items():
            for start in range(0, len(rows), _ROWS_A_CALL):
                chunk = rows[start : start + _ROWS_A_CALL]
                # A turn is stored among its neighbours: "Yes, last summer!" says nothing alone.
                is_turns = kind is MemoryType.CONVERSATION_MEMORY
                store = provider.store_conversation_async if is_turns else provider.store_many_async
                await store(chunk, kind, memory_id=memory_id)
                advance(len(chunk))
        with suppress(DuplicateMemoryError):  # another import of the same was as fast
            await provider.store_async(
                self._receipt(provider), MemoryType.ENTITY_MEMORY, memory_id=memory_id
            )

    def _receipt_id(self, provider: AsyncMongoDBProvider) -> str:
        keys = [row["dedup_key"] for rows in self.memories.values() for row in rows]
        model = provider.embedder.get_model_name()
        return f"{self.conversation.name}/receipt/{digest_of([model, *keys])}"

    def _receipt(self, provider: AsyncMongoDBProvider) -> Row:
        one, other = self.conversation.speakers
        turns = self.conversation.turns
        sessions = len({turn.session for turn in turns})
        first, last = turns[0].at, turns[-1].at
        return {
            "_id": self._receipt_id(provider),
            "content": f"{one} and {other} talked in {sessions} sessions from {first:%d %B %Y} to "
            f"{last:%d %B %Y}.",
            "timestamp": last,
        }
