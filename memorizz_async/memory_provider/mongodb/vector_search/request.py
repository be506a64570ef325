"""What a search is asked, and what it answers, whichever way it is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from memorizz_async.config import Consistency, Similarity
from memorizz_async.deadline import Deadline
from memorizz_async.errors import StoredEmbeddingError
from memorizz_async.vectors import Vector

NO_SCORE = "all zeros, or a value that is not finite"


def wrong_dimension(stored: int, asked: int) -> str:
    """Why a row of another dimension cannot be compared."""
    return f"{stored} numbers, not {asked}"


@dataclass(frozen=True)
class SearchRequest:
    """One vector query: the best `limit` rows of a collection inside a scope."""

    collection: str
    scope: Mapping[str, Any]
    vector: Vector
    limit: int
    similarity: Similarity
    include_embedding: bool
    now: datetime
    deadline: Deadline
    consistency: Consistency = "session"


@dataclass
class SearchAnswer:
    """Rows with their scores, the best first, and the rows that could not be compared."""

    strategy: str
    rows: list[tuple[dict[str, Any], float]]
    unsearchable: StoredEmbeddingError | None = None


@dataclass
class Unsearchable:
    """Counts rows that cannot be compared with a query, and remembers the first of them."""

    remembered: int = 20
    count: int = 0
    rows: dict[str, str] = field(default_factory=dict)

    def add(self, row_id: Any, reason: str) -> None:
        self.count += 1
        if len(self.rows) < self.remembered:
            self.rows[str(row_id)] = reason

    def error(self, collection: str, dimensions: int) -> StoredEmbeddingError | None:
        """The error that says so; None where there is nothing to say."""
        if not self.count:
            return None
        row_id, reason = next(iter(self.rows.items()))
        noun = "row has a vector" if self.count == 1 else "rows have vectors"
        return StoredEmbeddingError(
            f"{self.count} {noun} in {collection!r} that cannot be compared with this query "
            f"of {dimensions} dimensions",
            rows=self.rows,
            count=self.count,
            seen=f"row {row_id}: {reason}",
            fix="embed those rows again with the model of the query, or delete them",
        )
