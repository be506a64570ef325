"""Continuous batching, single flight, the queue's bound, as a caller sees them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from unit.embeddings.embedding_fakes import FakeBackend, GatedBackend, until, vector_of

from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.embeddings.protocol import Prompts
from memorizz_async.errors import InvalidQueryError, LifecycleError, OverloadedError


async def entered(backend: GatedBackend) -> list[str]:
    return await asyncio.to_thread(backend.wait_entered)


async def until_queued(provider: AsyncEmbeddingProvider, depth: int) -> None:
    await until(lambda: provider.stats().queue_depth == depth)


async def test_texts_that_arrive_while_the_model_is_busy_form_the_next_batch() -> None:
    """One batch for the first text, one for all that came meanwhile."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        first = asyncio.create_task(provider.encode_query_async("first"))
        assert await entered(backend) == ["first"]
        others = [asyncio.create_task(provider.encode_query_async(f"q{i}")) for i in range(20)]
        await until_queued(provider, 20)
        backend.go()
        backend.go()
        await asyncio.gather(first, *others)
        assert [len(batch) for batch in backend.batches] == [1, 20]
        for i, task in enumerate(others):
            np.testing.assert_array_equal(task.result(), vector_of(f"q{i}"))


async def test_concurrent_calls_for_one_text_compute_it_once() -> None:
    """1,000 calls at once for the same text cost one computation, and later ones none."""
    backend = FakeBackend()
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        await asyncio.gather(*(provider.encode_query_async("same") for _ in range(1000)))
        await provider.encode_async("same")
        assert backend.computed == ["same"]
        stats = provider.stats()
        assert stats.computed == 1
        assert stats.joined + stats.cache_hits == 1000


async def test_a_text_twice_in_one_call_is_computed_once() -> None:
    """Both places get the vector."""
    backend = FakeBackend()
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        matrix = await provider.encode_documents_async(["a", "b", "a"])
        np.testing.assert_array_equal(matrix, np.stack([vector_of(t) for t in "aba"]))
        assert sorted(backend.computed) == ["a", "b"]


async def test_queries_precede_waiting_documents() -> None:
    """A chat turn does not wait for a bulk write."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=4) as provider:
        bulk = asyncio.create_task(provider.encode_documents_async([f"d{i}" for i in range(12)]))
        await entered(backend)
        query = asyncio.create_task(provider.encode_query_async("now"))
        await until_queued(provider, 9)
        backend.go()
        assert await entered(backend) == ["now"]
        backend.free.set()
        await asyncio.gather(bulk, query)


async def test_queries_do_not_starve_documents() -> None:
    """After a few batches of queries the documents have their turn."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=1) as provider:
        tasks = [asyncio.create_task(provider.encode_query_async("q0"))]
        await entered(backend)
        tasks += [asyncio.create_task(provider.encode_documents_async(["document"]))]
        tasks += [asyncio.create_task(provider.encode_query_async(f"q{i}")) for i in range(1, 9)]
        await until_queued(provider, 9)
        backend.free.set()
        await asyncio.gather(*tasks)
        assert backend.computed.index("document") <= 5


async def test_a_query_for_a_waiting_document_promotes_it() -> None:
    """Single flight does not tie a query to the end of a bulk write."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=2) as provider:
        texts = [f"d{i}" for i in range(10)]
        bulk = asyncio.create_task(provider.encode_documents_async(texts))
        first = await entered(backend)
        wanted = next(text for text in reversed(texts) if text not in first)
        query = asyncio.create_task(provider.encode_query_async(wanted))
        await until(lambda: provider.stats().joined > 0)
        backend.go()
        assert await entered(backend) == [wanted]
        backend.free.set()
        await asyncio.gather(bulk, query)


async def test_a_batch_holds_texts_of_one_length() -> None:
    """Short texts are not padded to long ones."""
    backend = FakeBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=8) as provider:
        texts = [("long " * 200 if i % 2 else "short ") + str(i) for i in range(32)]
        matrix = await provider.encode_documents_async(texts)
        assert all(len({len(t) > 100 for t in batch}) == 1 for batch in backend.batches)
        np.testing.assert_array_equal(matrix, np.stack([vector_of(t) for t in texts]))


async def test_a_full_queue_raises_overloaded_error() -> None:
    """OverloadedError names how many wait; nothing of the refused call is computed."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_queue=2) as provider:
        tasks = [asyncio.create_task(provider.encode_query_async("running"))]
        await entered(backend)
        tasks += [asyncio.create_task(provider.encode_query_async(f"q{i}")) for i in range(2)]
        await until_queued(provider, 2)
        with pytest.raises(OverloadedError, match=r"2 texts wait, the limit is 2"):
            await provider.encode_query_async("one too many")
        assert provider.stats().overloaded == 1
        backend.free.set()
        await asyncio.gather(*tasks)
        assert "one too many" not in backend.computed


