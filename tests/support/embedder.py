"""An embedder whose every computation a test can count."""

from __future__ import annotations

from typing import Any

import numpy as np

from support.leaks import note_texts

DIMENSIONS = 8


class CountingEmbedder:
    """Embeds by a fixed rule, and counts: here a test sees how often a model would run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def __call__(self, texts: list[str]) -> list[list[float]]:
        self.texts.extend(texts)
        note_texts(texts)
        return [vector_of(text).tolist() for text in texts]


def vector_of(text: str) -> np.ndarray[Any, Any]:
    """The vector that CountingEmbedder gives a text: shape (8,), the same in every process."""
    seed = int.from_bytes(text.encode()[:16].ljust(16, b"\0"), "little")
    return np.random.default_rng(seed).normal(size=DIMENSIONS).astype(np.float32)
