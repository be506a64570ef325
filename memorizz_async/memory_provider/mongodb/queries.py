"""The queries of a batch: the guide's dicts, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from bson import Binary

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
from memorizz_async.memory_provider.mongodb.rows import UuidForm
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scope
from memorizz_async.redaction import shown
from memorizz_async.validation import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_limit,
    checked_list,
    checked_query,
    checked_text,
)
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


_MODES: tuple[RecallMode, ...] = get_args(RecallMode)
_CONSISTENCIES: tuple[Consistency, ...] = get_args(Consistency)


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
    uuid_form: UuidForm = Binary.from_uuid,
) -> list[Query]:
    """The queries, checked. Raises InvalidInputError, with a note that says which query it is.

    filter_fields: what a filter may name, by memory type; None is `DEFAULT_FIELDS` for all.
    uuid_form: how a UUID is stored.
    """
    checked: list[Query] = []
    for position, entry in enumerate(checked_list("The queries", queries)):
        try:
            checked.append(_query(entry, dimensions, filter_fields or {}, uuid_form))
        except InvalidInputError as error:
            error.add_note(f"in query {position} of the batch; nothing was sent")
            raise
    keys = [query.key for query in checked]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise InvalidInputError(
            "Queries of a batch share a key",
            seen=", ".join(shown(key, word=True) for key in repeated),
            fix="give each its own",
        )
    return checked


def _query(
    entry: Mapping[str, Any],
    dimensions: int | None,
    filter_fields: Mapping[MemoryType, Sequence[str]],
    uuid_form: UuidForm,
) -> Query:
    if not isinstance(entry, Mapping):
        raise InvalidInputError("A query must be a mapping", seen=shown(entry))
    unknown = sorted(shown(name, word=True) for name in set(entry) - set(_KNOWN))
    if unknown:
        raise InvalidInputError(
            "A query has keys that do not exist",
            seen=", ".join(unknown),
            fix=f"use only {', '.join(_KNOWN)}",
        )
    key, embedding, text = entry.get("key"), entry.get("embedding"), entry.get("query")
    key = checked_text("The key of a query", key)
    mode = entry.get("mode")
    if mode is not None:
        mode = checked_choice("mode", mode, _MODES)
    exact = checked_flag("exact", entry.get("exact", False))
    if text is not None or embedding is None or mode in ("hybrid", "text"):
        text = checked_query(text)
    if "memory_type" not in entry:
        raise InvalidInputError("The query names no memory_type", seen=shown(key, word=True))
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
        include_embedding=checked_flag("include_embedding", entry.get("include_embedding", False)),
        filter=parse_filter(
            entry.get("filter"), filter_fields.get(memory_type, DEFAULT_FIELDS), uuid_form
        ),
        exact=exact,
        num_candidates=_candidates(entry.get("num_candidates"), limit, exact=exact),
        explain=checked_flag("explain", entry.get("explain", False)),
        words=text,
        mode=mode,
        consistency=checked_choice(
            "consistency", entry.get("consistency", "session"), _CONSISTENCIES
        ),
    )


def _candidates(given: Any, limit: int, *, exact: bool) -> int | None:
    if given is None:
        return None
    if exact:
        raise InvalidInputError(
            "A query has exact and num_candidates",
            fix="pass one: an exact search has no candidates",
        )
    return checked_count("num_candidates", given, least=limit, most=MAX_CANDIDATES)