async def test_a_call_larger_than_the_queue_waits_for_room() -> None:
    """More texts than the queue holds go through it piece by piece."""
    backend = FakeBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_queue=3, max_batch_size=2) as provider:
        texts = [f"t{i}" for i in range(50)]
        first, second = await asyncio.gather(
            provider.encode_documents_async(texts),
            provider.encode_documents_async([f"u{i}" for i in range(50)]),
        )
        np.testing.assert_array_equal(first, np.stack([vector_of(t) for t in texts]))
        assert second.shape == (50, 4)


async def test_cancelling_one_waiter_does_not_cancel_others() -> None:
    """The batch continues, and another call for the same text is answered."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        one = asyncio.create_task(provider.encode_query_async("shared"))
        await entered(backend)
        two = asyncio.create_task(provider.encode_query_async("shared"))
        await until(lambda: provider.stats().joined > 0)
        one.cancel()
        backend.go()
        np.testing.assert_array_equal(await two, vector_of("shared"))
        with pytest.raises(asyncio.CancelledError):
            await one
        assert backend.computed == ["shared"]


async def test_texts_of_a_cancelled_call_are_not_computed() -> None:
    """Texts leave the queue with the last call that waits for them."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        running = asyncio.create_task(provider.encode_query_async("running"))
        await entered(backend)
        waiting = asyncio.create_task(provider.encode_query_async("given up"))
        await until_queued(provider, 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert provider.stats().queue_depth == 0
        backend.free.set()
        await running
        assert backend.computed == ["running"]


async def test_prompts_depend_on_the_kind_of_text() -> None:
    """The same text as query and as document is two computations where the prompts differ."""
    backend = FakeBackend(prompts=Prompts("query: ", "passage: "))
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        query = await provider.encode_query_async("x")
        [document] = await provider.encode_documents_async(["x"])
        np.testing.assert_array_equal(query, vector_of("query: x"))
        np.testing.assert_array_equal(document, vector_of("passage: x"))
        assert await provider.encode_async("x", kind="query") == query.tolist()


async def test_encode_async_returns_lists_and_the_other_methods_arrays() -> None:
    """encode_async gives lists; the others give read-only float32 arrays."""
    async with AsyncEmbeddingProvider(backend=FakeBackend()) as provider:
        one, many = await provider.encode_async("a"), await provider.encode_async(["a", "b"])
        assert isinstance(one, list)
        assert isinstance(one[0], float)
        assert many[0] == one
        vector = await provider.encode_query_async("a")
        assert vector.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            vector[0] = 0
        empty = await provider.encode_documents_async([])
        assert empty.shape == (0, 4)


@pytest.mark.parametrize("bad", ["", "  \n", None, 3, b"bytes"])
async def test_an_empty_or_non_string_text_is_an_error(bad: object) -> None:
    """Nothing is sent, and in a list the position is named."""
    backend = FakeBackend()
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        with pytest.raises(InvalidQueryError):
            await provider.encode_query_async(bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidQueryError, match="position 1 of 2"):
            await provider.encode_documents_async(["fine", bad])  # type: ignore[list-item]
        assert backend.batches == []


async def test_dimensions_are_known_after_the_first_use() -> None:
    """Before it the error names load_async, which is enough."""
    provider = AsyncEmbeddingProvider(backend=FakeBackend(dimensions=None))
    with pytest.raises(LifecycleError, match="load_async"):
        provider.get_dimensions()
    await provider.load_async()
    assert provider.get_dimensions() == 4
    assert provider.get_device() == "fake-device"
    assert provider.get_model_name() == "fake-model"
    await provider.close_async()


async def test_matryoshka_dimensions_keep_unit_length() -> None:
    """Cut vectors of a model that normalises are at length 1 again."""

    def unit(batch: object) -> np.ndarray:
        matrix = np.stack([vector_of(t, 8) for t in batch.texts])  # type: ignore[attr-defined]
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    backend = FakeBackend(unit, dimensions=8)
    async with AsyncEmbeddingProvider(backend=backend, dimensions=3) as provider:
        vector = await provider.encode_query_async("x")
        assert vector.shape == (3,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert provider.get_dimensions() == 3


async def test_stats_are_numbers() -> None:
    """Queue, batches, waits, hit rate and device in one value that JSON takes."""
    async with AsyncEmbeddingProvider(backend=FakeBackend()) as provider:
        await provider.encode_documents_async(["a", "b", "c"])
        await provider.encode_query_async("a")
        stats = provider.stats()
        assert (stats.texts, stats.computed, stats.cache_hits, stats.queue_depth) == (4, 3, 1, 0)
        assert stats.cache_hit_rate == pytest.approx(0.25)
        assert stats.running == 0
        assert stats.as_dict()["device"] == "fake-device"


async def test_several_workers_run_batches_at_the_same_time() -> None:
    """A backend that allows it gets the next batch while the first one runs."""
    backend = GatedBackend(workers=3)
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=1) as provider:
        task = asyncio.create_task(provider.encode_documents_async(["a", "b", "c", "d"]))
        running = [await entered(backend) for _ in range(3)]
        assert provider.stats().workers == 3
        assert sorted(running) == [["a"], ["b"], ["c"]]
        backend.free.set()
        await task
