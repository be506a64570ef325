"""The mongod behind `uri="local"`: found, started, shared between processes, stopped."""

from memorizz_async.memory_provider.mongodb.local_server.server import (
    LocalServer,
    LocalServerStatus,
)

__all__ = ["LocalServer", "LocalServerStatus"]
