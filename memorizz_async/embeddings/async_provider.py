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
from memorizz_async.embeddings.cache import VectorCache
from memorizz_async.embeddings.engine import Engine
from memorizz_async.embeddings.managed import Managed
from memorizz_async.embeddings.protocol import HasTokenizer, is_backend
from memorizz_async.embeddings.tier import (
    PatientTier,
    SecondTier,
    check_lasting_name,
    is_second_tier,
)
from memorizz_async.embeddings.vectors import checked_text, checked_texts
from memorizz_async.embeddings.work_queue import WorkQueue
from memorizz_async.errors import ConfigurationError, InvalidInputError, LifecycleError
from memorizz_async.fork import ProcessBound
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_choice, checked_count, checked_flag, checked_seconds
from memorizz_async.validation import checked_text as checked_name

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Backend, Kind, Matrix, TokenCount, Vector
    from memorizz_async.embeddings.stats import EmbeddingStats

_MIB = 1024 * 1024
_ERROR = ConfigurationError


class AsyncEmbeddingProvider(ProcessBound, Managed):
    """Turns texts into vectors without blocking the event loop.

    One provider can be used from any number of event loops and threads at the same time: texts that
    come while the model is busy form the next batch, the same text is computed once, and what was
    computed lately is remembered. Constructing one does no I/O and imports no torch; the model is
    loaded at the first use, by `load_async()`, or on `async with`.

        async with AsyncEmbeddingProvider() as provider:
            vector = await provider.encode_async("What is machine learning?")

    model_name: a sentence-transformers model or a folder with one; left out, `EMB_MODEL` from the
        environment or `.env`, else `sentence-transformers/all-MiniLM-L6-v2`.
    device: `cuda`, `cuda:1`, `mps` or `cpu`; left out, `EMB_DEVICE`, else the best that is there.
    max_workers: how many batches may be computed at the same time, where the backend allows more
        than one (HTTP, callables). A local model always computes one batch at a time, with all
        cores: it is not safe to call from two threads, and it would not be faster.
    backend: what computes, instead of a local model: see `memorizz_async.embeddings.backends`.
        `model_name` and the other arguments of a local model are then left out.
    runtime: `torch`, or sentence-transformers' `onnx` or `openvino`.
    dtype: of the weights: `float32`, or `float16` or `bfloat16` on a GPU. Vectors are float32.
    revision: of the model on the hub.
    trust_remote_code: let a model from the hub run code of its own on this machine.
    query_prompt, document_prompt: put before each text; left out, the model's own (E5, BGE and
        Nomic models have some; MiniLM has none). "" means none.
    dimensions: keep only so many numbers of each vector, for models that were trained for it
        (Matryoshka).
    normalize: bring every vector to length 1. Most models for retrieval do so themselves.
    max_batch_size, max_batch_tokens: of one batch; tokens are estimated and count the padding. Left
        out, what suits the device.
    max_queue: texts that may wait; more are refused with OverloadedError, or wait for room.
    cache_entries, cache_bytes, cache_ttl: what the cache may hold, and for how many seconds; 0
        entries turn it off.
    second_tier: where vectors are looked for, and kept, behind that cache: see SecondTier. What
        fails there is counted, and the text computed.
    idle_seconds: a thread with nothing to do ends after so long; it is started again when needed.

    Errors: InvalidQueryError for a text that is empty or no string, MissingDependencyError without
    the extra `[gpu]`, ModelLoadError, DeviceUnavailableError, EmbeddingError where the model fails
    or returns what cannot be used, OverloadedError, and ClosedError after `shutdown()`.
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
        second_tier: SecondTier | None = None,
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
                "backend must be a backend: an object with the methods of Backend",
                seen=shown(backend),
                fix="use as_embedder for a function, or for an object of another kind",
            )
        if second_tier is not None and not is_second_tier(second_tier):
            raise ConfigurationError(
                "second_tier must have the methods get_many and put_many", seen=shown(second_tier)
            )
        for name, text in {"model_name": model_name, "device": device}.items():
            if text is not None:
                checked_name(name, text, error=ConfigurationError)
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
                fix="give them to the backend",
            )
        if second_tier is not None:
            check_lasting_name(backend.model_name)
        self._second_tier = None if second_tier is None else PatientTier(second_tier)
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
        """One vector for a string, a list of vectors for a list, as lists of floats.

        kind: which prompt is put before the texts, for models that tell them apart.
        wait: where the queue is full, wait for room; False raises OverloadedError.
        """
        _check_call(kind=kind, wait=wait)
        if isinstance(texts, str):
            [vector] = await self._embed([checked_text(texts)], kind, wait=wait)
            return cast("list[float]", vector.tolist())
        vectors = await self._embed(checked_texts(texts), kind, wait=wait)
        return [cast("list[float]", vector.tolist()) for vector in vectors]

    async def encode_query_async(
        self, text: str, *, wait: bool = False, second_tier: PatientTier | None = None
    ) -> Vector:
        """The vector of a query, shape (dimensions,), float32, read-only.

        Queries go before documents. wait: where the queue is full, wait for room; by default a
        query is refused with OverloadedError, since its caller can do something better than wait.
        second_tier: of this call, in place of the provider's own.
        """
        _check_call(wait=wait, second_tier=second_tier)
        texts = [checked_text(text)]
        [vector] = await self._embed(texts, "query", wait=wait, second_tier=second_tier)
        return vector

    async def encode_documents_async(
        self, texts: Sequence[str], *, wait: bool = True, second_tier: PatientTier | None = None
    ) -> Matrix:
        """The vectors of texts to be stored, shape (len(texts), dimensions), float32.

        If one text fails the call fails; the others stay in the cache. wait: where the queue is
        full, wait for room; False raises OverloadedError. second_tier: as above.
        """
        _check_call(wait=wait, second_tier=second_tier)
        wanted = checked_texts(texts)
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
        second_tier: PatientTier | None = None,
    ) -> list[Vector]:
        tier = second_tier or self._second_tier
        return await self._engine.embed(texts, kind, wait=wait, tier=tier)

    async def load_async(self) -> None:
        """Load the model now, so that the first query need not wait for it. Twice is fine.

        After it `get_dimensions()` answers: a backend that does not know its dimensions (HTTP, a
        callable) embeds one word.
        """
        await self._engine.load()
        if self._engine.dimensions is None:
            await self._engine.embed(["dimensions"], "document", wait=True)

    async def token_counter_async(self) -> TokenCount | None:
        """A function to count tokens with, by the model's own tokenizer; loads the model.

        None where the backend has no tokenizer: HTTP, functions, managers. What frames a text
        (`[CLS]` and its like) is not counted, so that counts can be added up. Safe from any thread,
        also while the model computes.
        """
        await self._engine.load()
        if not isinstance(self._backend, HasTokenizer):
            return None
        return await asyncio.to_thread(self._backend.token_counter)

    def get_model_name(self) -> str:
        """The name that rows carry as `embedding_model`."""
        return self._engine.info.model_name if self._engine.info else self._backend.model_name

    def get_device(self) -> str:
        """Where the model runs; before it is loaded, what was asked for, or `auto`."""
        if self._engine.info is not None:
            return self._engine.info.device
        return self._device or setting("EMB_DEVICE") or "auto"

    def get_dimensions(self) -> int:
        """The length of every vector.

        Raises LifecycleError before the first use, when only the model's files know it.
        """
        dimensions = self._engine.dimensions or self._dimensions
        if dimensions is None:
            raise LifecycleError(
                "The dimensions of the embedding model are not known before its first use",
                seen=self.get_model_name(),
                fix="await load_async() first (a service says it with its first vector)",
            )
        return dimensions

    @property
    def closed(self) -> bool:
        """Whether `shutdown` or `close_async` was called."""
        return self._engine.closed

    def stats(self) -> EmbeddingStats:
        """Queue depth, batch sizes, waits, hit rate, device, … as numbers."""
        return self._engine.stats()

    def shutdown(self, timeout: float = 5.0) -> None:
        """Close: those who wait get ClosedError at once, threads end after the batch they are in.

        Safe from any thread and as often as you like. Waits up to `timeout` seconds for the
        threads, except on an event loop, which it never blocks: there use `await close_async()`
        where the threads must be gone.
        """
        self._engine.shutdown(checked_seconds("timeout", timeout))

    async def close_async(self, timeout: float = 5.0) -> None:
        """As `shutdown`, and wait up to `timeout` seconds for the threads without blocking."""
        await self._engine.close(checked_seconds("timeout", timeout))

    def __repr__(self) -> str:
        return f"AsyncEmbeddingProvider({self.get_model_name()!r}, device={self.get_device()!r})"


def _check_call(*, kind: Any = "document", wait: Any = True, second_tier: Any = None) -> None:
    """Raise InvalidInputError for arguments of a call that are of a wrong kind."""
    checked_choice("kind", kind, ("query", "document"))
    checked_flag("wait", wait)
    if second_tier is not None and not isinstance(second_tier, PatientTier):
        raise InvalidInputError("second_tier must be a PatientTier", seen=shown(second_tier))
