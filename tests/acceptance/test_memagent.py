"""memorizz's MemAgent on our provider, with a scripted model over real HTTP and the real MiniLM.

The model knows nothing: it answers from the prompt that it is shown, so that a right answer is a
memory that reached it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from support.openai_server import UNKNOWN, Asked, Call, Reply, ScriptedOpenAI, quote

from memorizz_async import AsyncEmbeddingProvider, MongoDBConfig
from memorizz_async.memory_provider.mongodb.driver import blocking_command

pytest.importorskip("memorizz")

from memorizz import (
    MemAgent,
    MemoryArchive,
    MemoryType,
    Persona,
    RoleType,
    SharedMemory,
    Toolbox,
)
from memorizz.memagent.managers import memory_manager
from support import agents
from support.agents import agents_memory

DAY_ONE = datetime(2026, 3, 1, 9, tzinfo=UTC)
DAY_TWO = datetime(2026, 3, 2, 18, tzinfo=UTC)
SMALL_TALK = ["The weather is lovely.", "What is 7 times 8?", "Recommend a novel.", "Thank you."]


@pytest.fixture(scope="module")
def model() -> Iterator[AsyncEmbeddingProvider]:
    """One loaded MiniLM for the module."""
    provider = AsyncEmbeddingProvider()
    yield provider
    provider.shutdown()


@pytest.fixture(scope="module")
def atlas(mongod: Any) -> Iterator[AtlasStandin]:
    """Atlas before the mongod of the session; indexes are built at once, rows seen after sync()."""
    standin = AtlasStandin(mongod.host, mongod.port, pending_s=0, building_s=0)
    with standin.in_thread():
        yield standin
    assert standin.failures == []


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What memorizz keeps in files (approvals, settings) is the test's own."""
    monkeypatch.setenv("MEMORIZZ_HOME", str(tmp_path / "memorizz"))


