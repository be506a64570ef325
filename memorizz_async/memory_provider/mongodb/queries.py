"""The queries of a batch: the guide's dicts, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from memorizz_async.config import Consistency, RecallMode
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.enums.memory_type import name_of
from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.filters import (
    DEFAULT_FIELDS,
    EVERY_ROW,
    Condition,
    parse_filter,
)
from memorizz_async.memory_provider.mongodb.pipelines import MAX_CANDIDATES
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope
from memorizz_async.redaction import describe
from memorizz_async.validation import checked_limit, checked_query
from memorizz_async.vectors import Vector, checked_vector

_KNOWN = (
    "key",
    "query",
    "embedding",
    "memory_id",
    "user_id",
    "memory_type",
    "limit",
    "include_embedding",
    "filter",
    "exact",
    "num_candidates",
    "explain",
    "mode",
    "consistency",
)


@dataclass(frozen=True)
class Query:
    """One query of a batch. It has a vector, or a text to be embedded (`text`), or it is searched
    by its words alone (mode `text`). `words` is the caller's text, also beside a given vector.
    """

    key: str
    text: str | None
    vector: Vector | None
    scope: Scope
    memory_type: MemoryType
    type_name: str
    limit: int
    include_embedding: bool
    filter: Condition = EVERY_ROW
    exact: bool = False
    num_candidates: int | None = None
    explain: bool = False
    words: str | None = None
    mode: RecallMode | None = None
    consistency: Consistency = "session"


def queries_of(
    queries: Iterable[Mapping[str, Any]],
    *,
    dimensions: int | None,
    filter_fields: Mapping[MemoryType, Sequence[str]] | None = None,
) -> list[Query]:
    """The queries, checked. Raises InvalidInputError, with a note that says which query it is.

    filter_fields: what a filter may name, by memory type; None is `DEFAULT_FIELDS` for all.
    """
    if not isinstance(queries, Iterable):
        raise InvalidInputError(
            "The queries must be a list of mappings", seen=f"a {type(queries).__name__}"
        )
    checked: list[Query] = []
    for position, entry in enumerate(queries):
        try:
            checked.append(_query(entry, dimensions, filter_fields or {}))
        except InvalidInputError as error:
            error.add_note(f"in query {position} of the batch; nothing was sent")
            raise
    keys = [query.key for query in checked]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise InvalidInputError(
            "Queries of a batch share a key",
            seen=", ".join(map(describe, repeated)),
            fix="give each its own",
        )
    return checked


def _consistency(value: Any) -> Consistency:
    allowed: tuple[Consistency, ...] = ("session", "strong")
    for consistency in allowed:
        if value == consistency:
            return consistency
    raise InvalidInputError("consistency must be 'session' or 'strong'", seen=describe(value))


def _query(
    entry: Mapping[str, Any],
    dimensions: int | None,
    filter_fields: Mapping[MemoryType, Sequence[str]],
) -> Query:
    if not isinstance(entry, Mapping):
        raise InvalidInputError("A query must be a mapping", seen=f"a {type(entry).__name__}")
    unknown = sorted(set(entry) - set(_KNOWN), key=str)
    if unknown:
        raise InvalidInputError(
            "A query has keys that do not exist",
            seen=", ".join(map(describe, unknown)),
            fix=f"use only {', '.join(_KNOWN)}",
        )
    key, embedding, text = entry.get("key"), entry.get("embedding"), entry.get("query")
    if not isinstance(key, str) or not key:
        raise InvalidInputError("A query needs a key, a non-empty string", seen=describe(key))
    mode = _mode(entry.get("mode"))
    if text is not None or embedding is None or mode in ("hybrid", "text"):
        text = checked_query(text)
    if "memory_type" not in entry:
        raise InvalidInputError(f"The query {describe(key)} names no memory_type")
    memory_type = memory_type_of(entry["memory_type"])
    limit = checked_limit(entry.get("limit", 5))
    return Query(
        key=key,
        text=text if embedding is None and mode != "text" else None,
        vector=None
        if embedding is None
        else checked_vector(embedding, name="The query's embedding", dimensions=dimensions),
        scope=Scope(entry.get("memory_id", UNSET), entry.get("user_id", UNSET)),
        memory_type=memory_type,
        type_name=name_of(entry["memory_type"]),
        limit=limit,
        include_embedding=bool(entry.get("include_embedding", False)),
        filter=parse_filter(entry.get("filter"), filter_fields.get(memory_type, DEFAULT_FIELDS)),
        exact=bool(entry.get("exact", False)),
        num_candidates=_candidates(entry.get("num_candidates"), limit, entry.get("exact")),
        explain=bool(entry.get("explain", False)),
        words=text,
        mode=mode,
        consistency=_consistency(entry.get("consistency", "session")),
    )


def _mode(value: Any) -> RecallMode | None:
    if value is None or value in get_args(RecallMode):
        mode: RecallMode | None = value
        return mode
    raise InvalidInputError(
        "The mode is not one that exists",
        seen=describe(value),
        fix=f"use one of {', '.join(get_args(RecallMode))}, or leave it out",
    )


def _candidates(given: Any, limit: int, exact: Any) -> int | None:
    if given is None:
        return None
    if exact:
        raise InvalidInputError(
            "A query has exact and num_candidates",
            fix="pass one: an exact search has no candidates",
        )
    if (
        not isinstance(given, int)
        or isinstance(given, bool)
        or not limit <= given <= MAX_CANDIDATES
    ):
        raise InvalidInputError(
            f"num_candidates must be a whole number from the limit to {MAX_CANDIDATES}",
            seen=f"{describe(given)} with a limit of {limit}",
        )
    return given
