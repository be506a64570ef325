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
from memorizz_async.errors import AuthenticationError, DatabaseError, UnsupportedOperationError
from memorizz_async.markup import Summarized
from memorizz_async.memory_provider.mongodb.pipelines import (
    TEXT_LANGUAGE_FIELD,
    list_indexes,
    search_index_definition,
)
from memorizz_async.memory_provider.mongodb.pipelines.editing import history_index_keys
from memorizz_async.memory_provider.mongodb.pipelines.sessions import session_index_keys
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress, SearchIndex
from memorizz_async.memory_provider.mongodb.vector_search.atlas import has_no_search
from memorizz_async.memory_provider.mongodb.vector_search.index_state import look

log = logging.getLogger(__name__)

_SAME_FIELDS, _NAME_TAKEN = 85, 86  # IndexOptionsConflict, IndexKeySpecsConflict
NO_COLLECTION, IS_VIEW = 26, 166  # NamespaceNotFound, CommandNotSupportedOnView
NOT_POSSIBLE = {
    IS_VIEW: "a view has no indexes of its own",
    72: "a time-series collection cannot have it",  # InvalidOptions
    67: "the collection cannot have it: it is capped, or has 64 indexes",  # CannotCreateIndex
}
_A_ROW = "a row stands in the way, find it, change or delete it, and create the indexes again: "
ROW_IN_THE_WAY = {
    171: _A_ROW + "two fields of the index are lists in it",  # CannotIndexParallelArrays
    201: _A_ROW + "its memory_id is a list",  # CannotBuildIndexKeys
    17261: _A_ROW + f"its {TEXT_LANGUAGE_FIELD} is no text",
    17262: _A_ROW + f"its {TEXT_LANGUAGE_FIELD} is no language that MongoDB knows",
    28755: _A_ROW + "its content or context is text that is not UTF-8",
}
"""What one row may hold that the server builds no index over, whatever the other rows hold."""
MOST_INDEXES = 64
_PREFIX = "memorizz_"
_OPTIONS = (
    "expireAfterSeconds", "unique", "sparse", "partialFilterExpression", "hidden", "collation",
)  # fmt: skip


@dataclass(frozen=True)
class OrdinaryIndex:
    """A B-tree index as it is wanted: its name, its fields, and its other options."""

    name: str
    keys: tuple[tuple[str, int | str], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def options_differ(self, listed: Mapping[str, Any]) -> list[str]:
        """The options in which an index of the same fields is another one than this."""
        return [name for name in _OPTIONS if _set(listed.get(name)) != _set(self.options.get(name))]


def _set(value: Any) -> Any:
    return None if value is False else value  # `sparse: false` is no option


@dataclass(frozen=True)
class NotMade:
    """Why an index was not made."""

    reason: str


ROW_INDEXES = (
    OrdinaryIndex("tenant", (("memory_id", 1), ("user_id", 1))),
    OrdinaryIndex("user", (("user_id", 1),)),
    OrdinaryIndex("expiry", (("expires_at", 1),), {"expireAfterSeconds": 0}),
)
TURN_INDEXES = (
    OrdinaryIndex("session", tuple(session_index_keys())),
    OrdinaryIndex("history", tuple(history_index_keys())),
)


@dataclass(repr=False)
class IndexReport(Summarized):
    """What `ensure_indexes_async` found and made.

    ordinary: collection -> names of the B-tree indexes that serve. An index of the same fields that
        was there already keeps its name; where our name belongs to an index of other fields, ours
        is called `memorizz_…`.
    search: collection -> `created`, `updated` or `present`; empty where the server has no search.
    text: collection -> `created`, `present`, or `other: …`, a text index that somebody else made,
        or of another language: a collection can have only one, so it is left as it is. Empty on
        `memory://`, which has none.
    skipped: collection -> name of an index of ours -> why it was not made, or, of the text index,
        why recalls do not use the one that is there. What stands in the way stays as it is.
    """

    ordinary: dict[str, list[str]] = field(default_factory=dict)
    search: dict[str, str] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)

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
    driver: Driver, wanted: Mapping[str, Sequence[OrdinaryIndex]], deadline: Deadline
) -> IndexReport:
    """Create the B-tree indexes that are missing; what is there stays as it is.

    Args:
        driver: The database.
        wanted: collection -> its indexes.
        deadline: The end of the call's time.

    Returns:
        A report of `ordinary` and `skipped`.

    Raises:
        AuthenticationError: An index is missing, and the user may not create it.
        DatabaseError: The server failed.
    """
    made = await asyncio.gather(
        *(_ensure_each(driver, name, indexes, deadline) for name, indexes in wanted.items())
    )
    report = IndexReport()
    for (collection, indexes), outcomes in zip(wanted.items(), made, strict=True):
        report.ordinary[collection] = [name for name in outcomes if isinstance(name, str)]
        skipped = {
            index.name: outcome.reason
            for index, outcome in zip(indexes, outcomes, strict=True)
            if isinstance(outcome, NotMade)
        }
        if skipped:
            report.skipped[collection] = skipped
    return report


