"""MemorizzProvider as memorizz uses it: the contract, its traps, many threads, and closing."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlas_standin import AtlasStandin
from bson import Binary
from memorizz import embeddings as memorizz_embeddings
from memorizz.enums import MemoryType as T
from memorizz.memagent.managers.memory_manager import _callable_accepts
from memorizz.memory_provider.base import _UNSET, MemoryProvider
from memorizz.memory_provider.filesystem.provider import _FS_UNSET
from memorizz.memory_provider.mongodb.provider import _MONGO_UNSET
from support.internals import open_clients, session_of

from memorizz_async import (
    EVERY_TENANT,
    UNSET,
    AsyncMongoDBProvider,
    ClosedError,
    ConfigurationError,
    DatabaseError,
    InvalidInputError,
    LifecycleError,
    MemoryUnit,
    MongoDBConfig,
    ScopeError,
    ServerUnavailableError,
    StoredEmbeddingError,
    UnknownMemoryTypeError,
)
from memorizz_async.integrations.memorizz import (
    FILTER_FIELDS,
    MemorizzEmbeddings,
    MemorizzProvider,
    use_with_memorizz,
)
from memorizz_async.memory_provider.mongodb.driver import blocking_command

ROOT = Path(__file__).parents[2]
NOW = "2026-01-01T00:00:00+00:00"
Make = Callable[..., MemorizzProvider]

TOPICS = ("release", "london", "coffee", "garden")


def embed(texts: list[str]) -> list[list[float]]:
    """A vector that says which of four topics a text is about."""
    return [[float(word in text.lower()) + 0.01 for word in TOPICS] for text in texts]


@pytest.fixture
def make(mongod: Any, db_name: str) -> Iterator[Make]:
    """Makes providers on the test's database; closed afterwards."""
    made: list[MemorizzProvider] = []

    def provider(given: Any = None, **options: Any) -> MemorizzProvider:
        if given is None:
            options.setdefault("embedding_provider", embed)
            given = MongoDBConfig(mongod.uri, db_name, search_strategy="scan")
        made.append(MemorizzProvider(given, **options))
        return made[-1]

    yield provider
    for one in made:
        one.close()


@pytest.fixture
def provider(make: Make) -> MemorizzProvider:
    return make()


@pytest.fixture
def _global_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memorizz's global embedding manager is afterwards what it was."""
    monkeypatch.setattr(memorizz_embeddings, "_global_embedding_manager", None)


def stored(provider: MemorizzProvider, kind: str) -> list[dict[str, Any]]:
    """The documents as the server has them."""
    from memorizz_async.deadline import Deadline

    async def find() -> list[dict[str, Any]]:
        session = await session_of(provider._inner)
        return await session.driver.find(kind, {}, deadline=Deadline.after(10_000))

    return provider._background.run(find)


def turn(content: str, **fields: Any) -> dict[str, Any]:
    return {
        "role": "user", "content": content, "timestamp": NOW, "memory_id": "m",
        "thread_id": "t", "user_id": None, "embedding": embed([content])[0], **fields,
    }  # fmt: skip


# -- the contract ------------------------------------------------------------------------------


def test_nothing_of_the_contract_is_missing() -> None:
    """No abstract method is left, and what memorizz looks for with hasattr is there."""
    assert not MemorizzProvider.__abstractmethods__
    assert issubclass(MemorizzProvider, MemoryProvider)
    for name in (
        "retrieve_memagent", "update_memagent", "supports_entity_memory", "memory_capabilities",
        "list_tool_logs", "list_summaries", "touch_many", "store_many", "list_recent",
        "compare_and_swap_shared_memory", "list_archive_records", "store_archive_record",
        "delete_scope", "query_observability_records", "vector_search",
        "purge_expired_semantic_cache", "migrate_entity_memory_user_scope",
        "retrieve_skillbox_candidates", "clear_semantic_cache",
    ):  # fmt: skip
        assert callable(getattr(MemorizzProvider, name)), name


@pytest.mark.parametrize("name", sorted(MemoryProvider.__abstractmethods__ - {"__init__"}))
def test_every_method_takes_what_memorizz_passes(name: str) -> None:
    """By the same names and in the same places as the base class has them."""
    theirs = [
        parameter
        for parameter in inspect.signature(getattr(MemoryProvider, name)).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    ours = list(inspect.signature(getattr(MemorizzProvider, name)).parameters.values())
    assert [parameter.name for parameter in ours][: len(theirs)] == [p.name for p in theirs]
    for parameter in ours[len(theirs) :]:
        assert parameter.default is not inspect.Parameter.empty


def test_signatures_say_which_filters_are_understood(provider: MemorizzProvider) -> None:
    """Memorizz inspects them; what is not named would be passed and ignored, so nothing is."""
    for method, filters in {
        provider.retrieve_by_query: ("user_id", "thread_id", "knowledge_base_ids", "statuses"),
        provider.retrieve_conversation_history_ordered_by_timestamp: ("user_id", "thread_id"),
        provider.list_tool_logs: ("user_id", "thread_id"),
        provider.list_summaries: ("user_id", "thread_id"),
        provider.list_all: ("user_id",),
    }.items():
        assert all(_callable_accepts(method, name) for name in filters)
        assert not _callable_accepts(method, "application_id")
    with pytest.raises(TypeError):
        provider.retrieve_by_query("q", T.TOOLBOX, application_id="a")


class Colour(Enum):
    RED = "red"


def test_a_record_comes_back_as_it_was(provider: MemorizzProvider) -> None:
    """Under its id, with nested values, as JSON can say it, and with the tenant's fields."""
    record = {
        "_id": "agent:tool", "name": "tool", "tags": ("a", "b"), "colour": Colour.RED,
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
        "at": datetime(2026, 1, 1, tzinfo=UTC), "numbers": np.array([1.5, 2.0]),
        "function": len, "nothing": None,
    }  # fmt: skip
    assert provider.store(record, T.TOOLBOX) == "agent:tool"
    found = provider.retrieve_by_id("agent:tool", T.TOOLBOX)
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "_id": "agent:tool", "name": "tool", "tags": ["a", "b"], "colour": "red",
        "parameters": record["parameters"], "at": NOW, "numbers": [1.5, 2.0], "function": None,
        "nothing": None, "memory_id": None, "user_id": None, "agent_id": None,
    }  # fmt: skip
    assert provider.retrieve_by_name("tool", T.TOOLBOX) == found
    assert provider.list_all(T.TOOLBOX) == [found]


