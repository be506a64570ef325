"""The indexes of every collection: ordinary ones everywhere, search indexes where they exist."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memorizz_async.config import MongoDBConfig, check_quantization
from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError, UnsupportedOperationError
from memorizz_async.markup import Summarized
from memorizz_async.memory_provider.mongodb.pipelines import search_index_definition
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress, SearchIndex
from memorizz_async.memory_provider.mongodb.vector_search.atlas import has_no_search
from memorizz_async.memory_provider.mongodb.vector_search.index_state import look

log = logging.getLogger(__name__)

_THERE_ALREADY = frozenset({85, 86})  # IndexOptionsConflict, IndexKeySpecsConflict


@dataclass(repr=False)
class IndexReport(Summarized):
    """What `ensure_indexes_async` found and made.

    ordinary: collection -> names of its B-tree indexes.
    search: collection -> `created`, `updated` or `present`; empty where the server has no search.
    text: collection -> `created`, `present`, or `other: …`, a text index that somebody else made,
        or of another language: a collection can have only one, so it is used as it is. Empty on
        `memory://`, which has none.
    """

    ordinary: dict[str, list[str]] = field(default_factory=dict)
    search: dict[str, str] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)

    def summary(self) -> Mapping[str, object]:
        """How many collections have which indexes."""
        return {
            "collections": len(self.ordinary),
            "ordinary": sum(map(len, self.ordinary.values())),
            "text": dict(Counter(outcome.partition(":")[0] for outcome in self.text.values())),
            "search": dict(Counter(self.search.values())) or None,
        }

    def details(self) -> Sequence[Mapping[str, object]]:
        """A row for each collection."""
        return [
            {
                "collection": name,
                "ordinary": ", ".join(indexes),
                "text": self.text.get(name, "-"),
                "search": self.search.get(name, "-"),
            }
            for name, indexes in self.ordinary.items()
        ]


async def ensure_ordinary(
    driver: Driver, collections: Sequence[str], deadline: Deadline
) -> dict[str, list[str]]:
    """Create the B-tree indexes that are missing: the tenant's, and the one that expires rows."""
    made = await asyncio.gather(*(_ordinary(driver, name, deadline) for name in collections))
    return dict(zip(collections, made, strict=True))


async def _ordinary(driver: Driver, collection: str, deadline: Deadline) -> list[str]:
    return [
        await _one(driver, collection, "tenant", [("memory_id", 1), ("user_id", 1)], deadline),
        await _one(driver, collection, "user", [("user_id", 1)], deadline),
        await _one(
            driver, collection, "expiry", [("expires_at", 1)], deadline, expireAfterSeconds=0
        ),
    ]


async def _one(
    driver: Driver,
    collection: str,
    name: str,
    keys: Sequence[tuple[str, int]],
    deadline: Deadline,
    **options: Any,
) -> str:
    try:
        return await driver.create_index(collection, keys, name=name, deadline=deadline, **options)
    except DatabaseError as error:
        if error.code not in _THERE_ALREADY:
            raise
        log.info("%r has an index like %r of its own: it stays as it is", collection, name)
        return name


async def server_has_search(driver: Driver, collection: str, deadline: Deadline) -> bool:
    """Whether this server knows search indexes. Raises DatabaseError where it fails otherwise."""
    try:
        await look(driver, collection, "any", deadline)
    except DatabaseError as error:
        if has_no_search(error) or isinstance(error, UnsupportedOperationError):
            return False
        raise
    return True


async def ensure_search(
    driver: Driver,
    filter_fields: Mapping[str, Sequence[str]],
    *,
    config: MongoDBConfig,
    dimensions: int,
    deadline: Deadline,
    progress: Callable[[IndexProgress], None] | None = None,
) -> dict[str, str]:
    """Create or widen the search index of each collection, and wait until it answers.

    filter_fields: collection -> the paths that a filter may name.

    An index that exists (memorizz's too) keeps its fields and gains those that are missing. Raises
    OperationTimeoutError, which says what was seen last, where one is not ready in time;
    DatabaseError where a build failed or the cluster takes no more indexes; ConfigurationError.
    """
    check_quantization(config.quantization, dimensions)
    report = progress or (lambda _: None)
    tasks = [
        asyncio.create_task(
            SearchIndex(
                driver,
                collection,
                config.vector_index_name,
                search_index_definition(
                    dimensions=dimensions,
                    similarity=config.similarity,
                    filter_paths=paths,
                    quantization=config.quantization,
                ),
                report,
            ).ensure(deadline)
        )
        for collection, paths in filter_fields.items()
    ]
    try:
        done = await asyncio.gather(*tasks)
    finally:  # where one failed there is nothing to wait for: the others go on being built anyway
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return dict(zip(filter_fields, done, strict=True))