async def _ensure_each(
    driver: Driver, collection: str, indexes: Sequence[OrdinaryIndex], deadline: Deadline
) -> list[str | NotMade]:
    return [await ensure_index(driver, collection, index, deadline) for index in indexes]


async def ensure_index(
    driver: Driver, collection: str, index: OrdinaryIndex, deadline: Deadline
) -> str | NotMade:
    """Create one B-tree index, unless one that serves as well is there.

    Returns:
        The name of the index that serves, or why there is none.

    Raises:
        AuthenticationError: It is missing, and the user may not create it.
        DatabaseError: The server failed.
    """
    for name in (index.name, _PREFIX + index.name):
        try:
            return await driver.create_index(
                collection, index.keys, name=name, deadline=deadline, **index.options
            )
        except DatabaseError as error:
            if error.code == _NAME_TAKEN:  # by an index of other fields
                continue
            if error.code == _SAME_FIELDS or isinstance(error, AuthenticationError):
                there = await _same_fields(driver, collection, index, deadline)
                if there is None and error.code != _SAME_FIELDS:
                    raise
                return there or _not_made(collection, index, "another index stands in its way")
            reason = (NOT_POSSIBLE | ROW_IN_THE_WAY).get(error.code or 0)
            if reason is None:
                raise
            return _not_made(collection, index, reason)
    return _not_made(collection, index, "both of its names belong to indexes of other fields")


async def _same_fields(
    driver: Driver, collection: str, index: OrdinaryIndex, deadline: Deadline
) -> str | NotMade | None:
    """The index of the same fields that is there: its name where it serves; None without one."""
    try:
        listed = await listed_indexes(driver, collection, deadline)
    except AuthenticationError:
        return None
    same = [each for each in listed if tuple(each["key"].items()) == index.keys]
    for each in same:
        if not index.options_differ(each):
            return str(each["name"])
    if not same:
        return None
    names = ", ".join(index.options_differ(same[0]))
    return _not_made(
        collection, index, f"{same[0]['name']!r} has the same fields, and differs in {names}"
    )


async def listed_indexes(
    driver: Driver, collection: str, deadline: Deadline
) -> list[Mapping[str, Any]]:
    """The indexes of a collection; none where there is no such collection. Raises DatabaseError."""
    try:
        reply = await driver.command(list_indexes(collection), deadline=deadline)
    except DatabaseError as error:
        if error.code == NO_COLLECTION:
            return []
        raise
    # At most 64 indexes a collection: they all come in the first batch.
    return list(reply["cursor"]["firstBatch"])


def _not_made(collection: str, index: OrdinaryIndex, reason: str) -> NotMade:
    log.warning("%r has no index %r: %s", collection, index.name, reason)
    return NotMade(reason)


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