def test_storing_again_replaces_and_updating_merges(provider: MemorizzProvider) -> None:
    """As with memorizz's own providers; an update keeps what it does not name."""
    provider.store({"_id": "p", "name": "old", "extra": 1}, T.PERSONAS)
    provider.store({"id": "p", "name": "new"}, T.PERSONAS)
    assert "extra" not in (provider.retrieve_by_id("p", T.PERSONAS) or {})
    assert provider.update_by_id("p", {"_id": "q", "id": "q", "role": "r"}, T.PERSONAS)
    found = provider.retrieve_by_id("p", T.PERSONAS)
    assert found is not None
    assert (found["name"], found["role"]) == ("new", "r")
    assert datetime.fromisoformat(found["updated_at"])
    assert not provider.update_by_id("absent", {"role": "r"}, T.PERSONAS)
    assert provider.delete_by_name("new", T.PERSONAS)
    assert not provider.delete_by_id("p", T.PERSONAS)
    assert provider.retrieve_by_id("p", T.PERSONAS) is None
    assert provider.retrieve_by_id("", T.PERSONAS) is None


def test_rows_with_the_ids_of_mongodb_are_found_by_their_text(provider: MemorizzProvider) -> None:
    """An id that the server made leaves as a string and comes back as one."""
    row_id = provider.store(turn("hello"), T.CONVERSATION_MEMORY)
    assert isinstance(row_id, str)
    found = provider.retrieve_by_id(row_id, T.CONVERSATION_MEMORY)
    assert found is not None
    assert found["_id"] == row_id
    assert provider.update_by_id(row_id, {"importance": 0.9}, T.CONVERSATION_MEMORY)
    assert provider.touch_many([row_id, "", "absent"], T.CONVERSATION_MEMORY) == 1
    again = provider.retrieve_by_id(row_id, T.CONVERSATION_MEMORY)
    assert again is not None
    assert (again["importance"], again["access_count"]) == (0.9, 1)
    assert again["timestamp"] == NOW


def test_a_memory_unit_is_stored_under_the_memory_of_the_call(provider: MemorizzProvider) -> None:
    """What MemAgent does each turn: the unit says its type, the call its memory."""
    from memorizz.enums import Role
    from memorizz.memagent.managers.memory_manager import MemoryManager

    manager = MemoryManager(provider)
    for role, text in ((Role.USER, "the london release"), (Role.ASSISTANT, "noted")):
        unit = manager.create_conversation_memory_unit(
            role=role, content=text, thread_id="t", memory_id="m", user_id="u"
        )
        assert manager.save_memory_unit(unit, "m")
    history = MemoryManager(provider).load_conversation_history("m", user_id="u", thread_id="t")
    assert [row["content"] for row in history] == ["the london release", "noted"]
    assert {row["user_id"] for row in history} == {"u"}
    assert MemoryManager(provider).load_conversation_history("m", user_id="v") == []


def test_many_records_are_stored_at_once(provider: MemorizzProvider) -> None:
    """Their ids in order, embeddings and all."""
    rows = [{"content": f"fact {n}", "embedding": [1.0, n, 0, 0]} for n in range(30)]
    ids = provider.store_many(rows, T.KNOWLEDGE_BASE, memory_id="m")
    listed = {row["_id"]: row for row in provider.list_archive_records(T.KNOWLEDGE_BASE)}
    assert [listed[row_id]["content"] for row_id in ids] == [row["content"] for row in rows]
    assert listed[ids[7]]["embedding"] == [1.0, 7.0, 0.0, 0.0]
    assert provider.store_many([], T.KNOWLEDGE_BASE) == []


# -- tenants -----------------------------------------------------------------------------------

MARKS = {"omitted": None, "ours": UNSET, "base": _UNSET, "mongo": _MONGO_UNSET, "fs": _FS_UNSET}


@pytest.mark.parametrize("mark", MARKS)
def test_a_user_left_out_is_every_user_by_any_mark(provider: MemorizzProvider, mark: str) -> None:
    """Memorizz has several sentinels; each means the same here, and none reaches the server."""
    options = {} if mark == "omitted" else {"user_id": MARKS[mark]}
    for user in (None, "alice", "bob"):
        provider.store(turn("the release", user_id=user), T.CONVERSATION_MEMORY)
        provider.store(turn("log", user_id=user), T.TOOL_LOG)
        provider.store(turn("sum", user_id=user, period_end=NOW), T.SUMMARIES)
    conversation = T.CONVERSATION_MEMORY
    history = provider.retrieve_conversation_history_ordered_by_timestamp
    assert len(history("m", **options)) == 3
    assert len(provider.list_all(conversation, **options)) == 3
    assert len(provider.list_recent(conversation, **options)) == 3
    assert len(provider.list_tool_logs("m", **options)) == 3
    assert len(provider.list_summaries("m", **options)) == 3
    ask = provider.retrieve_by_query
    assert len(ask({"thread_id": "t"}, conversation, 10, **options)) == 3
    assert len(ask("release", conversation, 10, "m", **options)) == 3


@pytest.mark.parametrize(
    ("user", "visible"),
    [(None, {None}), ("alice", {"alice"}), ("carol", set())],
)
def test_a_user_named_is_that_user_alone(
    provider: MemorizzProvider, user: str | None, visible: set[str | None]
) -> None:
    """And None is the rows without one; in every read."""
    for owner in (None, "alice", "bob"):
        provider.store(turn("the release", user_id=owner), T.CONVERSATION_MEMORY)
        provider.store(turn("log", user_id=owner), T.TOOL_LOG)
        provider.store(turn("sum", user_id=owner), T.SUMMARIES)
    conversation = T.CONVERSATION_MEMORY
    for rows in (
        provider.retrieve_conversation_history_ordered_by_timestamp("m", user_id=user),
        provider.list_all(conversation, user),
        provider.list_recent(conversation, user_id=user),
        provider.list_tool_logs("m", user),
        provider.list_summaries("m", user_id=user),
        provider.retrieve_by_query({}, conversation, 10, user_id=user),
        provider.retrieve_by_query("release", conversation, 10, "m", user_id=user),
        provider.retrieve_by_query("release", conversation, 10, user_id=user),
    ):
        assert {row["user_id"] for row in rows} == visible
        assert {row["memory_id"] for row in rows} <= {"m"}


def test_what_serves_the_whole_agent_is_seen_by_each_user(provider: MemorizzProvider) -> None:
    """Knowledge, skills and tools without a user; nobody else's."""
    for kind in (T.KNOWLEDGE_BASE, T.SKILLBOX, T.TOOLBOX):
        for owner in (None, "alice", "bob"):
            provider.store(turn("the release", user_id=owner, name="n"), kind)
        for rows in (
            provider.list_all(kind, "alice"),
            provider.retrieve_by_query("release", kind, 10, user_id="alice"),
            provider.retrieve_by_query("release", kind, 10, "m", user_id="alice"),
            provider.retrieve_by_query({"name": "n"}, kind, 10, user_id="alice"),
        ):
            assert {row["user_id"] for row in rows} == {None, "alice"}


