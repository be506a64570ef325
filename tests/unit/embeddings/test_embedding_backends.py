"""Functions, managers, objects: whatever makes vectors is an embedder."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.ids import stable_repr
from unit.embeddings.embedding_fakes import PATIENCE, FakeBackend, until, vector_of

from memorizz_async.embeddings import AsyncEmbeddingProvider, Embedder, as_embedder
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.errors import (
    ClosedError,
    ConfigurationError,
    EmbeddingError,
    InvalidQueryError,
    LifecycleError,
)


def plain(texts: list[str]) -> list[list[float]]:
    return [vector_of(text).tolist() for text in texts]


async def a_coroutine(texts: list[str]) -> np.ndarray:
    await asyncio.sleep(0)
    return np.stack([vector_of(text) for text in texts])


def gives_a_coroutine(texts: list[str]) -> Any:
    return a_coroutine(texts)


class AsyncCallable:
    async def __call__(self, texts: list[str]) -> Any:
        return plain(texts)


class Encodes:
    def encode(self, texts: list[str]) -> Any:
        return plain(texts)


class Manager:
    """The shape of memorizz's embedding manager."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_embedding(self, text: str) -> list[float]:
        self.asked.append(text)
        return vector_of(text).tolist()

    def get_dimensions(self) -> int:
        return 4

    def get_default_model(self) -> str:
        return "managed-model"


