"""The cache of computed vectors: a tier in memory, and an optional second tier that outlives it.

`VectorCache` is the tier in memory. `CacheBackend` is what a second tier has to offer, such as the
database's `embedding_cache`; `ResilientCacheTier` keeps its failures away from embedding.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from cachetools import LRUCache, TTLCache

from memorizz_async.embeddings.protocol import Vector
from memorizz_async.embeddings.validation import invalid_rows, read_only_copy
from memorizz_async.errors import ConfigurationError

logger = logging.getLogger("memorizz_async.embeddings")

Key: TypeAlias = bytes

ENTRY_OVERHEAD = 400
"""Bytes of an entry besides its numbers: the key, the array object, the cache's own links."""
_TIER_TIMEOUT_S = 1.0
"""How long a text waits for the second tier before it is computed."""
_TIER_PAUSE_S = 30.0
"""How long a second tier is not used after a failure."""


def text_key(identity: str, prompt: str, text: str) -> Key:
    """Return the key of a text under one model: a digest, so that the cache holds no text.

    Args:
        identity: The model, its revision, and whatever else changes the vector.
        prompt: Prefix of the text.
        text: The text.

    Returns:
        16 bytes.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (identity, prompt, text):
        # surrogatepass: half a surrogate pair is a legal str, and a legal text to a tokenizer.
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


class VectorCache:
    """An LRU cache in memory, limited by entries and by bytes.

    Not locked: only the engine uses it, under its own lock.

    Args:
        max_entries: Maximum number of vectors; 0 turns the cache off.
        max_bytes: Maximum size of the vectors, with about 400 bytes of overhead each.
        ttl: Seconds until an entry expires; None keeps entries while there is room.
    """

    def __init__(self, max_entries: int, max_bytes: int, ttl: float | None = None) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl = ttl
        self.clear()
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        """Whether the key is cached; does not count as a look-up."""
        return key in self._entries

    @property
    def nbytes(self) -> int:
        """Size of all entries in bytes, overhead included."""
        return int(self._entries.currsize)

    def get(self, key: Key) -> Vector | None:
        """Return the vector, or None; counts a hit or a miss."""
        vector: Vector | None = self._entries.get(key)
        if vector is None:
            self.misses += 1
        else:
            self.hits += 1
        return vector

    def put(self, key: Key, vector: Vector) -> None:
        """Store a vector, unless it alone exceeds the cache; evicts the least recently used."""
        if self._max_entries < 1 or _cost(vector) > self._entries.maxsize:
            return
        before = len(self._entries) + (key not in self._entries)
        self._entries[key] = vector
        while len(self._entries) > self._max_entries:
            self._entries.popitem()
        self.evictions += before - len(self._entries)

    def clear(self) -> None:
        """Remove every entry."""
        self._entries: Any = (
            LRUCache(self._max_bytes, getsizeof=_cost)
            if self._ttl is None
            else TTLCache(self._max_bytes, self._ttl, getsizeof=_cost)
        )


def _cost(vector: Vector) -> int:
    return vector.nbytes + ENTRY_OVERHEAD


@runtime_checkable
class CacheBackend(Protocol):
    """Storage for a second tier of the cache, which survives a restart. Used from any event loop.

    Keys are digests of 16 bytes and hold no text. A failure is counted in `stats().tier_failures`,
    and the text is computed.
    """

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """Return the stored vectors.

        Args:
            keys: The keys to look up.

        Returns:
            Vectors of shape (dimensions,), float32, for those keys that are stored.
        """
        ...

    async def put_many(self, vectors: Mapping[bytes, Vector]) -> None:
        """Store vectors; returns at once and writes in the background.

        Args:
            vectors: Vectors of shape (dimensions,), float32, by key.
        """
        ...


def is_cache_backend(value: object) -> bool:
    """Return whether an object, not a class, has the methods of a CacheBackend."""
    return isinstance(value, CacheBackend) and not isinstance(value, type)


class ResilientCacheTier:
    """A second tier with a time limit, which is paused after a failure. Its methods never raise."""

    def __init__(self, backend: CacheBackend) -> None:
        self._backend = backend
        self._paused_until = 0.0
        self._warned = False

    async def get_many(
        self, keys: Sequence[Key], dimensions: int | None
    ) -> Mapping[Key, Vector] | None:
        """Look up vectors.

        Args:
            keys: The keys to look up.
            dimensions: Length of every vector, if it is known.

        Returns:
            The stored vectors that are valid, read-only; empty while the tier is paused; None if it
            failed.
        """
        if time.monotonic() < self._paused_until:
            return {}
        try:
            async with asyncio.timeout(_TIER_TIMEOUT_S):
                found = await self._backend.get_many(keys)
            return {key: read_only_copy(v) for key, v in found.items() if _is_valid(v, dimensions)}
        except Exception as error:  # noqa: BLE001 - whatever failed, the text can be computed
            self._pause(error)
            return None

    async def put_many(self, vectors: Mapping[Key, Vector]) -> bool:
        """Store vectors; returns False if the tier failed."""
        if time.monotonic() < self._paused_until:
            return True
        try:
            async with asyncio.timeout(_TIER_TIMEOUT_S):
                await self._backend.put_many(vectors)
        except Exception as error:  # noqa: BLE001 - as above
            self._pause(error)
            return False
        return True

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + _TIER_PAUSE_S
        if not self._warned:
            self._warned = True
            logger.warning(
                "The second tier of the embedding cache failed and is not used for %.0f s "
                "(logged once; stats() counts further failures): %s",
                _TIER_PAUSE_S,
                error or type(error).__name__,
            )


def check_persistent_name(model_name: str) -> None:
    """Check that a model's name can identify its vectors beyond this process.

    Raises:
        ConfigurationError: A name such as `<lambda>`, which other functions have too.
    """
    if "<" in model_name:
        raise ConfigurationError(
            "A second tier of the embedding cache needs a model with a name of its own",
            seen=model_name,
            fix="pass FunctionBackend(function, model_name=…), and another name when it changes",
        )


def _is_valid(vector: Vector, dimensions: int | None) -> bool:
    right_shape = vector.ndim == 1 and vector.size == (dimensions or vector.size)
    return right_shape and not invalid_rows(vector[None]).any()