def test_a_user_that_is_no_string_is_refused(provider: MemorizzProvider) -> None:
    """An operator in place of a user would reach others' rows."""
    for wrong in ({"$ne": None}, object(), 7):
        with pytest.raises(ScopeError):
            provider.list_all(T.CONVERSATION_MEMORY, user_id=wrong)
    with pytest.raises(InvalidInputError):
        provider.retrieve_by_query({"$where": "true"}, T.CONVERSATION_MEMORY)
    provider.store(turn("x"), T.CONVERSATION_MEMORY)
    assert provider.retrieve_by_query({"role": {"$ne": "x"}}, T.CONVERSATION_MEMORY) == []


def test_sentinels_inside_a_record_are_left_out(provider: MemorizzProvider) -> None:
    """At any depth; they mean that there is no such field."""
    record = {"name": "n", "user_id": _UNSET, "deep": {"er": _MONGO_UNSET, "kept": 1}}
    row_id = provider.store(record, T.PERSONAS)
    found = provider.retrieve_by_id(row_id, T.PERSONAS)
    assert found is not None
    assert found["deep"] == {"kept": 1}
    assert found["user_id"] is None
    assert provider.update_by_id(row_id, {"name": "m", "user_id": _UNSET}, T.PERSONAS)


# -- search ------------------------------------------------------------------------------------


def test_recall_finds_the_nearest_inside_its_boundaries(provider: MemorizzProvider) -> None:
    """Thread, namespace, attached knowledge bases and agent are inside the search."""
    for thread in ("a", "b"):
        for text in ("the release", "a coffee"):
            provider.store(turn(text, thread_id=thread), T.CONVERSATION_MEMORY)
    ask = provider.retrieve_by_query
    hits = ask("release?", memory_type=T.CONVERSATION_MEMORY, memory_id="m", limit=1, thread_id="b")
    assert [(hit["content"], hit["thread_id"]) for hit in hits] == [("the release", "b")]
    assert hits[0]["score"] > 0.9
    assert hits[0]["memory_type"] == "conversation_memory"
    for base, memory, space in (("kb1", None, "x"), ("kb2", "m", "x"), ("kb3", "n", "y")):
        provider.store(
            turn("release", knowledge_base_id=base, memory_id=memory, namespace=space),
            T.KNOWLEDGE_BASE,
        )

    def bases(**options: Any) -> set[str]:
        found = ask("release", T.KNOWLEDGE_BASE, 10, **options)
        return {hit["knowledge_base_id"] for hit in found}

    assert bases() == {"kb1", "kb2", "kb3"}
    assert bases(memory_id="m") == {"kb2"}
    assert bases(memory_id="m", knowledge_base_ids=["kb1"]) == {"kb1", "kb2"}
    assert bases(knowledge_base_ids=["kb1"], user_id=None) == {"kb1"}
    assert bases(namespace="y") == {"kb3"}


def test_recall_by_a_vector_that_is_given(provider: MemorizzProvider) -> None:
    """A dict with an embedding, as memorizz's knowledge base once asked."""
    for space in ("x", "y"):
        provider.store(turn("release", namespace=space), T.KNOWLEDGE_BASE)
    query = {"embedding": embed(["release"])[0], "namespace": "y"}
    hits = provider.retrieve_by_query(query, T.KNOWLEDGE_BASE, 5)
    assert [hit["namespace"] for hit in hits] == ["y"]


def test_nothing_asked_finds_nothing(provider: MemorizzProvider) -> None:
    """A blank text; no limit is a limit of one, as in memorizz."""
    provider.store(turn("release"), T.CONVERSATION_MEMORY)
    assert provider.retrieve_by_query("  ", T.CONVERSATION_MEMORY, 5) == []
    assert len(provider.retrieve_by_query("release", T.CONVERSATION_MEMORY, 0)) == 1
    with pytest.raises(InvalidInputError, match="no memory store"):
        provider.retrieve_by_query("release")
    with pytest.raises(UnknownMemoryTypeError):
        provider.retrieve_by_query("release", "no such store")
    with pytest.raises(InvalidInputError, match="a text or a dict"):
        provider.retrieve_by_query(7, T.CONVERSATION_MEMORY)  # type: ignore[arg-type]


def test_tools_without_a_vector_are_embedded_when_first_searched(
    provider: MemorizzProvider,
) -> None:
    """Memorizz stores tools bare; an agent finds its own and those of none."""
    for name, agent in (("coffee_maker", "a"), ("coffee_shop", None), ("coffee_bar", "b")):
        provider.store({"name": name, "description": "coffee", "agent_id": agent}, T.TOOLBOX)
    provider.store({"name": "coffee", "tool_type": "mcp_server_config"}, T.TOOLBOX)
    found = provider.retrieve_by_query("coffee", T.TOOLBOX, 10, agent_id="a", user_id=None)
    assert {row["name"] for row in found} == {"coffee_maker", "coffee_shop"}
    bare = [row["name"] for row in provider.list_all(T.TOOLBOX) if not row.get("embedding")]
    assert bare == ["coffee"]


def test_skills_are_found_by_state_and_agent(provider: MemorizzProvider) -> None:
    """Before the best are chosen: others cannot crowd them out."""
    for _ in range(20):
        provider.store(turn("release", agent_id="a", status="active"), T.SKILLBOX)
    wanted = provider.store(turn("garden", agent_id="a", status="shadow"), T.SKILLBOX)
    provider.store(turn("garden", agent_id="b", status="shadow"), T.SKILLBOX)
    found = provider.retrieve_skillbox_candidates(
        "release", limit=5, statuses=["shadow"], agent_id="a", user_id="u"
    )
    assert [row["_id"] for row in found] == [wanted]
    assert 0 < found[0]["score"] < 1


def test_vectors_of_another_model_are_an_error_or_found_by_words(
    provider: MemorizzProvider,
) -> None:
    """Never silence: without a text index it raises; with one the rows say that words found it."""
    provider.store(turn("the release", embedding=[1.0, 2.0]), T.KNOWLEDGE_BASE)
    with pytest.raises(StoredEmbeddingError, match="cannot be compared"):
        provider.retrieve_by_query("release", T.KNOWLEDGE_BASE, 5, "m")
    provider.ensure_indexes(["KNOWLEDGE_BASE"])
    [row] = provider.retrieve_by_query("release", T.KNOWLEDGE_BASE, 5, "m")
    assert row["content"] == "the release"
    assert (row["retrieval_degraded"], row["retrieval_mode"]) == (True, "text")
    with pytest.raises(StoredEmbeddingError):
        provider.retrieve_by_query({"embedding": [1.0] * 4}, T.KNOWLEDGE_BASE, 5, "m")


