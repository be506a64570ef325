"""An embedder whose vectors are also looked for, and kept, in a second tier of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.managed import Managed
from memorizz_async.embeddings.tier import PatientTier, SecondTier, check_lasting_name
from memorizz_async.errors import ConfigurationError

if TYPE_CHECKING:
    from memorizz_async.embeddings.adapters import ManagedEmbedder
    from memorizz_async.embeddings.protocol import Matrix, TokenCount, Vector
    from memorizz_async.embeddings.stats import EmbeddingStats


class TieredEmbedder(Managed):
    """One provider's view of an embedder that may be shared: with this provider's second tier."""

    def __init__(self, embedder: AsyncEmbeddingProvider, tier: SecondTier) -> None:
        self._embedder = embedder
        self._tier = PatientTier(tier)

    async def encode_query_async(self, text: str) -> Vector:
        return await self._embedder.encode_query_async(text, second_tier=self._tier)

    async def encode_documents_async(self, texts: Sequence[str]) -> Matrix:
        return await self._embedder.encode_documents_async(texts, second_tier=self._tier)

    def get_model_name(self) -> str:
        return self._embedder.get_model_name()

    def get_dimensions(self) -> int:
        return self._embedder.get_dimensions()

    def stats(self) -> EmbeddingStats:
        return self._embedder.stats()

    async def load_async(self) -> None:
        await self._embedder.load_async()

    async def token_counter_async(self) -> TokenCount | None:
        return await self._embedder.token_counter_async()

    async def close_async(self) -> None:
        """Nothing: the embedder and the tier belong to whoever brought them together."""


def with_second_tier(embedder: ManagedEmbedder, tier: SecondTier) -> ManagedEmbedder:
    """The embedder with a second tier behind its cache.

    Raises ConfigurationError for an embedder without an engine of ours, whose keys would not say
    what its vectors depend on, and for a function without a name that outlives the process.
    """
    if not isinstance(embedder, AsyncEmbeddingProvider):
        raise ConfigurationError(
            "embedding_cache needs an embedder of ours",
            seen=type(embedder).__name__,
            fix="pass an AsyncEmbeddingProvider (its backend may be anything), or leave "
            "embedding_cache out",
        )
    check_lasting_name(embedder.get_model_name())
    return TieredEmbedder(embedder, tier)
