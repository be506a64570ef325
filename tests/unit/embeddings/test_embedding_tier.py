"""The engine with a second tier behind its cache."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memorizz_async.embeddings import AsyncEmbeddingProvider, CacheBackend
from memorizz_async.embeddings import cache as cache_module
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.embeddings.batching import WINDOW, Item, WorkQueue
from memorizz_async.errors import ConfigurationError

from .embedding_fakes import FakeBackend, vector_of


class Shelf:
    """A second tier that a test can look into, and break."""

    def __init__(self) -> None:
        self.vectors: dict[bytes, Any] = {}
        self.asked: list[int] = []
        self.broken = False
        self.hangs = False

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, Any]:
        self.asked.append(len(keys))
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.broken:
            raise OSError("away")
        return {key: self.vectors[key] for key in keys if key in self.vectors}

    async def put_many(self, vectors: Mapping[bytes, Any]) -> None:
        if self.broken:
            raise OSError("away")
        self.vectors.update(vectors)


def provider_on(shelf: Shelf, **settings: Any) -> tuple[AsyncEmbeddingProvider, FakeBackend]:
    backend = FakeBackend()
    return AsyncEmbeddingProvider(backend=backend, second_tier=shelf, **settings), backend


async def test_misses_are_looked_up_in_the_tier_and_computed_vectors_are_stored() -> None:
    """Each text once, also where a call names it twice; vectors in the texts' order."""
    shelf = Shelf()
    assert isinstance(shelf, CacheBackend)
    first, backend = provider_on(shelf)
    async with first:
        await first.encode_documents_async(["a", "b", "a"])
        await first.encode_documents_async(["a", "b"])  # the cache has them
    assert shelf.asked == [2]
    assert len(shelf.vectors) == 2
    second, backend = provider_on(shelf)
    async with second:
        found = await second.encode_documents_async(["c", "b", "a", "b"])
        assert np.array_equal(found, np.stack([vector_of(text) for text in "cbab"]))
        assert backend.batches == [["c"]]
        stats = second.stats()
        assert (stats.tier_hits, stats.tier_misses, stats.tier_failures) == (2, 1, 0)
    assert len(shelf.vectors) == 3


async def test_the_tier_works_without_the_cache() -> None:
    """The tier is no part of the cache."""
    shelf = Shelf()
    for batches in ([["a"]], []):
        provider, backend = provider_on(shelf, cache_entries=0)
        async with provider:
            assert np.array_equal(await provider.encode_query_async("a"), vector_of("a"))
        assert backend.batches == batches


@pytest.mark.parametrize("fault", ["broken", "hangs"])
async def test_a_failing_tier_is_paused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call waits for it, for a moment; texts are computed, and those after it do not ask."""
    monkeypatch.setattr(cache_module, "_TIER_TIMEOUT_S", 0.05)
    shelf = Shelf()
    setattr(shelf, fault, True)
    provider, backend = provider_on(shelf)
    async with provider:
        for text in "abc":
            assert np.array_equal(await provider.encode_query_async(text), vector_of(text))
        assert len(shelf.asked) == 1
        assert backend.batches == [["a"], ["b"], ["c"]]
        assert provider.stats().tier_failures == 1


async def test_invalid_vectors_of_the_tier_are_computed_again() -> None:
    """Another dimension, NaN, zeros: a tier may hold anything."""
    for wrong in ([1.0, 2.0], [float("nan")] * 4, [0.0] * 4, [[1.0] * 4]):
        shelf = Shelf()
        first, _ = provider_on(shelf)
        async with first:
            await first.encode_query_async("a")
        for key in shelf.vectors:
            shelf.vectors[key] = np.array(wrong, np.float32)
        second, backend = provider_on(shelf)
        async with second:
            assert np.array_equal(await second.encode_query_async("a"), vector_of("a"))
        assert backend.batches == [["a"]]


def test_a_second_tier_requires_a_model_name() -> None:
    """Every lambda is called `<lambda>`: its vectors would be taken for another's."""
    nameless = FunctionBackend(lambda texts: texts)
    with pytest.raises(ConfigurationError, match="model_name"):
        AsyncEmbeddingProvider(backend=nameless, second_tier=Shelf())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
)
def test_concurrent_calls_get_the_right_vectors_while_the_tier_fails(
    calls: list[list[str]], broken_at: set[int]
) -> None:
    """Over concurrent calls with shared texts, on a tier that comes and goes."""

    async def check() -> None:
        shelf = Shelf()
        provider, _ = provider_on(shelf, cache_entries=2)
        async with provider:
            for number in range(3):
                shelf.broken = number in broken_at
                answers = await asyncio.gather(*map(provider.encode_documents_async, calls))
                for texts, answer in zip(calls, answers, strict=True):
                    assert np.array_equal(answer, np.stack([vector_of(text) for text in texts]))

    asyncio.run(check())


class CountingBackend(FakeBackend):
    """Counts tokens by words."""

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


async def test_batches_are_formed_by_counted_lengths() -> None:
    """Texts of one length come in one batch, where an estimate by characters would mix them."""
    backend = CountingBackend()
    few = [f"{number:03} {'x' * 40}" for number in range(8)]
    many = [f"{number:03} " + "a b " * 10 for number in range(8)]
    mixed = [text for pair in zip(few, many, strict=True) for text in pair]
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=4) as provider:
        await provider.encode_documents_async(mixed)
    lengths = [{len(text.split()) for text in batch} for batch in backend.batches]
    assert all(len(each) == 1 for each in lengths)


async def test_failures_of_count_tokens_are_ignored() -> None:
    """It raises, or answers too few: estimates will do."""

    class Broken(FakeBackend):
        def count_tokens(self, texts: list[str]) -> list[int]:
            if len(texts) > 6:
                raise ValueError("cannot")
            return [1]

    for count in (5, 20):
        texts = [f"text {number}" for number in range(count)]
        async with AsyncEmbeddingProvider(backend=Broken(), max_batch_size=4) as provider:
            found = await provider.encode_documents_async(texts)
        assert np.array_equal(found, np.stack([vector_of(text) for text in texts]))


def test_only_documents_beyond_one_batch_are_counted() -> None:
    """A query never waits for a count, and what fits into one batch is cut by nothing."""
    queue = WorkQueue(4, 1_000)
    for number in range(WINDOW + 10):
        queue.add(Item(bytes([number % 256, number // 256]), "x", "", "document", 1))
        assert bool(queue.uncounted(3)) == (number >= 4)
    assert len(queue.uncounted(100_000)) == WINDOW
    for item in queue.uncounted(3):
        item.counted = True
    assert len(queue.uncounted(100_000)) == WINDOW - 3
    queue.add(Item(b"query", "x", "", "query", 1))
    assert queue.uncounted(3) == []
