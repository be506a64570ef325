"""memorizz's embedding manager, or any object of its shape, as a backend.

That shape is `get_embedding(text)`, `get_dimensions()` and `get_default_model()`. memorizz itself
is not imported: the object is enough.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

from memorizz_async.embeddings.protocol import Batch, ModelInfo


class EmbeddingManager(Protocol):
    """What memorizz's `EmbeddingManager` offers and we use."""

    def get_embedding(self, text: str) -> Any:
        """The vector of one text."""
        ...

    def get_dimensions(self) -> int:
        """The length of every vector."""
        ...

    def get_default_model(self) -> str:
        """The model's name."""
        ...


def is_manager(value: object) -> TypeGuard[EmbeddingManager]:
    """Whether an object has the shape of a manager."""
    names = ("get_embedding", "get_dimensions", "get_default_model")
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in names
    )


class ManagerBackend:
    """Calls a manager text by text, since that is all it offers, in one thread.

    Single flight and the cache still spare it what was asked before.
    """

    name = "memorizz"
    workers = 1

    def __init__(self, manager: EmbeddingManager) -> None:
        self._manager = manager
        self.model_name = str(manager.get_default_model())

    def open(self) -> ModelInfo:
        """Ask it for its dimensions."""
        return ModelInfo(self.model_name, "memorizz", int(self._manager.get_dimensions()))

    def embed(self, batch: Batch) -> list[Any]:
        """One call of the manager a text."""
        return [self._manager.get_embedding(batch.prompt + text) for text in batch.texts]

    def cancel(self) -> None:
        """The manager cannot be interrupted."""

    def close(self) -> None:
        """The manager is lent, not ours to close."""

    def counters(self) -> dict[str, int]:
        """None of its own."""
        return {}
