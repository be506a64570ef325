"""Validation at the border: the texts that come in and the vectors that come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memorizz_async.embeddings.protocol import Matrix, Vector
from memorizz_async.errors import EmbeddingError, InvalidQueryError
from memorizz_async.redaction import shown
from memorizz_async.validation import is_unicode


def validate_text(text: object) -> str:
    """Return the text.

    Raises:
        InvalidQueryError: It is not a string, is empty, or is not valid Unicode.
    """
    if not isinstance(text, str):
        raise InvalidQueryError("A text to embed must be a string", seen=shown(text))
    if not text or text.isspace():
        raise InvalidQueryError(
            "A text to embed is empty",
            seen=f"{len(text)} characters, all of them white space" if text else "''",
            fix="leave empty texts out",
        )
    # Before it joins a batch: the other texts in it must not fail because of this one.
    if not is_unicode(text):
        raise InvalidQueryError(
            "A text to embed is not valid Unicode",
            seen="half of a surrogate pair",
            fix="text.encode('utf-8', 'replace').decode() puts a question mark in its place",
        )
    return text


def validate_texts(texts: object) -> list[str]:
    """Return the texts as a list.

    Raises:
        InvalidQueryError: Not a sequence of texts; names the position of the first invalid one.
    """
    if isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Sequence):
        raise InvalidQueryError(
            "Texts to embed must be a list of strings",
            seen=shown(texts),
            fix="pass a list, or use encode_query_async for one text",
        )
    for position, text in enumerate(texts):
        try:
            validate_text(text)
        except InvalidQueryError as error:
            raise InvalidQueryError(
                f"{error.what} (position {position} of {len(texts)})",
                seen=error.seen,
                fix=error.fix,
            ) from None
    return list(texts)


def as_matrix(values: Any, count: int, dimensions: int | None) -> Matrix:
    """Convert the return value of a backend to one matrix.

    NaN is kept: `invalid_rows` finds such rows, so that one text can fail alone.

    Args:
        values: An array, or a sequence of vectors.
        count: Number of texts.
        dimensions: Length of every vector; None accepts any.

    Returns:
        Shape (count, dimensions), float32.

    Raises:
        EmbeddingError: The number of vectors or their length differs, or they are not numbers.
    """
    matrix: Matrix | None = None
    failure = ""
    try:
        matrix = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:  # it quotes what was returned: no cause of ours
        failure = type(error).__name__
    if matrix is None:
        raise EmbeddingError(
            "The embedding backend did not return one vector of numbers per text",
            seen=f"{type(values).__name__}: {failure}",
            fix="return vectors of one length, one for each text",
        )
    if matrix.ndim != 2:
        raise EmbeddingError(
            "The embedding backend did not return one vector per text",
            seen=f"an array of shape {matrix.shape} for {count} texts",
            fix="return a list with one vector for each text",
        )
    if matrix.shape[0] != count:
        raise EmbeddingError(
            "The embedding backend returned a different number of vectors than texts",
            seen=f"{matrix.shape[0]} vectors for {count} texts",
            fix="return exactly one vector for each text, in order",
        )
    if matrix.shape[1] == 0 or (dimensions is not None and matrix.shape[1] != dimensions):
        raise EmbeddingError(
            "The embedding backend returned vectors of a different dimension than before",
            seen=f"{matrix.shape[1]} instead of {dimensions or 'at least 1'}",
            fix="use one model per provider",
        )
    return matrix


def invalid_rows(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Find rows that cannot be compared: NaN, infinity, or zeros only.

    Returns:
        Shape (rows,), True for an invalid row.
    """
    # One pass: the sum of squares is NaN or infinite for the first two and 0 for the third.
    squares = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)
    invalid: npt.NDArray[np.bool_] = ~np.isfinite(squares) | (squares == 0)
    return invalid


def invalid_vector_error(vector: Vector) -> EmbeddingError:
    """Return the error for a row that `invalid_rows` found."""
    if np.isnan(vector).any():
        seen = "a vector with NaN"
    elif not np.isfinite(vector).all():
        seen = "a vector with infinity"
    else:
        seen = "zeros only"
    return EmbeddingError(
        "The embedding backend returned a vector that cannot be compared",
        seen=seen,
        fix="use dtype='float32' if a smaller type overflows, or check the backend",
    )


def read_only_copy(vector: Vector) -> Vector:
    """Return a copy that the cache and every caller can share. Float32, the same shape."""
    copy = np.array(vector, dtype=np.float32, copy=True)
    copy.flags.writeable = False
    return copy


def truncate(matrix: Matrix, dimensions: int | None, *, normalize: bool) -> Matrix:
    """Truncate vectors (Matryoshka) and scale them.

    Args:
        matrix: Shape (rows, model dimensions).
        dimensions: Numbers to keep of each row; None keeps all.
        normalize: Whether rows are scaled to length 1. Truncated rows of length 1 always are.

    Returns:
        Shape (rows, dimensions).
    """
    cut = dimensions is not None and dimensions < matrix.shape[1]
    if not cut and not normalize:
        return matrix
    kept = matrix[:, :dimensions] if cut else matrix
    if not normalize:
        before = np.linalg.norm(matrix, axis=1)
        normalize = bool(np.allclose(before, 1.0, atol=1e-3))
    if not normalize:
        return np.ascontiguousarray(kept)
    norms = np.linalg.norm(kept, axis=1, keepdims=True)
    # A row of zeros remains one, for `invalid_rows` to find.
    unit: Matrix = np.divide(kept, norms, out=np.zeros_like(kept), where=norms > 0)
    return unit
