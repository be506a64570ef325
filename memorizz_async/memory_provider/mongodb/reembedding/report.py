"""What a change of model tells while it runs, and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from memorizz_async.errors import MemorizzAsyncError
from memorizz_async.markup import Summarized

Step = Literal["embedding", "switching", "done"]
OnUnembeddable = Literal["raise", "drop_vector"]
SHOWN_IDS = 20


@dataclass(frozen=True)
class ReembedProgress(Summarized):
    """How far a memory type is.

    step: `embedding` (new vectors are made beside the old ones, which answer), `switching` (for
    seconds: rows change over), `done`. rows of total: what has a new vector by now.
    """

    memory_type: str
    collection: str
    step: Step
    rows: int
    total: int


@dataclass(repr=False)
class TypeReport(Summarized):
    """What was done with the rows of one memory type.

    model_before, model: None before where rows did not say it, or there were none.
    rows: embedded in this run. resumed: rows that an earlier run had embedded and not switched.
    skipped: rows that were of the model already. without_text: rows with a vector and no text to
    embed; dropped: how many of them lost their vector, as was asked.
    failed: the ids (as strings, at most 20) of rows that could not be embedded, with the reason.
    failed_count: how many. switched: whether the model answers for this type now.
    index: what became of the search index, where there is one. error: why it did not end.
    """

    memory_type: str
    collection: str
    model: str
    model_before: str | None = None
    dimensions: int = 0
    rows: int = 0
    resumed: int = 0
    skipped: int = 0
    without_text: int = 0
    dropped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    failed_count: int = 0
    switched: bool = False
    index: str | None = None
    seconds: float = 0.0
    error: MemorizzAsyncError | None = None

    def summary(self) -> Mapping[str, object]:
        """Counts, models and time."""
        return {
            "memory_type": self.memory_type,
            "model_before": self.model_before,
            "model": self.model,
            "rows": self.rows,
            "resumed": self.resumed,
            "skipped": self.skipped,
            "failed": self.failed_count,
            "switched": self.switched,
            "seconds": self.seconds,
            "error": None if self.error is None else type(self.error).__name__,
        }

    def fail(self, row_id: str, reason: str) -> None:
        """Count a row that could not be embedded; the first are remembered by name."""
        self.failed_count += 1
        if len(self.failed) < SHOWN_IDS:
            self.failed[row_id] = reason


@dataclass(frozen=True, repr=False)
class ReembedReport(Summarized):
    """What `reembed_async` did. types: by memory type, of those whose collection has vectors."""

    model: str
    dimensions: int
    types: Mapping[str, TypeReport]
    seconds: float

    def summary(self) -> Mapping[str, object]:
        """Over all types."""
        return {
            "model": self.model,
            "dimensions": self.dimensions,
            "types": len(self.types),
            "rows": self.rows,
            "failed": sum(one.failed_count for one in self.types.values()),
            "seconds": self.seconds,
        }

    def details(self) -> Sequence[Mapping[str, object]]:
        """A row for each type."""
        return [one.summary() for one in self.types.values()]

    @property
    def rows(self) -> int:
        """Rows that were embedded."""
        return sum(one.rows for one in self.types.values())

    @property
    def rows_per_second(self) -> float:
        """Over the whole run, the pauses of switching included."""
        return self.rows / self.seconds if self.seconds else 0.0
