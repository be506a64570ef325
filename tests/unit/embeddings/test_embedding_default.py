"""The process-wide provider, and the public names."""

from __future__ import annotations

import inspect

import pytest
from unit.embeddings.embedding_fakes import FakeBackend, vector_of

from memorizz_async import embeddings
from memorizz_async.embeddings import (
    get_async_embedding_provider,
    get_embedding_async,
    get_embeddings_batch_async,
    reset_async_embedding_provider,
)
from memorizz_async.errors import ConfigurationError, InvalidInputError


async def test_the_functions_of_the_guide_share_one_provider() -> None:
    """One model in the process, lists of floats out."""
    provider = get_async_embedding_provider(backend=FakeBackend())
    assert get_async_embedding_provider() is provider
    assert await get_embedding_async("a") == vector_of("a").tolist()
    batch = await get_embeddings_batch_async(["a", "b", "c"], batch_size=2)
    assert batch == [vector_of(t).tolist() for t in "abc"]
    assert await get_embeddings_batch_async([]) == []
    assert provider.stats().computed == 3


async def test_a_closed_default_is_replaced() -> None:
    """By the next call; a reset does the same."""
    first = get_async_embedding_provider()
    first.shutdown()
    second = get_async_embedding_provider()
    assert second is not first
    reset_async_embedding_provider()
    assert second.closed
    reset_async_embedding_provider()


def test_other_settings_for_the_shared_provider_are_an_error() -> None:
    """Two models in one process must not be mistaken for each other."""
    provider = get_async_embedding_provider("intfloat/e5-small-v2")
    assert get_async_embedding_provider("intfloat/e5-small-v2") is provider
    with pytest.raises(ConfigurationError, match="e5-small-v2"):
        get_async_embedding_provider("BAAI/bge-m3")


def test_model_and_device_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """EMB_MODEL and EMB_DEVICE, read when the provider is made."""
    monkeypatch.setenv("EMB_MODEL", "intfloat/e5-small-v2")
    monkeypatch.setenv("EMB_DEVICE", "cuda:7")
    provider = get_async_embedding_provider()
    assert provider.get_model_name() == "intfloat/e5-small-v2"
    assert provider.get_device() == "cuda:7"


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "32"])
async def test_an_invalid_batch_size_is_an_error(batch_size: object) -> None:
    """Before anything is loaded."""
    with pytest.raises(InvalidInputError, match="batch_size"):
        await get_embeddings_batch_async(["a"], batch_size=batch_size)  # type: ignore[arg-type]


def test_the_public_names_are_these() -> None:
    """A new one is a decision, not an accident."""
    assert embeddings.__all__ == [
        "AsyncEmbeddingProvider",
        "Backend",
        "CacheBackend",
        "Embedder",
        "EmbeddingStats",
        "ManagedEmbedder",
        "SecondTier",
        "as_embedder",
        "get_async_embedding_provider",
        "get_embedding_async",
        "get_embeddings_batch_async",
        "reset_async_embedding_provider",
    ]
    assert all(inspect.getdoc(getattr(embeddings, name)) for name in embeddings.__all__)
