"""Embeddings for asyncio: one model, continuous batching, one computation per text."""

from __future__ import annotations

from memorizz_async.embeddings.adapters import as_embedder
from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.cache import CacheBackend
from memorizz_async.embeddings.default import (
    get_async_embedding_provider,
    get_embedding_async,
    get_embeddings_batch_async,
    reset_async_embedding_provider,
)
from memorizz_async.embeddings.protocol import Backend, Embedder, ManagedEmbedder
from memorizz_async.embeddings.stats import EmbeddingStats

SecondTier = CacheBackend
"""The former name of CacheBackend."""

__all__ = [
    "AsyncEmbeddingProvider",
    "Backend",
    "CacheBackend",
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
