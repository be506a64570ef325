"""The dimension of a collection's vectors: rows of another one could never be searched together."""

from __future__ import annotations

from collections.abc import Sequence

from memorizz_async.deadline import Deadline
from memorizz_async.errors import InvalidEmbeddingError
from memorizz_async.memory_provider.mongodb.pipelines import any_embedded_filter, scan_projection
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.vectors import Vector, stored_vector


class Dimensions:
    """What each collection holds: as configured, else as its rows say, else as first written.

    configured: `MongoDBConfig.dimensions`; where it is set, no row is looked at.
    """

    def __init__(self, configured: int | None) -> None:
        self._configured = configured
        self._known: dict[str, int] = {}

    async def check(
        self, driver: Driver, collection: str, vectors: Sequence[Vector], deadline: Deadline
    ) -> None:
        """Refuse vectors of another dimension with InvalidEmbeddingError; nothing is written."""
        expected = self._configured or self._known.get(collection)
        if expected is None:
            expected = await _stored(driver, collection, deadline) or vectors[0].size
        for vector in vectors:
            if vector.size != expected:
                raise InvalidEmbeddingError(
                    f"A vector has another dimension than {collection!r}; nothing was written",
                    seen=f"{vector.size} numbers, not {expected}",
                    fix="embed with the model of the stored rows, or set the dimension that is "
                    "right in MongoDBConfig(dimensions=…)",
                )
        self._known[collection] = expected


async def _stored(driver: Driver, collection: str, deadline: Deadline) -> int | None:
    """The dimension of a vector that the collection holds already; None where it holds none."""
    rows = await driver.find(
        collection, any_embedded_filter(), projection=scan_projection(), limit=1, deadline=deadline
    )
    try:
        return int(stored_vector(rows[0]["embedding"]).size) if rows else None
    except (TypeError, ValueError):  # no vector: a search reports that row
        return None
