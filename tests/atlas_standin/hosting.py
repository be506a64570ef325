"""Something that lives on one event loop, and may be used from any.

A test's own loop lasts for one test; a stand-in shared by a session needs a loop that lasts longer.
So a hosted thing is either entered with `async with` (it lives on the loop of the test) or with
`with thing.in_thread()` (it lives on a thread of its own). Its async methods find their way home.

A client that blocks its loop while it waits for the server (Motor's `close()` does) must not share
that loop with the proxy that it waits for: use the thread.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound="Hosted")


class Hosted:
    """Base: subclasses fill in `_open` and `_close`, both called on the home loop."""

    _home: asyncio.AbstractEventLoop | None = None

    async def _open(self) -> None:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        if self._home is not None:
            raise RuntimeError(f"{type(self).__name__} is already open")
        self._home = asyncio.get_running_loop()
        try:
            await self._open()
        except BaseException:
            await self._close()
            self._home = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._close()
        finally:
            self._home = None

    @contextmanager
    def in_thread(self) -> Iterator[Self]:
        """The same, on a loop and thread of its own, for as long as the `with` block runs."""
        opened = threading.Event()
        failure: list[BaseException] = []
        stop: asyncio.Event | None = None

        async def live() -> None:
            nonlocal stop
            stop = asyncio.Event()
            async with self:
                opened.set()
                await stop.wait()

        def run() -> None:
            try:
                asyncio.run(live())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                failure.append(error)
            finally:
                opened.set()

        thread = threading.Thread(target=run, name=type(self).__name__)
        thread.start()
        opened.wait()
        home = self._home
        try:
            if not failure:
                yield self
        finally:
            if home is not None and stop is not None and not home.is_closed():
                home.call_soon_threadsafe(stop.set)
            thread.join()
        if failure:
            raise failure[0]

    def blocking(self, work: Coroutine[Any, Any, R]) -> R:
        """Runs one of the async methods from ordinary code, when this lives in a thread."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self.home).result()
        except RuntimeError:
            work.close()  # it was never started
            raise

    @property
    def home(self) -> asyncio.AbstractEventLoop:
        if self._home is None:
            raise RuntimeError(f"{type(self).__name__} is not open: use it in a `with` block")
        return self._home


def at_home(
    method: Callable[Concatenate[H, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[H, P], Coroutine[Any, Any, R]]:
    """Makes an async method callable from any loop: its body runs on the loop it belongs to."""

    async def call(self: H, /, *args: P.args, **kwargs: P.kwargs) -> R:
        home = self.home
        if home is asyncio.get_running_loop():
            return await method(self, *args, **kwargs)
        elsewhere = asyncio.run_coroutine_threadsafe(method(self, *args, **kwargs), home)
        waiting: Awaitable[R] = asyncio.wrap_future(elsewhere)
        return await waiting

    functools.update_wrapper(call, method)
    return call
