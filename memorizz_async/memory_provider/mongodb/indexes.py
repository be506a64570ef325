"""The indexes of every collection: ordinary ones everywhere, search indexes where they exist."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError, OperationTimeoutError, UnsupportedOperationError
from memorizz_async.memory_provider.mongodb.pipelines import (
    create_search_index,
    search_index_definition,
    search_indexes_pipeline,
    update_search_index,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.atlas import has_no_search

log = logging.getLogger(__name__)

FILTER_PATHS = ("memory_id", "user_id")
_POLL_S = 0.5


@dataclass
class IndexReport:
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


async def ensure_ordinary(
    driver: Driver, collections: Sequence[str], deadline: Deadline
) -> dict[str, list[str]]:
    """Create the B-tree indexes that are missing: the tenant's, and the one that expires rows."""
    made = await asyncio.gather(*(_ordinary(driver, name, deadline) for name in collections))
    return dict(zip(collections, made, strict=True))


async def _ordinary(driver: Driver, collection: str, deadline: Deadline) -> list[str]:
    tenant = await driver.create_index(
        collection, [("memory_id", 1), ("user_id", 1)], name="tenant", deadline=deadline
    )
    user = await driver.create_index(collection, [("user_id", 1)], name="user", deadline=deadline)
    expiry = await driver.create_index(
        collection, [("expires_at", 1)], name="expiry", expireAfterSeconds=0, deadline=deadline
    )
    return [tenant, user, expiry]


async def server_has_search(driver: Driver, collection: str, deadline: Deadline) -> bool:
    """Whether this server knows search indexes. Raises DatabaseError where it fails otherwise."""
    try:
        await driver.aggregate(collection, search_indexes_pipeline("any"), deadline=deadline)
    except DatabaseError as error:
        if has_no_search(error) or isinstance(error, UnsupportedOperationError):
            return False
        raise
    return True


async def ensure_search(
    driver: Driver,
    collections: Sequence[str],
    *,
    config: MongoDBConfig,
    dimensions: int,
    deadline: Deadline,
) -> dict[str, str]:
    """Create or widen the search index of each collection, and wait until it answers.

    An index that exists (memorizz's too) keeps its fields and gains those that are missing. Raises
    OperationTimeoutError, which says what was seen last, where one is not ready in time.
    """
    definition = search_index_definition(
        dimensions=dimensions, similarity=config.similarity, filter_paths=FILTER_PATHS
    )
    name = config.vector_index_name
    done = await asyncio.gather(
        *(_search(driver, collection, name, definition, deadline) for collection in collections)
    )
    return dict(zip(collections, done, strict=True))


async def _search(
    driver: Driver, collection: str, name: str, definition: Mapping[str, Any], deadline: Deadline
) -> str:
    existing = await driver.aggregate(collection, search_indexes_pipeline(name), deadline=deadline)
    if not existing:
        await driver.command(create_search_index(collection, name, definition), deadline=deadline)
        outcome = "created"
    else:
        definition = _widened(existing[0].get("latestDefinition", {}), definition)
        if definition == existing[0].get("latestDefinition"):
            outcome = "present"
        else:
            await driver.command(
                update_search_index(collection, name, definition), deadline=deadline
            )
            outcome = "updated"
    await _until_ready(driver, collection, name, definition, deadline)
    return outcome


def _widened(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The existing definition with our vector field in place of its own, and our filter fields."""
    paths = {entry["path"] for entry in wanted["fields"]}
    present = {entry.get("path"): entry for entry in existing.get("fields", [])}
    kept = [entry for path, entry in present.items() if path not in paths]
    ours = [
        # What the user tuned on the same field (quantization, hnswOptions) stays.
        {**present[entry["path"]], **entry} if entry["path"] in present else entry
        for entry in wanted["fields"]
    ]
    if all(present.get(entry["path"]) == entry for entry in ours):
        return dict(existing)
    return {**existing, "fields": [*ours, *kept]}


async def _until_ready(
    driver: Driver, collection: str, name: str, definition: Mapping[str, Any], deadline: Deadline
) -> None:
    """Wait until the index is queryable AND READY AND of this definition: while an index is being
    rebuilt it stays queryable with its old definition.
    """
    operation = f"building the search index {name!r} of {collection!r}"
    seen = "nothing yet"
    while True:
        try:
            found = await driver.aggregate(
                collection, search_indexes_pipeline(name), deadline=deadline
            )
            if found:
                status, queryable = found[0].get("status"), found[0].get("queryable")
                seen = f"status {status}, queryable {queryable}"
                current = found[0].get("latestDefinition") == definition
                if current and queryable and status == "READY":
                    return
            log.info("%s: %s", operation, seen)
            deadline.remaining_s(operation)
        except OperationTimeoutError as error:
            raise deadline.exceeded(operation, seen) from error
        await asyncio.sleep(_POLL_S)
