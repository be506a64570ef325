"""Backends whose every step a test decides."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from memorizz_async.embeddings.protocol import Batch, ModelInfo, Prompts

PATIENCE = 10.0


def vector_of(text: str, dimensions: int = 4) -> np.ndarray:
    """A vector that is the text's own."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until something holds that happens in a thread."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a thread's counter has no asyncio.Event
            await asyncio.sleep(0)


def vectors_of(batch: Batch) -> np.ndarray:
    """What a healthy backend returns."""
    return np.stack([vector_of(batch.prompt + text) for text in batch.texts])


class FakeBackend:
    """Answers every batch with `answer`, and remembers the batches."""

    name = "fake"
    model_name = "fake-model"

    def __init__(
        self,
        answer: Callable[[Batch], Any] = vectors_of,
        *,
        workers: int = 1,
        prompts: Prompts | None = None,
        dimensions: int | None = 4,
        max_tokens: int | None = None,
    ) -> None:
        self.answer = answer
        self.workers = workers
        self.info = ModelInfo(
            self.model_name, "fake-device", dimensions, prompts or Prompts(), max_tokens
        )
        self.batches: list[list[str]] = []
        self.opened = 0
        self.closed = 0
        self.cancelled = threading.Event()

    def open(self) -> ModelInfo:
        self.opened += 1
        return self.info

    def embed(self, batch: Batch) -> Any:
        self.batches.append(list(batch.texts))
        return self.answer(batch)

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed += 1

    def counters(self) -> dict[str, int]:
        return {}

    @property
    def computed(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


class GatedBackend(FakeBackend):
    """Holds every batch until the test hands it an order: what to answer with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.entered: queue.Queue[list[str]] = queue.Queue()
        self.orders: queue.Queue[Callable[[Batch], Any]] = queue.Queue()
        self.free = threading.Event()

    def embed(self, batch: Batch) -> Any:
        self.batches.append(list(batch.texts))
        self.entered.put(list(batch.texts))
        while not self.free.is_set():
            try:
                return self.orders.get(timeout=0.01)(batch)
            except queue.Empty:
                continue
        return vectors_of(batch)

    def go(self, answer: Callable[[Batch], Any] = vectors_of) -> None:
        """Let one batch go on."""
        self.orders.put(answer)

    def wait_entered(self) -> list[str]:
        """The texts of the next batch that has reached the backend. Not on the event loop."""
        return self.entered.get(timeout=PATIENCE)
