"""Recall of three types against the two other ways: one after another, and the bare driver."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from _bare import BareRecall

from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)

TYPES = (
    MemoryType.LONG_TERM_MEMORY,
    MemoryType.CONVERSATION_MEMORY,
    MemoryType.WORKFLOW_MEMORY,
)
LIMITS = dict.fromkeys(TYPES, 5)
TENANT, LARGE_TENANT = "tenant", "large"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rows: int
    large_rows: int
    rounds: int
    model_rounds: int
    texts: int
    imports: int
    beats: int


QUICK = Size(rows=60, large_rows=600, rounds=5, model_rounds=2, texts=8, imports=2, beats=40)


@dataclass(frozen=True)
class Place:
    """The server and the database of this run."""

    address: str
    name: str

    def config(self, driver: Any = "auto", search: Any = "auto") -> MongoDBConfig:
        return MongoDBConfig(self.address, self.name, driver=driver, search_strategy=search)


async def fill(place: Place, size: Size, model: str) -> None:
    """Rows of one tenant in each type, and many of another, for the heartbeat."""
    numbers = np.random.default_rng(7)
    async with AsyncMongoDBProvider(place.config()) as provider:
        await provider.ensure_indexes_async(TYPES)
        for kind, memory_id, count in [
            *((kind, TENANT, size.rows) for kind in TYPES),
            (TYPES[0], LARGE_TENANT, size.large_rows),
        ]:
            vectors = numbers.standard_normal((count, 384), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            rows = [
                {
                    "content": f"Memory {number}: what was said and done on that day, in a line.",
                    "embedding": vector,
                    "embedding_model": model,
                }
                for number, vector in enumerate(vectors)
            ]
            await provider.store_many_async(rows, kind, memory_id=memory_id)


async def in_turn(
    rounds: int, one: Callable[[], Awaitable[Any]], other: Callable[[], Awaitable[Any]]
) -> tuple[list[float], list[float]]:
    """Milliseconds of two ways of doing a thing, in turn, after a warm-up of both."""
    ways = ((one, list[float]()), (other, list[float]()))
    for way, _ in ways:
        await way()
    for number in range(rounds):
        for way, times in ways if number % 2 else reversed(ways):
            started = time.perf_counter()
            await way()
            times.append((time.perf_counter() - started) * 1000)
    return ways[0][1], ways[1][1]


async def against_sequential(
    place: Place, size: Size, embedder: AsyncEmbeddingProvider
) -> dict[str, float]:
    """Recall of three types, with the model, against embedding and querying for one at a time."""
    questions = iter(range(1_000_000))
    provider = AsyncMongoDBProvider(place.config(), embedding_provider=embedder)
    unit = MemoryUnit(memory_provider=provider)

    async def batch() -> None:
        query = f"What happened on day {next(questions)}?"
        await unit.retrieve_all_memory_types_async(query, TENANT, LIMITS, mode="vector")

    async def sequential() -> None:
        query = f"What happened on day {next(questions)}?"
        for kind in TYPES:
            vector = await embedder.encode_query_async(query)
            await provider.retrieve_memory_units_by_query_async(None, vector, TENANT, kind)

    async with provider:
        ours, theirs = await in_turn(size.model_rounds, batch, sequential)
    return {
        "batch_ms": median(ours),
        "sequential_ms": median(theirs),
        "ratio": median(theirs) / median(ours),
    }


async def against_bare(place: Place, size: Size, driver: str) -> dict[str, float]:
    """Recall with the embedding given, against the same driver calls by hand."""
    vector = np.random.default_rng(11).standard_normal(384, dtype=np.float32)
    vector /= np.linalg.norm(vector)
    collections = [kind.collection for kind in TYPES]
    bare = BareRecall(driver, place.address, place.name)
    # The scan, which makes the same calls; the search in memory makes fewer (benchmarks/search.py).
    provider = AsyncMongoDBProvider(place.config(driver, "scan"))
    unit = MemoryUnit(memory_provider=provider)

    async def recall() -> Any:
        return await unit.retrieve_all_memory_types_async(
            "what happened?", TENANT, LIMITS, query_embedding=vector, mode="vector"
        )

    async def by_hand() -> Any:
        return await bare.recall(collections, TENANT, vector, 5)

    async with provider:
        same = [
            [hit["_id"] for hit in hits] == [str(hit["_id"]) for hit in others]
            for hits, others in zip((await recall()).values(), await by_hand(), strict=True)
        ]
        assert all(same), "the two ways found different memories"
        ours, theirs = await in_turn(size.rounds, recall, by_hand)
    await bare.close()
    return {
        "recall_ms": median(ours),
        "bare_ms": median(theirs),
        "ratio": median(ours) / median(theirs),
    }
