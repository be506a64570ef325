"""What the rest of the package asks of an embedder, and what the engine asks of a backend.

Two protocols, one on each side of the engine. An `Embedder` is what `MemoryUnit` and the database
provider call; a `Backend` is what computes vectors, blocking, in a worker thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Kind: TypeAlias = Literal["query", "document"]
TokenCount: TypeAlias = Callable[[str], int]
"""How many tokens a text has."""
Vector: TypeAlias = npt.NDArray[np.float32]
"""Shape (dimensions,), float32. What an embedder hands out is read-only: copy it to change it."""
Matrix: TypeAlias = npt.NDArray[np.float32]
"""Shape (texts, dimensions), float32, one row a text, in the order of the texts."""


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors, from any event loop.

    Every failure raises; no method returns an empty or partial result.
    """

    async def encode_query_async(self, text: str) -> Vector:
        """The vector of one query, shape (dimensions,)."""
        ...

    async def encode_documents_async(self, texts: Sequence[str]) -> Matrix:
        """The vectors of texts to be stored, shape (len(texts), dimensions)."""
        ...

    def get_model_name(self) -> str:
        """The name that rows carry as `embedding_model`."""
        ...

    def get_dimensions(self) -> int:
        """The length of every vector; LifecycleError where it is not known before the first use."""
        ...


@dataclass(frozen=True)
class Prompts:
    """What is put before a text. Models without prompts have two empty ones."""

    query: str = ""
    document: str = ""

    def of(self, kind: Kind) -> str:
        return self.query if kind == "query" else self.document


@dataclass(frozen=True)
class ModelInfo:
    """What a backend knows of its model once it is open."""

    model_name: str
    device: str
    dimensions: int | None = None
    """None: learnt from the first vector."""
    prompts: Prompts = field(default_factory=Prompts)
    max_tokens: int | None = None
    """Longer texts are cut by the model. None: not known."""
    batch_texts: int | None = None
    batch_tokens: int | None = None
    """The bounds of a batch that suit the device, where the user sets none."""
    source: str = ""
    """Where the weights came from, for the log and for stats."""


@dataclass(frozen=True)
class Batch:
    """Texts to embed in one go. They all have the same prompt."""

    texts: Sequence[str]
    prompt: str
    kind: Kind
    loops: Callable[[], list[asyncio.AbstractEventLoop]]
    """The event loops of those who wait for these texts now; a coroutine can run on one of them."""


class Backend(Protocol):
    """Computes vectors. All methods but `cancel` are called in worker threads and may block.

    `embed` raises `BatchTooLargeError` where fewer texts at once would do, `WholeBatchError` where
    no single text is at fault, and anything else where one text may have spoiled the batch.

    A backend may also have `count_tokens(texts) -> list[int]`, fast, called where `embed` is: texts
    of one length then come in one batch, which wastes the least padding.
    """

    name: str
    model_name: str
    workers: int
    """How many threads may call `embed` at the same time."""

    def open(self) -> ModelInfo:
        """Load the model, or reach the service. Called once, before the first `embed`."""
        ...

    def embed(self, batch: Batch) -> Any:
        """One row a text: an array of shape (texts, dimensions) or a sequence of vectors."""
        ...

    def cancel(self) -> None:
        """End waits (not computations) at once. Called from any thread, must not block."""
        ...

    def close(self) -> None:
        """Give back what `open` took. Called once, when no `embed` is running."""
        ...

    def counters(self) -> dict[str, int]:
        """Numbers of the backend's own for `stats()`; an empty dict where it has none."""
        ...


def is_backend(value: object) -> bool:
    """Whether an object, and no class, has the methods of a Backend."""
    names = [name for name in vars(Backend) if not name.startswith("_")]
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in names
    )


@runtime_checkable
class HasTokenizer(Protocol):
    """What a backend may offer besides: its model's tokenizer."""

    def token_counter(self) -> TokenCount | None:
        """A function to count tokens with; None where this model has no tokenizer.

        Called in a worker thread once the backend is open. The function is safe to call from any
        thread while the model computes, and after `close`.
        """
        ...


class BatchTooLargeError(Exception):
    """Internal: the device or the service had no room; the engine halves the batch and goes on."""


class WholeBatchError(Exception):
    """Internal: every text would fail alike, so that the engine tries none of them alone.

    The error that the waiters get is its `__cause__`.
    """
