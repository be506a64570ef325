"""What one version of an index holds of its collection, and searching it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bson
import numpy as np
import numpy.typing as npt

from .definitions import Schema, VectorField
from .filters import Filter, Token, values_at
from .messages import CODEC, Document
from .vectors import Kind, Vector, indexable, scores


@dataclass(frozen=True)
class Hit:
    id: Any
    score: float


@dataclass
class _Entry:
    id: Any
    vectors: dict[str, Vector]
    filters: dict[str, list[Token]]


_Rows = tuple[list[_Entry], npt.NDArray[np.float32]]


@dataclass
class Content:
    """Keys are the encoded `_id`s, which are hashable whatever the `_id` is."""

    schema: Schema
    _entries: dict[bytes, _Entry] = field(default_factory=dict)
    _rows: dict[tuple[str, Kind], _Rows] = field(default_factory=dict)

    def put(self, key: bytes, raw: bytes) -> None:
        document = bson.decode(raw, CODEC)
        vectors = {}
        for path, wanted in self.schema.vectors.items():
            vector = indexable(
                _value_at(document, path),
                dimensions=wanted.dimensions,
                similarity=wanted.similarity,
                quantization=wanted.quantization,
            )
            if vector is not None:
                vectors[path] = vector
        filters = {path: values_at(document, path) for path in self.schema.filters}
        self._entries[key] = _Entry(document["_id"], vectors, filters)
        self._rows.clear()

    def remove(self, key: bytes) -> None:
        self._entries.pop(key, None)
        self._rows.clear()

    def search(self, where: VectorField, query: Vector, wanted: Filter, limit: int) -> list[Hit]:
        entries, matrix = self._matrix(where.path, query.kind)
        if not entries:
            return []
        chosen = np.array([wanted.matches(entry.filters) for entry in entries], bool)
        all_scores = scores(query, matrix, where.similarity)
        # Equal scores: in the order of indexing here, in no order at all on the real one.
        order = np.argsort(-all_scores, kind="stable")
        best = order[chosen[order]][:limit]
        return [Hit(entries[at].id, float(all_scores[at])) for at in best]

    def _matrix(self, path: str, kind: Kind) -> _Rows:
        if (path, kind) not in self._rows:
            entries = [
                entry
                for entry in self._entries.values()
                if path in entry.vectors and entry.vectors[path].kind == kind
            ]
            vectors = [entry.vectors[path].values for entry in entries]
            matrix = np.stack(vectors) if vectors else np.empty((0, 0), np.float32)
            self._rows[path, kind] = (entries, matrix)
        return self._rows[path, kind]


def _value_at(document: Document, path: str) -> Any:
    value: Any = document
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