@pytest.fixture(autouse=True)
def _nothing_was_swallowed(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What memorizz catches it logs: a call of the provider that failed is seen here."""
    yield
    said = [record for record in caplog.get_records("call") if record.name.startswith("memorizz.")]
    assert [record.getMessage() for record in said if record.levelno >= logging.WARNING] == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Sets the time that memorizz stamps turns with."""

    def at(moment: datetime) -> None:
        monkeypatch.setattr(memory_manager, "utc_now", lambda: moment)

    return at


@pytest.fixture(params=["scan", "resident", "atlas"])
def config(
    request: pytest.FixtureRequest, mongod: Any, atlas: AtlasStandin, db_name: str
) -> MongoDBConfig:
    """A database of the test's own, by each way to search it."""
    uri = atlas.uri if request.param == "atlas" else mongod.uri
    return MongoDBConfig(uri, db_name, search_strategy=request.param)


@pytest.fixture
def plain(mongod: Any, db_name: str) -> MongoDBConfig:
    """A plain mongod, as most tests take it."""
    return MongoDBConfig(mongod.uri, db_name)


@pytest.fixture
def memory(config: MongoDBConfig, model: AsyncEmbeddingProvider) -> Iterator[Any]:
    """Our provider under memorizz, by each way to search, with its indexes."""
    with agents_memory(config, model) as provider:
        asyncio.run(provider.aio.ensure_indexes_async())
        yield provider


@pytest.fixture
def plain_memory(plain: MongoDBConfig, model: AsyncEmbeddingProvider) -> Iterator[Any]:
    """Our provider under memorizz on a plain mongod."""
    with agents_memory(plain, model) as provider:
        yield provider


@pytest.fixture
def server() -> Iterator[ScriptedOpenAI]:
    """The model's server; a test gives it its script."""
    with ScriptedOpenAI(lambda _: UNKNOWN) as running:
        yield running


NewAgent = Callable[..., Any]


@pytest.fixture
def new_agent(server: ScriptedOpenAI) -> Iterator[NewAgent]:
    """Makes or loads agents that talk to the server; all are closed afterwards."""
    made: list[Any] = []
    config = {"provider": "openai", "model": "scripted-1", "base_url": server.url}

    def new(provider: Any, **settings: Any) -> Any:
        settings = {"application_mode": "assistant", "llm_config": config, **settings}
        made.append(MemAgent(memory_provider=provider, **settings))
        return made[-1]

    yield new
    for agent in made:
        close(agent)


def close(agent: Any) -> None:
    """End an agent: what it writes in the background is written; the provider stays open."""
    report = agent.close(close_memory_provider=False)
    assert report["errors"] == []


# Two days -----------------------------------------------------------------------------------------


def test_a_fact_of_the_first_day_is_known_on_the_second_and_in_a_new_process(
    memory: Any,
    atlas: AtlasStandin,
    server: ScriptedOpenAI,
    new_agent: NewAgent,
    clock: Callable[[datetime], None],
) -> None:
    """Found by its meaning, in another conversation, with the date on which it was said."""
    clock(DAY_ONE)
    first = new_agent(memory, name="steward", memory_ids=["house"])
    first.save()
    for said in ("By the way, I am allergic to hazelnuts.", *SMALL_TALK):
        first.run(said, user_id="ada", thread_id="monday")
    close(first)
    assert [asked.question for asked in server.chats][1:] == SMALL_TALK
    settle(atlas)

    clock(DAY_TWO)
    server.script = quote(r"allergic to (\w+)")
    second = MemAgent.load(first.agent_id, memory_provider=memory)
    answer = second.run("Which nuts must I avoid?", user_id="ada", thread_id="tuesday")
    assert answer == "allergic to hazelnuts"
    shown = server.chats[-1]
    assert shown.question == "Which nuts must I avoid?"
    assert "episodic 2026-03-01" in shown.remembered
    # Another conversation: its turns are no history here, so the fact came by search.
    assert [message["role"] for message in shown.messages] == ["system", "user"]
    close(second)
    settle(atlas)

    given = {name: getattr(memory.config, name) for name in ("uri", "db_name", "search_strategy")}
    question = "Is there a nut that I cannot eat?"
    printed = subprocess.run(
        [sys.executable, agents.__file__, json.dumps(given), first.agent_id, "ada", question],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
    ).stdout
    assert printed.strip() == "allergic to hazelnuts"
    assert server.chats[-1].question == question


def settle(atlas: AtlasStandin) -> None:
    """The search index has seen what was written; nothing to wait for elsewhere."""
    asyncio.run(atlas.sync())


# Two users ----------------------------------------------------------------------------------------

SECRETS = {"ada": "My safe opens with 4711.", "ben": "My safe opens with 0815."}
SAFE = r"safe opens with (\d+)"


@pytest.mark.parametrize("agents_share_the_memory", [True, False])
def test_two_users_never_see_each_others_rows(
    memory: Any,
    atlas: AtlasStandin,
    server: ScriptedOpenAI,
    new_agent: NewAgent,
    agents_share_the_memory: bool,
) -> None:
    """Neither in any prompt nor in any row that is read, also where they talk at the same time."""
    memory_of = {user: "house" if agents_share_the_memory else f"of-{user}" for user in SECRETS}
    stewards = {
        user: new_agent(memory, name=f"steward-of-{user}", memory_ids=[memory_of[user]])
        for user in SECRETS
    }

    def talk(user: str, *said: str) -> list[str]:
        return [stewards[user].run(line, user_id=user, thread_id=f"t-{user}") for line in said]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda user: talk(user, SECRETS[user], *SMALL_TALK), SECRETS))
    for steward in stewards.values():
        steward.wait_for_memory_upkeep()
        close(steward)
    settle(atlas)

    stewards = {
        user: MemAgent.load(steward.agent_id, memory_provider=memory)
        for user, steward in stewards.items()
    }
    server.script = quote(SAFE)
    server.asked.clear()
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(
                lambda user: stewards[user].run(
                    "What does my safe open with?", user_id=user, thread_id=f"new-{user}"
                ),
                SECRETS,
            )
        )
    assert answers == ["safe opens with 4711", "safe opens with 0815"]
    for asked in server.asked:
        assert ("4711" in asked.shown) != ("0815" in asked.shown)
    assert stewards["ada"].run("The number?", user_id="eve", thread_id="e") == UNKNOWN
    for steward in stewards.values():
        close(steward)
    settle(atlas)

    for user, other in (("ada", "ben"), ("ben", "ada")):
        kind, secret = MemoryType.CONVERSATION_MEMORY, SECRETS[other]
        read = [
            *memory.retrieve_by_query(
                secret, memory_type=kind, memory_id=memory_of[user], limit=50, user_id=user
            ),
            *memory.retrieve_conversation_history_ordered_by_timestamp(
                memory_of[user], user_id=user
            ),
            *memory.list_all(kind, user_id=user),
        ]
        assert len(read) > 2 * len(SMALL_TALK)
        assert {row["user_id"] for row in read} == {user}
        assert not [row for row in read if secret in str(row["content"])]


# What else an agent does --------------------------------------------------------------------------


