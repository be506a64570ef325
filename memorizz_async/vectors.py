"""Embeddings as numbers: checked where they come in, and written in the form that is read fastest.

A vector is a one-dimensional float32 array inside the package, BinData subtype 9 in the database,
and `list[float]` where it leaves the API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bson.binary import VECTOR_SUBTYPE, Binary, BinaryVectorDtype
from numpy.typing import NDArray

from memorizz_async.errors import InvalidEmbeddingError

Vector = NDArray[np.float32]
EmbeddingLike = Sequence[float] | NDArray[Any] | Binary

NO_VECTOR: Vector = np.empty(0, dtype=np.float32)
"""The vector of a query that is searched by its words alone."""


def checked_vector(value: Any, *, name: str, dimensions: int | None = None) -> Vector:
    """The value as a float32 array of shape (dimensions,).

    `name` says in messages whose vector it is. Raises InvalidEmbeddingError for what is no vector
    of numbers, for another dimension, for NaN or infinity, and for all zeros (which has no
    direction, so that cosine similarity does not exist).
    """
    try:
        vector = _stored_numbers(value) if isinstance(value, Binary) else _as_float32(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidEmbeddingError(
            f"{name} is not a vector of numbers", seen=f"{type(value).__name__}: {error}"
        ) from error
    if vector.ndim != 1 or vector.size == 0:
        raise InvalidEmbeddingError(
            f"{name} must have one dimension", seen=f"an array of shape {vector.shape}"
        )
    if dimensions is not None and vector.size != dimensions:
        raise InvalidEmbeddingError(
            f"{name} has another dimension than the rows here",
            seen=f"{vector.size} numbers, not {dimensions}",
            fix="embed with the model of the stored rows, or set MongoDBConfig(dimensions=…)",
        )
    finite = np.isfinite(vector)
    if not finite.all():
        raise InvalidEmbeddingError(
            f"{name} holds a value that is not finite",
            seen=f"{vector[int(np.argmin(finite))]} at position {int(np.argmin(finite))}",
        )
    if not vector.any():
        raise InvalidEmbeddingError(
            f"{name} is all zeros", fix="check the text and the model that made it"
        )
    return vector


def to_bson(vector: Vector) -> Binary:
    """The form in which a vector is written: BinData subtype 9, float32, little-endian."""
    header = bytes((BinaryVectorDtype.FLOAT32.value[0], 0))
    return Binary(header + vector.astype("<f4", copy=False).tobytes(), VECTOR_SUBTYPE)


def stored_vector(value: Any) -> Vector:
    """A stored vector, in any form that memorizz or we write: BinData or an array of numbers.

    Raises ValueError or TypeError, with the reason, for anything else, an empty one included.
    """
    vector = _stored_numbers(value)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"an array of shape {vector.shape}")
    return vector


def readable_vector(row: Mapping[str, Any]) -> Vector | None:
    """The vector of a stored row; None where it has none, or one that cannot be read."""
    try:
        return stored_vector(row.get("embedding"))
    except (TypeError, ValueError):
        return None


def array_of(value: Any) -> NDArray[Any]:
    """The value as an array, of whatever it holds.

    Raises TypeError or ValueError where there is none.
    """
    if isinstance(value, bytearray):
        raise TypeError("bytes, not numbers")
    try:
        return np.asarray(value)
    except (TypeError, ValueError):
        raise
    except Exception as error:  # the value's own: torch's, for a tensor with a gradient
        raise TypeError(f"numpy does not read it ({type(error).__name__})") from error


def _stored_numbers(value: Any) -> Vector:
    if isinstance(value, Binary):
        if value.subtype != VECTOR_SUBTYPE:
            raise ValueError(f"BinData of subtype {value.subtype}, not {VECTOR_SUBTYPE}")
        if len(value) < 2 or value[0] != BinaryVectorDtype.FLOAT32.value[0]:
            raise ValueError("a BinData vector that is not float32")
        if (len(value) - 2) % 4:
            raise ValueError("a BinData vector of a broken length")
        return np.frombuffer(value, dtype="<f4", offset=2).astype(np.float32, copy=False)
    if not isinstance(value, list | tuple):
        raise TypeError(f"{type(value).__name__}, not a vector")
    return _as_float32(value)


def _as_float32(value: Any) -> Vector:
    array = array_of(value)
    if array.dtype.kind not in "fiu":  # numpy would read text and booleans as numbers
        raise TypeError(f"values of type {array.dtype}, not numbers")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused
        return array.astype(np.float32)
