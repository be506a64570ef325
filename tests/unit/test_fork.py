"""A forked child has fresh locks, queues and threads, or an error that says what to do."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from memorizz_async import (
    AsyncMongoDBProvider,
    ContextWindowManager,
    LifecycleError,
    MemorizzAsyncError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async import fork as forking
from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.embeddings import default as shared
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.embeddings.backends.openai import OpenAIBackend
from memorizz_async.fork import ForkSafeLock
from memorizz_async.integrations.memorizz import MemorizzProvider
from memorizz_async.retrieval.reranking import CrossEncoderReranker

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")


def in_child(work: Callable[[], str]) -> str:
    """What a forked child says; fails where it has not answered within 20 s."""
    mine, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            theirs.send(work())
        except BaseException as error:  # noqa: BLE001 - the parent shows it
            theirs.send(f"{type(error).__name__}: {error}")
        os._exit(0)
    try:
        if not mine.poll(20):
            os.kill(child, 9)
            pytest.fail("the child hangs")
        return str(mine.recv())
    finally:
        os.waitpid(child, 0)


def embed(texts: list[str]) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]


def test_a_lock_that_another_thread_holds_is_free_in_the_child() -> None:
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    def take() -> str:
        with lock:
            return "taken"

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_child(take) == "taken"
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("is_async", [False, True])
def test_an_embedder_works_in_a_child_that_was_forked_while_it_computed(is_async: bool) -> None:
    """Its threads, and what was under way, are the parent's."""
    busy, done = threading.Event(), threading.Event()

    def slow(texts: list[str]) -> list[list[float]]:
        if "slow" in texts:
            busy.set()
            done.wait(20)
        return embed(texts)

    async def slow_async(texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(slow, texts)

    backend = FunctionBackend(slow_async if is_async else slow, model_name="stub/1")
    embedder = AsyncEmbeddingProvider(backend=backend)

    def child() -> str:
        done.set()
        vector = asyncio.run(embedder.encode_async("abc"))
        embedder.shutdown()
        return str(vector)

    calling = threading.Thread(target=lambda: asyncio.run(embedder.encode_async("slow")))
    calling.start()
    busy.wait()
    try:
        assert in_child(child) == "[1.0, 3.0]"
        assert in_child(lambda: in_child(child)) == "[1.0, 3.0]"
    finally:
        done.set()
        calling.join()
    assert asyncio.run(embedder.encode_async("ab")) == [1.0, 2.0]
    embedder.shutdown()


def test_the_shared_embedder_can_be_made_in_a_child_forked_while_another_thread_makes_it() -> None:
    with shared._lock:
        made = in_child(lambda: repr(shared.get_async_embedding_provider()))
    assert made.startswith("AsyncEmbeddingProvider")


def test_data_in_memory_is_there_in_the_child() -> None:
    """A copy of its own: what the child writes is not seen by the parent."""
    config = MongoDBConfig("memory://")
    provider = AsyncMongoDBProvider(
        config, embedding_provider=AsyncEmbeddingProvider(backend=FunctionBackend(embed))
    )

    async def store(text: str) -> int:
        await provider.store_async(text, MemoryType.LONG_TERM_MEMORY, memory_id="m")
        hits = await provider.retrieve_memory_units_by_query_async(text, memory_id="m")
        return len(hits)

    assert asyncio.run(store("parent")) == 1
    assert in_child(lambda: str(asyncio.run(store("child")))) == "2"
    assert asyncio.run(store("parent again")) == 2
    asyncio.run(provider.close_async())


def test_a_local_model_that_was_used_before_the_fork_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its native threads are not in the child: computing could wait for them for ever."""
    monkeypatch.setattr(forking, "_model_processes", [])
    assert in_child(lambda: str(forking.use_models_here())) == "None"
    forking.use_models_here()
    forking.use_models_here()

    def encode() -> str:
        embedder = AsyncEmbeddingProvider("a/model")
        return str(asyncio.run(embedder.encode_async("text")))

    def rerank() -> str:
        return str(asyncio.run(CrossEncoderReranker("a/model").rerank("query", ["text"])))

    for work in (encode, rerank):
        said = in_child(work)
        assert said.startswith("LifecycleError")
        assert "spawn" in said


def process_bound() -> list[Any]:
    config = MongoDBConfig("memory://")
    provider = AsyncMongoDBProvider(config)
    adapter = MemorizzProvider(config)
    return [
        provider,
        MemoryUnit(memory_provider=provider),
        ContextWindowManager(provider),
        AsyncEmbeddingProvider(backend=FunctionBackend(embed)),
        FunctionBackend(embed),
        OpenAIBackend("m", base_url="http://localhost/v1", api_key="k"),
        CrossEncoderReranker("a/model"),
        adapter,
        adapter.aio,
    ]


@pytest.mark.parametrize("bound", process_bound(), ids=lambda bound: type(bound).__name__)
@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps], ids=["deepcopy", "pickle"])
def test_what_belongs_to_a_process_says_that_it_cannot_be_copied(
    bound: Any, make: Callable[[Any], Any]
) -> None:
    """Also from inside a container; a shallow copy shares everything."""
    for value in (bound, {"held": [bound]}):
        with pytest.raises(LifecycleError, match="MongoDBConfig"):
            make(value)
    assert copy.copy(bound).__dict__ == bound.__dict__


def test_settings_and_errors_can_be_copied() -> None:
    """They are what is passed to another process, and what comes back."""
    config = MongoDBConfig("mongodb://host/", "name")
    assert copy.deepcopy(config) == config
    assert pickle.loads(pickle.dumps(config)) == config
    error = pickle.loads(pickle.dumps(LifecycleError("what", seen="seen", fix="fix")))
    assert isinstance(error, MemorizzAsyncError)
    assert error.fix == "fix"


def test_a_child_that_goes_on_in_its_parents_coroutine_is_told_what_to_do() -> None:
    """The parent's loop does not run there: nothing could ever answer."""
    config = MongoDBConfig("memory://")
    embedder = AsyncEmbeddingProvider(backend=FunctionBackend(embed))
    provider = AsyncMongoDBProvider(config, embedding_provider=embedder)

    def goes_on(coroutine: Coroutine[Any, Any, object]) -> str:
        try:
            coroutine.send(None)
        except LifecycleError as error:
            return str(error)
        return "waits"

    async def parent() -> list[str]:
        await provider.store_async("x", MemoryType.LONG_TERM_MEMORY, memory_id="m")
        return [
            in_child(
                lambda: goes_on(provider.retrieve_memory_units_by_query_async("x", memory_id="m"))
            ),
            in_child(lambda: goes_on(provider.get_async("x", "LONG_TERM_MEMORY", memory_id="m"))),
            in_child(lambda: goes_on(embedder.encode_async("y"))),
            in_child(lambda: goes_on(provider.close_async())),
        ]

    for said in asyncio.run(parent()):
        assert said.startswith("No asyncio event loop runs here.")
        assert "asyncio.run(" in said
