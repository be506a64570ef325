"""What an agent does besides talking, each kind of memory through memorizz's own interface."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memorizz import (
    MemAgent,
    MemoryArchive,
    MemoryType,
    Persona,
    RoleType,
    SharedMemory,
    Toolbox,
)
from support.agents import NewAgent, agents_memory, close
from support.openai_server import UNKNOWN, Asked, Call, Reply, ScriptedOpenAI, quote

from memorizz_async import AsyncEmbeddingProvider, MongoDBConfig
from memorizz_async.memory_provider.mongodb.driver import blocking_command


@pytest.fixture
def elsewhere(
    plain: MongoDBConfig, model: AsyncEmbeddingProvider, plain_memory: Any
) -> Iterator[Any]:
    """Another database under memorizz, dropped afterwards; its embedder is in force."""
    there = f"{plain.db_name}_b"
    with agents_memory(replace(plain, db_name=there), model) as provider:
        yield provider
    blocking_command(str(plain.uri), {"dropDatabase": 1}, timeout_s=30, database=there)


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
