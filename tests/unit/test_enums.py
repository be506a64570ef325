"""The names of memory types and modes: ours, memorizz's old and new, and strings."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Any

import pytest

from memorizz_async import (
    ApplicationMode,
    ConfigurationError,
    MemoryType,
    MongoDBConfig,
    UnknownMemoryTypeError,
)
from memorizz_async.enums import memory_type_of
from memorizz_async.enums.application_mode import application_mode_of
from memorizz_async.enums.collection_names import RESERVED_COLLECTIONS, collection_names
from memorizz_async.enums.memory_type import name_of
from memorizz_async.validation import shown


class CurrentMemorizz(Enum):
    """As memorizz 0.17 writes them, some of them."""

    KNOWLEDGE_BASE = "knowledge_base"
    CONVERSATION_MEMORY = "conversation_memory"
    ENTITY_MEMORY = "entity_memory"
    MEMAGENT = "agents"


class OldMemorizz(Enum):
    """As memorizz 0.0.36 wrote them, some of them."""

    LONG_TERM_MEMORY = "long_term_memory"
    WORKFLOW_MEMORY = "workflow_memory"
    MEMAGENT = "agents"


class Foreign(StrEnum):
    """Another program's: the name or the value may be a memory type's."""

    FACTS = "KNOWLEDGE_BASE"
    SUMMARIES = "a value of its own"
    NEITHER = "nothing that we know"


@pytest.mark.parametrize("kind", list(MemoryType), ids=lambda kind: kind.name)
def test_every_type_is_found_by_name_and_value_in_any_case(kind: MemoryType) -> None:
    """Strings from a user, a configuration file, another program."""
    for word in (kind.name, kind.value, kind.name.lower(), kind.value.upper(), f" {kind.name}\n"):
        assert memory_type_of(word) is kind
        assert MemoryType(word) is kind
    assert memory_type_of(kind) is kind


@pytest.mark.parametrize("member", [*CurrentMemorizz, *OldMemorizz], ids=str)
def test_memorizz_s_own_enums_are_taken(member: Enum) -> None:
    """Both generations, by value."""
    assert memory_type_of(member).name == member.name


def test_an_enum_counts_by_its_value_then_by_its_name() -> None:
    """Any enum will do whose value or name says a type."""
    assert memory_type_of(Foreign.FACTS) is MemoryType.KNOWLEDGE_BASE
    assert memory_type_of(Foreign.SUMMARIES) is MemoryType.SUMMARIES


@pytest.mark.parametrize("value", ["", "memory", Foreign.NEITHER, None, 3, [], {}, b"summaries"])
def test_what_is_no_type_is_refused_with_the_list(value: Any) -> None:
    """The error lists every type that exists, and shows what was given, or its type."""
    with pytest.raises(UnknownMemoryTypeError) as caught:
        memory_type_of(value)
    assert shown(value, word=True) in str(caught.value)
    for kind in MemoryType:
        assert kind.name in str(caught.value)


def test_long_term_memory_and_knowledge_base_are_one_store() -> None:
    """Two names, one collection: memorizz's current one."""
    assert MemoryType.LONG_TERM_MEMORY is not MemoryType.KNOWLEDGE_BASE
    assert MemoryType.LONG_TERM_MEMORY.store is MemoryType.KNOWLEDGE_BASE
    assert MemoryType.LONG_TERM_MEMORY.collection == "knowledge_base"
    others = [kind for kind in MemoryType if kind is not MemoryType.LONG_TERM_MEMORY]
    assert all(kind.store is kind for kind in others)
    assert len({kind.collection for kind in others}) == len(others)


@pytest.mark.parametrize("name", ["LONG_TERM_MEMORY", "knowledge_base"])
def test_another_collection_counts_for_both_names_of_a_store(name: str) -> None:
    """Whichever name the configuration uses."""
    names = collection_names({name: "facts"})
    assert names[MemoryType.LONG_TERM_MEMORY] == names[MemoryType.KNOWLEDGE_BASE] == "facts"
    assert names[MemoryType.SUMMARIES] == "summaries"
    assert set(names) == set(MemoryType)


