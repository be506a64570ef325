"""Whatever a user has that makes vectors, as an embedder of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.embeddings.backends.manager import ManagerBackend, is_manager
from memorizz_async.embeddings.managed import Managed
from memorizz_async.embeddings.protocol import (
    Embedder,
    Matrix,
    TokenCount,
    Vector,
    is_backend,
)
from memorizz_async.embeddings.vectors import (
    as_matrix,
    bad_rows,
    bad_vector_error,
    checked_text,
    checked_texts,
)
from memorizz_async.errors import (
    ConfigurationError,
    EmbeddingError,
    LifecycleError,
    MemorizzAsyncError,
)
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_text as checked_name

T = TypeVar("T")


class ManagedEmbedder(Embedder, Protocol):
    """What `as_embedder` returns: an embedder that can also be loaded and closed."""

    async def load_async(self) -> None:
        """After it, `get_dimensions()` answers."""
        ...

    async def token_counter_async(self) -> TokenCount | None:
        """A function to count tokens with; None where there is no tokenizer to count by."""
        ...

    async def close_async(self) -> None:
        """Close what is ours; an object that was lent stays open."""
        ...

    async def __aenter__(self) -> Self:
        """As `load_async`."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """As `close_async`."""
        ...


def as_embedder(value: object, *, model_name: str | None = None) -> ManagedEmbedder:
    """Make an embedder of what a user passes.

    Accepted, in this order: an AsyncEmbeddingProvider (returned as it is); the name of a model or
    its folder; a backend; an object with the methods of `Embedder` (its vectors are then checked);
    an embedding manager as memorizz has them; an object with an `encode` method; a sync or async
    function of a list of texts.

    model_name: what rows shall carry as `embedding_model`, for functions, and for objects with an
        `encode` method (a SentenceTransformer), which cannot do without.

    Who made it closes it: where the result is not `value` itself, `close_async()` is the caller's
    to call; it does not close objects of the user's.

    Raises ConfigurationError for anything else.
    """
    if model_name is not None:
        checked_name("model_name", model_name, error=ConfigurationError)
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
        # A SentenceTransformer is callable too, but what it is called with are features.
        encode = getattr(value, "encode", None)
        function: Any = encode if callable(encode) else value
        if callable(encode) and model_name is None:
            raise ConfigurationError(
                "An object with an encode method does not say which model it is",
                seen=type(value).__name__,
                fix="pass model_name=, so that its vectors are not mistaken for another model's",
            )
        if callable(function):
            return AsyncEmbeddingProvider(backend=FunctionBackend(function, model_name=model_name))
    raise ConfigurationError(
        "This cannot be used as an embedder",
        seen=f"the class {value.__name__}" if isinstance(value, type) else shown(value),
        fix="pass an AsyncEmbeddingProvider, the name of a model, an object with "
        "encode_query_async and encode_documents_async, or a function of a list of texts",
    )


async def _asked(answer: Awaitable[T]) -> T:
    """What a user's embedder answers; its own errors become ours, with theirs as the cause."""
    try:
        return await answer
    except MemorizzAsyncError:
        raise
    except Exception as error:
        raise EmbeddingError(
            "The embedder failed", seen=type(error).__name__, fix="see the error that caused this"
        ) from error


class CheckedEmbedder(Managed):
    """An embedder of a user's, whose vectors are checked before anybody stores or compares them."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._seen_dimensions: int | None = None

    async def encode_query_async(self, text: str) -> Vector:
        """As Embedder; EmbeddingError where the vector cannot be used."""
        value = await _asked(self._embedder.encode_query_async(checked_text(text)))
        vector: Vector = self._checked([value], 1)[0]
        return vector

    async def encode_documents_async(self, texts: Sequence[str]) -> Matrix:
        """As Embedder; EmbeddingError where a vector cannot be used."""
        wanted = checked_texts(texts)
        answer = await _asked(self._embedder.encode_documents_async(wanted))
        return self._checked(answer, len(wanted))

    def get_model_name(self) -> str:
        return self._embedder.get_model_name()

    def get_dimensions(self) -> int:
        """As Embedder; what was seen is believed more than what is said."""
        return self._seen_dimensions or self._embedder.get_dimensions()

    async def load_async(self) -> None:
        """Load it where it has such a method; embed one word where it does not know its length."""
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
        """The embedder's own, where it has such a method."""
        own = getattr(self._embedder, "token_counter_async", None)
        counter: TokenCount | None = None if own is None else await _asked(own())
        return counter

    async def close_async(self) -> None:
        """Nothing: the embedder is the user's."""

    def _checked(self, values: Any, count: int) -> Matrix:
        matrix = as_matrix(values, count, self._seen_dimensions)
        wrong = bad_rows(matrix)
        if wrong.any():
            raise bad_vector_error(matrix[int(wrong.argmax())])
        self._seen_dimensions = matrix.shape[1]
        return matrix
