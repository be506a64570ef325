"""The provider that a process shares, and the two functions of the guide that use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.vectors import checked_text, checked_texts
from memorizz_async.errors import ConfigurationError
from memorizz_async.fork import ForkSafeLock
from memorizz_async.validation import checked_count, checked_seconds
from memorizz_async.validation import checked_text as checked_name

_lock = ForkSafeLock()
_default: AsyncEmbeddingProvider | None = None
_settings: dict[str, Any] = {}


def get_async_embedding_provider(
    model_name: str | None = None, device: str | None = None, **settings: Any
) -> AsyncEmbeddingProvider:
    """The process-wide provider, made at the first call (its model is loaded at the first use).

    Without arguments: the one that is there, else one from `EMB_MODEL` and `EMB_DEVICE`. Arguments
    are those of AsyncEmbeddingProvider and configure the one that is made; where one is there
    already with other arguments, that is a ConfigurationError, since two models in one process
    must not be mistaken for each other: make an AsyncEmbeddingProvider of your own for a second.

    `shutdown()` on it closes it for everybody; the next call makes a new one.
    """
    for name, text in {"model_name": model_name, "device": device}.items():
        if text is not None:
            checked_name(name, text, error=ConfigurationError)
    wanted = {"model_name": model_name, "device": device, **settings}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    global _default, _settings
    with _lock:
        if _default is None or _default.closed:
            _default, _settings = AsyncEmbeddingProvider(**wanted), wanted
        elif wanted and wanted != _settings:
            raise ConfigurationError(
                "The process-wide embedding provider exists already with other settings",
                seen=f"{_default!r}",
                fix="make an AsyncEmbeddingProvider of your own, or call "
                "reset_async_embedding_provider() first",
            )
        return _default


def reset_async_embedding_provider(timeout: float = 5.0) -> None:
    """Close the process-wide provider, if there is one; the next use makes a new one.

    For tests, and for a change of `EMB_MODEL` while the process runs. Blocks as
    `AsyncEmbeddingProvider.shutdown` does: not at all on an event loop.
    """
    checked_seconds("timeout", timeout)
    global _default
    with _lock:
        old, _default = _default, None
    if old is not None:
        old.shutdown(timeout)


async def get_embedding_async(text: str) -> list[float]:
    """The vector of one text, with the process-wide provider."""
    return await get_async_embedding_provider().encode_async(checked_text(text))


async def get_embeddings_batch_async(
    texts: Sequence[str], batch_size: int = 32
) -> list[list[float]]:
    """The vectors of many texts, in order, with the process-wide provider.

    batch_size: taken because the guide's code passes it, and checked. The engine cuts its own
    batches, together with the texts of other callers; `AsyncEmbeddingProvider(max_batch_size=…)`
    sets how large they may be.
    """
    checked_count("batch_size", batch_size)
    return await get_async_embedding_provider().encode_async(checked_texts(texts))
