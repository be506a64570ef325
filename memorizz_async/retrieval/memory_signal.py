"""How much a memory should weigh in the answer, beyond how similar it is to the query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memorizz_async.errors import ConfigurationError, InvalidInputError
from memorizz_async.redaction import shown
from memorizz_async.timestamps import number_of, row_seconds
from memorizz_async.validation import checked_number

SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True)
class MemorySignal:
    """The weights of relevance, recency and importance.

    half_life_days: after so many days a memory has lost half of its recency.
    relevance, recency, importance: their weights; only their proportions matter.
    """

    half_life_days: float = 30.0
    relevance: float = 0.7
    recency: float = 0.15
    importance: float = 0.15

    def __post_init__(self) -> None:
        weights = (self.relevance, self.recency, self.importance)
        try:
            for value in (self.half_life_days, *weights):
                checked_number("it", value, least=0)
            good = self.half_life_days > 0 and max(weights) > 0
        except InvalidInputError:
            good = False
        if not good:
            names = ("half_life_days", "relevance", "recency", "importance")
            raise ConfigurationError(
                "The weights of a MemorySignal must be numbers of at least 0, one of them above 0, "
                "and half_life_days a number above 0",
                seen=", ".join(f"{name}={shown(getattr(self, name))}" for name in names),
            )

    def of_row(self, row: dict[str, Any], score: float, now: datetime) -> float:
        """The signal of a stored row; a row that names no importance has the middle one, 0.5."""
        importance = number_of(row.get("importance"))
        return _weighted(
            score,
            age_days=age_days(row, now),
            importance=0.5 if importance is None else importance,
            weights=self,
        )


USUAL_SIGNAL = MemorySignal()
"""The weights of whoever names none."""


def memory_signal(
    relevance: float,
    *,
    age_days: float | None,
    importance: float = 0.5,
    weights: MemorySignal | None = None,
) -> float:
    """The weighted mean of relevance, recency and importance, in [0, 1].

        recency = 0.5 ** (age_days / half_life_days)
        signal  = (relevance * w1 + recency * w2 + importance * w3) / (w1 + w2 + w3)

    relevance: the search score, in [0, 1]. age_days: since the memory came about; a moment in the
    future counts as now; None (not known) leaves recency out of the mean. importance: in [0, 1].
    What is outside its range is taken as the nearest bound.

    After Park et al., "Generative Agents" (UIST 2023), section 4.1: a memory's weight is the sum of
    its relevance, recency (decaying exponentially) and importance, each scaled to [0, 1].
    """
    relevance = _number("relevance", relevance)
    importance = _number("importance", importance)
    age_days = None if age_days is None else _number("age_days", age_days)
    if weights is not None and not isinstance(weights, MemorySignal):
        raise InvalidInputError("weights must be a MemorySignal", seen=shown(weights))
    by = weights or MemorySignal()
    return _weighted(relevance, age_days=age_days, importance=importance, weights=by)


def _number(name: str, value: Any) -> float:
    """A number, also one that is out of range."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidInputError(f"{name} must be a number", seen=shown(value))
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _weighted(
    relevance: float, *, age_days: float | None, importance: float, weights: MemorySignal
) -> float:
    """As memory_signal, of values that are known to be numbers: it is called for each hit."""
    by = weights
    parts = [(by.relevance, _unit(relevance)), (by.importance, _unit(importance))]
    if age_days is not None:
        parts.append((by.recency, 0.5 ** (max(age_days, 0.0) / by.half_life_days)))
    total = sum(weight for weight, _ in parts)
    if total == 0:
        return 0.0
    return _unit(sum(weight * value for weight, value in parts) / total)


def age_days(row: dict[str, Any], now: datetime) -> float | None:
    """How old a memory is, in days: since its `timestamp` (memorizz's conversations), else since
    `created_at`, as dates, ISO text or seconds since the epoch. None where neither says.
    """
    at = row_seconds(row)
    return None if at is None else (now.timestamp() - at) / SECONDS_A_DAY


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
