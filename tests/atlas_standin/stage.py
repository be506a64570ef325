"""The `$vectorSearch` stage: its fields and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .content import Content, Hit
from .definitions import VectorField
from .errors import MongotError, ServerError, left_out
from .filters import Every, Filter, check_declared, check_old_server, parse_filter
from .parsing import Fields
from .vectors import Vector, query_vector

_KNOWN = (
    "index",
    "path",
    "queryVector",
    "query",
    "model",
    "limit",
    "numCandidates",
    "exact",
    "filter",
    "parentFilter",
    "nestedOptions",
    "returnStoredSource",
    "explainOptions",
    "searchNodePreference",
)


@dataclass(frozen=True)
class VectorQuery:
    index: str
    path: str
    vector: Vector
    limit: int
    filter: Filter


def check_by_mongod(stage: Any, *, old_server: bool) -> None:
    """What mongod (8.x) checks before it asks mongot: these errors have codes of their own."""
    if not isinstance(stage, dict):
        # [?] The name of the type found.
        found = {list: "array", str: "string", bool: "bool", type(None): "null"}
        name = found.get(type(stage), "number")
        raise ServerError(9, f"$vectorSearch value must be an object. Found: {name}")
    # [?] Whether an absent limit ends here or at mongot's `"limit" is required`.
    if "limit" in stage:
        limit = stage["limit"]
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ServerError(8575100, "Expected limit field to be a number in $vectorSearch")
        if limit <= 0:
            raise ServerError(7912700, "Expected limit to be positive")
    if old_server and "filter" in stage:
        check_old_server(stage["filter"])


def parse_stage(stage: Mapping[str, Any], *, strict: bool) -> VectorQuery:
    """What mongot checks before it looks at the index.

    `strict` refuses unknown keys, to catch typing errors in tests. THE REAL ONE DOES NOT: it
    ignores them, and so does this with `strict=False`. ([?] 6.0 and 7.0 may have refused some.)
    """
    fields = Fields(stage)
    if strict:
        fields.only(_KNOWN)
    index = fields.text("index")
    path = fields.text("path")
    limit = fields.integer("limit")
    _check_options(fields)
    if fields.has("query") == fields.has("queryVector"):
        raise MongotError("Exactly one and only one of query and queryVector can be present")
    if fields.has("query"):
        raise left_out("`query`: auto-embedding needs Voyage's models")
    vector = query_vector(stage["queryVector"])
    _check_candidates(fields, limit)
    filters: list[Filter] = []
    for key in ("filter", "parentFilter"):
        if not fields.has(key):
            continue
        if not isinstance(stage[key], dict):
            raise MongotError(f"{key} must be a document")
        filters.append(parse_filter(stage[key], key))
    return VectorQuery(index, path, vector, limit, Every(tuple(filters)))


def _check_candidates(fields: Fields, limit: int) -> None:
    if fields.flag("exact", False):
        if fields.has("numCandidates"):
            raise fields.wrong("numCandidates", 'must be omitted when "exact" is set to true')
        return
    if not fields.has("numCandidates"):
        raise MongotError("numCandidates is required for approximate vector search")
    # Beyond these rules numCandidates has no effect here: the search is always exhaustive.
    if limit > fields.bounded("numCandidates", 1, 10_000):
        raise MongotError("limit should be less than or equal to numCandidates")


def _check_options(fields: Fields) -> None:
    if fields.has("explainOptions"):
        raise MongotError(
            "Query must be run in explain mode, because 'explainOptions' are present."
        )
    if fields.has("searchNodePreference"):
        fields.nested("searchNodePreference").text("key")
    if fields.flag("returnStoredSource", False):
        # Never configured: definitions with storedSource are left out of the stand-in.
        raise MongotError("storedSource is not configured for this index.")
    if fields.has("nestedOptions"):
        raise left_out("nestedOptions")


def run_query(query: VectorQuery, content: Content) -> list[Hit]:
    """What mongot checks against the index, and the search."""
    schema = content.schema
    vector_field = schema.vectors.get(query.path)
    if vector_field is None:
        raise MongotError(f"{query.path} is not indexed as vector")
    _check_vector(query.vector, vector_field)
    check_declared(query.filter, schema.filters)
    return content.search(vector_field, query.vector, query.filter, query.limit)


def _check_vector(vector: Vector, vector_field: VectorField) -> None:
    if vector.dimensions != vector_field.dimensions:
        raise MongotError(
            f"vector field is indexed with {vector_field.dimensions} dimensions "
            f"but queried with {vector.dimensions}"
        )
    if vector.kind == "bit" and vector_field.similarity != "euclidean":
        raise MongotError(
            "Binary vectors can only be used with fields indexed with Euclidean similarity "
            f"but indexed similarity is {vector_field.similarity}"
        )
    if vector_field.similarity == "cosine" and not vector.values.any():
        raise MongotError("Cosine similarity cannot be calculated against a zero vector.")
