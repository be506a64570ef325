"""A row is compared with a query of its own embedding model, and with no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from memorizz_async.errors import EmbeddingModelMismatchError
from memorizz_async.memory_provider.mongodb.vector_search.ordering import by_id
from memorizz_async.memory_provider.mongodb.vector_search.request import SearchRequest


def comparable(request: SearchRequest, row: Mapping[str, Any]) -> bool:
    """Whether the vector of the row is of the query's model, for all that either says of it."""
    return request.model is None or row.get("embedding_model") in (None, request.model)


def refuse_others(request: SearchRequest, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise EmbeddingModelMismatchError where rows that were compared are of another model.

    Not while rows change theirs, nor where others were left out from the beginning: a row may have
    changed its model since.
    """
    if request.model is None or request.changing is not None or request.only:
        return
    others = [row for row in rows if not comparable(request, row)]
    if others:
        in_order = [others[at] for at in by_id([row["_id"] for row in others])]
        strays = {str(row["_id"]): str(row["embedding_model"]) for row in in_order}
        raise EmbeddingModelMismatchError(
            f"Rows of {request.collection!r} are of another embedding model than the query",
            rows=strays,
            count=len(strays),
            model=request.model,
        )
