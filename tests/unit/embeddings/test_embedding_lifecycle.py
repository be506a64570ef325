"""Closing, several loops, threads: the engine is bound to no loop."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest
from unit.embeddings.embedding_fakes import FakeBackend, GatedBackend, until, vector_of

from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.errors import ClosedError, ConfigurationError


async def test_closing_fails_waiters_at_once() -> None:
    """Those in a batch and those in the queue get ClosedError while the batch still runs."""
    backend = GatedBackend()
    provider = AsyncEmbeddingProvider(backend=backend)
    running = asyncio.create_task(provider.encode_query_async("running"))
    await asyncio.to_thread(backend.wait_entered)
    waiting = asyncio.create_task(provider.encode_documents_async(["a", "b"]))
    await asyncio.sleep(0)
    provider.shutdown()
    for task in (running, waiting):
        with pytest.raises(ClosedError, match="make a new one"):
            await task
    assert backend.cancelled.is_set()
    backend.free.set()
    await provider.close_async()
    assert backend.closed == 1
    assert provider.stats().workers == 0


async def test_closing_fails_a_call_that_waits_for_room() -> None:
    """Wherever a call is, it is answered."""
    backend = GatedBackend()
    provider = AsyncEmbeddingProvider(backend=backend, max_queue=1)
    tasks = [asyncio.create_task(provider.encode_documents_async(list("abcdef")))]
    await asyncio.to_thread(backend.wait_entered)
    await asyncio.sleep(0)
    provider.shutdown()
    with pytest.raises(ClosedError):
        await tasks[0]
    backend.free.set()
    await provider.close_async()


async def test_a_closed_provider_raises_closed_error() -> None:
    """And closing again is fine, in any way and from any thread."""
    provider = AsyncEmbeddingProvider(backend=FakeBackend())
    await provider.encode_async("x")
    await provider.close_async()
    await provider.close_async()
    provider.shutdown()
    await asyncio.to_thread(provider.shutdown)
    assert provider.closed
    for call in (provider.encode_async("x"), provider.load_async()):
        with pytest.raises(ClosedError):
            await call


async def test_an_unused_provider_opens_and_closes_nothing() -> None:
    """No thread, no model."""
    backend = FakeBackend()
    before = threading.active_count()
    provider = AsyncEmbeddingProvider(backend=backend)
    assert threading.active_count() == before
    provider.shutdown()
    assert (backend.opened, backend.closed) == (0, 0)


def test_shutdown_outside_a_loop_waits_for_the_thread() -> None:
    """After it no thread of the engine is left."""
    backend = FakeBackend()
    provider = AsyncEmbeddingProvider(backend=backend)
    asyncio.run(provider.load_async())
    provider.shutdown()
    assert not [t for t in threading.enumerate() if t.name == "memorizz-embedding"]
    assert backend.closed == 1


def test_one_provider_serves_a_second_loop() -> None:
    """asyncio.run twice, as in scripts and in a test for each loop."""
    backend = FakeBackend()
    provider = AsyncEmbeddingProvider(backend=backend)
    one = asyncio.run(provider.encode_async("x"))
    two = asyncio.run(provider.encode_async("x"))
    assert one == two
    assert (backend.opened, backend.computed) == (1, ["x"])
    provider.shutdown()


def test_many_loops_in_many_threads_share_one_model() -> None:
    """Each caller gets its own texts' vectors, and a text is still computed once."""
    backend = FakeBackend()
    provider = AsyncEmbeddingProvider(backend=backend)
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    async def work(number: int) -> None:
        for round_ in range(20):
            own, shared = f"{number}-{round_}", f"shared-{round_}"
            matrix = await provider.encode_documents_async([own, shared])
            np.testing.assert_array_equal(matrix, [vector_of(own), vector_of(shared)])

    def main(number: int) -> None:
        start.wait()
        try:
            asyncio.run(work(number))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=main, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    provider.shutdown()
    assert not failures
    assert len(backend.computed) == len(set(backend.computed)) == 6 * 20 + 20


