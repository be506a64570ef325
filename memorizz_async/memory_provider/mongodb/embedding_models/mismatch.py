"""What is said where vectors of two models would meet: both, and the command that migrates."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from memorizz_async.enums import MemoryType
from memorizz_async.errors import EmbeddingModelMismatchError, StoredEmbeddingError
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState

_TOLD = 20


class Words:
    """The words of errors about models, with the names that a user knows collections by."""

    def __init__(self, collections: Mapping[MemoryType, str], db_name: str) -> None:
        # Reversed, so that of two names of one store the guide's is said: it comes first.
        self._type_of = {name: kind.name for kind, name in reversed(list(collections.items()))}
        self._db = "" if db_name == "memorizz" else f" --db {shlex.quote(db_name)}"

    def type_of(self, collection: str) -> str:
        """The memory type whose rows a collection holds."""
        return self._type_of.get(collection, collection)

    def command(self, collection: str, model: str | None) -> str:
        """What changes the rows of a collection to a model."""
        named = "" if model is None else f" --model {shlex.quote(model)}"
        kind = self.type_of(collection)
        return (
            f"`memorizz-async reembed --type {kind}{named}{self._db}` "
            f'(or await provider.reembed_async(["{kind}"]))'
        )

    def mismatch(
        self,
        state: ModelState,
        model: str | None,
        dimensions: int | None,
        *,
        writing: bool = False,
        rows: Mapping[str, str] | None = None,
        count: int = 0,
    ) -> EmbeddingModelMismatchError:
        """The error of a query, or of a write, of another model than the collection's."""
        asked = "the new rows" if writing else "the query"
        what = (
            f"The rows of {state.collection!r} are of another embedding model than {asked}"
            f"{'; nothing was written' if writing else ''}"
        )
        seen = f"the rows are of {_named(state.model, state.dimensions)}, {asked} of " + _named(
            model, dimensions
        )
        if state.phase == "active":
            fix = (
                f"embed with the model of the rows, or change the rows: "
                f"{self.command(state.collection, model)}"
            )
        else:
            target = _named(state.target_model, state.target_dimensions)
            seen += f"; they are being changed to {target}"
            fix = (
                "while rows change, give the provider both models: embedding_provider=the new "
                "one, retiring_embedding_provider=the old one; if nobody is changing them any "
                f"more, resume it: {self.command(state.collection, state.target_model)}"
            )
        return EmbeddingModelMismatchError(
            what,
            rows=rows,
            count=count,
            stored_model=state.model,
            stored_dimensions=state.dimensions,
            model=model,
            dimensions=dimensions,
            seen=seen,
            fix=fix,
        )

    def strays(
        self,
        collection: str,
        rows: Mapping[str, str | None],
        model: str,
        others: StoredEmbeddingError | None = None,
    ) -> EmbeddingModelMismatchError:
        """The error about single rows of another model beside those of the query's.

        others: what is wrong with still other rows; it becomes a part of the error.
        """
        models = sorted({str(other) for other in rows.values()})
        told = {row_id: f"of the model {other}" for row_id, other in list(rows.items())[:_TOLD]}
        seen = f"rows of {', '.join(models)}, the query of {model}; first row {next(iter(rows))}"
        count = len(rows)
        if others is not None:
            told.update(others.rows)
            count += others.count
            seen += f"; {others.seen}"
        return EmbeddingModelMismatchError(
            f"Rows of {collection!r} are of another embedding model than this query",
            rows=told,
            count=count,
            stored_model=models[0],
            model=model,
            seen=seen,
            fix=f"change them: {self.command(collection, model)}",
        )


def _named(model: str | None, dimensions: int | None) -> str:
    name = "an unknown model" if model is None else repr(model)
    return name if dimensions is None else f"{name} ({dimensions} numbers)"
