"""Memories in MongoDB: on Atlas, on any server, or on one that we start."""

from memorizz_async.config import MongoDBConfig
from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.scope import EVERY_TENANT, UNSET

__all__ = ["EVERY_TENANT", "UNSET", "AsyncMongoDBProvider", "MongoDBConfig"]
