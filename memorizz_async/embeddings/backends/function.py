"""Any function `f(list[str]) -> vectors` as a backend, sync or async.

A sync function runs in the worker thread. An async one runs on the event loop of one of those who
wait for its vectors, because what it uses (an HTTP client, a pool) is most likely bound to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from memorizz_async.embeddings.prompts import check_prompts
from memorizz_async.embeddings.protocol import Batch, ModelInfo, Prompts, WholeBatchError
from memorizz_async.errors import ConfigurationError, EmbeddingError
from memorizz_async.fork import ProcessBound, reset_in_child
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_count, checked_text

# How often a thread that waits for a coroutine looks whether the loop is still there.
_LOOK_SECONDS = 0.2
_ASYNC_WORKERS = 4


class FunctionBackend(ProcessBound):
    """Calls `function` with a list of texts; it returns one vector for each, in order.

    model_name: what rows carry as `embedding_model`; left out, where the function is defined. Give
        one: it is how vectors of two models are told apart.
    dimensions: left out, those of the first vector.
    workers: how many calls may run at the same time; left out, 1 for a sync function (which need
        not be safe to call from two threads) and 4 for an async one.
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
                "An embedding function must be something to call with a list of texts",
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
        """The coroutines that run are the parent's."""
        self._lock, self._running = threading.Lock(), set()

    def open(self) -> ModelInfo:
        """Nothing to load."""
        return ModelInfo(self.model_name, "function", self._dimensions, self._prompts)

    def embed(self, batch: Batch) -> Any:
        """One call of the function."""
        texts = [batch.prompt + text for text in batch.texts]
        if self._is_async:
            return self._on_a_loop(batch, lambda: self._function(texts))
        result = self._function(texts)
        # A plain function may return a coroutine: functools.partial and decorators do.
        return self._on_a_loop(batch, lambda: result) if inspect.isawaitable(result) else result

    def cancel(self) -> None:
        """Cancel the coroutines that run; a sync function cannot be ended from outside."""
        with self._lock:
            self._cancelled = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def close(self) -> None:
        """The function is lent, not ours to close."""

    def counters(self) -> dict[str, int]:
        """None of its own."""
        return {}

    def _on_a_loop(self, batch: Batch, call: Callable[[], Awaitable[Any]]) -> Any:
        """Run it on the loop of somebody who waits; if that loop goes away, on another's."""
        gone: list[asyncio.AbstractEventLoop] = []
        while loops := [loop for loop in batch.loops() if loop not in gone]:
            coroutine = _awaiting(call)
            try:
                future = asyncio.run_coroutine_threadsafe(coroutine, loops[0])
            except RuntimeError:
                coroutine.close()
                gone.append(loops[0])
                continue
            try:
                return self._wait(future, loops[0])
            except concurrent.futures.CancelledError:
                gone.append(loops[0])
                if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                    coroutine.close()
                if self._cancelled:
                    break
        error = EmbeddingError("The event loop that ran the embedding function is gone")
        raise WholeBatchError from error

    def _wait(self, future: concurrent.futures.Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
        with self._lock:
            self._running.add(future)
            cancelled = self._cancelled
        try:
            if cancelled:
                future.cancel()
            while not concurrent.futures.wait([future], _LOOK_SECONDS).done:
                if loop.is_closed() or not loop.is_running():
                    future.cancel()
            return future.result()
        finally:
            with self._lock:
                self._running.discard(future)


async def _awaiting(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method, not whether there is one
    )


def _name_of(function: Callable[..., Any]) -> str:
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
