"""The vectors that were computed last, kept within a number of entries and of bytes.

Not locked: the engine calls it under its own lock, and no other code has it.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

from cachetools import LRUCache, TTLCache

from memorizz_async.embeddings.protocol import Vector

Key: TypeAlias = bytes

# What an entry costs besides its numbers: the key, the array object, the cache's own links.
ENTRY_OVERHEAD = 400


def text_key(identity: str, prompt: str, text: str) -> Key:
    """The key of one text under one model: a digest, so that the cache holds no text.

    identity: the model, its revision, and whatever else changes the vector.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (identity, prompt, text):
        # surrogatepass: half a surrogate pair is a legal str, and a legal text to a tokenizer.
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


class VectorCache:
    """Least recently used leaves first; entries older than the TTL are not returned.

    max_entries: 0 turns the cache off.
    max_bytes: the vectors and about 400 bytes an entry.
    ttl: seconds; None keeps entries for as long as there is room.
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
        """Whether it is there; counts as no look-up."""
        return key in self._entries

    @property
    def nbytes(self) -> int:
        return int(self._entries.currsize)

    def get(self, key: Key) -> Vector | None:
        vector: Vector | None = self._entries.get(key)
        if vector is None:
            self.misses += 1
        else:
            self.hits += 1
        return vector

    def put(self, key: Key, vector: Vector) -> None:
        """Keep a vector; one that alone is larger than the whole cache is not kept."""
        if self._max_entries < 1 or _cost(vector) > self._entries.maxsize:
            return
        before = len(self._entries) + (key not in self._entries)
        self._entries[key] = vector
        while len(self._entries) > self._max_entries:
            self._entries.popitem()
        self.evictions += before - len(self._entries)

    def clear(self) -> None:
        self._entries: Any = (
            LRUCache(self._max_bytes, getsizeof=_cost)
            if self._ttl is None
            else TTLCache(self._max_bytes, self._ttl, getsizeof=_cost)
        )


def _cost(vector: Vector) -> int:
    return vector.nbytes + ENTRY_OVERHEAD
