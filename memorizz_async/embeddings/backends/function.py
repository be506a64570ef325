"""Backends for what the user already has: a function of texts, or an embedding manager of memorizz.

A sync function runs in the worker thread. An async one runs on the event loop of one of the waiting
calls, because what it uses (an HTTP client, a pool) is most likely bound to that loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeGuard

from memorizz_async.embeddings.backends.prompts import check_prompts
from memorizz_async.embeddings.protocol import Batch, ModelInfo, Prompts, WholeBatchError
from memorizz_async.errors import ConfigurationError, EmbeddingError
from memorizz_async.fork import ProcessBound, reset_in_child
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_count, checked_text

_LOOP_CHECK_SECONDS = 0.2
"""How often a thread that waits for a coroutine checks that its event loop still runs."""
_ASYNC_WORKERS = 4


class FunctionBackend(ProcessBound):
    """Embeds texts with a function.

    Args:
        function: Called with a list of texts, plain or async; returns one vector for each, in
            order: an array of shape (texts, dimensions), or a sequence of vectors.
        model_name: Stored with each vector as `embedding_model`; it tells the vectors of two
            models apart. Default: where the function is defined.
        dimensions: Length of the vectors. Default: that of the first vector.
        workers: Calls that may run at the same time. Default: 1 for a plain function, which need
            not be thread-safe, and 4 for an async one.
        query_prompt: Prefix of each query.
        document_prompt: Prefix of each document.

    Raises:
        ConfigurationError: An argument is invalid.

    Example::

        backend = FunctionBackend(client.embed, model_name="acme/embed-2", dimensions=1024)
        provider = AsyncEmbeddingProvider(backend=backend)
    """

    name = "function"

    def __init__(
        self,
        function: Callable[[list[str]], Any],
        *,
        model_name: str | None = None,
        dimensions: int | None = None,
        workers: int | None = None,
        query_prompt: str = "",
        document_prompt: str = "",
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise ConfigurationError(
                "An embedding function must be callable with a list of texts",
                seen=shown(function),
                fix="pass the function, or an instance of the class",
            )
        if model_name is not None:
            checked_text("model_name", model_name, error=ConfigurationError)
        for name, count in {"dimensions": dimensions, "workers": workers}.items():
            if count is not None:
                checked_count(name, count, error=ConfigurationError)
        check_prompts(query_prompt, document_prompt)
        self._function = function
        self._is_async = _is_async(function)
        self.model_name = model_name or _name_of(function)
        self.workers = workers or (_ASYNC_WORKERS if self._is_async else 1)
        self._dimensions = dimensions
        self._prompts = Prompts(query_prompt, document_prompt)
        self._lock = threading.Lock()
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._cancelled = False
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Forget running coroutines: they belong to the parent process."""
        self._lock, self._running = threading.Lock(), set()

    def open(self) -> ModelInfo:
        """Return what is known of the model; there is nothing to load."""
        return ModelInfo(self.model_name, "function", self._dimensions, self._prompts)

    def embed(self, batch: Batch) -> Any:
        """Call the function once.

        Returns:
            What the function returned, awaited.

        Raises:
            WholeBatchError: The event loop of an async function ended, and no other call waits.
        """
        texts = [batch.prompt + text for text in batch.texts]
        if self._is_async:
            return self._on_a_loop(batch, lambda: self._function(texts))
        result = self._function(texts)
        # A plain function may return a coroutine: functools.partial and decorators do.
        return self._on_a_loop(batch, lambda: result) if inspect.isawaitable(result) else result

    def cancel(self) -> None:
        """Cancel running coroutines; a plain function cannot be interrupted."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def close(self) -> None:
        """Do nothing: the function belongs to the user."""

    def counters(self) -> dict[str, int]:
        """Return no counters."""
        return {}

    def _on_a_loop(self, batch: Batch, call: Callable[[], Awaitable[Any]]) -> Any:
        """Run the call on the loop of a waiting call; if that loop ends, on another's."""
        ended: list[asyncio.AbstractEventLoop] = []
        while loops := [loop for loop in batch.loops() if loop not in ended]:
            coroutine = _await(call)
            try:
                future = asyncio.run_coroutine_threadsafe(coroutine, loops[0])
            except RuntimeError:
                coroutine.close()
                ended.append(loops[0])
                continue
            try:
                return self._wait(future, loops[0])
            except concurrent.futures.CancelledError:
                ended.append(loops[0])
                if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                    coroutine.close()
                if self._cancelled:
                    break
        error = EmbeddingError("The event loop that ran the embedding function has ended")
        raise WholeBatchError from error

    def _wait(self, future: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
        with self._lock:
            self._running.add(future)
            cancelled = self._cancelled
        try:
            if cancelled:
                future.cancel()
            while not concurrent.futures.wait([future], _LOOP_CHECK_SECONDS).done:
                if loop.is_closed() or not loop.is_running():
                    future.cancel()
            return future.result()
        finally:
            with self._lock:
                self._running.discard(future)


async def _await(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method, not whether there is one
    )


def _name_of(function: Callable[..., Any]) -> str:
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


class EmbeddingManager(Protocol):
    """An embedding manager, as memorizz has them. memorizz itself is not imported."""

    def get_embedding(self, text: str) -> Any:
        """Return the vector of one text."""
        ...

    def get_dimensions(self) -> int:
        """Return the length of every vector."""
        ...

    def get_default_model(self) -> str:
        """Return the name of the model."""
        ...


def is_manager(value: object) -> TypeGuard[EmbeddingManager]:
    """Return whether an object, not a class, has the methods of an EmbeddingManager."""
    names = ("get_embedding", "get_dimensions", "get_default_model")
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in names
    )


class ManagerBackend:
    """Embeds texts with an EmbeddingManager: one after the other, its only way, in one thread.

    Args:
        manager: The manager, which is never closed.
    """

    name = "memorizz"
    workers = 1

    def __init__(self, manager: EmbeddingManager) -> None:
        self._manager = manager
        self.model_name = str(manager.get_default_model())

    def open(self) -> ModelInfo:
        """Return the model with the manager's dimensions."""
        return ModelInfo(self.model_name, "memorizz", int(self._manager.get_dimensions()))

    def embed(self, batch: Batch) -> list[Any]:
        """Call the manager once for each text; returns one vector for each, in order."""
        return [self._manager.get_embedding(batch.prompt + text) for text in batch.texts]

    def cancel(self) -> None:
        """Do nothing: the manager cannot be interrupted."""

    def close(self) -> None:
        """Do nothing: the manager belongs to the user."""

    def counters(self) -> dict[str, int]:
        """Return no counters."""
        return {}