def test_a_server_that_is_gone_is_an_error(make: Make) -> None:
    """A failure never looks like "no memories"."""
    gone = make(
        MongoDBConfig("mongodb://127.0.0.1:9", server_selection_timeout_ms=200),
        embedding_provider=embed,
    )
    for call in (
        lambda: gone.retrieve_by_query("q", T.CONVERSATION_MEMORY),
        lambda: gone.list_all(T.CONVERSATION_MEMORY),
        lambda: gone.retrieve_by_id("x", T.CONVERSATION_MEMORY),
        lambda: gone.delete_by_id("x", T.CONVERSATION_MEMORY),
        lambda: gone.clear_semantic_cache("a"),
        lambda: gone.invalidate_semantic_cache(tags=["t"]),
        gone.purge_expired_semantic_cache,
    ):
        with pytest.raises(ServerUnavailableError):
            call()


# -- vectors -----------------------------------------------------------------------------------


def test_embeddings_are_written_as_memorizz_reads_them(make: Make) -> None:
    """Arrays of doubles; BinData where it is asked for."""
    for form, kind in (("array", list), ("bindata", Binary)):
        provider = make(embedding_form=form)
        provider.delete_all(T.CONVERSATION_MEMORY)
        row_id = provider.store(turn("release"), T.CONVERSATION_MEMORY)
        provider.store_many([turn("coffee")], T.CONVERSATION_MEMORY)
        provider.update_by_id(row_id, {"embedding": [0.1, 0.2, 0.3, 0.4]}, T.CONVERSATION_MEMORY)
        rows = stored(provider, "conversation_memory")
        assert {type(row["embedding"]) for row in rows} == {kind}
    with pytest.raises(ConfigurationError, match="embedding_form"):
        make(embedding_form="floats")


def test_no_binary_ever_leaves(make: Make, provider: MemorizzProvider) -> None:
    """Rows of ours have BinData in the database; memorizz gets lists of floats, everywhere."""
    make(embedding_form="bindata").store(turn("release"), T.SUMMARIES)
    asyncio.run(provider.aio.store_async("the release", "SUMMARIES", memory_id="m", user_id="u"))
    assert {type(row["embedding"]) for row in stored(provider, "summaries")} == {Binary}
    row_id = provider.list_all(T.SUMMARIES)[0]["_id"]
    for rows in (
        provider.list_archive_records(T.SUMMARIES),
        [provider.retrieve_by_id(row_id, T.SUMMARIES)],
        provider.retrieve_by_query({}, T.SUMMARIES, 5, include_embedding=True),
        provider.retrieve_by_query("release", T.SUMMARIES, 5, "m", include_embedding=True),
    ):
        for row in rows:
            assert row is not None
            assert type(row["embedding"]) is list
            assert all(type(number) is float for number in row["embedding"])
            json.dumps(row)
    assert "embedding" not in provider.retrieve_by_query("release", T.SUMMARIES, 5, "m")[0]


def test_old_names_of_the_knowledge_base(provider: MemorizzProvider) -> None:
    """Its old value, our name for it, and memorizz's enum made of the old value."""
    provider.store({"content": "a", "_id": "r"}, "long_term_memory")
    for name in ("long_term_memory", "LONG_TERM_MEMORY", "knowledge_base", T("long_term_memory")):
        assert [row["_id"] for row in provider.list_all(name)] == ["r"]


# -- what depends on what is there -------------------------------------------------------------


def test_history_is_in_order_and_keeps_the_latest(provider: MemorizzProvider) -> None:
    """By moment; by thread under its old name too, which comes back under the new one."""
    for minute in (3, 1, 2):
        at = f"2026-01-01T00:0{minute}:00+00:00"
        provider.store(turn(str(minute), timestamp=at), T.CONVERSATION_MEMORY)
    old = {"content": "0", "timestamp": NOW, "memory_id": "m", "conversation_id": "t"}
    provider.store(old, T.CONVERSATION_MEMORY)
    history = provider.retrieve_conversation_history_ordered_by_timestamp
    assert [row["content"] for row in history("m")] == ["0", "1", "2", "3"]
    assert [row["content"] for row in history("m", limit=2)] == ["2", "3"]
    assert [row["content"] for row in history("m", thread_id="t")] == ["0", "1", "2", "3"]
    assert {row["thread_id"] for row in history("m", thread_id="t")} == {"t"}
    assert history("m", thread_id="other") == []
    assert history("n") == []


def test_tool_logs_and_summaries_come_latest_first(provider: MemorizzProvider) -> None:
    """A tool log is found by its own id, too; a summary by memory or by agent."""
    for minute in (1, 2, 3):
        at = f"2026-01-01T00:0{minute}:00+00:00"
        log = {"tool_log_id": f"log-{minute}", "memory_id": "m", "timestamp": at, "thread_id": "t"}
        provider.store(log, T.TOOL_LOG)
        provider.store(
            {"memory_id": "m" if minute < 3 else "n", "agent_id": "a", "period_end": at},
            T.SUMMARIES,
        )
    assert [row["_id"] for row in provider.list_tool_logs("m", limit=2)] == ["log-3", "log-2"]
    assert len(provider.list_tool_logs("m", limit=0, thread_id="t")) == 3
    assert provider.list_tool_logs("m", thread_id="u") == []
    found = provider.retrieve_by_id("log-1", T.TOOL_LOG)
    assert found is not None
    assert provider.delete_by_id("log-1", T.TOOL_LOG)
    assert [row["memory_id"] for row in provider.list_summaries("n")] == ["n"]
    assert [row["memory_id"] for row in provider.list_summaries("n", "a")] == ["n", "m", "m"]


def test_shared_memory_changes_only_what_was_read(provider: MemorizzProvider) -> None:
    """The second of two that read the same is told; other fields stay."""
    row_id = provider.store({"content": "1", "scope": "private"}, T.SHARED_MEMORY)
    swap = provider.compare_and_swap_shared_memory
    assert swap(row_id, "1", "2")
    assert not swap(row_id, "1", "3")
    assert not swap("absent", "1", "3")
    found = provider.retrieve_by_id(row_id, T.SHARED_MEMORY)
    assert found is not None
    assert (found["content"], found["scope"]) == ("2", "private")


def test_a_trace_is_written_once(provider: MemorizzProvider) -> None:
    """The first writer of an immutable trace wins; other records of a trace are replaced."""
    trace = {
        "_id": "obs", "memory_id": "obs", "record_type": "observability_trace_bundle",
        "immutable_trace": True, "content": "first",
    }  # fmt: skip
    feedback = {
        "_id": "f",
        "memory_id": "f",
        "record_type": "observability_feedback",
        "content": "1",
    }
    for content in ("first", "second"):
        assert provider.store({**trace, "content": content}, T.SHARED_MEMORY) == "obs"
        assert provider.store({**feedback, "content": content}, T.SHARED_MEMORY) == "f"
    rows = {row["_id"]: row["content"] for row in provider.list_all(T.SHARED_MEMORY)}
    assert rows == {"obs": "first", "f": "second"}
    assert provider.retrieve_by_name("obs", T.SHARED_MEMORY) is not None


