"""Embeddings for asyncio: one model, continuous batching, one computation per text."""

from __future__ import annotations

from memorizz_async.embeddings.adapters import ManagedEmbedder, as_embedder
from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.default import (
    get_async_embedding_provider,
    get_embedding_async,
    get_embeddings_batch_async,
    reset_async_embedding_provider,
)
from memorizz_async.embeddings.protocol import Backend, Embedder
from memorizz_async.embeddings.stats import EmbeddingStats
from memorizz_async.embeddings.tier import SecondTier

__all__ = [
    "AsyncEmbeddingProvider",
    "Backend",
    "Embedder",
    "EmbeddingStats",
    "ManagedEmbedder",
    "SecondTier",
    "as_embedder",
    "get_async_embedding_provider",
    "get_embedding_async",
    "get_embeddings_batch_async",
    "reset_async_embedding_provider",
]
