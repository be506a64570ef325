"""Index definitions: what is accepted, and what they mean for a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import left_out
from .parsing import Fields

SIMILARITIES = ("cosine", "dotProduct", "euclidean")
QUANTIZATIONS = ("none", "scalar", "binary")
INDEXING_METHODS = ("hnsw", "flat")
TYPES = ("vectorSearch", "search")


@dataclass(frozen=True)
class VectorField:
    path: str
    dimensions: int
    similarity: str
    quantization: str


@dataclass(frozen=True)
class Schema:
    """What an index holds. A `search` index holds nothing here: it can be listed, not queried."""

    vectors: Mapping[str, VectorField] = field(default_factory=dict)
    filters: frozenset[str] = frozenset()


def parse_definition(kind: str, definition: Fields) -> Schema:
    """[?] All texts are those of self-managed mongot; the ones of Atlas' own service may differ."""
    if kind == "search":
        return _parse_search(definition)
    definition.only(("fields", "numPartitions", "storedSource", "nestedRoot"))
    vectors: dict[str, VectorField] = {}
    filters: list[str] = []
    paths: set[str] = set()
    for item in definition.documents("fields"):
        what = item.one_of("type", ("vector", "filter", "autoEmbed", "text"))
        if what in ("autoEmbed", "text"):
            raise left_out("auto-embedding fields: they need Voyage's models")
        path = item.text("path")
        if path in paths:
            raise definition.wrong("fields", "Vector and filter fields should have distinct paths")
        paths.add(path)
        if what == "filter":
            item.only(("type", "path"))
            filters.append(path)
        else:
            vectors[path] = _parse_vector(path, item)
    _parse_options(definition)
    return Schema(vectors, frozenset(filters))


def _parse_search(definition: Fields) -> Schema:
    """A definition without `type` ends here, a vector one included: a well-known mistake."""
    if not definition.has("mappings"):
        raise definition.wrong("mappings", "is required")
    return Schema()


def _parse_vector(path: str, item: Fields) -> VectorField:
    item.only(
        (
            "type",
            "path",
            "numDimensions",
            "similarity",
            "quantization",
            "indexingMethod",
            "hnswOptions",
        )
    )
    dimensions = item.bounded("numDimensions", 1, 8192)
    similarity = item.one_of("similarity", SIMILARITIES)
    quantization = item.one_of("quantization", QUANTIZATIONS, "none")
    method = item.one_of("indexingMethod", INDEXING_METHODS, "hnsw")
    if quantization == "binary" and dimensions % 8:
        raise item.wrong("numDimensions", "must be a multiple of 8 for binary quantization")
    if item.has("hnswOptions"):
        if method != "hnsw":
            raise item.wrong_here('hnswOptions is only supported with "indexingMethod: hnsw".')
        options = item.nested("hnswOptions")
        options.only(("maxEdges", "numEdgeCandidates"))
        if options.has("maxEdges"):
            options.bounded("maxEdges", 16, 64)
        if options.has("numEdgeCandidates"):
            options.bounded("numEdgeCandidates", 100, 3200)
    return VectorField(path, dimensions, similarity, quantization)


def _parse_options(definition: Fields) -> None:
    if definition.has("numPartitions"):
        allowed = (1, 2, 4, 8, 16, 32, 64)
        if definition.integer("numPartitions") not in allowed:
            listed = ", ".join(map(str, allowed))
            raise definition.wrong("numPartitions", f"must be one of [{listed}]")
    if definition.has("nestedRoot"):
        raise left_out("nestedRoot")
    stored: Any = definition.document.get("storedSource", False)
    if stored is True:
        raise definition.wrong("storedSource", "must be a document or false")  # [?] the text
    if stored is not False:
        raise left_out("storedSource")