def test_an_answer_is_streamed_and_remembered(
    plain_memory: Any, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """The stream's pieces make the answer, and the turn is stored as any other."""
    server.script = lambda _: "Bees like clover."
    agent = new_agent(plain_memory, memory_ids=["m"])
    events = list(agent.run_stream_events("What do bees like?", user_id="ada", thread_id="t"))
    assert server.chats[-1].body["stream"] is True
    deltas = [event["delta"] for event in events if event["type"] == "answer.delta"]
    assert len(deltas) == 3
    assert "".join(deltas) == "Bees like clover."
    close(agent)
    rows = plain_memory.retrieve_conversation_history_ordered_by_timestamp(
        "m", user_id="ada", thread_id="t"
    )
    said = [(row["role"], row["content"]) for row in rows if row["role"] != "tool"]
    assert said == [("user", "What do bees like?"), ("assistant", "Bees like clover.")]


def test_a_tool_is_called_and_its_log_kept(
    plain_memory: Any, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """The model asks for it over HTTP, sees its result, and the log is the provider's."""

    def weight_of(thing: str) -> str:
        """The weight of a thing."""
        return f"{thing}: 42 grams"

    def script(asked: Asked) -> Reply:
        return asked.results[-1] if asked.results else Call("weight_of", {"thing": "an egg"})

    server.script = script
    agent = new_agent(
        plain_memory,
        memory_ids=["m"],
        tools=[weight_of],
        tool_result_policy={"persist_all_results": True},
    )
    assert "42 grams" in agent.run("How heavy is an egg?", user_id="ada", thread_id="t")
    close(agent)
    (log,) = plain_memory.list_tool_logs(memory_id="m", user_id="ada")
    assert (log["tool_name"], log["success"]) == ("weight_of", True)
    assert "an egg: 42 grams" in log["result"]


def test_a_persona_is_kept_with_its_agent_and_found_by_its_meaning(
    plain_memory: Any, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """A loaded agent speaks as it did; the store knows the most similar one."""
    pirate = Persona(
        name="Redbeard", role=RoleType.GENERAL, goals="Find treasure.", background="An old pirate."
    )
    clerk = Persona(
        name="Ms Pen", role=RoleType.GENERAL, goals="File tax returns.", background="An accountant."
    )
    clerk.store_persona(plain_memory)
    agent = new_agent(plain_memory, memory_ids=["m"])
    agent.set_persona(pirate)
    agent.save()
    close(agent)
    loaded = MemAgent.load(agent.agent_id, memory_provider=plain_memory)
    loaded.run("Who are you?", user_id="ada")
    assert "An old pirate." in server.chats[-1].messages[0]["content"]
    close(loaded)
    assert {row["name"] for row in Persona.list_personas(plain_memory)} == {"Redbeard", "Ms Pen"}
    ((row),) = plain_memory.retrieve_by_query(
        "ships and the sea", memory_store_type=MemoryType.PERSONAS, limit=1
    )
    assert row["name"] == "Redbeard"


def test_a_toolbox_finds_the_tool_that_fits(plain_memory: Any) -> None:
    """By the meaning of what it does, for its agent and its user."""

    def send_letter(to: str) -> str:
        """Sends a letter by post."""
        return to

    def brew_tea(minutes: int) -> int:
        """Makes a hot drink from leaves."""
        return minutes

    box = Toolbox(plain_memory, agent_id="a1")
    for tool in (send_letter, brew_tea):
        box.register_tool(tool)
    assert {tool["name"] for tool in box.list_tools()} == {"send_letter", "brew_tea"}
    (found,) = box.get_most_similar_tools("I am thirsty, a warm beverage please", limit=1)
    assert found["name"] == "brew_tea"
    assert Toolbox(plain_memory, agent_id="a2").get_most_similar_tools("tea", limit=1) == []


def test_a_summary_takes_the_place_of_what_it_sums_up(
    plain_memory: Any, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """The turns leave the history, the summary comes into the prompt, and expands again."""
    agent = new_agent(plain_memory, name="writer", memory_ids=["m"])
    agent.save()
    for said in ("I keep bees.", "They are on the roof."):
        agent.run(said, user_id="ada", thread_id="t")
    server.script = lambda _: "Ada keeps bees on her roof."
    (summary_id,) = agent.generate_summaries(
        days_back=1, memory_id="m", user_id="ada", thread_id="t"
    )
    (row,) = plain_memory.list_summaries(memory_id="m", user_id="ada")
    assert (str(row["_id"]), row["content"]) == (summary_id, "Ada keeps bees on her roof.")
    assert len(row["source_message_ids"]) == 4
    assert plain_memory.list_summaries(memory_id="m", user_id="ben") == []
    close(agent)
    loaded = MemAgent.load(agent.agent_id, memory_provider=plain_memory)
    loaded.run("What do I keep?", user_id="ada", thread_id="t")
    shown = server.chats[-1]
    assert "Ada keeps bees on her roof." in shown.remembered
    history = [message for message in shown.messages[1:-1] if message["role"] == "user"]
    assert history == []
    close(loaded)


def test_what_is_known_of_an_entity_reaches_the_next_conversation(
    plain_memory: Any, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """Written by the model's own call of the tool, for this user alone."""

    def script(asked: Asked) -> Reply:
        if asked.results:
            return "Noted."
        fact = {"name": "birthday", "value": "the third of May"}
        return Call(
            "entity_memory_upsert",
            {"name": "Grace", "entity_type": "person", "attributes": [fact]},
        )

    server.script = script
    agent = new_agent(plain_memory, name="friend", memory_ids=["m"])
    agent.save()
    assert agent.run("Grace was born on the third of May.", user_id="ada", thread_id="1") == (
        "Noted."
    )
    close(agent)
    (entity,) = plain_memory.list_all(MemoryType.ENTITY_MEMORY)
    assert (entity["name"], entity["user_id"], entity["memory_id"]) == ("Grace", "ada", "m")

    server.script = quote(r"the third of May")
    for user, answer in (("ada", "the third of May"), ("ben", UNKNOWN)):
        loaded = MemAgent.load(agent.agent_id, memory_provider=plain_memory)
        assert loaded.run("When is Grace's birthday?", user_id=user, thread_id="2") == answer
        close(loaded)


def test_a_question_that_was_answered_is_answered_from_the_cache(
    plain_memory: Any, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """By another object of the same agent too: it searches the provider, by meaning.

    Memorizz asks the model anew where a tool whose answers change might be meant. So the agent is
    not registered, which would put its own tools in the toolbox, and the questions are terse.
    """
    server.script = lambda _: "Canberra."
    settings = {
        "semantic_cache": True,
        "agent_id": "geographer",
        "memory_ids": ["m"],
        "auto_register": False,
        "semantic_cache_config": {"similarity_threshold": 0.95},  # a cosine of 0.9
    }
    agent = new_agent(plain_memory, **settings)
    assert agent.run("Australia: capital city?", user_id="ada", thread_id="t") == "Canberra."
    close(agent)
    (row,) = plain_memory.list_all(MemoryType.SEMANTIC_CACHE, user_id="ada")
    assert (row["response"], row["agent_id"]) == ("Canberra.", "geographer")

    asked_before = len(server.chats)
    server.script = lambda _: "asked again"
    again = new_agent(plain_memory, **settings)
    for question in ("Australia: capital city?", "Capital city, Australia?"):
        assert again.run(question, user_id="ada", thread_id="t") == "Canberra."
    assert again.semantic_cache_stats()["hits"] == 2
    assert len(server.chats) == asked_before
    for question, user in (("Peru: capital city?", "ada"), ("Australia: capital city?", "ben")):
        assert again.run(question, user_id=user, thread_id="t") == "asked again"


def test_agents_share_a_blackboard_without_losing_an_entry(plain_memory: Any) -> None:
    """Eight agents write at once; each entry is there."""
    shared = SharedMemory(plain_memory)
    session = shared.create_shared_session("root", [f"agent-{n}" for n in range(8)])

    def report(number: int) -> bool:
        agent, found = f"agent-{number}", f"found {number}"
        return bool(shared.add_blackboard_entry(session, agent, found, "result"))

    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(report, range(8)))
    assert all(written)
    entries = shared.get_blackboard_entries(session)
    assert sorted(entry["content"] for entry in entries) == [f"found {n}" for n in range(8)]


@pytest.fixture
def elsewhere(
    plain: MongoDBConfig, model: AsyncEmbeddingProvider, plain_memory: Any
) -> Iterator[Any]:
    """Another database under memorizz, dropped afterwards; its embedder is in force."""
    there = f"{plain.db_name}_b"
    with agents_memory(replace(plain, db_name=there), model) as provider:
        yield provider
    blocking_command(str(plain.uri), {"dropDatabase": 1}, timeout_s=30, database=there)


def test_an_archive_brings_an_agent_and_what_it_knows_to_another_database(
    plain_memory: Any,
    elsewhere: Any,
    server: ScriptedOpenAI,
    new_agent: NewAgent,
    tmp_path: Path,
) -> None:
    """Exported to a file, imported and embedded again, loaded, and it still knows."""
    agent = new_agent(plain_memory, name="traveller", memory_ids=["m"])
    agent.save()
    agent.run("I am allergic to hazelnuts.", user_id="ada", thread_id="1")
    close(agent)
    file = tmp_path / "archive.json"
    manifest = MemoryArchive(plain_memory).export_file(file, agent_id=agent.agent_id)
    assert manifest["counts"]["conversation_memory"] == 2
    MemoryArchive(elsewhere).import_file(file, dry_run=False, reembed=True)

    server.script = quote(r"allergic to (\w+)")
    loaded = MemAgent.load(agent.agent_id, memory_provider=elsewhere)
    answer = loaded.run("Which nuts must I avoid?", user_id="ada", thread_id="2")
    assert answer == "allergic to hazelnuts"
    close(loaded)