def test_a_collection_for_a_type_that_does_not_exist_is_refused() -> None:
    """A typo in the configuration is found."""
    with pytest.raises(UnknownMemoryTypeError, match="sumaries"):
        collection_names({"sumaries": "x"})


REFUSED = {
    "two types": {"LONG_TERM_MEMORY": "all", "CONVERSATION_MEMORY": "all"},
    "the default of another type": {"LONG_TERM_MEMORY": "conversation_memory"},
    "its own and another's": {"summaries": "knowledge_base"},
    "two names of one store": {"LONG_TERM_MEMORY": "a", "KNOWLEDGE_BASE": "b"},
    **{name: {"SUMMARIES": name} for name in sorted(RESERVED_COLLECTIONS)},
    **{
        repr(name): {"SUMMARIES": name}
        for name in ("system.views", "a$b", "a\0b", ".a", "a.", "a..b", "x" * 260, "\ud800")
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_collection_that_is_taken_or_has_no_valid_name_is_refused(case: str) -> None:
    """By the configuration: before anything is opened."""
    with pytest.raises(ConfigurationError) as caught:
        MongoDBConfig("memory://", collections=REFUSED[case])
    assert caught.value.seen
    assert caught.value.fix or case == "two types"


@pytest.mark.parametrize(
    "names",
    [
        {"LONG_TERM_MEMORY": "facts", "KNOWLEDGE_BASE": "facts"},
        {"LONG_TERM_MEMORY": "conversation_memory", "CONVERSATION_MEMORY": "knowledge_base"},
        {"LONG_TERM_MEMORY": "long_term_memory", "SUMMARIES": "my.summaries"},
    ],
    ids=["one store by both names", "swapped", "other names"],
)
def test_collections_that_are_each_of_one_store_are_taken(names: dict[str, str]) -> None:
    """Two names of one store are one; defaults that were given up are free."""
    assert MongoDBConfig("memory://", collections=names).collections == names


def test_agent_wide_types_are_memorizz_s() -> None:
    """Only these let a user see the rows that have no user."""
    wide = {kind.name for kind in MemoryType if kind.is_agent_wide}
    assert wide == {"LONG_TERM_MEMORY", "KNOWLEDGE_BASE", "TOOLBOX", "SKILLBOX"}


def test_results_are_named_as_the_caller_named_them() -> None:
    """An enum by its member's name, a string as it is."""
    assert name_of(MemoryType.LONG_TERM_MEMORY) == "LONG_TERM_MEMORY"
    assert name_of(CurrentMemorizz.MEMAGENT) == "MEMAGENT"
    assert name_of("long_term_memory") == "long_term_memory"


class ForeignMode(Enum):
    """memorizz's, some of them."""

    ASSISTANT = "assistant"
    DEEP_RESEARCH = "deep_research"


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ("conversational", ApplicationMode.CONVERSATIONAL),
        (" Workflow ", ApplicationMode.WORKFLOW),
        (ForeignMode.ASSISTANT, ApplicationMode.ASSISTANT),
        (ForeignMode.DEEP_RESEARCH, ApplicationMode.DEEP_RESEARCH),
        (ApplicationMode.WORKFLOW, ApplicationMode.WORKFLOW),
    ],
)
def test_a_mode_is_found_by_string_or_enum(value: Any, mode: ApplicationMode) -> None:
    """The guide's word, memorizz's words, memorizz's enum."""
    assert application_mode_of(value) is mode


@pytest.mark.parametrize("value", ["chat", None, 1, MemoryType.SUMMARIES])
def test_what_is_no_mode_is_refused_with_the_list(value: Any) -> None:
    """The error lists every mode."""
    with pytest.raises(ConfigurationError) as caught:
        application_mode_of(value)
    assert all(mode.value in str(caught.value) for mode in ApplicationMode)


@pytest.mark.parametrize("mode", list(ApplicationMode), ids=str)
def test_every_mode_recalls_each_store_once(mode: ApplicationMode) -> None:
    """No query is sent twice for two names of one store; facts are always among them."""
    stores = [kind.store for kind in mode.memory_types]
    assert len(stores) == len(set(stores))
    assert MemoryType.KNOWLEDGE_BASE in stores
