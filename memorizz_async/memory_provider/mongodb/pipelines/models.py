"""What is asked about the models of collections, and of rows by their model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Binary, Timestamp

from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState
from memorizz_async.memory_provider.mongodb.pipelines import (
    STAGED,
    all_of,
    any_embedded_filter,
)
from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.memory_provider.mongodb.spoken import BESIDE_CONTENT

COLLECTION = "embedding_models"
"""One document for each collection that holds vectors; `_id` is the collection's name."""

_HAS_TEXT: Document = {
    "$or": [{"content": {"$regex": r"\S"}}, {"content": {"$type": "array"}}],
}
"""Text, or the parts of a message that another program wrote."""
_STAGED_TEXT_IS_OLD: Document = {"$expr": {"$ne": ["$content", f"${STAGED}.text"]}}
_STAGED_TEXT_HOLDS: Document = {"$expr": {"$eq": ["$content", f"${STAGED}.text"]}}


def states_filter(collections: Sequence[str]) -> Document:
    """The states of some collections."""
    return {"_id": {"$in": sorted(collections)}}


def one_state(collection: str) -> Document:
    """The state of a collection."""
    return {"_id": collection}


def first_state(model: str | None, dimensions: int, now: datetime) -> Document:
    """What makes a collection's state where there is none, and else changes nothing."""
    return {
        "$setOnInsert": {
            "model": model,
            "dimensions": dimensions,
            "phase": "active",
            "target": None,
            "lease": None,
            "lease_token": 0,
            "switched_at": None,
            "changed_at": now,
        }
    }


def as_it_was(state: ModelState) -> Document:
    """The state of a collection, if it is still this one and nobody is changing it."""
    return {
        "_id": state.collection,
        "model": state.model,
        "dimensions": state.dimensions,
        "phase": "active",
        "lease": None,
    }


def other_model(model: str | None, dimensions: int, now: datetime) -> Document:
    """The state says another model from now on."""
    return {"$set": {"model": model, "dimensions": dimensions, "changed_at": now}}


def model_projection() -> Document:
    """A vector and the model that it names."""
    return {"embedding": 1, "embedding_model": 1}


def model_alone_projection() -> Document:
    """The model that a vector names, without the vector."""
    return {"embedding_model": 1}


# -- changing it: the lease -------------------------------------------------------------------


def free_lease(collection: str, now: datetime) -> Document:
    """The state of a collection that nobody is changing, or whose changer has gone silent."""
    return {
        "_id": collection,
        "$or": [{"lease": None}, {"lease.expires_at": {"$lte": now}}],
    }


def take_lease(owner: str, until: datetime) -> Document:
    """Take the lease; the token says how often that has happened."""
    return {"$set": {"lease": {"owner": owner, "expires_at": until}}, "$inc": {"lease_token": 1}}


def held_lease(collection: str, token: int) -> Document:
    """The state of a collection, if the lease is still the one of this token."""
    return {"_id": collection, "lease_token": token}


def renew_lease(until: datetime) -> Document:
    """The holder lives."""
    return {"$set": {"lease.expires_at": until}}


def release_lease() -> Document:
    """The holder has ended."""
    return {"$set": {"lease": None}}


def begin_migrating(model: str, dimensions: int, now: datetime) -> Document:
    """Vectors of another model are made beside those that answer."""
    target = {"model": model, "dimensions": dimensions}
    return {"$set": {"phase": "migrating", "target": target, "changed_at": now}}


def begin_switching(now: datetime) -> Document:
    """From now on rows of both models are looked for."""
    return {"$set": {"phase": "switching", "changed_at": now}}


def end_switching(model: str, dimensions: int, at: Timestamp | None, now: datetime) -> Document:
    """All rows are of the other model. at: the logical time by which they are."""
    return {
        "$set": {
            "model": model,
            "dimensions": dimensions,
            "phase": "active",
            "target": None,
            "switched_at": at,
            "changed_at": now,
        }
    }


