"""Memories in MongoDB: on Atlas, on any server, or on one that we start.

The names are imported on first use: the process that watches a local server must stay small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memorizz_async.config import MongoDBConfig
    from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
    from memorizz_async.memory_provider.mongodb.scope import EVERY_TENANT, UNSET

__all__ = ["EVERY_TENANT", "UNSET", "AsyncMongoDBProvider", "MongoDBConfig"]

_HOME_OF = {
    "AsyncMongoDBProvider": "memorizz_async.memory_provider.mongodb.async_provider",
    "EVERY_TENANT": "memorizz_async.memory_provider.mongodb.scope",
    "MongoDBConfig": "memorizz_async.config",
    "UNSET": "memorizz_async.memory_provider.mongodb.scope",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
