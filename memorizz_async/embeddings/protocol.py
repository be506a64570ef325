"""The two protocols of embedding, one on each side of the engine.

An `Embedder` is what `MemoryUnit` and the database provider call, from event loops. A `Backend`
computes vectors, blocking, in worker threads.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Kind: TypeAlias = Literal["query", "document"]
"""What a text is: some models embed queries and documents with different prompts."""
TokenCount: TypeAlias = Callable[[str], int]
"""Returns the number of tokens of a text."""
Vector: TypeAlias = npt.NDArray[np.float32]
"""Shape (dimensions,), float32. Vectors that an embedder returns are read-only: copy to change."""
Matrix: TypeAlias = npt.NDArray[np.float32]
"""Shape (texts, dimensions), float32, one row for each text, in order."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors, from any event loop.

    Every failure raises; no method returns an empty or partial result.
    """

    async def encode_query_async(self, text: str) -> Vector:
        """Embed one query.

        Args:
            text: The query; not empty.

        Returns:
            Shape (dimensions,), float32.
        """
        ...

    async def encode_documents_async(self, texts: Sequence[str]) -> Matrix:
        """Embed texts to be stored.

        Args:
            texts: The texts; none of them empty.

        Returns:
            Shape (len(texts), dimensions), float32, one row for each text, in order.
        """
        ...

    def get_model_name(self) -> str:
        """Return the name that is stored with each vector as `embedding_model`."""
        ...

    def get_dimensions(self) -> int:
        """Return the length of every vector.

        Raises:
            LifecycleError: It is not known before the first use.
        """
        ...


class ManagedEmbedder(Embedder, Protocol):
    """An embedder that can also be loaded and closed, as `as_embedder` returns it."""

    async def load_async(self) -> None:
        """Load the model; `get_dimensions()` works afterwards."""
        ...

    async def token_counter_async(self) -> TokenCount | None:
        """Return a function that counts tokens; None without a tokenizer."""
        ...

    async def close_async(self) -> None:
        """Close what this package opened; never an object of the user's."""
        ...

    async def __aenter__(self) -> Self:
        """Load the model."""
        ...

    async def __aexit__(self, *raised: object) -> None:
        """Close the embedder."""
        ...


class Managed(ABC):
    """Base of embedders that `async with` loads and closes."""

    @abstractmethod
    async def load_async(self) -> None:
        """Load the model; called at the start of `async with`."""

    @abstractmethod
    async def close_async(self) -> None:
        """Close the embedder; called at the end of `async with`."""

    async def __aenter__(self) -> Self:
        await self.load_async()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close_async()


@dataclass(frozen=True)
class Prompts:
    """Prefixes of texts. Both are empty for a model without prompts.

    Attributes:
        query: Prefix of each query.
        document: Prefix of each document.
    """

    query: str = ""
    document: str = ""

    def of(self, kind: Kind) -> str:
        """Return the prefix for this kind of text."""
        return self.query if kind == "query" else self.document


@dataclass(frozen=True)
class ModelInfo:
    """What a backend knows of its model once it is open.

    Attributes:
        model_name: Stored with each vector as `embedding_model`.
        device: Where the model runs, for `stats()`.
        dimensions: Length of every vector; None if only the first vector shows it.
        prompts: Prefixes of texts.
        max_tokens: Length after which the model truncates a text; None if unknown.
        batch_texts: Texts of one batch that fit the device, unless the user sets a limit.
        batch_tokens: Tokens of one batch, likewise.
        source: Where the weights came from, for the log and for `stats()`.
    """

    model_name: str
    device: str
    dimensions: int | None = None
    prompts: Prompts = field(default_factory=Prompts)
    max_tokens: int | None = None
    batch_texts: int | None = None
    batch_tokens: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Batch:
    """Texts to embed at once.

    Attributes:
        texts: The texts, without prompt.
        prompt: Prefix of every text of the batch.
        kind: What the texts are.
        loops: Returns the event loops of the calls that wait for these texts now; a coroutine can
            run on one of them.
    """

    texts: Sequence[str]
    prompt: str
    kind: Kind
    loops: Callable[[], list[asyncio.AbstractEventLoop]]


class Backend(Protocol):
    """Computes vectors. All methods but `cancel` are called in worker threads and may block.

    A backend may also have `count_tokens(texts: list[str]) -> list[int]`, which is fast and called
    where `embed` is. Batches then hold texts of equal length, which need the least padding.

    Attributes:
        name: The kind of backend, for `stats()`.
        model_name: The model, before `open` was called.
        workers: Number of threads that may call `embed` at the same time.
    """

    name: str
    model_name: str
    workers: int

    def open(self) -> ModelInfo:
        """Load the model, or prepare the client. Called once, before the first `embed`."""
        ...

    def embed(self, batch: Batch) -> Any:
        """Compute the vectors of one batch.

        Args:
            batch: The texts and their prompt.

        Returns:
            One row for each text: an array of shape (texts, dimensions), or a sequence of vectors.

        Raises:
            BatchTooLargeError: Fewer texts at once may fit.
            WholeBatchError: No single text is at fault.
            Exception: A text may be at fault; each is then tried alone.
        """
        ...

    def cancel(self) -> None:
        """End waits (not computations) at once. Called from any thread; must not block."""
        ...

    def close(self) -> None:
        """Release what `open` acquired. Called once, while no `embed` runs."""
        ...

    def counters(self) -> dict[str, int]:
        """Return the backend's own counters for `stats()`; may be empty."""
        ...


def is_backend(value: object) -> bool:
    """Return whether an object, not a class, has the methods of a Backend."""
    names = [name for name in vars(Backend) if not name.startswith("_")]
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in names
    )


@runtime_checkable
class HasTokenizer(Protocol):
    """An optional part of a backend: its model's tokenizer."""

    def token_counter(self) -> TokenCount | None:
        """Return a function that counts tokens; None if this model has no tokenizer.

        Called in a worker thread once the backend is open. The function is safe to call from any
        thread, while the model computes and after `close`.
        """
        ...


class BatchTooLargeError(Exception):
    """Internal: the batch exceeds the device or the service; the engine splits it in half."""


class WholeBatchError(Exception):
    """Internal: every text of the batch would fail, so that the engine retries none of them.

    Its `__cause__` is the error that the callers get.
    """
