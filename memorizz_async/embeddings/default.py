"""The provider that a process shares, and the functions of the guide that use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider
from memorizz_async.embeddings.validation import validate_text, validate_texts
from memorizz_async.errors import ConfigurationError
from memorizz_async.fork import ForkSafeLock
from memorizz_async.validation import checked_count, checked_seconds, checked_text

_lock = ForkSafeLock()
_default: AsyncEmbeddingProvider | None = None
_settings: dict[str, Any] = {}


def get_async_embedding_provider(
    model_name: str | None = None, device: str | None = None, **settings: Any
) -> AsyncEmbeddingProvider:
    """Return the process-wide provider, and create it at the first call.

    Its model is loaded at the first use. `shutdown()` closes the provider for the whole process;
    the next call creates another.

    Args:
        model_name: As for AsyncEmbeddingProvider. Default: `EMB_MODEL`.
        device: As for AsyncEmbeddingProvider. Default: `EMB_DEVICE`.
        **settings: Further arguments of AsyncEmbeddingProvider, for the provider to create.

    Returns:
        The shared provider.

    Raises:
        ConfigurationError: An argument is invalid, or the provider exists with other arguments.
            Create your own AsyncEmbeddingProvider for a second model.

    Example::

        provider = get_async_embedding_provider("BAAI/bge-small-en-v1.5", device="cpu")
    """
    for name, text in {"model_name": model_name, "device": device}.items():
        if text is not None:
            checked_text(name, text, error=ConfigurationError)
    wanted = {"model_name": model_name, "device": device, **settings}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    global _default, _settings
    with _lock:
        if _default is None or _default.closed:
            _default, _settings = AsyncEmbeddingProvider(**wanted), wanted
        elif wanted and wanted != _settings:
            raise ConfigurationError(
                "The process-wide embedding provider already exists with other settings",
                seen=f"{_default!r}",
                fix="create your own AsyncEmbeddingProvider, or call "
                "reset_async_embedding_provider() first",
            )
        return _default


def reset_async_embedding_provider(timeout: float = 5.0) -> None:
    """Close the process-wide provider, if it exists; the next use creates another.

    For tests, and after a change of `EMB_MODEL` while the process runs.

    Args:
        timeout: Seconds to wait for its threads; on an event loop it never blocks.
    """
    checked_seconds("timeout", timeout)
    global _default
    with _lock:
        old, _default = _default, None
    if old is not None:
        old.shutdown(timeout)


async def get_embedding_async(text: str) -> list[float]:
    """Embed one text with the process-wide provider.

    Args:
        text: The text; not empty.

    Returns:
        The vector, as `dimensions` floats.

    Raises:
        InvalidQueryError: The text is empty or not a string.
        EmbeddingError: The model could not be loaded or failed.
    """
    return await get_async_embedding_provider().encode_async(validate_text(text))


async def get_embeddings_batch_async(
    texts: Sequence[str], batch_size: int = 32
) -> list[list[float]]:
    """Embed many texts with the process-wide provider.

    Args:
        texts: The texts; none of them empty.
        batch_size: Checked, but without effect: the guide's code passes it. The engine forms its
            own batches, together with the texts of other callers; their size is limited by
            `AsyncEmbeddingProvider(max_batch_size=…)`.

    Returns:
        One vector of `dimensions` floats for each text, in order.

    Raises:
        InvalidInputError: `batch_size` is not a positive integer.
        InvalidQueryError: A text is empty or not a string; names its position.
        EmbeddingError: The model could not be loaded or failed.
    """
    checked_count("batch_size", batch_size)
    return await get_async_embedding_provider().encode_async(validate_texts(texts))
