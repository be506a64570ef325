"""Those who wait: one `Call` for each call of a user, answered exactly once, on its own loop."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

from memorizz_async.fork import running_loop

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Kind, Vector
    from memorizz_async.embeddings.work_queue import Item
    from memorizz_async.errors import MemorizzAsyncError


class Call:
    """One call: the rows that it has so far, and the future that its task awaits.

    Everything but the future is changed under the engine's lock. `answered` is set at the moment
    when the answer is decided, by a result, an error, a close or the caller's own cancellation;
    whoever finds it set leaves the call alone.
    """

    __slots__ = ("answered", "future", "items", "kind", "loop", "missing", "prompt", "rows")

    def __init__(self, size: int = 0, kind: Kind = "document", prompt: str = "") -> None:
        self.loop = running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.kind: Kind = kind
        self.prompt = prompt
        self.rows: list[Vector | None] = [None] * size
        self.missing = size
        self.items: list[Item] = []
        self.answered = False

    def fill(self, position: int, vector: Vector) -> None:
        self.rows[position] = vector
        self.missing -= 1

    def result(self) -> list[Vector]:
        return [row for row in self.rows if row is not None]

    def settle(self) -> None:
        """Leave no future behind that asyncio would complain of. On the call's own loop."""
        if not self.future.done():
            # A task that is torn down after its loop was closed comes here too.
            if not self.loop.is_closed():
                self.future.cancel()
        elif not self.future.cancelled():
            self.future.exception()


Answer = tuple[Call, "MemorizzAsyncError | None"]


def wake(answers: Iterable[Answer]) -> int:
    """Hand each call its answer, on its loop; returns how many had no loop any more.

    From any thread. One wake-up for each loop, however many of its calls are answered.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer[0].loop, []).append(answer)
    lost = 0
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_answer, group)
        except RuntimeError:
            # The loop is closed, and those who waited on it are gone with it.
            lost += len(group)
    return lost


def wake_futures(waiters: Iterable[asyncio.Future[None]]) -> None:
    """Resolve futures of any loops, from any thread."""
    for future in waiters:
        try:
            future.get_loop().call_soon_threadsafe(_resolve, future)
        except RuntimeError:
            continue  # its loop is closed: nobody waits


def _answer(group: list[Answer]) -> None:
    for call, error in group:
        if call.future.done():
            continue
        if error is None:
            call.future.set_result(None)
        else:
            call.future.set_exception(error)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def own_copy(error: MemorizzAsyncError) -> MemorizzAsyncError:
    """An error object for one waiter: tasks that share one would mix up their tracebacks."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
