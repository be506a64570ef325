"""Adapts whatever makes vectors to an embedder of this package."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.backends.function import (
    FunctionBackend,
    ManagerBackend,
    is_manager,
)
from memorizz_async.embeddings.cache import (
    CacheBackend,
    ResilientCacheTier,
    check_persistent_name,
)
from memorizz_async.embeddings.protocol import (
    Embedder,
    Managed,
    ManagedEmbedder,
    Matrix,
    TokenCount,
    Vector,
    is_backend,
)
from memorizz_async.embeddings.validation import (
    as_matrix,
    invalid_rows,
    invalid_vector_error,
    validate_text,
    validate_texts,
)
from memorizz_async.errors import (
    ConfigurationError,
    EmbeddingError,
    LifecycleError,
    MemorizzAsyncError,
)
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_text

if TYPE_CHECKING:
    from memorizz_async.embeddings.stats import EmbeddingStats

T = TypeVar("T")


def as_embedder(value: object, *, model_name: str | None = None) -> ManagedEmbedder:
    """Return an embedder for a model, a function or an object.

    Close the result with `close_async()`, unless it is `value` itself. That never closes an object
    of yours.

    Args:
        value: One of, in this order of recognition: an AsyncEmbeddingProvider, which is returned
            unchanged; the name of a model, or its folder; a `Backend`; an object with the methods
            of `Embedder`, whose vectors are then validated; an embedding manager of memorizz; an
            object with an `encode` method; a function of a list of texts, plain or async.
        model_name: Stored with each vector as `embedding_model`. For functions, and required for
            objects with an `encode` method, such as a SentenceTransformer.

    Returns:
        The embedder, not loaded yet.

    Raises:
        ConfigurationError: `value` is none of these, or `model_name` is missing.

    Example::

        embedder = as_embedder(SentenceTransformer("my/model"), model_name="my/model")
        provider = AsyncMongoDBProvider(config, embedding_provider=embedder)
    """
    if model_name is not None:
        checked_text("model_name", model_name, error=ConfigurationError)
    if isinstance(value, AsyncEmbeddingProvider | CheckedEmbedder):
        return value
    if isinstance(value, str):
        return AsyncEmbeddingProvider(value)
    if not isinstance(value, type):
        if is_backend(value):
            backend: Any = value
            return AsyncEmbeddingProvider(backend=backend)
        if isinstance(value, Embedder):
            return CheckedEmbedder(value)
        if is_manager(value):
            return AsyncEmbeddingProvider(backend=ManagerBackend(value))
        # A SentenceTransformer is callable too, but with features, not texts.
        encode = getattr(value, "encode", None)
        function: Any = encode if callable(encode) else value
        if callable(encode) and model_name is None:
            raise ConfigurationError(
                "An object with an encode method does not name its model",
                seen=type(value).__name__,
                fix="pass model_name=, so that its vectors are not confused with another model's",
            )
        if callable(function):
            return AsyncEmbeddingProvider(backend=FunctionBackend(function, model_name=model_name))
    raise ConfigurationError(
        "This cannot be used as an embedder",
        seen=f"the class {value.__name__}" if isinstance(value, type) else shown(value),
        fix="pass an AsyncEmbeddingProvider, the name of a model, an object with "
        "encode_query_async and encode_documents_async, or a function of a list of texts",
    )


def with_cache_backend(embedder: ManagedEmbedder, backend: CacheBackend) -> ManagedEmbedder:
    """Return the embedder with a second tier behind its cache.

    Args:
        embedder: An AsyncEmbeddingProvider, which may be shared with others.
        backend: Stores the vectors.

    Returns:
        An embedder that leaves `embedder` open when it is closed.

    Raises:
        ConfigurationError: The embedder is not an AsyncEmbeddingProvider, so that keys would not
            identify its vectors; or it is a function without a name of its own.
    """
    if not isinstance(embedder, AsyncEmbeddingProvider):
        raise ConfigurationError(
            "embedding_cache requires an AsyncEmbeddingProvider",
            seen=type(embedder).__name__,
            fix="pass an AsyncEmbeddingProvider (its backend may be anything), or leave "
            "embedding_cache out",
        )
    check_persistent_name(embedder.get_model_name())
    return TieredEmbedder(embedder, backend)


class TieredEmbedder(Managed):
    """A view of an AsyncEmbeddingProvider with a second cache tier, for one database provider."""

    def __init__(self, embedder: AsyncEmbeddingProvider, backend: CacheBackend) -> None:
        self._embedder = embedder
        self._tier = ResilientCacheTier(backend)

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
        """Do nothing: embedder and backend are closed by their owners."""


class CheckedEmbedder(Managed):
    """An embedder of the user's whose vectors are validated before they are stored or compared."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._observed_dimensions: int | None = None

    async def encode_query_async(self, text: str) -> Vector:
        """Embed one query; raises EmbeddingError for an invalid vector."""
        value = await _call(self._embedder.encode_query_async(validate_text(text)))
        vector: Vector = self._validate([value], 1)[0]
        return vector

    async def encode_documents_async(self, texts: Sequence[str]) -> Matrix:
        """Embed texts to be stored; raises EmbeddingError for an invalid vector."""
        wanted = validate_texts(texts)
        answer = await _call(self._embedder.encode_documents_async(wanted))
        return self._validate(answer, len(wanted))

    def get_model_name(self) -> str:
        return self._embedder.get_model_name()

    def get_dimensions(self) -> int:
        """Return the length of every vector; the observed one overrides the declared one."""
        return self._observed_dimensions or self._embedder.get_dimensions()

    async def load_async(self) -> None:
        """Load the embedder if it can be loaded; embeds one word to learn unknown dimensions."""
        load = getattr(self._embedder, "load_async", None)
        if load is not None:
            await load()
        try:
            known = bool(self.get_dimensions())
        except LifecycleError:
            known = False
        if not known:
            await self.encode_query_async("dimensions")

    async def token_counter_async(self) -> TokenCount | None:
        """Return the embedder's own token counter, if it has one."""
        own = getattr(self._embedder, "token_counter_async", None)
        counter: TokenCount | None = None if own is None else await _call(own())
        return counter

    async def close_async(self) -> None:
        """Do nothing: the embedder belongs to the user."""

    def _validate(self, values: Any, count: int) -> Matrix:
        matrix = as_matrix(values, count, self._observed_dimensions)
        invalid = invalid_rows(matrix)
        if invalid.any():
            raise invalid_vector_error(matrix[int(invalid.argmax())])
        self._observed_dimensions = matrix.shape[1]
        return matrix


async def _call(answer: Awaitable[T]) -> T:
    """Await a user's embedder; a foreign error becomes the cause of an EmbeddingError."""
    try:
        return await answer
    except MemorizzAsyncError:
        raise
    except Exception as error:
        raise EmbeddingError(
            "The embedder failed", seen=type(error).__name__, fix="see the error that caused this"
        ) from error
