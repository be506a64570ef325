"""Embedding models that cost nothing, each with its own idea of every text."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from memorizz_async.embeddings.backends.function import FunctionBackend

REFUSED = "no model embeds this"


class Model(FunctionBackend):
    """A named model: a text's vector is the model's own, the same in every process.

    It counts the texts that it computed, and fails on texts with REFUSED in them.
    """

    def __init__(self, name: str, dimensions: int = 8) -> None:
        super().__init__(self._embed, model_name=name)
        self.size = dimensions
        self.texts: list[str] = []

    def _embed(self, texts: list[str]) -> list[Any]:
        if any(REFUSED in text for text in texts):
            raise ValueError(REFUSED)
        self.texts.extend(texts)
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> np.ndarray[Any, Any]:
        """What this model makes of a text: shape (dimensions,), float32."""
        digest = hashlib.blake2b(f"{self.model_name}\n{text}".encode(), digest_size=8).digest()
        numbers = np.random.default_rng(int.from_bytes(digest, "little"))
        return numbers.normal(size=self.size).astype(np.float32)
