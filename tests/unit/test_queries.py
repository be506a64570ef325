"""The guide's list of dicts: checked whole before anything is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memorizz_async import (
    UNSET,
    InvalidEmbeddingError,
    InvalidInputError,
    InvalidLimitError,
    InvalidQueryError,
    MemoryType,
    ScopeError,
    UnknownMemoryTypeError,
)
from memorizz_async.memory_provider.mongodb.queries import queries_of
from memorizz_async.memory_provider.mongodb.scope import Scope

GUIDE = {
    "key": "semantic",
    "embedding": [0.5, 0.5],
    "memory_id": "user123",
    "memory_type": MemoryType.LONG_TERM_MEMORY,
    "limit": 5,
}


def one(**changes: Any) -> Any:
    entry = {name: value for name, value in {**GUIDE, **changes}.items() if value is not ...}
    [query] = queries_of([entry], dimensions=None)
    return query


def test_the_guides_own_query() -> None:
    """Key, embedding, tenant, type, limit."""
    query = one()
    assert (query.key, query.text, query.limit) == ("semantic", None, 5)
    np.testing.assert_array_equal(query.vector, [0.5, 0.5])
    assert query.scope == Scope("user123", UNSET)
    assert query.memory_type is MemoryType.LONG_TERM_MEMORY
    assert query.type_name == "LONG_TERM_MEMORY"
    assert query.include_embedding is False


def test_a_text_stands_where_there_is_no_embedding() -> None:
    """Either a vector or a text to embed; with both, the vector."""
    by_text = one(embedding=..., query="words")
    assert (by_text.text, by_text.vector) == ("words", None)
    both = one(query="words")
    assert both.text is None
    assert both.vector is not None
    assert one(embedding=None, query="words").text == "words"


@pytest.mark.parametrize("mode", [None, "hybrid", "vector", "text"])
def test_the_words_stay_beside_a_vector(mode: Any) -> None:
    """An embedding spares the model; the text is still there to be searched for."""
    query = one(query="words", mode=mode)
    assert (query.text, query.words, query.mode) == (None, "words", mode)
    alone = one(embedding=..., query="words", mode=mode)
    assert (alone.text, alone.words) == (None if mode == "text" else "words", "words")


def test_what_may_be_left_out() -> None:
    """The limit is 5; one name of the tenant is enough; names are the caller's."""
    query = one(limit=..., memory_id=..., user_id="u", memory_type="summaries")
    assert query.limit == 5
    assert query.scope == Scope(UNSET, "u")
    assert (query.memory_type, query.type_name) == (MemoryType.SUMMARIES, "summaries")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": ...}, InvalidInputError),
        ({"key": ""}, InvalidInputError),
        ({"key": 1}, InvalidInputError),
        ({"memory_type": ...}, InvalidInputError),
        ({"memory_type": "facts"}, UnknownMemoryTypeError),
        ({"memory_type": None}, UnknownMemoryTypeError),
        ({"memory_id": ...}, ScopeError),
        ({"memory_id": {"$ne": None}}, ScopeError),
        ({"user_id": ["u"]}, ScopeError),
        ({"limit": 0}, InvalidLimitError),
        ({"limit": "5"}, InvalidLimitError),
        ({"limit": True}, InvalidLimitError),
        ({"limit": 10_001}, InvalidLimitError),
        ({"embedding": ...}, InvalidQueryError),
        ({"embedding": None, "query": " "}, InvalidQueryError),
        ({"query": 5}, InvalidQueryError),
        ({"query": ""}, InvalidQueryError),
        ({"embedding": [0.0, 0.0]}, InvalidEmbeddingError),
        ({"embedding": "abc"}, InvalidEmbeddingError),
        ({"embeding": [1.0]}, InvalidInputError),
        ({"top_k": 5}, InvalidInputError),
        ({"mode": "both"}, InvalidInputError),
        ({"mode": ["text"], "query": "words"}, InvalidInputError),
        ({"mode": "text"}, InvalidQueryError),
        ({"mode": "hybrid"}, InvalidQueryError),
    ],
    ids=repr,
)
def test_one_bad_query_fails_the_batch_and_is_named(
    changes: dict[str, Any], error: type[InvalidInputError]
) -> None:
    """The exact error, with a note that says which query it was and that nothing was sent."""
    bad = {name: value for name, value in {**GUIDE, **changes}.items() if value is not ...}
    good = {**GUIDE, "key": "good"}
    with pytest.raises(InvalidInputError) as caught:
        queries_of([good, bad], dimensions=None)
    assert type(caught.value) is error
    assert caught.value.__notes__ == ["in query 1 of the batch; nothing was sent"]


@pytest.mark.parametrize("entry", [None, "semantic", 5, ["key"]])
def test_a_query_is_a_mapping(entry: Any) -> None:
    """Also when a dict was passed where the list of dicts belongs."""
    with pytest.raises(InvalidInputError, match="must be a mapping"):
        queries_of([entry], dimensions=None)
    with pytest.raises(InvalidInputError, match="must be a list"):
        queries_of(GUIDE, dimensions=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("queries", [None, 5])
def test_the_queries_are_several(queries: Any) -> None:
    """Nothing to iterate over is an error of ours too."""
    with pytest.raises(InvalidInputError, match="must be a list"):
        queries_of(queries, dimensions=None)


def test_an_unknown_key_is_named_with_those_that_exist() -> None:
    """A typo must not change what is asked."""
    with pytest.raises(InvalidInputError, match=r"embeding.*use only key, query, embedding"):
        one(embeding=[1.0])


def test_two_queries_of_one_key_are_refused() -> None:
    """One of them would hide the other's results."""
    with pytest.raises(InvalidInputError, match=r"share a key.*semantic"):
        queries_of([GUIDE, GUIDE], dimensions=None)


def test_another_dimension_than_configured_is_refused() -> None:
    """Before the server is asked."""
    with pytest.raises(InvalidEmbeddingError, match="2 numbers, not 384"):
        queries_of([GUIDE], dimensions=384)


def test_a_generator_of_queries_and_no_queries_at_all() -> None:
    """Any iterable; an empty batch is no error."""
    assert [q.key for q in queries_of(({**GUIDE, "key": k} for k in "ab"), dimensions=2)] == [
        "a",
        "b",
    ]
    assert queries_of([], dimensions=None) == []
