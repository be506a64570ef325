"""Memories on their way in: the tenant of each, the vectors they bring, and which one is wrong.

(What becomes of them in a database is in tests/contract/test_writing.py.)
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from memorizz_async import UNSET, InvalidEmbeddingError, InvalidInputError, ScopeError
from memorizz_async.memory_provider.mongodb.writing import drafts, with_embedding

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def tenant_of(memory: Any, memory_id: Any = UNSET, user_id: Any = UNSET) -> tuple[Any, Any]:
    [item] = asyncio.run(drafts([memory], memory_id=memory_id, user_id=user_id))
    row = item.row(NOW)
    return row["memory_id"], row["user_id"]


@pytest.mark.parametrize(
    ("fields", "memory_id", "user_id", "expected"),
    [
        ({}, "m", "u", ("m", "u")),
        ({}, "m", UNSET, ("m", None)),
        ({"memory_id": "m"}, UNSET, UNSET, ("m", None)),
        ({"user_id": "u"}, UNSET, UNSET, (None, "u")),
        ({"memory_id": "m"}, UNSET, "u", ("m", "u")),
        ({"memory_id": "m", "user_id": "u"}, "m", "u", ("m", "u")),
        ({"user_id": None}, "m", UNSET, ("m", None)),
        ({"memory_id": None}, None, UNSET, (None, None)),
    ],
)
def test_the_tenant_comes_from_arguments_or_fields(
    fields: dict[str, Any], memory_id: Any, user_id: Any, expected: tuple[Any, Any]
) -> None:
    """Either names it, or both the same."""
    assert tenant_of({"content": "x", **fields}, memory_id, user_id) == expected


@pytest.mark.parametrize("name", ["memory_id", "user_id"])
@pytest.mark.parametrize(("argument", "own"), [("a", "b"), (None, "b"), ("a", None)])
def test_an_argument_and_a_field_that_differ_are_an_error(
    name: str, argument: Any, own: Any
) -> None:
    """A row must not land with another tenant than one of the two said."""
    with pytest.raises(InvalidInputError, match=f"argument {name}"):
        asyncio.run(
            drafts(
                [{"content": "x", name: own}], **{"memory_id": "z", "user_id": "z", name: argument}
            )
        )


@pytest.mark.parametrize("memory", ["x", {"content": "x"}])
def test_a_memory_without_a_tenant_is_refused(memory: Any) -> None:
    """It would belong to nobody, by mistake."""
    with pytest.raises(ScopeError):
        asyncio.run(drafts([memory], memory_id=UNSET, user_id=UNSET))


def test_a_field_is_no_query_operator_either() -> None:
    """What comes from a request's body is checked like an argument."""
    with pytest.raises(ScopeError):
        asyncio.run(
            drafts([{"content": "x", "memory_id": {"$ne": None}}], memory_id=UNSET, user_id="u")
        )


def test_a_vector_that_came_along_is_kept_and_needs_no_embedding() -> None:
    """With the model's name where the caller gives one."""
    memory = {"content": "x", "embedding": [1, 2], "embedding_model": "m/1"}
    [brought, missing] = asyncio.run(drafts([memory, "y"], memory_id="m", user_id=UNSET))
    assert not brought.needs_embedding
    assert missing.needs_embedding
    row = brought.row(NOW)
    assert row["embedding"].as_vector().data == [1.0, 2.0]
    assert row["embedding_model"] == "m/1"


@pytest.mark.parametrize("value", [[], "abc", [0.0, 0.0], [float("nan")], {"$gt": 1}])
def test_a_bad_vector_is_refused(value: Any) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidEmbeddingError):
        asyncio.run(drafts([{"content": "x", "embedding": value}], memory_id="m", user_id=UNSET))


def test_one_bad_memory_among_many_is_named_and_none_is_kept() -> None:
    """A note says which, in the caller's numbering; for one memory there is nothing to say."""
    with pytest.raises(InvalidInputError) as caught:
        asyncio.run(drafts(["a", "b", ""], memory_id="m", user_id=UNSET))
    assert caught.value.__notes__ == ["in memory 2 of 3; none was written"]
    with pytest.raises(InvalidInputError) as alone:
        asyncio.run(drafts([""], memory_id="m", user_id=UNSET))
    assert not hasattr(alone.value, "__notes__")


def test_the_embedding_argument_becomes_a_field() -> None:
    """Of a string, a mapping (which is not changed), or what drafts will refuse."""
    memory = {"content": "x"}
    assert with_embedding("x", [1.0]) == {"content": "x", "embedding": [1.0]}
    assert with_embedding(memory, [1.0]) == {"content": "x", "embedding": [1.0]}
    assert memory == {"content": "x"}
    assert with_embedding(5, [1.0]) == 5


def test_the_callers_array_may_be_reused_after_the_check() -> None:
    """A draft does not look at the caller's buffer again."""
    vector = np.ones(2, dtype=np.float32)
    [item] = asyncio.run(
        drafts([{"content": "x", "embedding": vector}], memory_id="m", user_id=UNSET)
    )
    vector[:] = 7
    assert item.row(NOW)["embedding"].as_vector().data == [1.0, 1.0]