def test_the_semantic_cache_answers_from_the_provider(provider: MemorizzProvider) -> None:
    """Memorizz's own class over it: a hit, another user's miss, expiry, and clearing."""
    from memorizz.short_term_memory.semantic_cache import SemanticCache, SemanticCacheConfig

    def cache() -> Any:
        return SemanticCache(
            config=SemanticCacheConfig(enable_memory_provider_sync=True, similarity_threshold=0.9),
            memory_provider=provider, embedding_manager=provider.embeddings, agent_id="a",
            memory_id="m",
        )  # fmt: skip

    assert cache().set("when is the release", "on Tuesday", user_id="alice")
    assert cache().set("when is the release", "on Friday", user_id="bob")
    assert cache()._should_use_memory_provider()
    hit = cache().get("the release, when", user_id="alice")
    assert hit == "on Tuesday"
    assert cache().get("the release, when", user_id="carol") is None
    cache().clear(user_id="alice")
    assert [row["user_id"] for row in provider.list_all(T.SEMANTIC_CACHE)] == ["bob"]
    past = datetime.now(UTC) - timedelta(hours=1)
    for at in (past, past.isoformat(), past.timestamp()):
        provider.store({"cache_key": str(at), "expires_at": at, "agent_id": "a"}, T.SEMANTIC_CACHE)
    assert len(provider.list_all(T.SEMANTIC_CACHE)) == 4
    assert provider.purge_expired_semantic_cache() == 3
    for agent, tag in (("a", "x"), ("a", "y"), ("b", "x")):
        provider.store({"agent_id": agent, "metadata": {"tags": [tag]}}, T.SEMANTIC_CACHE)
    assert provider.invalidate_semantic_cache(agent_id="a", tags=["x"]) == 1
    assert provider.clear_semantic_cache("a") == 2


def test_a_cache_that_cannot_be_cleaned_says_so(make: Make, mongod: Any, db_name: str) -> None:
    """The rows can be read (a view's), and not deleted: an error, and not "none were"."""
    provider = make()
    provider.store({"agent_id": "a", "metadata": {"tags": ["x"]}}, T.SEMANTIC_CACHE)
    for command in (
        {"renameCollection": f"{db_name}.semantic_cache", "to": f"{db_name}.rows"},
        {"create": "semantic_cache", "viewOn": "rows", "pipeline": []},
    ):
        database = "admin" if "to" in command else db_name
        blocking_command(mongod.uri, command, timeout_s=30, database=database)
    with pytest.raises(DatabaseError):
        provider.invalidate_semantic_cache(agent_id="a", tags=["x"])


def test_a_tool_embedded_meanwhile_keeps_its_vector(make: Make) -> None:
    """A search embeds tools that have none; one that got a newer text and vector is left alone."""
    other = make()

    def slow(texts: list[str]) -> list[list[float]]:
        if texts != ["what is asked"]:
            changes = {"description": "garden", "embedding": embed(["garden"])[0]}
            assert other.update_by_id("tool", changes, T.TOOLBOX)
        return embed(texts)

    provider = make(other.config, embedding_provider=slow)
    provider.store({"_id": "tool", "name": "t", "description": "release"}, T.TOOLBOX)
    provider.retrieve_by_query("what is asked", T.TOOLBOX)
    row = provider.retrieve_by_id("tool", T.TOOLBOX)
    assert row is not None
    assert row["embedding"] == embed(["garden"])[0]


def test_entities_without_a_user_are_given_to_one(provider: MemorizzProvider) -> None:
    """In one memory, and only those that have none."""
    for memory, user in (("m", None), ("m", "bob"), ("n", None)):
        provider.store({"memory_id": memory, "user_id": user, "name": "Ada"}, T.ENTITY_MEMORY)
    assert provider.supports_entity_memory()
    assert provider.migrate_entity_memory_user_scope(memory_id="m", user_id="alice") == 1
    owners = {(row["memory_id"], row["user_id"]) for row in provider.list_all(T.ENTITY_MEMORY)}
    assert owners == {("m", "alice"), ("m", "bob"), ("n", None)}


def test_deleting_a_scope(provider: MemorizzProvider) -> None:
    """What is inside it goes, in every store; an empty scope deletes nothing and raises."""
    for memory, user in (("m", "alice"), ("m", "bob"), ("n", "alice")):
        for kind in (T.CONVERSATION_MEMORY, T.KNOWLEDGE_BASE, T.TOOL_LOG):
            provider.store(turn("x", memory_id=memory, user_id=user), kind)
    with pytest.raises(ValueError, match="requires"):
        provider.delete_scope()
    report = provider.delete_scope(memory_id="m", user_id="alice")
    assert report["total_deleted"] == 3
    left = [(row["memory_id"], row["user_id"]) for row in provider.list_all(T.TOOL_LOG)]
    assert sorted(left) == [("m", "bob"), ("n", "alice")]
    assert provider.delete_memory_units("m")
    assert [row["memory_id"] for row in provider.list_all(T.KNOWLEDGE_BASE)] == ["n"]
    assert provider.delete_all(T.CONVERSATION_MEMORY)
    assert provider.list_all(T.CONVERSATION_MEMORY) == []


SCOPES: list[dict[str, Any]] = [
    {"memory_id": "m"}, {"user_id": "alice"}, {"user_id": None}, {"agent_ids": ["a"]},
    {"memory_id": "m", "user_id": "alice"}, {"user_id": "bob", "agent_ids": ["a"]},
    {"memory_id": "m", "user_id": None, "agent_ids": ["b"], "keep_traces": True},
]  # fmt: skip


