"""A backend that fails, returns invalid vectors, runs out of memory or hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from unit.embeddings.embedding_fakes import FakeBackend, GatedBackend, vector_of, vectors_of

from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.embeddings.backends.sentence_transformer import SentenceTransformerBackend
from memorizz_async.embeddings.protocol import (
    Batch,
    BatchTooLargeError,
    ModelInfo,
    WholeBatchError,
)
from memorizz_async.errors import (
    EmbeddingError,
    InvalidQueryError,
    MissingDependencyError,
    ModelLoadError,
)


def failing_on(bad: str, how: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """Healthy, but for batches with the text `bad` in them."""
    return lambda batch: how(batch) if bad in batch.texts else vectors_of(batch)


def boom(_: Batch) -> Any:
    raise ZeroDivisionError("secret-key in the words of a foreign error")


def exit_(_: Batch) -> Any:
    raise SystemExit(3)


def too_few(batch: Batch) -> Any:
    return vectors_of(batch)[1:]


def other_dimension(batch: Batch) -> Any:
    return np.ones((len(batch.texts), 7))


def with_nan(batch: Batch) -> Any:
    matrix = vectors_of(batch)
    matrix[list(batch.texts).index("bad")] = np.nan
    return matrix


def with_zeros(batch: Batch) -> Any:
    return with_nan(batch) * 0 if len(batch.texts) == 1 else np.nan_to_num(with_nan(batch), nan=0)


def no_numbers(batch: Batch) -> Any:
    return [["a"] * 4 for _ in batch.texts]


def ragged(batch: Batch) -> Any:
    return [[1.0] * (i + 1) for i, _ in enumerate(batch.texts)] if len(batch.texts) > 1 else None


@pytest.mark.parametrize(
    "how", [boom, exit_, too_few, other_dimension, with_nan, no_numbers, ragged]
)
async def test_one_invalid_text_fails_alone(how: Callable[[Batch], Any]) -> None:
    """Its batch is tried again text by text; the others get their vectors, later calls too."""
    backend = FakeBackend(failing_on("bad", how))
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        texts = ["a", "bad", "b", "c"]
        results = await asyncio.gather(
            provider.encode_documents_async(["warm up"]),
            *(provider.encode_documents_async([text]) for text in texts),
            return_exceptions=True,
        )
        for text, result in zip(texts, results[1:], strict=True):
            if text == "bad":
                assert isinstance(result, EmbeddingError)
            else:
                np.testing.assert_array_equal(result, [vector_of(text)])
        stats = provider.stats()
        assert (stats.failed, stats.queue_depth, stats.running) == (1, 0, 0)
        np.testing.assert_array_equal(
            await provider.encode_query_async("later"), vector_of("later")
        )


async def test_a_vector_of_zeros_is_an_error() -> None:
    """It would be as near to everything as to nothing."""
    backend = FakeBackend(lambda batch: np.zeros((len(batch.texts), 4)))
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        with pytest.raises(EmbeddingError, match="zeros only"):
            await provider.encode_query_async("x")


async def test_a_foreign_error_is_the_cause_and_its_message_is_not_repeated() -> None:
    """They may hold a text or a key."""
    async with AsyncEmbeddingProvider(backend=FakeBackend(boom)) as provider:
        with pytest.raises(EmbeddingError, match="ZeroDivisionError") as caught:
            await provider.encode_query_async("x")
        assert "secret" not in str(caught.value)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_each_waiter_gets_its_own_copy_of_an_error() -> None:
    """One object raised in many tasks would mix up their tracebacks."""
    async with AsyncEmbeddingProvider(backend=FakeBackend(boom)) as provider:
        errors = await asyncio.gather(
            *(provider.encode_query_async("x") for _ in range(3)), return_exceptions=True
        )
        assert len({id(error) for error in errors}) == 3
        assert all(isinstance(error, EmbeddingError) for error in errors)


async def test_a_failed_text_fails_its_call_and_the_rest_of_that_call_is_dropped() -> None:
    """The error comes at once; what only that call wanted leaves the queue."""
    backend = GatedBackend()
    async with AsyncEmbeddingProvider(backend=backend, max_batch_size=1) as provider:
        call = asyncio.create_task(provider.encode_documents_async(["a", "b", "c"]))
        await asyncio.to_thread(backend.wait_entered)
        backend.go(boom)
        with pytest.raises(EmbeddingError):
            await call
        backend.free.set()
        assert provider.stats().queue_depth == 0
        assert len(backend.batches) <= 2


async def test_a_failed_text_is_retried_by_the_next_call() -> None:
    """The failure is not cached."""
    answers = [boom, vectors_of]
    backend = FakeBackend(lambda batch: answers.pop(0)(batch))  # noqa: PLW0108 - one each time
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        with pytest.raises(EmbeddingError):
            await provider.encode_query_async("x")
        np.testing.assert_array_equal(await provider.encode_query_async("x"), vector_of("x"))


async def test_out_of_memory_halves_the_batch_and_later_ones() -> None:
    """Every text gets its vector, and the limit stays lower."""

    def three_at_most(batch: Batch) -> Any:
        if len(batch.texts) > 3:
            raise BatchTooLargeError("no room")
        return vectors_of(batch)

    backend = FakeBackend(three_at_most)
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        before = provider.stats().max_batch_tokens
        texts = [f"t{i:02}" for i in range(16)]
        matrix = await provider.encode_documents_async(texts)
        np.testing.assert_array_equal(matrix, np.stack([vector_of(t) for t in texts]))
        assert provider.stats().halved
        assert provider.stats().max_batch_tokens < before
        tried = len(backend.batches)
        await provider.encode_documents_async([f"u{i:02}" for i in range(16)])
        assert all(len(batch) <= 8 for batch in backend.batches[tried:])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_out_of_memory_errors_of_torch_are_recognized(error: Exception) -> None:
    """The batch is halved for it; any other RuntimeError goes through as it is."""

    def encode(*_: object, **__: object) -> Any:
        raise error

    freed = []
    backend = SentenceTransformerBackend("m")
    backend._model = SimpleNamespace(encode=encode)
    backend._torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: True, empty_cache=lambda: freed.append(1))
    )
    batch = Batch(["a", "b"], "", "query", list)
    with pytest.raises(BatchTooLargeError):
        backend.embed(batch)
    assert freed
    error = RuntimeError("shape mismatch")
    with pytest.raises(RuntimeError, match="shape mismatch"):
        backend.embed(batch)


async def test_one_text_that_does_not_fit_is_an_error() -> None:
    """There is nothing left to halve."""

    def never(_: Batch) -> Any:
        raise BatchTooLargeError("no room")

    async with AsyncEmbeddingProvider(backend=FakeBackend(never)) as provider:
        with pytest.raises(EmbeddingError, match="too large"):
            await provider.encode_documents_async(["a", "b"])


async def test_a_failure_of_the_whole_service_is_not_retried_text_by_text() -> None:
    """Sixty-four tries would not help, and cost a minute."""

    def down(_: Batch) -> Any:
        raise WholeBatchError from EmbeddingError("The service is down")

    backend = FakeBackend(down)
    async with AsyncEmbeddingProvider(backend=backend) as provider:
        with pytest.raises(EmbeddingError, match="The service is down"):
            await provider.encode_documents_async(["a", "b", "c"])
        assert len(backend.batches) == 1


class FailsToOpen(FakeBackend):
    """The first time, once it may."""

    go = threading.Event()

    def open(self) -> ModelInfo:
        assert self.go.wait(10)
        self.opened += 1
        if self.opened == 1:
            raise ModelLoadError("The weights are broken")
        return self.info


async def test_a_failed_load_reaches_all_waiters_and_is_retried() -> None:
    """Nothing is stuck after it."""
    backend = FailsToOpen()
    provider = AsyncEmbeddingProvider(backend=backend)
    tasks = [asyncio.create_task(provider.encode_query_async(f"q{i}")) for i in range(5)]
    await asyncio.sleep(0)  # all of them wait for the model by then
    backend.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, ModelLoadError) for result in results)
    np.testing.assert_array_equal(await provider.encode_query_async("x"), vector_of("x"))
    await provider.close_async()
    assert backend.closed == 1


async def test_more_dimensions_than_the_model_has_is_an_error_at_load() -> None:
    """And what was opened is closed again."""
    backend = FakeBackend()
    provider = AsyncEmbeddingProvider(backend=backend, dimensions=9)
    with pytest.raises(EmbeddingError, match="4 instead of 9"):
        await provider.load_async()
    assert backend.closed == 1
    await provider.close_async()


async def test_a_hanging_backend_does_not_block_timeouts_or_the_close() -> None:
    """A thread cannot be interrupted; the log reports it, and it ends by itself."""
    hang = threading.Event()

    def hanging(batch: Batch) -> Any:
        assert hang.wait(20)
        return vectors_of(batch)

    provider = AsyncEmbeddingProvider(backend=FakeBackend(hanging))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await provider.encode_query_async("x")
    await provider.close_async(timeout=0.05)
    assert provider.stats().workers == 1
    hang.set()


async def test_without_torch_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an ImportError, raised at the first use and not before."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    provider = AsyncEmbeddingProvider()
    with pytest.raises(MissingDependencyError, match=r'pip install .* "\.\[gpu\]"') as e:
        await provider.encode_async("x")
    assert isinstance(e.value, ImportError)
    await provider.close_async()


async def test_a_text_that_is_not_unicode_fails_alone_before_batching() -> None:
    """The texts of other callers are embedded, and the position of the wrong one is named."""
    seen: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        seen.extend(texts)
        return [[1.0, 2.0] for _ in texts]

    async with AsyncEmbeddingProvider(backend=FunctionBackend(embed)) as provider:
        outcomes = await asyncio.gather(
            provider.encode_async(["a", "b"]),
            provider.encode_async(["c", "\ud800"]),
            provider.encode_query_async("\udfff"),
            provider.encode_async("d"),
            return_exceptions=True,
        )
    wrong = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [type(error) for error in wrong] == [InvalidQueryError, InvalidQueryError]
    assert "position 1 of 2" in str(wrong[0])
    assert {"a", "b", "d"} <= set(seen) <= {"a", "b", "d", "dimensions"}