class Users:
    """An embedder of a user's own, with plain lists."""

    def __init__(self) -> None:
        self.closed = False
        self.dimensions: int | None = None

    async def encode_query_async(self, text: str) -> Any:
        return vector_of(text).tolist()

    async def encode_documents_async(self, texts: Sequence[str]) -> Any:
        return plain(list(texts))

    def get_model_name(self) -> str:
        return "users-model"

    def get_dimensions(self) -> int:
        if self.dimensions is None:
            raise LifecycleError("Not known yet")
        return self.dimensions

    async def close_async(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    "value",
    [
        plain, a_coroutine, functools.partial(a_coroutine), gives_a_coroutine,
        AsyncCallable(), Manager(), Users(), FakeBackend(),
        FunctionBackend(plain, model_name="named"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
async def test_whatever_makes_vectors_is_an_embedder(value: object) -> None:
    """float32 arrays, dimensions after the load, a model name: the same from each."""
    embedder = as_embedder(value)
    assert isinstance(embedder, Embedder)
    await embedder.load_async()
    assert embedder.get_dimensions() == 4
    assert embedder.get_model_name()
    query = await embedder.encode_query_async("a")
    assert (query.dtype, query.shape) == (np.float32, (4,))
    np.testing.assert_array_equal(query, vector_of("a"))
    matrix = await embedder.encode_documents_async(["b", "a"])
    np.testing.assert_array_equal(matrix, [vector_of("b"), vector_of("a")])
    await embedder.close_async()


@pytest.mark.parametrize("value", [None, 3, Users, object(), ["a"]], ids=stable_repr)
def test_what_makes_no_vectors_is_refused(value: object) -> None:
    """The error says what would do."""
    with pytest.raises(ConfigurationError, match="pass an AsyncEmbeddingProvider"):
        as_embedder(value)


async def test_a_provider_stays_itself_and_a_name_becomes_a_provider() -> None:
    """Whoever lent a provider closes it; a name loads nothing before its use."""
    provider = AsyncEmbeddingProvider()
    assert as_embedder(provider) is provider
    named = as_embedder("intfloat/e5-small-v2")
    assert named.get_model_name() == "intfloat/e5-small-v2"
    with pytest.raises(LifecycleError):
        named.get_dimensions()


async def test_an_object_with_encode_must_say_which_model_it_is() -> None:
    """Its vectors must not be taken for those of another model."""
    with pytest.raises(ConfigurationError, match="model_name="):
        as_embedder(Encodes())
    embedder = as_embedder(Encodes(), model_name="mine")
    np.testing.assert_array_equal(await embedder.encode_query_async("a"), vector_of("a"))
    assert embedder.get_model_name() == "mine"
    await embedder.close_async()


async def test_a_users_embedder_is_checked_and_never_closed() -> None:
    """A vector of another length than before, or with NaN, is an error; close is not ours."""
    users = Users()
    embedder = as_embedder(users)
    await embedder.encode_query_async("a")
    users.encode_query_async = lambda text: a_coroutine([text, text])  # type: ignore[method-assign,assignment]
    with pytest.raises(EmbeddingError):
        await embedder.encode_query_async("a")

    async def nan(_: str) -> Any:
        return [float("nan")] * 4

    users.encode_query_async = nan  # type: ignore[method-assign]
    with pytest.raises(EmbeddingError, match="NaN"):
        await embedder.encode_query_async("a")
    with pytest.raises(InvalidQueryError):
        await embedder.encode_query_async("")
    await embedder.close_async()
    assert not users.closed


async def test_a_manager_is_asked_once_for_each_text() -> None:
    """Single flight and cache stand before it; its model's name and dimensions are taken over."""
    manager = Manager()
    async with AsyncEmbeddingProvider(backend=as_backend(manager)) as provider:
        await asyncio.gather(*(provider.encode_async(["a", "b"]) for _ in range(5)))
        assert sorted(manager.asked) == ["a", "b"]
        assert (provider.get_model_name(), provider.get_dimensions()) == ("managed-model", 4)


def as_backend(manager: Manager) -> Any:
    from memorizz_async.embeddings.backends.manager import ManagerBackend

    return ManagerBackend(manager)


async def test_a_coroutine_function_runs_on_the_callers_loop() -> None:
    """What it uses (a client, a pool) is bound to that loop."""
    seen: list[object] = []

    async def function(texts: list[str]) -> Any:
        seen.append(asyncio.get_running_loop())
        return plain(texts)

    embedder = as_embedder(function)
    await embedder.encode_query_async("a")
    assert seen == [asyncio.get_running_loop()]
    await embedder.close_async()


async def test_a_sync_function_is_never_called_twice_at_the_same_time() -> None:
    """Nobody promised that it may be; and never on the event loop."""
    inside, most, threads = 0, 0, set()

    def function(texts: list[str]) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threads.add(threading.current_thread())
        result = plain(texts)
        inside -= 1
        return result

    async with AsyncEmbeddingProvider(
        backend=FunctionBackend(function), max_workers=8, max_batch_size=2
    ) as provider:
        await asyncio.gather(*(provider.encode_async([f"{i}", f"{i}'"]) for i in range(50)))
    assert most == 1
    assert threading.main_thread() not in threads


async def test_closing_cancels_a_coroutine_that_runs() -> None:
    """It is not left behind on the user's loop."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hangs(_: list[str]) -> Any:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    embedder = as_embedder(hangs)
    task = asyncio.create_task(embedder.encode_query_async("a"))
    async with asyncio.timeout(PATIENCE):
        await entered.wait()
        await embedder.close_async()
        await cancelled.wait()
    with pytest.raises(ClosedError):
        await task


def test_when_the_loop_of_a_coroutine_ends_another_waiters_loop_takes_over() -> None:
    """A second loop that waits for the same text gets its vector all the same."""
    entered = threading.Event()
    hang = [True]

    async def function(texts: list[str]) -> Any:
        entered.set()
        if hang[0]:
            await asyncio.Event().wait()
        return plain(texts)

    provider = AsyncEmbeddingProvider(backend=FunctionBackend(function))
    result: list[np.ndarray] = []

    async def first() -> None:
        task = asyncio.create_task(provider.encode_query_async("a"))
        await asyncio.to_thread(entered.wait, PATIENCE)
        second = threading.Thread(target=lambda: result.append(asyncio.run(also())))
        second.start()
        await until(lambda: provider.stats().joined > 0)
        hang[0] = False
        del task  # asyncio.run cancels it and the coroutine with it
        threads.append(second)

    async def also() -> np.ndarray:
        return await provider.encode_query_async("a")

    threads: list[threading.Thread] = []
    asyncio.run(first())
    threads[0].join(PATIENCE)
    np.testing.assert_array_equal(result[0], vector_of("a"))
    provider.shutdown()
