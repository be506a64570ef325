"""What embeds for a provider: its embedder, and the one that it is changing away from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import ConfigurationError

if TYPE_CHECKING:
    from memorizz_async.embeddings.cache import CacheBackend
    from memorizz_async.embeddings.protocol import ManagedEmbedder


class Embedders:
    """The embedders of one provider, each made on first need.

    given: what the user passed as `embedding_provider`; None means the process-wide one.
    retiring: what embedded the rows so far, while they are being changed to the other.
    cache_backend: stores vectors beyond this process, if given.
    """

    def __init__(
        self, given: Any, retiring: Any, cache_backend: CacheBackend | None = None
    ) -> None:
        self._given = (given, retiring)
        self._made: dict[int, ManagedEmbedder] = {}
        self._shown: dict[int, ManagedEmbedder] = {}
        self._cache_backend = cache_backend
        # What cannot embed is refused here, not in the first call. No model is loaded for that.
        for which, value in enumerate(self._given):
            if value is not None:
                self._made[which] = _embedder_of(value)

    @property
    def current(self) -> Embedder:
        """What embeds, unless a collection is still of the retiring model."""
        # Here, so that a database without an embedder needs no embedding library.
        from memorizz_async import embeddings  # noqa: PLC0415

        if self._given[0] is None:  # asked for each time: the shared one may have been shut
            shared = embeddings.get_async_embedding_provider()
            if self._made.get(0) is not shared:
                self._made[0], self._shown[0] = shared, self._tiered(shared)
            return self._shown[0]
        return self._made_of(0)

    @property
    def retiring(self) -> Embedder | None:
        """What embedded the rows so far; None where the provider has one embedder alone."""
        if self._given[1] is None:
            return None
        made = self._made_of(1)
        if made.get_model_name() == self.current.get_model_name():
            raise ConfigurationError(
                "The embedder and the retiring one are of one name: their rows could not be told "
                "apart",
                seen=made.get_model_name(),
                fix="give each a model_name of its own, or leave retiring_embedding_provider out",
            )
        return made

    def of_model(self, name: str | None) -> Embedder | None:
        """The embedder whose rows name this model; None where there is none."""
        both = (self.current, self.retiring)
        return next((e for e in both if e is not None and e.get_model_name() == name), None)

    async def close(self) -> None:
        """Close the wrappers that were made here; what was lent stays open."""
        for which, made in self._made.items():
            if self._given[which] is not None and made is not self._given[which]:
                await made.close_async()

    def _made_of(self, which: int) -> ManagedEmbedder:
        if which not in self._shown:
            self._shown[which] = self._tiered(self._made[which])
        return self._shown[which]

    def _tiered(self, embedder: ManagedEmbedder) -> ManagedEmbedder:
        if self._cache_backend is None:
            return embedder
        # As above: the engine comes with it.
        from memorizz_async.embeddings.adapters import with_cache_backend  # noqa: PLC0415

        return with_cache_backend(embedder, self._cache_backend)


def _embedder_of(value: Any) -> ManagedEmbedder:
    # As above: a database without an embedder needs no embedding library.
    from memorizz_async import embeddings  # noqa: PLC0415

    return embeddings.as_embedder(value)
