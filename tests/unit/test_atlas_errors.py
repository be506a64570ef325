"""What the search service says goes wrong, in words of ours that say what to do."""

from __future__ import annotations

from typing import Any

import pytest

from memorizz_async import DatabaseError
from memorizz_async.memory_provider.mongodb.vector_search import atlas, index_state

ENVELOPE = "PlanExecutor error during aggregation :: caused by :: "


@pytest.mark.parametrize(
    ("code", "words", "what"),
    [
        (8, "Path 'mood' needs to be indexed as filter", "lacks a field of the filter"),
        (8, "Path 'mood' needs to be indexed as token", "lacks a field of the filter"),
        (8, "vector field is indexed with 8 dimensions but queried with 3", "another dimension"),
        (8, "embedding is not indexed as vector", "does not cover 'embedding'"),
        (8, "cannot query vector index {} while in state INITIAL_SYNC", "being built"),
        (8, "Index vector_index not initialized", "being dropped or made"),
        (8, "Cannot execute $vectorSearch over search index 'x'", "no vector index"),
        (8, "Cosine similarity cannot be calculated against a zero vector.", "zeros"),
        (6, "Error connecting to localhost:28000 :: caused by :: refused", "mongot"),
        (125, "Error connecting to Search Index Management service.", "mongot"),
    ],
)
def test_each_is_explained(code: int, words: str, what: str) -> None:
    """The code stays, the server's words are shown, and there is something to do."""
    explained = atlas.trouble(DatabaseError("x", seen=ENVELOPE + words, code=code))
    assert explained is not None
    assert what in explained.what
    assert words in str(explained)
    assert (explained.code, bool(explained.fix)) == (code, True)


def test_an_old_servers_filter_is_known_by_its_code() -> None:
    """It is no trouble with the index: the same search goes another way."""
    refused = DatabaseError("x", seen="not supported for $vectorSearch: EXISTS", code=7828300)
    assert atlas.takes_no_exists(refused)
    assert atlas.trouble(refused) is None
    assert not atlas.takes_no_exists(DatabaseError("x", code=8))


@pytest.mark.parametrize(
    ("scope", "asks"),
    [
        ({"memory_id": "m", "user_id": "u"}, False),
        ({"memory_id": "m", "user_id": None}, True),
        ({"memory_id": None}, True),
        ({"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]}, True),
    ],
)
def test_scopes_that_hold_nobodys_rows_are_known(scope: dict[str, Any], asks: bool) -> None:
    """Only those need more of a server than equality."""
    assert atlas.asks_for_nobodys(scope) is asks


@pytest.mark.parametrize("code", sorted(atlas.NO_SEARCH_CODES))
def test_no_search_here_is_known_by_its_codes(code: int) -> None:
    """Old and new ones."""
    error = DatabaseError("x", seen="whatever", code=code)
    assert atlas.has_no_search(error)
    assert atlas.trouble(error) is error


@pytest.mark.parametrize(
    ("code", "seen"), [(8, "something else"), (2, "zero vector"), (None, None)]
)
def test_other_errors_are_left_as_they_are(code: int | None, seen: str | None) -> None:
    """Another strategy would not mend them."""
    assert atlas.trouble(DatabaseError("x", seen=seen, code=code)) is None


VECTOR = {"type": "vector", "path": "embedding", "numDimensions": 8, "similarity": "Cosine"}
NEW = {"fields": [VECTOR, {"type": "filter", "path": "memory_id"}, {"type": "filter", "path": "f"}]}
OLD = {"fields": [VECTOR, {"type": "filter", "path": "memory_id"}]}


def test_while_an_update_is_built_the_old_definition_counts() -> None:
    """`queryable` is true all the time: of the definition that answers."""
    told = {
        "status": "BUILDING",
        "queryable": True,
        "latestDefinition": NEW,
        "statusDetail": [{"mainIndex": {"definition": OLD}, "stagedIndex": {"definition": NEW}}],
    }

    def problem(status: str, *paths: str) -> str | None:
        state = index_state._state("c", "i", {**told, "status": status})
        return index_state.problem(
            state, dimensions=8, similarity="cosine", filter_paths=["memory_id", *paths]
        )

    assert problem("BUILDING") is None
    assert "lacks the filter fields f" in str(problem("BUILDING", "f"))
    assert problem("READY", "f") is None
    assert "DELETING" in str(problem("DELETING"))


def test_a_server_that_says_little_is_understood() -> None:
    """Self-managed ones leave the type out; details may be missing."""
    state = index_state._state("c", "i", {"queryable": True, "latestDefinition": OLD})
    wanted = {"dimensions": 8, "similarity": "cosine", "filter_paths": ["memory_id"]}
    assert state.is_vector
    assert index_state.problem(state, **wanted) is None  # type: ignore[arg-type]
    empty = index_state._state("c", "i", {})
    assert "unknown" in str(index_state.problem(empty, **wanted))  # type: ignore[arg-type]