@pytest.mark.parametrize("scope", SCOPES, ids=str)
def test_a_scope_is_what_memorizz_says_it_is(
    provider: MemorizzProvider, scope: dict[str, Any]
) -> None:
    """Every row that its own rule names goes, and no other, though only some were looked at."""
    from memorizz.memory_provider.base import delete_scope_matches, is_trace_record

    kinds = [kind for kind in T if kind is not T.MEMAGENT]
    for memory in ("m", "n"):
        for user in (None, "alice", "bob"):
            for agent in ("a", "b"):
                fields = {"memory_id": memory, "user_id": user, "agent_id": agent}
                for kind in kinds:
                    provider.store({**fields, "owner_agent_id": agent}, kind)
                provider.store(
                    {
                        **fields, "memory_id": f"trace-{memory}-{user}-{agent}",
                        "trace_memory_id": memory, "content": "{}",
                        "record_type": "observability_outcome",
                    },
                    T.SHARED_MEMORY,
                )  # fmt: skip
    boundary = {name: value for name, value in scope.items() if name != "keep_traces"}
    wanted = {
        (kind, row["_id"])
        for kind in kinds
        for row in provider.list_all(kind)
        if delete_scope_matches(row, kind, **boundary)
        and not (scope.get("keep_traces") and is_trace_record(row, kind))
    }
    before = {(kind, row["_id"]) for kind in kinds for row in provider.list_all(kind)}
    report = provider.delete_scope(**scope)
    after = {(kind, row["_id"]) for kind in kinds for row in provider.list_all(kind)}
    assert before - after == wanted
    assert report["total_deleted"] == len(wanted) > 0


def test_traces_are_queried_as_memorizz_does_it(provider: MemorizzProvider) -> None:
    """The same pages as its base class makes of every row."""
    for number in range(12):
        fields = {
            "record_id": f"r{number}", "record_type": f"observability_{'ab'[number % 2]}",
            "agent_id": f"agent{number % 3}", "trace_memory_id": f"m{number % 2}",
            "user_id": [None, "alice"][number % 2], "timestamp": f"2026-01-{number + 1:02}",
        }  # fmt: skip
        record = {"_id": f"r{number}", "memory_id": f"r{number}", "content": json.dumps(fields)}
        top = fields if number < 8 else {}  # records of old versions say it in their content alone
        provider.store({**record, **top}, T.SHARED_MEMORY)
    for filters in (
        {}, {"record_type": "observability_a"}, {"agent_ids": ["agent1"]},
        {"memory_ids": ["m1"], "user_id": "alice"}, {"limit": 3},
        {"record_type": "observability_b", "agent_ids": ["agent0"], "memory_ids": ["m0"]},
        {"user_id": None, "start_time": "2026-01-03"},
        {"event_filters": {"agent_id": "agent2"}},
    ):  # fmt: skip
        ours = provider.query_observability_records(T.SHARED_MEMORY, **filters)
        theirs = MemoryProvider.query_observability_records(provider, T.SHARED_MEMORY, **filters)
        assert [row["_id"] for row in ours["items"]] == [row["_id"] for row in theirs["items"]]
        assert ours["next_cursor"] == theirs["next_cursor"]
    first = provider.query_observability_records(T.SHARED_MEMORY, limit=5)
    cursor = provider.observability_row_cursor(first["items"][-1])
    rest = provider.query_observability_records(T.SHARED_MEMORY, cursor=cursor)
    assert len(first["items"]) + len(rest["items"]) == 12
    for scope in ({}, {"agent_id": "agent1"}, {"memory_ids": ["r2"]}, {"limit": 2}):
        ours = provider.query_memory_observations(T.SHARED_MEMORY, **scope)
        theirs = MemoryProvider.query_memory_observations(provider, T.SHARED_MEMORY, **scope)
        assert ours == theirs


def test_agents_are_saved_loaded_and_deleted(provider: MemorizzProvider) -> None:
    """One record an agent, however often it is saved; its tools beside it; memories with it."""
    from memorizz.memagent.models import MemAgentModel

    def agent(**fields: Any) -> Any:
        return MemAgentModel(agent_id="a", name="Ada", memory_ids=["m", "s"], **fields)

    assert provider.store_memagent(agent(tools=[{"name": "search"}])) == "a"
    assert provider.update_memagent(agent(instruction="new", tools=[{"name": "find"}])) == "a"
    provider.store_memagent(MemAgentModel(agent_id="b", memory_ids=["s"]))
    loaded = provider.retrieve_memagent("a")
    assert (loaded.name, loaded.instruction, loaded.memory_ids) == ("Ada", "new", ["m", "s"])
    assert [row["name"] for row in provider.list_all(T.TOOLBOX)] == ["find"]
    assert sorted(one.agent_id for one in provider.list_memagents()) == ["a", "b"]
    assert provider.update_memagent_memory_ids("b", ["s", "t"])
    assert provider.retrieve_memagent("b").memory_ids == ["s", "t"]
    assert not provider.update_memagent_memory_ids("absent", [])
    for memory in ("m", "s"):
        provider.store(turn("x", memory_id=memory), T.CONVERSATION_MEMORY)
    assert provider.delete_memagent("a", cascade=True)
    assert [row["memory_id"] for row in provider.list_all(T.CONVERSATION_MEMORY)] == ["s"]
    assert provider.retrieve_memagent("a") is None
    assert provider.delete_memagent_memory_ids("b")
    assert provider.retrieve_memagent("b").memory_ids == []
    assert not provider.delete_memagent("a")


def test_an_archive_carries_everything_over(make: Make, mongod: Any, db_name: str) -> None:
    """Memorizz's own archive, from one database into another and back out, the same."""
    from memorizz import MemoryArchive

    source = make()
    source.store(turn("the release", memory_type="theirs"), T.CONVERSATION_MEMORY)
    source.store({"_id": "k", "content": {"nested": [1]}, "memory_id": "m"}, T.KNOWLEDGE_BASE)
    target = make(MongoDBConfig(mongod.uri, f"{db_name}_target"), embedding_provider=embed)
    archive = MemoryArchive(source).export()
    try:
        report = MemoryArchive(target).import_archive(archive, dry_run=False)
        assert report["ok"], report
        assert report["imported"] == 2
        again = MemoryArchive(target).export()
        assert again["stores"] == archive["stores"]
        assert not MemoryArchive(target).import_archive(archive)["ok"]  # they are there now
    finally:
        for kind in T:
            target.delete_all(kind)


def test_memorizz_can_journal_changes(provider: MemorizzProvider) -> None:
    """Its history wraps the methods of the instance, and reads them back."""
    from memorizz import MemoryHistory

    history = MemoryHistory(provider)
    with history.recording(actor="writer", user_id="alice", memory_id="m"):
        row_id = provider.store(
            {"content": "old", "memory_id": "m", "user_id": "alice"}, T.KNOWLEDGE_BASE
        )
        provider.update_by_id(row_id, {"content": "new"}, T.KNOWLEDGE_BASE)
    events = history.timeline(memory_id="m", user_id="alice")["events"]
    assert [event["action"] for event in events] in (["created", "updated"], ["updated", "created"])


# -- one embedder ------------------------------------------------------------------------------


