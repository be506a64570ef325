"""Memories in MongoDB: on Atlas, on any server, or on one that we start."""

from memorizz_async.config import MongoDBConfig
from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.scope import UNSET

__all__ = ["UNSET", "AsyncMongoDBProvider", "MongoDBConfig"]
