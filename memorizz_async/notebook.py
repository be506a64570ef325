"""asyncio.run inside a running loop, for notebooks where somebody insists on it."""

from __future__ import annotations

import asyncio
import importlib

from memorizz_async.errors import ConfigurationError, LifecycleError, MissingDependencyError
from memorizz_async.installing import how_to_install_package


def allow_nested_run() -> None:
    """Let `asyncio.run(main())` work on the loop that is running, as Jupyter's is, by nest_asyncio.

    `await main()` needs none of this. It patches asyncio for the whole process, and only loops of
    asyncio's own: on another (uvloop) it is a ConfigurationError that says what to do, raised
    before anything is patched. `nest_asyncio.apply()` itself fails there half-way, and leaves an
    `asyncio.run` behind that fails, too.

    Raises MissingDependencyError without nest_asyncio, and LifecycleError where no loop is running:
    there `asyncio.run` works as it is.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError as error:
        raise LifecycleError(
            "No event loop is running", fix="call asyncio.run(main()): it works as it is"
        ) from error
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise ConfigurationError(
            "asyncio.run cannot be nested on this event loop: nest_asyncio patches asyncio's own",
            seen=f"a {type(loop).__module__}.{type(loop).__qualname__}",
            fix="write `await main()`; where code cannot await, run it on a loop of its own, "
            "`ThreadPoolExecutor(1).submit(asyncio.run, main()).result()`; or start the program on "
            "asyncio's loop: no uvloop.install(), and `uvicorn --loop asyncio`",
        )
    try:
        nest_asyncio = importlib.import_module("nest_asyncio")
    except ImportError as error:
        raise MissingDependencyError(
            "Nesting asyncio.run needs nest_asyncio, which is not installed",
            fix="write `await main()`, which needs nothing; or "
            + how_to_install_package("nest_asyncio"),
        ) from error
    nest_asyncio.apply(loop)
