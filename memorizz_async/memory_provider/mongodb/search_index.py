"""One search index, brought to what we need: created or widened, then awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.errors import DatabaseError, OperationTimeoutError
from memorizz_async.markup import Summarized
from memorizz_async.memory_provider.mongodb.pipelines import (
    create_search_index,
    update_search_index,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.vector_search.index_state import IndexState, look

_FIRST_POLL_S, _LONGEST_POLL_S = 0.1, 1.0
_SHOWS_AFTER_S = 10.0
"""How long a change that was accepted may take to show, before it is sent again."""
_MOST_CHANGES = 5
_ALREADY_EXISTS, _NOT_FOUND = 68, 27


@dataclass(frozen=True)
class IndexProgress(Summarized):
    """How the search index of a collection stands while it is awaited.

    status: the server's word, `PENDING`, `BUILDING`, `READY`, …, or `MISSING`. queryable: whether
    it answers, perhaps still by its old definition. waited_s: seconds since the first look.
    """

    collection: str
    index: str
    status: str
    queryable: bool
    waited_s: float


class SearchIndex:
    """The search index of one collection, and what it should become."""

    def __init__(
        self,
        driver: Driver,
        collection: str,
        name: str,
        wanted: Mapping[str, Any],
        progress: Callable[[IndexProgress], None],
    ) -> None:
        self._driver = driver
        self._collection = collection
        self._name = name
        self._wanted = wanted
        self._progress = progress
        self._started = time.monotonic()
        self._shown: tuple[str, bool] | None = None
        self._outcome = "present"
        self._changes = 0
        self._sent = ("", 0.0)
        self._seen = "nothing yet"

    async def ensure(self, deadline: Deadline) -> str:
        """`created`, `updated` or `present`, once the index is queryable AND READY AND as wanted.

        Queryable alone is not enough: while an update is built, the old definition answers. Others
        may create or change the index at the same time: then what they made is widened. Raises as
        `ensure_search` does.
        """
        operation = f"building the search index {self._name!r} of {self._collection!r}"
        pause_s = _FIRST_POLL_S
        while True:
            try:
                state = await look(self._driver, self._collection, self._name, deadline)
                self._report(state)
                if await self._is_done(state, deadline):
                    return self._outcome
                await asyncio.sleep(min(pause_s, deadline.remaining_s(operation)))
                pause_s = min(1.5 * pause_s, _LONGEST_POLL_S)
            except OperationTimeoutError as error:
                raise deadline.exceeded(operation, self._seen) from error

    async def _is_done(self, state: IndexState | None, deadline: Deadline) -> bool:
        if state is None:
            await self._change(
                create_search_index(self._collection, self._name, self._wanted), "created", deadline
            )
            return False
        if state.status == "DELETING":  # the name is free once it is gone
            return False
        if not state.is_vector:
            raise DatabaseError(
                f"{state.where} is no vector index",
                seen=f"type {state.kind}",
                fix="drop it, or choose another MongoDBConfig(vector_index_name=…)",
            )
        definition = widened(state.definition, self._wanted)
        if definition != state.definition:
            await self._change(
                update_search_index(self._collection, self._name, definition), "updated", deadline
            )
            return False
        if state.status == "FAILED":
            raise DatabaseError(
                f"{state.where} could not be built",
                seen=str(state),
                fix="mend what the server names, drop the index, and run ensure_indexes_async()",
            )
        return state.queryable and state.status == "READY"

    async def _change(self, command: dict[str, Any], outcome: str, deadline: Deadline) -> None:
        """Send a command, unless one that was accepted has not had the time to show."""
        what, at = self._sent
        if what == outcome and time.monotonic() < at + _SHOWS_AFTER_S:
            return
        if self._changes == _MOST_CHANGES:
            raise DatabaseError(
                f"The search index {self._name!r} of {self._collection!r} does not stay as it is "
                "wanted",
                seen=f"{self._changes} changes, each undone by somebody else",
                fix="give all programs one MongoDBConfig for dimensions, similarity and "
                "quantization, or each a vector_index_name of its own",
            )
        try:
            await self._driver.command(command, deadline=deadline)
        except DatabaseError as error:
            # Somebody else was faster, or the name is still being freed: the next look shows.
            # Atlas answers "Duplicate Index" for an equal definition too.
            if error.code in (_ALREADY_EXISTS, _NOT_FOUND):
                self._seen = f"{self._seen}; {error.seen}"
                return
            raise _explained(error, self._collection) from error
        self._changes += 1
        self._sent = (outcome, time.monotonic())
        if self._outcome != "created":
            self._outcome = outcome

    def _report(self, state: IndexState | None) -> None:
        status, queryable = (state.status, state.queryable) if state else ("MISSING", False)
        self._seen = str(state) if state else "no such index yet"
        if (status, queryable) != self._shown:
            self._shown = (status, queryable)
            waited_s = time.monotonic() - self._started
            self._progress(IndexProgress(self._collection, self._name, status, queryable, waited_s))


def widened(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The existing definition with our vector field in place of its own, and our filter fields.

    Equal to the existing one where that covers what is wanted.
    """
    paths = {entry["path"] for entry in wanted["fields"]}
    present = {entry.get("path"): entry for entry in existing.get("fields", [])}
    kept = [entry for path, entry in present.items() if path not in paths]
    ours = [
        # What the user tuned on the same field (quantization, hnswOptions) stays.
        {**present[entry["path"]], **entry} if entry["path"] in present else entry
        for entry in wanted["fields"]
    ]
    if all(_same(present.get(entry["path"]), entry) for entry in ours):
        return dict(existing)
    return {**existing, "fields": [*ours, *kept]}


def _same(present: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Servers take names of similarities in any case, and give back what they were given."""
    return present is not None and {
        key: str(value).lower() for key, value in present.items() if key != "path"
    } == {key: str(value).lower() for key, value in wanted.items() if key != "path"}


def _explained(error: DatabaseError, collection: str) -> DatabaseError:
    said = (error.seen or "").lower()
    if "maximum number of" in said:
        return DatabaseError(
            f"The cluster takes no more search indexes, and {collection!r} needs one",
            seen=error.seen,
            fix="a free cluster (M0) holds 3 and Flex 10: name the memory types that you use, as "
            "ensure_indexes_async([…]); drop indexes that nobody needs; or take a larger cluster. "
            "Types without one are searched by exact scan",
            code=error.code,
        )
    return error
