"""`AsyncEmbeddingProvider`: an embedding model for asyncio."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from memorizz_async.config import setting
from memorizz_async.embeddings.backends.sentence_transformer import (
    Precision,
    Runtime,
    SentenceTransformerBackend,
)
from memorizz_async.embeddings.backends.weights import DEFAULT_MODEL
from memorizz_async.embeddings.batching import WorkQueue
from memorizz_async.embeddings.cache import (
    CacheBackend,
    ResilientCacheTier,
    VectorCache,
    check_persistent_name,
    is_cache_backend,
)
from memorizz_async.embeddings.engine import Engine
from memorizz_async.embeddings.protocol import HasTokenizer, Managed, is_backend
from memorizz_async.embeddings.validation import validate_text, validate_texts
from memorizz_async.errors import ConfigurationError, InvalidInputError, LifecycleError
from memorizz_async.fork import ProcessBound
from memorizz_async.redaction import shown
from memorizz_async.validation import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_seconds,
    checked_text,
)

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Backend, Kind, Matrix, TokenCount, Vector
    from memorizz_async.embeddings.stats import EmbeddingStats

_MIB = 1024 * 1024
_ERROR = ConfigurationError


class AsyncEmbeddingProvider(ProcessBound, Managed):
    """Turns texts into vectors without blocking the event loop.

    One provider serves any number of event loops and threads at the same time. Texts that arrive
    while the model is busy form the next batch, the same text is computed once, and recent vectors
    are cached. The constructor does no I/O and imports no torch: the model is loaded at the first
    use, by `load_async()`, or by `async with`.

    Calls raise InvalidQueryError for an empty text, MissingDependencyError without the extra
    `[gpu]`, ModelLoadError, DeviceUnavailableError, EmbeddingError if the model fails or returns
    invalid vectors, OverloadedError, and ClosedError after `shutdown()`.

    Args:
        model_name: A sentence-transformers model, or a folder with one. Default: `EMB_MODEL` from
            the environment or `.env`, else `sentence-transformers/all-MiniLM-L6-v2`.
        device: `cuda`, `cuda:1`, `mps` or `cpu`. Default: `EMB_DEVICE`, else the best available.
        max_workers: Concurrent batches, if the backend allows more than one (HTTP, functions). A
            local model always computes one batch at a time with all cores: it is not thread-safe,
            and would not be faster.
        backend: Computes the vectors in place of a local model, see `Backend`. The arguments of a
            local model (`model_name`, `device`, `runtime`, `dtype`, `revision`, prompts) must then
            be left out.
        runtime: `torch`, or sentence-transformers' `onnx` or `openvino`.
        dtype: Type of the weights: `float32`, or on a GPU `float16` or `bfloat16`. Vectors are
            always float32.
        revision: Revision of the model on the hub.
        trust_remote_code: Whether a model from the hub may run its own code on this machine.
        query_prompt: Prefix of each query. Default: the model's own (E5, BGE and Nomic models have
            one; MiniLM has none). `""` means none.
        document_prompt: Prefix of each document, likewise.
        dimensions: Numbers to keep of each vector, for models trained for it (Matryoshka).
        normalize: Whether every vector is scaled to length 1. Most models for retrieval do so
            themselves.
        max_batch_size: Texts of one batch. Default: what fits the device.
        max_batch_tokens: Tokens of one batch, estimated, padding included. Default: what fits the
            device.
        max_queue: Texts that may wait. Further calls wait for room, or raise OverloadedError.
        cache_entries: Vectors to cache; 0 turns the cache off.
        cache_bytes: Size of the cache in bytes.
        cache_ttl: Seconds until a cached vector expires. Default: never.
        second_tier: Stores vectors beyond this process, behind the cache. Its failures are counted
            in `stats()` and never fail a call.
        idle_seconds: Seconds after which an idle thread ends; a new one starts when needed.

    Raises:
        ConfigurationError: An argument is invalid.

    Example::

        async with AsyncEmbeddingProvider() as provider:
            vector = await provider.encode_async("What is machine learning?")
    """

    def __init__(
        self,
        model_name: str | None = None,
        device: str | None = None,
        max_workers: int | None = None,
        *,
        backend: Backend | None = None,
        runtime: Runtime = "torch",
        dtype: Precision = "float32",
        revision: str | None = None,
        trust_remote_code: bool = False,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = False,
        max_batch_size: int | None = None,
        max_batch_tokens: int | None = None,
        max_queue: int = 10_000,
        cache_entries: int = 10_000,
        cache_bytes: int = 64 * _MIB,
        cache_ttl: float | None = None,
        second_tier: CacheBackend | None = None,
        idle_seconds: float = 60.0,
    ) -> None:
        for name, count in {
            "max_workers": max_workers,
            "dimensions": dimensions,
            "max_batch_size": max_batch_size,
            "max_batch_tokens": max_batch_tokens,
        }.items():
            if count is not None:
                checked_count(f"The setting {name!r}", count, error=_ERROR)
        for name, count in {"max_queue": max_queue, "cache_bytes": cache_bytes}.items():
            checked_count(f"The setting {name!r}", count, error=_ERROR)
        checked_count("The setting 'cache_entries'", cache_entries, least=0, error=_ERROR)
        for name, value in {"cache_ttl": cache_ttl, "idle_seconds": idle_seconds}.items():
            if value is not None:
                checked_seconds(f"The setting {name!r}", value, above=True, error=_ERROR)
        checked_flag("The setting 'normalize'", normalize, error=ConfigurationError)
        if backend is not None and not is_backend(backend):
            raise ConfigurationError(
                "backend must have the methods of Backend",
                seen=shown(backend),
                fix="use as_embedder for a function or any other object",
            )
        if second_tier is not None and not is_cache_backend(second_tier):
            raise ConfigurationError(
                "second_tier must have the methods get_many and put_many", seen=shown(second_tier)
            )
        for name, text in {"model_name": model_name, "device": device}.items():
            if text is not None:
                checked_text(name, text, error=ConfigurationError)
        local = (model_name, device, revision, query_prompt, document_prompt)
        if backend is None:
            backend = SentenceTransformerBackend(
                model_name or setting("EMB_MODEL") or DEFAULT_MODEL,
                device=device or setting("EMB_DEVICE"),
                runtime=runtime,
                dtype=dtype,
                revision=revision,
                query_prompt=query_prompt,
                document_prompt=document_prompt,
                trust_remote_code=trust_remote_code,
            )
        elif any(value is not None for value in local) or (runtime, dtype) != ("torch", "float32"):
            raise ConfigurationError(
                "Model, device, runtime, dtype, revision and prompts belong to a local model",
                seen=f"given together with the backend {backend.name!r}",
                fix="pass them to the backend",
            )
        if second_tier is not None:
            check_persistent_name(backend.model_name)
        self._second_tier = None if second_tier is None else ResilientCacheTier(second_tier)
        self._backend = backend
        self._device = device
        self._dimensions = dimensions
        here = weakref.ref(self)
        self._engine = Engine(
            backend,
            identity=f"{backend.model_name}\n{revision}\n{dimensions}\n{normalize}",
            queue=WorkQueue(max_batch_size, max_batch_tokens),
            cache=VectorCache(cache_entries, cache_bytes, cache_ttl),
            max_workers=min(max_workers or backend.workers, backend.workers),
            max_queue=max_queue,
            dimensions=dimensions,
            normalize=normalize,
            idle_seconds=idle_seconds,
            is_in_use=lambda: here() is not None,
        )

    @overload
    async def encode_async(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, texts: str, *, kind: Kind = "document", wait: bool = True
    ) -> list[float]: ...

    @overload
    async def encode_async(
        self, texts: Sequence[str], *, kind: Kind = "document", wait: bool = True
    ) -> list[list[float]]: ...

    async def encode_async(
        self, texts: str | Sequence[str], *, kind: Kind = "document", wait: bool = True
    ) -> list[float] | list[list[float]]:
        """Embed one text or many, as lists of floats.

        Args:
            texts: A text, or a sequence of texts; none of them empty.
            kind: Which of the model's prompts precedes the texts, if it has two.
            wait: Whether to wait for room in a full queue; False raises OverloadedError.

        Returns:
            One vector of `dimensions` floats for a string; a list of vectors for a sequence, in
            order.

        Raises:
            InvalidQueryError: A text is empty or not a string.
            OverloadedError: The queue is full and `wait` is False.
            EmbeddingError: The model could not be loaded or failed.
            ClosedError: The provider was closed.
        """
        _check_call(kind=kind, wait=wait)
        if isinstance(texts, str):
            [vector] = await self._embed([validate_text(texts)], kind, wait=wait)
            return cast("list[float]", vector.tolist())
        vectors = await self._embed(validate_texts(texts), kind, wait=wait)
        return [cast("list[float]", vector.tolist()) for vector in vectors]

    async def encode_query_async(
        self, text: str, *, wait: bool = False, second_tier: ResilientCacheTier | None = None
    ) -> Vector:
        """Embed one query. Queries precede documents in the queue.

        Args:
            text: The query; not empty.
            wait: Whether to wait for room in a full queue. By default a query raises
                OverloadedError at once, since a chat turn should not wait for it.
            second_tier: A second tier for this call, in place of the provider's own.

        Returns:
            Shape (dimensions,), float32, read-only.

        Raises:
            InvalidQueryError: The text is empty or not a string.
            OverloadedError: The queue is full and `wait` is False.
            EmbeddingError: The model could not be loaded or failed.
            ClosedError: The provider was closed.
        """
        _check_call(wait=wait, second_tier=second_tier)
        texts = [validate_text(text)]
        [vector] = await self._embed(texts, "query", wait=wait, second_tier=second_tier)
        return vector

    async def encode_documents_async(
        self,
        texts: Sequence[str],
        *,
        wait: bool = True,
        second_tier: ResilientCacheTier | None = None,
    ) -> Matrix:
        """Embed texts to be stored.

        If one text fails, the call fails; the vectors of the others stay in the cache.

        Args:
            texts: The texts; none of them empty.
            wait: Whether to wait for room in a full queue; False raises OverloadedError.
            second_tier: A second tier for this call, in place of the provider's own.

        Returns:
            Shape (len(texts), dimensions), float32, one row for each text, in order.

        Raises:
            InvalidQueryError: A text is empty or not a string; names its position.
            OverloadedError: The queue is full and `wait` is False.
            EmbeddingError: The model could not be loaded or failed.
            ClosedError: The provider was closed.
        """
        _check_call(wait=wait, second_tier=second_tier)
        wanted = validate_texts(texts)
        vectors = await self._embed(wanted, "document", wait=wait, second_tier=second_tier)
        if not vectors:
            return np.empty((0, self._engine.dimensions or 0), dtype=np.float32)
        return np.stack(vectors)

    async def _embed(
        self,
        texts: Sequence[str],
        kind: Kind,
        *,
        wait: bool,
        second_tier: ResilientCacheTier | None = None,
    ) -> list[Vector]:
        tier = second_tier or self._second_tier
        return await self._engine.embed(texts, kind, wait=wait, tier=tier)

    async def load_async(self) -> None:
        """Load the model now, so that the first query need not wait for it. Idempotent.

        `get_dimensions()` works afterwards: if the backend does not know its dimensions (HTTP,
        functions), one word is embedded.

        Raises:
            EmbeddingError: The model could not be loaded.
            ClosedError: The provider was closed.
        """
        await self._engine.load()
        if self._engine.dimensions is None:
            await self._engine.embed(["dimensions"], "document", wait=True)

    async def token_counter_async(self) -> TokenCount | None:
        """Load the model and return a function that counts tokens with its tokenizer.

        Special tokens such as `[CLS]` are not counted, so that counts can be added. The function is
        safe to call from any thread, also while the model computes.

        Returns:
            The function; None if the backend has no tokenizer (HTTP, functions, managers).
        """
        await self._engine.load()
        if not isinstance(self._backend, HasTokenizer):
            return None
        return await asyncio.to_thread(self._backend.token_counter)

    def get_model_name(self) -> str:
        """Return the name that is stored with each vector as `embedding_model`."""
        return self._engine.info.model_name if self._engine.info else self._backend.model_name

    def get_device(self) -> str:
        """Return where the model runs; before it is loaded, the requested device or `auto`."""
        if self._engine.info is not None:
            return self._engine.info.device
        return self._device or setting("EMB_DEVICE") or "auto"

    def get_dimensions(self) -> int:
        """Return the length of every vector.

        Raises:
            LifecycleError: It is not known before the first use; call `load_async()`.
        """
        dimensions = self._engine.dimensions or self._dimensions
        if dimensions is None:
            raise LifecycleError(
                "The dimensions of the embedding model are not known before its first use",
                seen=self.get_model_name(),
                fix="await load_async() first",
            )
        return dimensions

    @property
    def closed(self) -> bool:
        """Whether `shutdown` or `close_async` was called."""
        return self._engine.closed

    def stats(self) -> EmbeddingStats:
        """Return a snapshot of the counters: queue depth, batch sizes, waits, hit rate, ….

        Safe from any thread; computes nothing.
        """
        return self._engine.stats()

    def shutdown(self, timeout: float = 5.0) -> None:
        """Close the provider. Waiting calls get ClosedError at once. Idempotent, from any thread.

        Threads end after their current batch.

        Args:
            timeout: Seconds to wait for the threads. On an event loop it never blocks: use
                `await close_async()` if the threads must have ended.
        """
        self._engine.shutdown(checked_seconds("timeout", timeout))

    async def close_async(self, timeout: float = 5.0) -> None:
        """Close the provider like `shutdown`, and await the end of its threads.

        Args:
            timeout: Seconds to wait for the threads, without blocking the loop.
        """
        await self._engine.close(checked_seconds("timeout", timeout))

    def __repr__(self) -> str:
        return f"AsyncEmbeddingProvider({self.get_model_name()!r}, device={self.get_device()!r})"


def _check_call(*, kind: Any = "document", wait: Any = True, second_tier: Any = None) -> None:
    """Check the arguments of a call; raises InvalidInputError."""
    checked_choice("kind", kind, ("query", "document"))
    checked_flag("wait", wait)
    if second_tier is not None and not isinstance(second_tier, ResilientCacheTier):
        raise InvalidInputError("second_tier must be a ResilientCacheTier", seen=shown(second_tier))