# -- rows by their model ----------------------------------------------------------------------


def of_model(model: str) -> Document:
    """Rows whose vector is of a model."""
    return {"embedding_model": model}


def not_of_model(model: str) -> Document:
    """Rows whose vector is of another model, or does not say of which."""
    return {"embedding_model": {"$ne": model}}


def comparable_with(model: str) -> Document:
    """Rows whose vector is of a model, or does not say of which."""
    return {"embedding_model": {"$in": [model, None]}}


def not_comparable_with(model: str) -> Document:
    """Rows that name another model."""
    return {"embedding_model": {"$nin": [model, None]}}


def with_vector_of_another(model: str) -> Document:
    """Rows that have a vector, but none of this model."""
    return all_of(any_embedded_filter(), not_of_model(model))


def to_embed_filter(model: str, but: Sequence[Any] = ()) -> Document:
    """Rows that still need a vector of this model: none is staged, or one of a text since changed.

    but: ids of rows that were tried in vain.
    """
    return all_of(
        with_vector_of_another(model),
        _HAS_TEXT,
        {"$or": [{f"{STAGED}.model": {"$ne": model}}, _STAGED_TEXT_IS_OLD]},
        {"_id": {"$nin": list(but)}} if but else {},
    )


def without_text_filter(model: str) -> Document:
    """Rows with a vector of another model and no text that a new one could be made of."""
    return all_of(with_vector_of_another(model), {"$nor": _HAS_TEXT["$or"]})


def to_embed_projection() -> Document:
    """What the vector of a row is made of, and which turn of which session it is."""
    names = (
        "content", *BESIDE_CONTENT, "context", "memory_id", "user_id", "session_id", "turn",
        "expires_at", "embedding_model",
    )  # fmt: skip
    return dict.fromkeys(names, 1)


def count_pipeline(query: Document) -> list[Document]:
    """How many rows match."""
    return [{"$match": query}, {"$count": "rows"}]


def stage_filter(
    row_id: Any, content: Any, model: str, unchanged: Mapping[str, Any] | None = None
) -> Document:
    """A row, if its text and what else is named is still what was embedded, and its vector of
    another model.
    """
    return {"_id": row_id, "content": content, **(unchanged or {}), **not_of_model(model)}


def stage_update(model: str, vector: Binary, text: Any) -> Document:
    """A vector of the other model beside the one that answers, and the text that it was made of."""
    return {"$set": {STAGED: {"model": model, "embedding": vector, "text": text}}}


def staged_filter(model: str, ids: Sequence[Any] | None = None) -> Document:
    """Rows whose staged vector is of this model and of the text that they have now."""
    some: Document = {} if ids is None else {"_id": {"$in": list(ids)}}
    return all_of(some, {f"{STAGED}.model": model}, _STAGED_TEXT_HOLDS)


def flip_update() -> list[Document]:
    """The staged vector answers from now on, and nothing is staged any more: on the server, in one
    step for each row.
    """
    return [
        {"$set": {"embedding": f"${STAGED}.embedding", "embedding_model": f"${STAGED}.model"}},
        {"$unset": STAGED},
    ]


def flip_one(staged: Document) -> Document:
    """The same for one row, in words that mongomock knows, too."""
    return {
        "$set": {"embedding": staged["embedding"], "embedding_model": staged["model"]},
        "$unset": {STAGED: ""},
    }


def any_staged_filter() -> Document:
    """Rows with a staged vector, of whatever model: what another change left behind."""
    return {STAGED: {"$exists": True}}


def unstage_update() -> Document:
    """Nothing is staged any more."""
    return {"$unset": {STAGED: ""}}


def drop_vector_update() -> Document:
    """The row stays, without a vector: no search by vector finds it any more."""
    return {"$unset": {"embedding": "", "embedding_model": "", STAGED: ""}}
