"""The names of memory types and application modes."""

from memorizz_async.enums.application_mode import ApplicationMode
from memorizz_async.enums.memory_type import MemoryType, memory_type_of

__all__ = ["ApplicationMode", "MemoryType", "memory_type_of"]
