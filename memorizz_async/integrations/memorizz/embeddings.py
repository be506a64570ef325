"""An embedder of ours where memorizz wants an embedding manager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from memorizz_async.errors import LifecycleError
from memorizz_async.fork import ProcessBound
from memorizz_async.validation import checked_list

if TYPE_CHECKING:
    from memorizz_async.embeddings.protocol import Embedder
    from memorizz_async.integrations.memorizz.background import BackgroundLoop


class MemorizzEmbeddings(ProcessBound):
    """What `memorizz.embeddings.set_global_embedding_manager` takes, from any thread.

    The texts that several threads ask for at once go to the model together.
    """

    def __init__(self, embedder: Callable[[], Embedder], background: BackgroundLoop) -> None:
        self._embedder = embedder
        self._background = background

    def __repr__(self) -> str:
        return f"MemorizzEmbeddings({self.get_default_model()!r})"

    def get_embedding(self, text: str, *, input_type: str | None = None) -> list[float]:
        """The vector of a text, shape (dimensions,): of a document, or of a `query`.

        Raises InvalidQueryError for a text with nothing in it, EmbeddingError, ClosedError.
        """
        if input_type == "query":
            vector = self._background.run(lambda: self._embedder().encode_query_async(text))
            return [float(number) for number in vector]
        return self.get_embeddings([text])[0]

    def get_embeddings(
        self, texts: Sequence[str], *, input_type: str | None = None
    ) -> list[list[float]]:
        """The vectors of several texts, in their order."""
        wanted = checked_list("texts", texts)
        if input_type == "query":
            return [self.get_embedding(text, input_type=input_type) for text in wanted]
        matrix = self._background.run(lambda: self._embedder().encode_documents_async(wanted))
        found: list[list[float]] = matrix.tolist()
        return found

    def get_dimensions(self) -> int:
        """The length of every vector; where only the model knows it, the model is loaded."""
        known = self._known_dimensions()
        if known is None:
            known = len(self.get_embedding("dimensions"))
        return known

    def get_default_model(self) -> str:
        return self._embedder().get_model_name()

    def get_provider_info(self) -> dict[str, Any]:
        """Provider, model, and the dimensions where they are known: nothing is loaded for it."""
        return {
            "provider": "memorizz-async",
            "model": self.get_default_model(),
            "dimensions": self._known_dimensions(),
        }

    def _known_dimensions(self) -> int | None:
        try:
            return self._embedder().get_dimensions()
        except LifecycleError:
            return None
