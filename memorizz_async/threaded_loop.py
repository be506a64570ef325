"""An event loop that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future


def start_loop(owner: object, name: str) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    """A loop, running in a thread of this name until `stop_loop`, or until nobody has the owner."""
    loop = asyncio.new_event_loop()
    # A daemon: a program that forgets to close must still be able to end.
    thread = threading.Thread(target=_serve, args=(loop,), name=name, daemon=True)
    thread.start()
    # An owner that is forgotten without a close must not leave its thread behind.
    weakref.finalize(owner, stop_loop, loop).atexit = False
    return loop, thread


def stop_loop(loop: asyncio.AbstractEventLoop) -> None:
    """End the loop, from any thread. Whoever has to know that it ended joins the thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        # The runner's end cancels what is left, and shuts the loop down, which closes its client.
        runner.get_loop().run_forever()


async def in_new_thread(function: Callable[[], object]) -> None:
    """Run a function in a thread of its own: the loop's executor may have been shut down already.

    Raises what the function raises. The thread ends with the function, also where the caller is
    cancelled.
    """
    done: Future[None] = Future()

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="memorizz-async close", daemon=True).start()
    await asyncio.shield(asyncio.wrap_future(done))
