"""The async face of the adapter: the same provider, on the same connections as the blocking one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from memorizz_async.integrations.memorizz.background import BackgroundLoop
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Embedder


class SharedProvider(AsyncMongoDBProvider):
    """An AsyncMongoDBProvider whose work is done on the adapter's background loop.

    A driver's connections belong to one event loop. Awaited on a loop of the caller's, a method
    therefore hops over to the background loop and back: so there is one connection pool, and one
    copy of the vectors in memory, for MemAgent's blocking calls and for these. What a call raises,
    and its cancellation, cross over, too.

    It is the adapter's: closing it (`async with`, `close_async`) leaves it open.
    """

    def __init__(self, inner: AsyncMongoDBProvider, background: BackgroundLoop) -> None:
        # Nothing of the class above is set up: this one has no connections of its own.
        self._inner = inner
        self._background = background
        self.config = inner.config

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._inner!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def close_async(self) -> None:
        """Nothing: the MemorizzProvider closes what it opened."""

    @property
    def embedder(self) -> Embedder:
        return self._inner.embedder


def _hopping(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def hop(self: SharedProvider, *args: Any, **options: Any) -> Any:
        work = functools.partial(getattr(self._inner, name), *args, **options)
        return await self._background.run_async(work)

    return hop


for _name, _method in inspect.getmembers(AsyncMongoDBProvider, inspect.iscoroutinefunction):
    if not _name.startswith("_") and _name not in vars(SharedProvider):
        setattr(SharedProvider, _name, _hopping(_name, _method))