def test_the_end_of_a_loop_does_not_affect_waiters_on_others() -> None:
    """Its waiter is dropped; a waiter for the same text on another loop is answered."""
    backend = GatedBackend()
    provider = AsyncEmbeddingProvider(backend=backend)

    async def give_up() -> None:
        task = asyncio.create_task(provider.encode_query_async("x"))
        await asyncio.to_thread(backend.wait_entered)
        del task  # asyncio.run cancels it

    asyncio.run(give_up())
    backend.free.set()
    np.testing.assert_array_equal(asyncio.run(provider.encode_query_async("x")), vector_of("x"))
    provider.shutdown()


def test_a_loop_closed_under_a_waiter_does_no_harm() -> None:
    """Its waiter gets no answer, and the engine continues."""
    backend = GatedBackend()
    provider = AsyncEmbeddingProvider(backend=backend)
    loop = asyncio.new_event_loop()
    task = loop.create_task(provider.encode_query_async("x"))

    async def until_entered() -> None:
        await asyncio.to_thread(backend.wait_entered)

    loop.run_until_complete(until_entered())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    backend.go()
    backend.free.set()
    np.testing.assert_array_equal(asyncio.run(provider.encode_query_async("y")), vector_of("y"))
    provider.shutdown()
    task._log_destroy_pending = False  # type: ignore[attr-defined] # it is meant to be pending
    task.get_coro().close()


async def test_an_idle_thread_ends_and_is_restarted() -> None:
    """An unused provider keeps no thread; the next call starts one."""
    backend = FakeBackend()
    provider = AsyncEmbeddingProvider(backend=backend, idle_seconds=0.01)
    await provider.encode_async("a")
    await until(lambda: provider.stats().workers == 0)
    await provider.encode_async("b")
    assert backend.opened == 1
    await provider.close_async()
    assert backend.closed == 1


async def test_a_forgotten_provider_keeps_no_thread() -> None:
    """A task queue that makes a provider for each task leaves none behind."""
    backend = FakeBackend()
    provider = AsyncEmbeddingProvider(backend=backend)
    await provider.encode_async("a")
    engine = provider._engine
    del provider
    gc.collect()
    await until(lambda: engine.stats().workers == 0)


async def test_closing_during_the_load_closes_the_backend() -> None:
    """Waiters for the model get ClosedError."""
    entered, go = threading.Event(), threading.Event()

    class Slow(FakeBackend):
        def open(self) -> Any:
            entered.set()
            assert go.wait(10)
            return super().open()

    backend = Slow()
    provider = AsyncEmbeddingProvider(backend=backend)
    task = asyncio.create_task(provider.load_async())
    await asyncio.to_thread(entered.wait, 10)
    provider.shutdown()
    with pytest.raises(ClosedError):
        await task
    go.set()
    await provider.close_async()
    assert (backend.opened, backend.closed) == (1, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 0},
        {"max_queue": -1},
        {"cache_entries": True},
        {"cache_ttl": 0},
        {"dimensions": 1.5},
        {"dtype": "int8"},
        {"runtime": "tensorflow"},
        {"runtime": "onnx", "dtype": "float16"},
        {"backend": FakeBackend(), "model_name": "m"},
        {"backend": FakeBackend(), "dtype": "float16"},
    ],
)
def test_an_invalid_setting_is_an_error_in_the_constructor(
    settings: dict[str, Any],
) -> None:
    """Not at the first use, an hour later."""
    with pytest.raises(ConfigurationError):
        AsyncEmbeddingProvider(**settings)


def test_constructing_imports_no_torch_and_ends_quietly() -> None:
    """Also a process that never closes its provider ends at once and without a word."""
    code = textwrap.dedent("""
        import asyncio, sys
        from memorizz_async.embeddings import AsyncEmbeddingProvider, as_embedder
        AsyncEmbeddingProvider()
        assert not {"torch", "sentence_transformers", "openai", "httpx2"} & set(sys.modules)
        provider = as_embedder(lambda texts: [[1.0, 2.0] for _ in texts])
        assert asyncio.run(provider.encode_query_async("x")).tolist() == [1.0, 2.0]
    """)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 30
