"""What is taken from memorizz: the one file that imports it when it is loaded."""

from __future__ import annotations

from typing import Any

from memorizz_async.errors import MissingDependencyError
from memorizz_async.installing import how_to_install

try:
    from memorizz.memory_provider.base import (
        _UNSET,
        DELETE_SCOPE_FIELDS,
        MemoryProvider,
        MemoryProviderCapabilities,
        observability_cursor_after,
    )
except ImportError as error:
    raise MissingDependencyError(
        "memorizz is not installed, or not in a version that this adapter knows",
        seen=str(error),
        fix=f"read its licence (PolyForm Noncommercial), then {how_to_install('memorizz')}",
    ) from error

__all__ = [
    "DELETE_SCOPE_FIELDS",
    "MemoryProvider",
    "MemoryProviderCapabilities",
    "is_unset",
    "observability_cursor_after",
]

_SENTINELS = ("_MongoUserIdUnset", "_FsUserIdUnset", "_OracleUserIdUnset")


def is_unset(value: Any) -> bool:
    """Whether a value is one of memorizz's marks for "left out", of which it has several."""
    return value is _UNSET or type(value).__name__ in _SENTINELS