@pytest.mark.usefixtures("_global_manager")
def test_memorizz_embeds_with_our_embedder(provider: MemorizzProvider) -> None:
    """Documents and queries by one model, and rows name it."""
    assert use_with_memorizz(provider) is provider
    manager = memorizz_embeddings.get_embedding_manager()
    assert isinstance(manager, MemorizzEmbeddings)
    assert manager is provider._get_embedding_provider()
    vector = memorizz_embeddings.get_embedding("the release")
    assert vector == pytest.approx(embed(["the release"])[0], abs=1e-6)
    assert manager.get_embeddings(["a", "b"], input_type="query") == manager.get_embeddings(
        ["a", "b"]
    )
    assert manager.get_dimensions() == len(TOPICS)
    info = manager.get_provider_info()
    assert (info["provider"], info["dimensions"]) == ("memorizz-async", len(TOPICS))
    assert provider.embed_text("coffee") == pytest.approx(embed(["coffee"])[0], abs=1e-6)
    assert len(provider.semantic_identity()) == 64
    row_id = provider.store(turn("the release", embedding=vector), T.SUMMARIES)
    found = provider.retrieve_by_id(row_id, T.SUMMARIES)
    assert found is not None
    assert found["embedding_model"] == manager.get_default_model()


@pytest.mark.usefixtures("_global_manager")
def test_an_agent_recalls_with_the_real_model(mongod: Any, db_name: str) -> None:
    """A MemAgent saved and loaded again; a fact recalled through memorizz's own manager."""
    from memorizz.memagent import MemAgent

    config = MongoDBConfig(mongod.uri, db_name)
    with use_with_memorizz(MemorizzProvider(config)) as provider:
        agent = MemAgent(
            memory_provider=provider, agent_id="guide", memory_ids=["m"], auto_register=False,
            llm_config={"provider": "ollama", "model": "none"}, instruction="Help.",
        )  # fmt: skip
        agent.save()
        agent._record_interaction("My daughter plays the cello.", "How nice!", "m", "day-one")
        agent._record_interaction("The car needs new tyres.", "Noted.", "m", "day-one")
        agent.close()
    # MemAgent embeds turns in the background; what it had not embedded yet is embedded here.
    with use_with_memorizz(MemorizzProvider(config)) as provider:
        again = MemAgent.load("guide", memory_provider=provider)
        assert again.instruction == "Help."
        for row in provider.list_archive_records(T.CONVERSATION_MEMORY):
            if not row.get("embedding"):
                vector = provider.embeddings.get_embedding(row["content"])
                provider.update_by_id(row["_id"], {"embedding": vector}, T.CONVERSATION_MEMORY)
        found = again.memory_manager.retrieve_relevant_memories(
            "Which instrument does the child play?", T.CONVERSATION_MEMORY, "m", limit=1
        )
        assert [row["content"] for row in found] == ["My daughter plays the cello."]
        again.close()


# -- the async face ----------------------------------------------------------------------------


def test_the_async_face_uses_the_same_connections(provider: MemorizzProvider) -> None:
    """Awaited on loops of the caller's, one after the other: one client serves them all."""
    provider.store(turn("the release"), T.CONVERSATION_MEMORY)

    async def recall() -> Any:
        assert isinstance(provider.aio, AsyncMongoDBProvider)
        async with provider.aio as shared:
            unit = MemoryUnit("conversational", shared)
            return await unit.retrieve_all_memory_types_async(
                "release", "m", {T.CONVERSATION_MEMORY: 5, "SUMMARIES": 5}
            )

    for _ in range(2):
        results = asyncio.run(recall())
        assert [hit["content"] for hit in results["CONVERSATION_MEMORY"]] == ["the release"]
    assert open_clients(provider._inner) == 1
    assert provider.list_all(T.CONVERSATION_MEMORY)  # the `async with` above closed nothing
    assert provider.aio.embedder is provider._inner.embedder


def test_many_awaits_and_blocking_calls_at_once(provider: MemorizzProvider) -> None:
    """Neither waits for the other to be over."""

    async def many() -> list[str]:
        blocking = [
            asyncio.to_thread(provider.store, {"content": str(n)}, T.PERSONAS) for n in range(20)
        ]
        awaited = [
            provider.aio.put_async({"content": str(n)}, "PERSONAS", memory_id="m")
            for n in range(20)
        ]
        return await asyncio.gather(*blocking, *awaited)

    assert len(set(asyncio.run(many()))) == 40
    assert len(provider.list_all(T.PERSONAS)) == 40


