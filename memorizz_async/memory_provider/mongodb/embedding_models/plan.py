"""Which embedder embeds a query, and which one new rows: as a collection's state says."""

from __future__ import annotations

from dataclasses import dataclass, field

from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.errors import LifecycleError
from memorizz_async.memory_provider.mongodb.embedding_models.embedders import Embedders
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState


@dataclass(frozen=True)
class Plan:
    """How a collection is asked. Equal where the same embedders are asked for the same rows.

    model: what embeds the query. target: where rows are changing their model at this moment, the
    one that rows of it are compared by; all others are compared by `model`.
    """

    model: str
    target: str | None = None
    embedder: Embedder = field(compare=False, kw_only=True)
    target_embedder: Embedder | None = field(compare=False, default=None, kw_only=True)


def plan_for(state: ModelState | None, embedders: Embedders, words: Words) -> Plan:
    """How a collection of this state is asked; without a state, by the provider's own embedder.

    Raises EmbeddingModelMismatchError where the provider does not have the embedders for it.
    """
    own = embedders.current
    if state is None:
        return Plan(own.get_model_name(), embedder=own)
    switching = state.phase == "switching"
    if state.model is not None:
        old = embedders.of_model(state.model)
    else:  # rows that name no model: the retiring one made them, where there is one
        old = embedders.retiring or (None if switching else own)
    new = embedders.of_model(state.target_model) if switching else None
    if old is None or (switching and new is None):
        raise words.mismatch(state, own.get_model_name(), _dimensions(own))
    return Plan(
        old.get_model_name(),
        state.target_model if switching else None,
        embedder=old,
        target_embedder=new,
    )


def writer_for(state: ModelState | None, embedders: Embedders) -> Embedder:
    """What embeds rows that are written now; where there is none of that model, the provider's own:
    its rows are refused before they are written, with both models named.
    """
    own = embedders.current
    if state is None:
        return own
    if state.written_model is None:
        return embedders.retiring or own
    return embedders.of_model(state.written_model) or own


def _dimensions(embedder: Embedder) -> int | None:
    try:
        return embedder.get_dimensions()
    except LifecycleError:  # not known before its first use
        return None
