"""The tenant filter: no call reaches another tenant's rows, whatever it passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async import EVERY_TENANT, UNSET, MemoryType, ScopeError
from memorizz_async.memory_provider.mongodb.scope import Scope

ACCEPTED = {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$and", "$or"}
"""The operators that `$vectorSearch` takes in its filter, besides the short form."""

KB, CHAT = MemoryType.KNOWLEDGE_BASE, MemoryType.CONVERSATION_MEMORY
names = st.one_of(st.none(), st.just(UNSET), st.text(min_size=1))
kinds = st.sampled_from(MemoryType)


def matches(conditions: dict[str, Any], row: dict[str, Any]) -> bool:
    """MongoDB's rule for the filters of a scope: a missing field equals null."""
    for key, value in conditions.items():
        if key == "$or":
            if not any(matches(part, row) for part in value):
                return False
        elif key.startswith("$") or isinstance(value, dict):
            raise AssertionError(f"an operator that this test does not know: {conditions}")
        elif row.get(key) != value:
            return False
    return True


@pytest.mark.parametrize(
    ("memory_id", "user_id", "kind", "expected"),
    [
        ("m", UNSET, CHAT, {"memory_id": "m"}),
        (None, UNSET, CHAT, {"memory_id": None}),
        (UNSET, "u", CHAT, {"user_id": "u"}),
        (UNSET, None, CHAT, {"user_id": None}),
        ("m", "u", CHAT, {"memory_id": "m", "user_id": "u"}),
        ("m", None, CHAT, {"memory_id": "m", "user_id": None}),
        (None, None, CHAT, {"memory_id": None, "user_id": None}),
        ("m", "u", KB, {"memory_id": "m", "$or": [{"user_id": "u"}, {"user_id": None}]}),
        (UNSET, "u", KB, {"user_id": "u"}),
        ("m", None, KB, {"memory_id": "m", "user_id": None}),
        ("m", UNSET, KB, {"memory_id": "m"}),
        (EVERY_TENANT, UNSET, CHAT, {}),
        (UNSET, EVERY_TENANT, CHAT, {}),
        ("m", EVERY_TENANT, KB, {"memory_id": "m"}),
        (EVERY_TENANT, None, KB, {"user_id": None}),
        (EVERY_TENANT, "u", CHAT, {"user_id": "u"}),
        (EVERY_TENANT, "u", KB, {"$or": [{"user_id": "u"}, {"user_id": None}]}),
    ],
)
def test_unset_none_and_a_value_are_three_things(
    memory_id: Any, user_id: Any, kind: MemoryType, expected: dict[str, Any]
) -> None:
    """No condition, rows that have none, that tenant; agent-wide rows serve every user."""
    assert Scope(memory_id, user_id).filter(kind) == expected


def test_what_a_tenant_may_change_is_its_own() -> None:
    """Exactly the fields that are named, also where it sees more than that."""
    assert Scope("m", "u").owned() == {"memory_id": "m", "user_id": "u"}
    assert Scope("m", None).owned() == {"memory_id": "m", "user_id": None}
    assert Scope(UNSET, "u").owned() == {"user_id": "u"}
    assert Scope(EVERY_TENANT).owned() == {}


def test_every_tenant_is_said_and_nothing_is_written_for_it() -> None:
    """It is no string and no None, and a new row has one tenant."""
    assert repr(EVERY_TENANT) == "EVERY_TENANT"
    with pytest.raises(ScopeError, match="belongs to one tenant"):
        Scope(EVERY_TENANT).fields()


def test_a_call_that_names_no_tenant_is_refused() -> None:
    """Leaving both out would reach every tenant's rows."""
    with pytest.raises(ScopeError, match=r"names no tenant.*memory_id, user_id"):
        Scope()
    with pytest.raises(ScopeError):
        Scope(memory_id=UNSET, user_id=UNSET)


@pytest.mark.parametrize("name", ["memory_id", "user_id"])
@pytest.mark.parametrize(
    "value", [{"$ne": None}, {"$exists": True}, {}, ["a"], ("a",), 0, 1, False, True, b"m", ""]
)
def test_only_a_string_names_a_tenant(name: str, value: Any) -> None:
    """A dict would be a query operator, and reach other tenants; its content is not shown."""
    other = "user_id" if name == "memory_id" else "memory_id"
    with pytest.raises(ScopeError, match=name) as caught:
        Scope(**{name: value, other: "someone"})
    assert "$" not in str(caught.value)


def test_a_tenant_that_cannot_be_encoded_is_refused() -> None:
    """Half of a surrogate pair, as broken JSON gives it, is no text that the server could read."""
    with pytest.raises(ScopeError, match="not valid Unicode"):
        Scope("\ud800")


@given(names, names, kinds)
def test_every_filter_speaks_only_what_vector_search_takes(
    memory_id: Any, user_id: Any, kind: MemoryType
) -> None:
    """Operators of `$vectorSearch`'s list, and values that are strings or null."""
    if memory_id is UNSET and user_id is UNSET:
        return
    conditions = Scope(memory_id, user_id).filter(kind)
    assert conditions

    def check(part: dict[str, Any]) -> None:
        for key, value in part.items():
            if key.startswith("$"):
                assert key in ACCEPTED
                assert value
                for inner in value:
                    check(inner)
            else:
                assert key in ("memory_id", "user_id")
                assert value is None or isinstance(value, str)

    check(conditions)


@given(names, names, kinds, names, names)
def test_a_scope_never_matches_another_tenants_row(
    memory_id: Any, user_id: Any, kind: MemoryType, row_memory: Any, row_user: Any
) -> None:
    """By the rule in words: each given name equals the row's, or the row is the whole agent's."""
    if memory_id is UNSET and user_id is UNSET:
        return
    row = {
        name: value
        for name, value in (("memory_id", row_memory), ("user_id", row_user))
        if value is not UNSET
    }
    same_memory = memory_id is UNSET or row.get("memory_id") == memory_id
    same_user = user_id is UNSET or row.get("user_id") == user_id
    of_nobody = row.get("user_id") is None and memory_id is not UNSET
    shared = isinstance(user_id, str) and kind.is_agent_wide and of_nobody
    expected = same_memory and (same_user or shared)
    assert matches(Scope(memory_id, user_id).filter(kind), row) is expected


@given(names, names, kinds)
def test_a_row_written_in_a_scope_is_found_in_it(
    memory_id: Any, user_id: Any, kind: MemoryType
) -> None:
    """Also where a name is None or was left out."""
    if memory_id is UNSET and user_id is UNSET:
        return
    scope = Scope(memory_id, user_id)
    assert set(scope.fields()) == {"memory_id", "user_id"}
    assert matches(scope.filter(kind), dict(scope.fields()))


def test_unset_reads_as_itself() -> None:
    """In signatures and error messages; and it is false, like nothing."""
    assert repr(UNSET) == "UNSET"
    assert not UNSET
    assert UNSET is not None
