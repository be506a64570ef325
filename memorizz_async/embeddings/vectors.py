"""The seam where texts come in and vectors come out: both are checked here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memorizz_async.embeddings.protocol import Matrix, Vector
from memorizz_async.errors import EmbeddingError, InvalidQueryError
from memorizz_async.redaction import shown
from memorizz_async.validation import is_unicode


def checked_text(text: object) -> str:
    """The text, or InvalidQueryError where it is not a string with something in it."""
    if not isinstance(text, str):
        raise InvalidQueryError("A text to embed must be a string", seen=shown(text))
    if not text or text.isspace():
        raise InvalidQueryError(
            "A text to embed is empty",
            seen=f"{len(text)} characters, all of them white space" if text else "''",
            fix="leave empty texts out",
        )
    # Here, before a batch is made: the texts of others in it must not fail for this one.
    if not is_unicode(text):
        raise InvalidQueryError(
            "A text to embed is not valid Unicode",
            seen="half of a surrogate pair",
            fix="text.encode('utf-8', 'replace').decode() puts a question mark in its place",
        )
    return text


def checked_texts(texts: object) -> list[str]:
    """The texts as a list, or InvalidQueryError that names the first that is wrong by position."""
    if isinstance(texts, str | bytes | bytearray) or not isinstance(texts, Sequence):
        raise InvalidQueryError(
            "Texts to embed must be a list of strings",
            seen=shown(texts),
            fix="pass a list, or use encode_query_async for one text",
        )
    for position, text in enumerate(texts):
        try:
            checked_text(text)
        except InvalidQueryError as error:
            raise InvalidQueryError(
                f"{error.what} (position {position} of {len(texts)})",
                seen=error.seen,
                fix=error.fix,
            ) from None
    return list(texts)


def as_matrix(values: Any, count: int, dimensions: int | None) -> Matrix:
    """What a backend returned, as float32 of shape (count, dimensions).

    Raises EmbeddingError for another number of vectors, another dimension, or what is no numbers.
    NaN is left in: `bad_rows` says which rows have it, so that one text can fail alone.
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
            "The embedding backend returned another number of vectors than it was given texts",
            seen=f"{matrix.shape[0]} vectors for {count} texts",
            fix="return exactly one vector for each text, in order",
        )
    if matrix.shape[1] == 0 or (dimensions is not None and matrix.shape[1] != dimensions):
        raise EmbeddingError(
            "The embedding backend returned vectors of another dimension than before",
            seen=f"{matrix.shape[1]} instead of {dimensions or 'at least 1'}",
            fix="use one model per provider",
        )
    return matrix


def bad_rows(matrix: Matrix) -> npt.NDArray[np.bool_]:
    """Which rows cannot be searched with: NaN, infinity, or zeros only. Shape (rows,)."""
    # One pass: the sum of squares is NaN or infinite for the first two and 0 for the third.
    squares = np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64)
    wrong: npt.NDArray[np.bool_] = ~np.isfinite(squares) | (squares == 0)
    return wrong


def bad_vector_error(vector: Vector) -> EmbeddingError:
    """Says what is wrong with a row that `bad_rows` found."""
    if np.isnan(vector).any():
        seen = "NaN in it"
    elif not np.isfinite(vector).all():
        seen = "infinity in it"
    else:
        seen = "zeros only"
    return EmbeddingError(
        "The embedding backend returned a vector that cannot be compared",
        seen=seen,
        fix="use dtype='float32' where a smaller type overflows, or look at the backend",
    )


def frozen(vector: Vector) -> Vector:
    """A read-only copy: the cache and every waiter can share it."""
    copy = np.array(vector, dtype=np.float32, copy=True)
    copy.flags.writeable = False
    return copy


def shortened(matrix: Matrix, dimensions: int | None, *, normalize: bool) -> Matrix:
    """The first `dimensions` numbers of each row (Matryoshka), at length 1 where asked.

    Rows that came at length 1 leave at length 1 also when they are cut.
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
    # A row of zeros stays one, for `bad_rows` to find.
    unit: Matrix = np.divide(kept, norms, out=np.zeros_like(kept), where=norms > 0)
    return unit
