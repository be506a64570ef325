"""The kinds of memory, under memorizz's names; each is a collection."""

from __future__ import annotations

from enum import Enum
from typing import Any

from memorizz_async.errors import UnknownMemoryTypeError
from memorizz_async.redaction import shown


class MemoryType(Enum):
    """A kind of memory.

    The value is memorizz's; lookups by value ignore case. `LONG_TERM_MEMORY` (the guide's and old
    memorizz's name) and `KNOWLEDGE_BASE` (the current one) are two names of one store.
    """

    LONG_TERM_MEMORY = "long_term_memory"
    KNOWLEDGE_BASE = "knowledge_base"
    CONVERSATION_MEMORY = "conversation_memory"
    WORKFLOW_MEMORY = "workflow_memory"
    SUMMARIES = "summaries"
    ENTITY_MEMORY = "entity_memory"
    SHORT_TERM_MEMORY = "short_term_memory"
    PERSONAS = "personas"
    TOOLBOX = "toolbox"
    SKILLBOX = "skillbox"
    SHARED_MEMORY = "shared_memory"
    SEMANTIC_CACHE = "semantic_cache"
    TOOL_LOG = "tool_log"
    MEMAGENT = "agents"

    @property
    def store(self) -> MemoryType:
        """The member whose rows these are: itself, or `KNOWLEDGE_BASE` for `LONG_TERM_MEMORY`."""
        return MemoryType.KNOWLEDGE_BASE if self is MemoryType.LONG_TERM_MEMORY else self

    @property
    def collection(self) -> str:
        """The default name of the collection."""
        return str(self.store.value)

    @property
    def is_agent_wide(self) -> bool:
        """Whether rows without a user serve every user of a `memory_id`, as in memorizz."""
        return self.store in _AGENT_WIDE

    @classmethod
    def _missing_(cls, value: object) -> MemoryType | None:
        if isinstance(value, str):
            lowered = value.strip().lower()
            for member in cls:
                if lowered in (member.value, member.name.lower()):
                    return member
        return None


_AGENT_WIDE = frozenset({MemoryType.KNOWLEDGE_BASE, MemoryType.TOOLBOX, MemoryType.SKILLBOX})


def memory_type_of(value: Any) -> MemoryType:
    """The memory type that a value names: ours, memorizz's (any version), or a string.

    Raises UnknownMemoryTypeError, which lists the types that exist.
    """
    if isinstance(value, MemoryType):
        return value
    given = (value.value, value.name) if isinstance(value, Enum) else (value,)
    candidates = [candidate for candidate in given if isinstance(candidate, str)]
    for candidate in candidates:
        try:
            return MemoryType(candidate)
        except ValueError:
            continue
    names = ", ".join(member.name for member in MemoryType)
    raise UnknownMemoryTypeError(
        "There is no such memory type", seen=shown(value, word=True), fix=f"use one of {names}"
    )


def name_of(value: Any) -> str:
    """The name by which the caller called a memory type: the key of its results."""
    if isinstance(value, Enum):
        return value.name
    return value if isinstance(value, str) else shown(value)
