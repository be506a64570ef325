"""The one place where tests reach into a provider: what a public call does not show."""

from __future__ import annotations

from typing import Any

from memorizz_async import AsyncMongoDBProvider


async def session_of(provider: AsyncMongoDBProvider) -> Any:
    """The session of the running event loop: driver, in-memory indexes, access tracker."""
    return await provider._connection.session()


def open_clients(provider: AsyncMongoDBProvider) -> int:
    """The number of event loops for which the provider holds a client."""
    return len(provider._connection._entries)