def test_errors_and_cancellation_cross_over(make: Make) -> None:
    """What is raised there is raised here; what is cancelled here ends there."""
    started, ended = threading.Event(), threading.Event()

    async def slow(texts: list[str]) -> list[list[float]]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    provider = make(embedding_provider=slow)

    async def use() -> None:
        with pytest.raises(ScopeError):
            await provider.aio.list_async("SUMMARIES")
        waiting = asyncio.create_task(provider.aio.store_async("text", memory_id="m"))
        await asyncio.to_thread(started.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(use())
    assert provider.list_all(T.SUMMARIES) == []
    provider.close()
    assert ended.wait(10)


def test_a_blocking_call_on_its_own_loop_is_refused(provider: MemorizzProvider) -> None:
    """It would wait for itself for ever; the error says what to write instead."""

    async def inside() -> None:
        provider.list_all(T.SUMMARIES)

    with pytest.raises(LifecycleError, match="aio"):
        provider._background.run(inside)

    async def closing() -> None:
        provider.close()

    with pytest.raises(LifecycleError, match="another thread"):
        provider._background.run(closing)

    async def awaiting() -> Any:
        return await provider.aio.list_async("SUMMARIES", memory_id=EVERY_TENANT)

    assert provider._background.run(awaiting) == []


async def test_a_blocking_call_inside_a_loop_of_the_callers(provider: MemorizzProvider) -> None:
    """Blocks that loop, as every blocking call does, and answers."""
    assert provider.list_all(T.SUMMARIES) == []


# -- many threads ------------------------------------------------------------------------------


def test_sixteen_threads_lose_no_update(provider: MemorizzProvider) -> None:
    """16 threads of 50 calls: every append by compare-and-swap is there, no call fails."""
    row_id = provider.store({"content": "[]"}, T.SHARED_MEMORY)
    own = [provider.store(turn(f"turn {n}", user_id=f"u{n}"), T.TOOL_LOG) for n in range(16)]
    start = threading.Barrier(16)

    def work(number: int) -> int:
        start.wait()
        appended = 0
        for call in range(50):
            match call % 5:
                case 0:
                    while True:
                        row = provider.retrieve_by_id(row_id, T.SHARED_MEMORY)
                        assert row is not None
                        longer = json.dumps([*json.loads(row["content"]), [number, call]])
                        if provider.compare_and_swap_shared_memory(row_id, row["content"], longer):
                            break
                    appended += 1
                case 1:
                    provider.store(turn("release", user_id=f"u{number}"), T.CONVERSATION_MEMORY)
                case 2:
                    rows = provider.list_tool_logs("m", f"u{number}")
                    assert [one["_id"] for one in rows] == [own[number]]
                case 3:
                    assert provider.update_by_id(own[number], {"n": call}, T.TOOL_LOG)
                case _:
                    hits = provider.retrieve_by_query(
                        "release", T.CONVERSATION_MEMORY, 50, "m", user_id=f"u{number}"
                    )
                    assert len(hits) == call // 5 + 1
                    assert {hit["user_id"] for hit in hits} == {f"u{number}"}
        return appended

    with ThreadPoolExecutor(16) as pool:
        appended = sum(pool.map(work, range(16)))
    final = provider.retrieve_by_id(row_id, T.SHARED_MEMORY)
    assert final is not None
    entries = json.loads(final["content"])
    assert appended == len(entries) == len({tuple(entry) for entry in entries}) == 160
    assert len(provider.list_all(T.CONVERSATION_MEMORY)) == 160
    assert open_clients(provider._inner) == 1


# -- closing -----------------------------------------------------------------------------------


def test_after_close_every_call_says_so(provider: MemorizzProvider) -> None:
    """No coroutine is left behind that nobody awaits: that would be a warning, and so an error."""
    provider.store(turn("x"), T.SUMMARIES)
    thread = provider._background._thread
    assert thread is not None
    provider.close()
    provider.close()
    assert not thread.is_alive()
    for call in (
        lambda: provider.list_all(T.SUMMARIES),
        lambda: provider.store({}, T.SUMMARIES),
        lambda: provider.embeddings.get_embedding("x"),
        lambda: asyncio.run(provider.aio.list_async("SUMMARIES", memory_id="m")),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()
    gc.collect()


def test_a_provider_that_was_never_used_closes(make: Make) -> None:
    """Constructing one starts nothing."""
    before = threading.active_count()
    provider = make()
    assert threading.active_count() == before
    provider.close()
    assert "closed" in repr(provider)


def test_closing_waits_for_calls_that_are_under_way(provider: MemorizzProvider) -> None:
    """Those begin before it and end; whoever closes meanwhile waits as well."""
    provider.list_all(T.SUMMARIES)
    rows = [{"_id": str(n), "text": "x" * 100} for n in range(3_000)]
    begun = threading.Event()

    def write() -> list[str]:
        begun.set()
        return provider.store_many(rows, T.SUMMARIES)

    with ThreadPoolExecutor(4) as pool:
        writing = pool.submit(write)
        begun.wait()
        while not provider._background._running and not writing.done():
            pass
        closing = [pool.submit(provider.close) for _ in range(3)]
        assert len(writing.result()) == 3_000
        for one in closing:
            one.result()
    assert provider._background.closed


async def test_a_provider_that_was_lent_stays_open(make: Make, mongod: Any, db_name: str) -> None:
    """Its clients of other loops serve on; the adapter's own is closed with its loop."""
    config = MongoDBConfig(mongod.uri, db_name, filter_fields=FILTER_FIELDS)
    async with AsyncMongoDBProvider(config, embedding_provider=embed) as lent:
        adapter = make(lent)
        row_id = await asyncio.to_thread(adapter.store, turn("x"), T.SUMMARIES)
        assert open_clients(lent) == 2
        await asyncio.to_thread(adapter.close)
        assert open_clients(lent) == 1
        assert await lent.get_async(row_id, "SUMMARIES", memory_id="m")


def test_what_cannot_be_adapted_is_refused(make: Make) -> None:
    """A provider that lacks fields to filter by, an embedder beside a provider, anything else."""
    bare = AsyncMongoDBProvider(MongoDBConfig("memory://"))
    with pytest.raises(ConfigurationError, match="FILTER_FIELDS"):
        make(bare)
    ready = AsyncMongoDBProvider(MongoDBConfig("memory://", filter_fields=FILTER_FIELDS))
    with pytest.raises(ConfigurationError, match="which has its own"):
        make(ready, embedding_provider=embed)
    with pytest.raises(ConfigurationError, match="MongoDBConfig"):
        make("mongodb://localhost")


def test_the_package_works_without_memorizz() -> None:
    """Memorizz is not imported by anything else; the adapter says how to get it."""
    code = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "memorizz" or name.startswith("memorizz."):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocked())
import memorizz_async
for name in memorizz_async.__all__:
    getattr(memorizz_async, name)
try:
    import memorizz_async.integrations.memorizz
except memorizz_async.MissingDependencyError as error:
    print(error)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert '".[memorizz]"' in shown
    assert "PolyForm Noncommercial" in shown


# -- Atlas -------------------------------------------------------------------------------------


def test_searches_go_by_the_index_where_there_is_one(make: Make, mongod: Any, db_name: str) -> None:
    """With memorizz's filters inside it: no search falls back to comparing every row."""
    standin = AtlasStandin(mongod.host, mongod.port, pending_s=0, building_s=0)
    with standin.in_thread():
        provider = make(MongoDBConfig(standin.uri, db_name), embedding_provider=embed)
        provider.ensure_indexes(["KNOWLEDGE_BASE", "SKILLBOX", "CONVERSATION_MEMORY"])
        for base, memory in (("kb1", None), ("kb2", "m"), ("kb3", "n")):
            provider.store(
                turn("release", knowledge_base_id=base, memory_id=memory), T.KNOWLEDGE_BASE
            )
        provider.store(turn("release", agent_id="a", status="active"), T.SKILLBOX)
        provider.store(turn("release"), T.CONVERSATION_MEMORY)
        asyncio.run(standin.sync())
        asked: list[Any] = []

        async def explained(*arguments: Any, **options: Any) -> Any:
            hits = await search(*arguments, **options, explain=True)
            asked.append(hits.explain)
            return hits

        search = provider._inner.retrieve_memory_units_by_query_async
        provider._inner.retrieve_memory_units_by_query_async = explained  # type: ignore[method-assign]
        ask = provider.retrieve_by_query
        assert len(ask("release", T.KNOWLEDGE_BASE, 9)) == 3
        found = ask("release", T.KNOWLEDGE_BASE, 9, "m", knowledge_base_ids=["kb1"], user_id="u")
        assert {row["knowledge_base_id"] for row in found} == {"kb1", "kb2"}
        skills = provider.retrieve_skillbox_candidates(
            "release", limit=3, statuses=["active"], agent_id="a", user_id=None
        )
        assert len(skills) == 1
        assert len(ask("release", T.CONVERSATION_MEMORY, 9, "m", user_id=None, thread_id="t")) == 1
        assert [one.strategy for one in asked] == ["atlas"] * 4, [one.why for one in asked]
        provider.close()
    assert standin.failures == []
