"""Vectors as MongoDB stores them, and how near they are to each other by Lucene's formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from bson.binary import VECTOR_SUBTYPE, Binary
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId

from .errors import MongotError

# The three live in different fields of the index: a float query never sees an int8 vector.
Kind = Literal["float", "int8", "bit"]
_DTYPES: dict[int, Kind] = {0x27: "float", 0x03: "int8", 0x10: "bit"}


@dataclass(frozen=True, eq=False)
class Vector:
    kind: Kind
    values: npt.NDArray[np.float32]  # int8 values, and bits as 0 and 1, are exact in float32 too

    @property
    def dimensions(self) -> int:
        return len(self.values)


def _from_binary(data: bytes) -> Vector:
    """Bytes: dtype, padding, little-endian data."""
    subtype = data.subtype if isinstance(data, Binary) else 0
    if subtype != VECTOR_SUBTYPE:
        raise MongotError(f"BSON binary subtype should be vector(0x09) but got {subtype}")
    kind = _DTYPES.get(data[0]) if len(data) >= 2 else None
    if kind is None or data[1] != 0:
        raise MongotError("Malformed vector")  # [?] the text, and the one below
    body = bytes(data[2:])
    if kind == "float":
        if len(body) % 4:
            raise MongotError("Malformed vector")
        return Vector(kind, np.frombuffer(body, "<f4").astype(np.float32))
    if kind == "int8":
        return Vector(kind, np.frombuffer(body, np.int8).astype(np.float32))
    return Vector(kind, np.unpackbits(np.frombuffer(body, np.uint8)).astype(np.float32))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_BSON_NAMES: list[tuple[type | tuple[type, ...], str]] = [
    (bool, "BOOLEAN"),
    (list, "ARRAY"),
    (dict, "DOCUMENT"),
    (str, "STRING"),
    (type(None), "NULL"),
    (Decimal128, "DECIMAL128"),
    (ObjectId, "OBJECT_ID"),
    (bytes, "BINARY"),
]


def query_vector(value: Any) -> Vector:
    """The vector of a query; raises mongot's complaint about it."""
    if isinstance(value, list):
        for item in value:
            if not _is_number(item):
                names = (name for kind, name in _BSON_NAMES if isinstance(item, kind))
                raise MongotError(f"Unsupported BsonValue type: {next(names, 'OTHER')}")
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
            vector = Vector("float", np.asarray(value, np.float64).astype(np.float32))
    elif isinstance(value, bytes):  # a Binary too, unless its subtype is 0
        vector = _from_binary(value)
    else:
        raise MongotError('"queryVector" Unexpected type found when parsing vector')
    infinite = np.flatnonzero(~np.isfinite(vector.values))
    if len(infinite):
        raise MongotError(
            "'queryVector' contains a non-finite value (Infinity or NaN) at position "
            f'[{infinite[0]}]. All values in "queryVector" must be finite.'
        )
    return vector


def indexable(value: Any, *, dimensions: int, similarity: str, quantization: str) -> Vector | None:
    """The vector of a document, or None: a bad one is skipped in silence, its document unfound."""
    try:
        # A document is read like a query, only that nobody is told what is wrong with it.
        vector = query_vector(value)
    except MongotError:
        return None
    skipped = (
        vector.dimensions != dimensions
        or (similarity == "cosine" and not vector.values.any())
        or (vector.kind != "float" and quantization != "none")
        or (vector.kind == "bit" and similarity != "euclidean")  # [?] it could never be asked for
    )
    return None if skipped else vector


def scores(
    query: Vector, matrix: npt.NDArray[np.float32], similarity: str
) -> npt.NDArray[np.float32]:
    """0 to 1, higher is nearer, in float32 as in Lucene.

    [?] The formulas are Lucene's well-known ones, not re-read. Euclidean takes the SQUARED
    distance. Always exact here: the real one is approximate unless `exact`, and a quantized index
    ranks by coarser numbers.
    """
    one = np.float32(1)
    if query.kind == "bit":
        hamming = np.count_nonzero(matrix != query.values, axis=1).astype(np.float32)
        size = np.float32(query.dimensions)
        return np.asarray((size - hamming) / size, np.float32)
    if similarity == "euclidean":
        apart = matrix - query.values
        return np.asarray(one / (one + np.einsum("ij,ij->i", apart, apart)), np.float32)
    dots = matrix @ query.values
    if similarity == "cosine":
        norms = np.einsum("ij,ij->i", matrix, matrix) * np.float32(query.values @ query.values)
        dots = dots / np.sqrt(norms)
    elif query.kind == "int8":
        steps = np.float32(query.dimensions * 2**15)
        return np.asarray(np.float32(0.5) + dots / steps, np.float32)
    return np.asarray(np.maximum((one + dots) / np.float32(2), np.float32(0)), np.float32)
