"""Vectors kept beyond this process, behind the cache in memory: a restart then computes little.

Where they are kept is somebody else's business: here is what the engine asks of it. Nothing that
goes wrong there ever fails an embedding.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from memorizz_async.errors import ConfigurationError

if TYPE_CHECKING:
    from memorizz_async.embeddings.cache import Key
    from memorizz_async.embeddings.protocol import Vector

logger = logging.getLogger("memorizz_async.embeddings")

_PATIENCE_S = 1.0
"""How long a text waits for the second tier before it is computed."""
_LEFT_ALONE_S = 30.0
"""How long a tier that failed is not asked."""


@runtime_checkable
class SecondTier(Protocol):
    """Keeps vectors by keys of 16 bytes, which hold no text. Used from any event loop."""

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """The vectors that are there."""
        ...

    async def put_many(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors; returns at once, and writes them in the background."""
        ...


def is_second_tier(value: object) -> bool:
    """Whether an object, and no class, has the methods of a SecondTier."""
    return isinstance(value, SecondTier) and not isinstance(value, type)


class PatientTier:
    """A second tier, asked for a moment, and left alone for a while where it fails."""

    def __init__(self, tier: SecondTier) -> None:
        self._tier = tier
        self._off_until = 0.0
        self._said = False

    async def look(
        self, keys: Sequence[Key], dimensions: int | None
    ) -> Mapping[Key, Vector] | None:
        """The vectors that are there and fit; None where the tier failed. Never raises.

        dimensions: the length of every vector, where it is known.
        """
        if time.monotonic() < self._off_until:
            return {}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                found = await self._tier.get_many(keys)
            return {key: _frozen(v) for key, v in found.items() if _fits(v, dimensions)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the text can be computed
            self._failed(error)
            return None

    async def keep(self, vectors: Mapping[Key, Vector]) -> bool:
        """Keep vectors; whether the tier took them. Never raises."""
        if time.monotonic() < self._off_until:
            return True
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._tier.put_many(vectors)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        self._off_until = time.monotonic() + _LEFT_ALONE_S
        if not self._said:
            self._said = True
            logger.warning(
                "The second tier of the embedding cache failed and is left alone for %.0f s "
                "(this is said once; stats() counts it): %s",
                _LEFT_ALONE_S,
                error or type(error).__name__,
            )


def check_lasting_name(model_name: str) -> None:
    """Raise ConfigurationError for a name like `<lambda>`: other functions have it, too."""
    if "<" in model_name:
        raise ConfigurationError(
            "A second tier of the embedding cache needs a model with a name of its own",
            seen=model_name,
            fix="pass FunctionBackend(function, model_name=…), and another name when it changes",
        )


def _fits(vector: Vector, dimensions: int | None) -> bool:
    right = vector.ndim == 1 and vector.size == (dimensions or vector.size)
    return right and bool(np.isfinite(vector).all() and vector.any())


def _frozen(vector: Vector) -> Vector:
    own = np.array(vector, dtype=np.float32)
    own.flags.writeable = False
    return own
