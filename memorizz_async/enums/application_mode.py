"""What kind of application an agent is, and which memories such an agent recalls by default."""

from __future__ import annotations

from enum import Enum

from memorizz_async.enums.memory_type import MemoryType
from memorizz_async.errors import ConfigurationError
from memorizz_async.redaction import shown


class ApplicationMode(Enum):
    """memorizz's modes, and `conversational`, the guide's word for an assistant."""

    CONVERSATIONAL = "conversational"
    ASSISTANT = "assistant"
    WORKFLOW = "workflow"
    DEEP_RESEARCH = "deep_research"

    @property
    def memory_types(self) -> tuple[MemoryType, ...]:
        """The types that a recall asks for where the caller names none."""
        return _RECALLED[self]


_CONVERSATION = (
    MemoryType.LONG_TERM_MEMORY,
    MemoryType.CONVERSATION_MEMORY,
    MemoryType.WORKFLOW_MEMORY,
    MemoryType.ENTITY_MEMORY,
    MemoryType.SUMMARIES,
)
_RECALLED = {
    ApplicationMode.CONVERSATIONAL: _CONVERSATION,
    ApplicationMode.ASSISTANT: _CONVERSATION,
    ApplicationMode.WORKFLOW: (
        MemoryType.WORKFLOW_MEMORY,
        MemoryType.LONG_TERM_MEMORY,
        MemoryType.TOOLBOX,
        MemoryType.SHORT_TERM_MEMORY,
        MemoryType.SUMMARIES,
    ),
    ApplicationMode.DEEP_RESEARCH: (
        MemoryType.LONG_TERM_MEMORY,
        MemoryType.SHARED_MEMORY,
        MemoryType.TOOLBOX,
        MemoryType.SHORT_TERM_MEMORY,
        MemoryType.SUMMARIES,
    ),
}


def application_mode_of(value: object) -> ApplicationMode:
    """The mode that a value names: ours, memorizz's enum, or a string in any case.

    Raises ConfigurationError, which lists the modes that exist.
    """
    if isinstance(value, ApplicationMode):
        return value
    name = value.value if isinstance(value, Enum) else value
    if isinstance(name, str):
        for mode in ApplicationMode:
            if mode.value == name.strip().lower():
                return mode
    raise ConfigurationError(
        "There is no such application mode",
        seen=shown(value, word=True),
        fix=f"use one of {', '.join(mode.value for mode in ApplicationMode)}",
    )
