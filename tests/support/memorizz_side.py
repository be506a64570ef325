"""The side of memorizz in a shared database: its MongoDBProvider, and an embedder for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import memorizz.embeddings
from memorizz import MongoDBConfig, MongoDBProvider

from support.embedder import DIMENSIONS, vector_of


class CountingManager:
    """memorizz's embedding manager over the rule of CountingEmbedder: both sides agree on vectors.

    What memorizz writes is an array of doubles, so that is what it is given.
    """

    def get_embedding(self, text: str, **_: Any) -> list[float]:
        return [float(number) for number in vector_of(str(text))]

    def get_dimensions(self) -> int:
        return DIMENSIONS

    def get_default_model(self) -> str:
        return "counting"

    def get_provider_info(self) -> dict[str, Any]:
        return {"provider": "counting", "model": "counting", "dimensions": DIMENSIONS}


@contextmanager
def memorizz_provider(uri: str, db_name: str) -> Iterator[MongoDBProvider]:
    """The provider of memorizz on a database, with its collections and search indexes.

    Its global embedding manager is ours as long as the block runs.
    """
    manager: Any = CountingManager()
    before = memorizz.embeddings._global_embedding_manager
    memorizz.embeddings.set_global_embedding_manager(manager)
    provider = MongoDBProvider(MongoDBConfig(uri, db_name, embedding_provider=manager))
    try:
        yield provider
    finally:
        provider.close()
        memorizz.embeddings._global_embedding_manager = before
