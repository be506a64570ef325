"""What `$listSearchIndexes` says of an index, and whether that index can serve a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.pipelines import search_indexes_pipeline
from memorizz_async.memory_provider.mongodb.protocol import Driver

_TYPE = "vectorSearch"


@dataclass(frozen=True)
class IndexState:
    """A search index as it was seen. `definition` is the newest one, which may not answer yet."""

    collection: str
    name: str
    status: str
    queryable: bool
    definition: Mapping[str, Any]
    answering: tuple[Mapping[str, Any], ...]
    kind: str
    message: str

    @property
    def where(self) -> str:
        return f"the search index {self.name!r} of {self.collection!r}"

    @property
    def is_vector(self) -> bool:
        return self.kind == _TYPE

    def __str__(self) -> str:
        said = f": {self.message}" if self.message else ""
        return f"status {self.status}, queryable {self.queryable}{said}"


async def look(driver: Driver, collection: str, name: str, deadline: Deadline) -> IndexState | None:
    """The index as it is now; None where there is none.

    Raises DatabaseError, of a code in NO_SEARCH_CODES where the server has no search.
    """
    found = await driver.aggregate(collection, search_indexes_pipeline(name), deadline=deadline)
    return _state(collection, name, found[0]) if found else None


def _state(collection: str, name: str, told: Mapping[str, Any]) -> IndexState:
    newest = told.get("latestDefinition") or {}
    status = str(told.get("status", "unknown"))
    hosts = [host for host in told.get("statusDetail") or () if isinstance(host, Mapping)]
    mains = [host.get("mainIndex") or {} for host in hosts]
    staged = [host.get("stagedIndex") or {} for host in hosts]
    # While an update is built the old definition answers, and only the hosts' details name it.
    older = [main["definition"] for main in mains if main.get("definition")]
    messages = [str(part["message"]) for part in (*staged, *mains) if part.get("message")]
    return IndexState(
        collection=collection,
        name=name,
        status=status,
        queryable=bool(told.get("queryable")),
        definition=newest,
        answering=tuple(older) if older and status != "READY" else (newest,),
        kind=str(told.get("type", _TYPE)),  # self-managed servers leave the type out
        message=messages[0] if messages else "",
    )


def problem(
    state: IndexState, *, dimensions: int, similarity: str, filter_paths: Iterable[str]
) -> str | None:
    """Why the index cannot serve such a search now; None where it can."""
    if not state.is_vector:
        return f"{state.where} is of the type {state.kind!r}, not {_TYPE!r}"
    if not state.queryable or state.status == "DELETING":
        return f"{state.where} is {state.status}"
    wanted = list(filter_paths)
    problems = (_lacks(d, dimensions, similarity, wanted) for d in state.answering)
    lacking = next((found for found in problems if found), None)
    return None if lacking is None else f"{state.where} {lacking}"


def _lacks(
    definition: Mapping[str, Any], dimensions: int, similarity: str, filter_paths: list[str]
) -> str | None:
    fields = definition.get("fields", [])
    vector = next((f for f in fields if f.get("path") == "embedding"), None)
    if vector is None:
        return "does not cover 'embedding'"
    indexed = vector.get("numDimensions")
    if indexed != dimensions:
        return (
            f"has {indexed} dimensions, not the query's {dimensions} (`memorizz-async reembed` "
            "changes rows and index to another model)"
        )
    if str(vector.get("similarity", "")).lower() != similarity.lower():
        return f"compares by {vector.get('similarity')}, not by {similarity}"
    missing = sorted(set(filter_paths) - {f["path"] for f in fields if f.get("type") == "filter"})
    return f"lacks the filter fields {', '.join(missing)}" if missing else None
