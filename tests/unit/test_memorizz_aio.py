"""The async face of the adapter is the whole provider, and none of it runs on the caller's loop."""

from __future__ import annotations

import inspect

import pytest

from memorizz_async import AsyncMongoDBProvider
from memorizz_async.integrations.memorizz.aio import SharedProvider

METHODS = {
    name: method
    for name, method in inspect.getmembers(AsyncMongoDBProvider, inspect.iscoroutinefunction)
    if not name.startswith("_")
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_hops(name: str) -> None:
    """It is another function with the same signature and the same words of help."""
    hopping = inspect.getattr_static(SharedProvider, name)
    assert hopping is not METHODS[name]
    assert hopping.__qualname__ != METHODS[name].__qualname__ or hasattr(hopping, "__wrapped__")
    assert inspect.iscoroutinefunction(hopping)
    if name != "close_async":
        assert inspect.signature(hopping) == inspect.signature(METHODS[name])
        assert hopping.__doc__ == METHODS[name].__doc__


def test_there_is_something_to_hop() -> None:
    """The provider's methods are found at all."""
    assert {"store_async", "batch_retrieve_async", "list_async", "ensure_indexes_async"} <= set(
        METHODS
    )
