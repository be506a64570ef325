"""The only folder that knows Motor from PyMongo Async, and a server from mongomock.

One small protocol, three drivers, one table of errors.
"""

from memorizz_async.memory_provider.mongodb.driver.memory import (
    memory_database,
    open_memory_driver,
    renew_locks,
)
from memorizz_async.memory_provider.mongodb.driver.opening import (
    blocking_command,
    installed_driver,
    open_driver,
)

__all__ = [
    "blocking_command",
    "installed_driver",
    "memory_database",
    "open_driver",
    "open_memory_driver",
    "renew_locks",
]
