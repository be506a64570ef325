"""Runs one batch on a backend and gives every text of it a vector or an error.

Here are the rules of failure: a batch that does not fit is halved, a batch that fails is tried text
by text so that a bad text fails alone, and what comes back is checked before anybody sees it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TypeAlias

from memorizz_async.embeddings.protocol import (
    Backend,
    Batch,
    BatchTooLargeError,
    Matrix,
    Vector,
    WholeBatchError,
)
from memorizz_async.embeddings.vectors import (
    as_matrix,
    bad_rows,
    bad_vector_error,
    frozen,
    shortened,
)
from memorizz_async.embeddings.work_queue import Item
from memorizz_async.errors import EmbeddingError, MemorizzAsyncError
from memorizz_async.fork import ForkSafeLock
from memorizz_async.redaction import outline

logger = logging.getLogger("memorizz_async.embeddings")

Outcome: TypeAlias = tuple[Item, Vector | MemorizzAsyncError]
Loops: TypeAlias = Callable[[list[Item]], list[asyncio.AbstractEventLoop]]


class Execution:
    """How batches are run on one backend.

    dimensions: of the vectors that leave here; None leaves them as the model gives them.
    still_wanted: asked before a text is tried again; nobody may wait for it by then.
    too_large, tried_again: told how often it came to that, for the counters.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        dimensions: int | None,
        normalize: bool,
        loops: Loops,
        still_wanted: Callable[[Item], bool],
        too_large: Callable[[list[Item]], None],
        tried_again: Callable[[int], None],
    ) -> None:
        self._backend = backend
        self._wanted_dimensions = dimensions
        self._normalize = normalize
        self._loops = loops
        self._still_wanted = still_wanted
        self._too_large = too_large
        self._tried_again = tried_again
        self._lock = ForkSafeLock()
        self.model_dimensions: int | None = None
        """What the model gives before it is cut; every batch must agree."""

    @property
    def dimensions(self) -> int | None:
        """The length of the vectors that leave here; None before it is known."""
        if self.model_dimensions is None:
            return None
        return min(self.model_dimensions, self._wanted_dimensions or self.model_dimensions)

    def expect(self, dimensions: int | None) -> None:
        """The model's own dimension, as far as the backend knows it before the first batch."""
        if dimensions is None:
            return
        if self._wanted_dimensions is not None and self._wanted_dimensions > dimensions:
            raise EmbeddingError(
                "The model's vectors are shorter than the dimensions that were asked for",
                seen=f"{dimensions} instead of {self._wanted_dimensions}",
                fix="leave dimensions out, or ask for fewer",
            )
        with self._lock:
            if self.model_dimensions is None:
                self.model_dimensions = dimensions

    @property
    def counts_tokens(self) -> bool:
        """Whether the backend can count the tokens of texts."""
        return hasattr(self._backend, "count_tokens")

    def count_tokens(self, items: list[Item]) -> list[int]:
        """The tokens of each text; 0 where they are not known. Never raises: estimates will do."""
        counts: list[int] = []
        try:
            counts = self._backend.count_tokens([item.prompt + item.text for item in items])  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - an estimate will do
            logger.debug("tokens were not counted: %s", outline(error))
        return counts if len(counts) == len(items) else [0] * len(items)

    def run(self, items: list[Item]) -> Iterator[list[Outcome]]:
        """Outcomes as they come, each item exactly once (but not those nobody wants any more)."""
        parts = [items]
        while parts:
            part = parts.pop()
            if part is not items:
                part = [item for item in part if self._still_wanted(item)]
                if not part:
                    continue
            try:
                matrix = self._embed(part)
            except BatchTooLargeError as error:
                self._too_large(part)
                if len(part) == 1:
                    yield [(part[0], _does_not_fit(error))]
                    continue
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            except WholeBatchError as error:
                reason = as_our_error(error.__cause__ or error)
                yield [(item, reason) for item in part]
            # Whatever it is: a thread that died of it would leave those who wait without an answer.
            except BaseException as error:  # noqa: BLE001
                if len(part) == 1:
                    yield [(part[0], as_our_error(error))]
                    continue
                self._tried_again(len(part))
                parts += [[item] for item in reversed(part)]
            else:
                good, bad = _sorted_out(part, matrix)
                yield good
                if len(part) == 1:
                    yield [(part[0], bad_vector_error(matrix[0]))] if bad else []
                elif bad:
                    self._tried_again(len(bad))
                    parts += [[item] for item in reversed(bad)]

    def _embed(self, part: list[Item]) -> Matrix:
        first = part[0]
        batch = Batch(
            texts=[item.text for item in part],
            prompt=first.prompt,
            kind=first.kind,
            loops=lambda: self._loops(part),
        )
        values = self._backend.embed(batch)
        matrix = as_matrix(values, len(part), self.model_dimensions)
        self.expect(matrix.shape[1])
        return shortened(matrix, self._wanted_dimensions, normalize=self._normalize)


def _sorted_out(part: list[Item], matrix: Matrix) -> tuple[list[Outcome], list[Item]]:
    wrong = bad_rows(matrix)
    good: list[Outcome] = []
    bad: list[Item] = []
    for item, row, is_wrong in zip(part, matrix, wrong, strict=True):
        if is_wrong:
            bad.append(item)
        else:
            good.append((item, frozen(row)))
    return good, bad


def _does_not_fit(error: BaseException) -> EmbeddingError:
    wrapped = EmbeddingError(
        "One text alone is too large for the embedding device or service",
        seen=str(error),
        fix="split the text, use a smaller model, or free memory on the device",
    )
    wrapped.__cause__ = error
    return wrapped


def as_our_error(error: BaseException) -> MemorizzAsyncError:
    """Any failure of a backend as one of ours.

    A foreign error's words stay out of the message, since they may hold a text or a key; the error
    itself is the cause.
    """
    if isinstance(error, MemorizzAsyncError):
        return error
    wrapped = EmbeddingError(
        "The embedding backend failed",
        seen=type(error).__name__,
        fix="see the error that this one was raised from",
    )
    wrapped.__cause__ = error
    return wrapped
