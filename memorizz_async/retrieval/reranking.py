"""A second, slower look at what was found: what a reranker is, and a cross-encoder as one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np

from memorizz_async.errors import (
    ConfigurationError,
    EmbeddingError,
    InvalidInputError,
    MemorizzAsyncError,
    MissingDependencyError,
    ModelLoadError,
)
from memorizz_async.fork import ProcessBound, use_models_here
from memorizz_async.installing import how_to_install
from memorizz_async.redaction import shown
from memorizz_async.validation import checked_count, checked_list, checked_text


@runtime_checkable
class Reranker(Protocol):
    """Anything that says how well each text answers a query."""

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """One score a text, in their order; higher is better, in any unit."""
        ...


def check_reranker(value: Any) -> None:
    """Raise ConfigurationError for what cannot rerank; None is no reranker."""
    if value is None or (isinstance(value, Reranker) and not isinstance(value, type)):
        return
    raise ConfigurationError(
        "reranker must have a method rerank(query, texts)",
        seen=shown(value),
        fix="pass a CrossEncoderReranker, or an object of your own with that method",
    )


class CrossEncoderReranker(ProcessBound):
    """A sentence-transformers CrossEncoder, which reads query and text together.

    model: a name or a folder, loaded on first use, or a CrossEncoder that is loaded already.
    batch_size: pairs a forward pass.

    Loading and computing happen in a worker thread, one computation at a time: a model is not made
    to be used by several threads. Raises MissingDependencyError and ModelLoadError on first use.
    """

    def __init__(self, model: Any, *, batch_size: int = 32) -> None:
        if not isinstance(model, str) and not callable(getattr(model, "predict", None)):
            raise ConfigurationError(
                "model must be the name of a cross-encoder, or one that is loaded",
                seen=shown(model),
            )
        if isinstance(model, str):
            checked_text("model", model, error=ConfigurationError)
        self._given = model
        self._batch_size = checked_count("batch_size", batch_size, error=ConfigurationError)
        self._loaded: Any = None if isinstance(model, str) else model
        self._one_at_a_time = threading.Lock()  # taken in worker threads only
        if self._loaded is not None:
            use_models_here()

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """The model's scores, one a text.

        Raises EmbeddingError where it fails, and LifecycleError in a process that was forked after
        a model had been used.
        """
        wanted = checked_list("texts", texts)
        if not isinstance(query, str) or not all(isinstance(text, str) for text in wanted):
            raise InvalidInputError("query must be a string, and texts a list of strings")
        use_models_here()  # before the lock, which may have been held at the fork
        return await asyncio.to_thread(self._scores, query, wanted)

    def _scores(self, query: str, texts: list[str]) -> list[float]:
        with self._one_at_a_time:
            if self._loaded is None:
                self._loaded = _load(self._given)
            try:
                found = self._loaded.predict(
                    [(query, text) for text in texts],
                    batch_size=self._batch_size,
                    show_progress_bar=False,
                )
            except Exception as error:
                raise EmbeddingError("The reranker failed", seen=type(error).__name__) from error
        return [float(score) for score in np.asarray(found, dtype=np.float64).reshape(len(texts))]


def _load(name: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder  # noqa: PLC0415 - an optional part
    except ImportError as error:
        raise MissingDependencyError(
            "CrossEncoderReranker needs sentence-transformers, which is not installed",
            fix=how_to_install("gpu"),
        ) from error
    try:
        return CrossEncoder(name)
    except Exception as error:
        raise ModelLoadError(
            f"The cross-encoder {name!r} could not be loaded",
            seen=type(error).__name__,
            fix="name a model or a folder that sentence-transformers can load",
        ) from error


async def best_order(
    reranker: Reranker, query: str, texts: Sequence[str]
) -> list[tuple[int, float]]:
    """(position, score) of each text, the best first; of equals the earlier one.

    Raises EmbeddingError where the reranker fails, or gives not one finite number a text.
    """
    if not texts:
        return []
    try:
        given = await reranker.rerank(query, texts)
    except MemorizzAsyncError:
        raise
    except Exception as error:
        raise EmbeddingError(
            "The reranker failed", seen=type(error).__name__, fix="see the error that caused this"
        ) from error
    scores: Any = None
    with suppress(TypeError, ValueError):  # they quote what was given: no cause of ours
        scores = np.asarray(given, dtype=np.float64)
    if scores is None:
        raise EmbeddingError("The reranker gave no numbers", seen=type(given).__name__)
    if scores.shape != (len(texts),) or not np.isfinite(scores).all():
        raise EmbeddingError(
            "The reranker must give one finite number a text",
            seen=f"an array of shape {scores.shape} for {len(texts)} texts",
        )
    return [(int(at), float(scores[at])) for at in np.argsort(-scores, kind="stable")]
