"""An agent moves from memorizz's own MongoDBProvider to ours and back, on one database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from memorizz import MemAgent, MemoryType, MongoDBProvider, Toolbox
from memorizz import MongoDBConfig as TheirConfig
from support.agents import NewAgent, close, settle
from support.openai_server import ScriptedOpenAI, quote

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig


@pytest.fixture
def theirs(config: MongoDBConfig, memory: Any, atlas: AtlasStandin) -> Iterator[Any]:
    """The MongoDBProvider of memorizz on the same database, where it has vector search, with what
    ensure_indexes_async adds to its indexes.
    """
    provider = MongoDBProvider(
        TheirConfig(atlas.uri, config.db_name, embedding_provider=memory.embeddings)
    )
    searched = replace(config, uri=atlas.uri, search_strategy="auto", dimensions=384)

    async def ensure() -> None:
        async with AsyncMongoDBProvider(searched) as ours:
            await ours.ensure_indexes_async()

    asyncio.run(ensure())
    yield provider
    provider.close()


def test_an_agent_moves_from_memorizzs_own_provider_to_ours_and_back(
    memory: Any, theirs: Any, atlas: AtlasStandin, server: ScriptedOpenAI, new_agent: NewAgent
) -> None:
    """One database: what it was told on either side it knows on the other."""
    steps = (
        (theirs, "I keep bees on the roof.", None),
        (memory, "My boat is called Pelican.", "keep bees on the (roof)"),
        (theirs, "I was born in Porto.", "boat is called (Pelican)"),
        (memory, "Good night.", "born in (Porto)"),
    )
    agent_id = ""
    for number, (provider, told, known) in enumerate(steps):
        if not agent_id:
            agent = new_agent(provider, name="companion", memory_ids=["house"])
            agent.save()
            agent_id = agent.agent_id
        else:
            agent = MemAgent.load(agent_id, memory_provider=provider)
        if known:
            server.script = quote(known)
            question = f"Tell me about {known.split('(')[0]}please."
            answer = agent.run(question, user_id="ada", thread_id=f"ask-{number}")
            assert re.fullmatch(known, answer)
        server.script = lambda _: "I see."
        agent.run(told, user_id="ada", thread_id=f"tell-{number}")
        close(agent)
        settle(atlas)
    said = {row["content"] for row in memory.list_all(MemoryType.CONVERSATION_MEMORY)}
    assert {told for _, told, _ in steps} < said


def test_tools_that_memorizzs_own_provider_stored_are_found(
    memory: Any, theirs: Any, atlas: AtlasStandin
) -> None:
    """By agents of ours, and by a toolbox of none: it stores tools without vector and agent."""

    def brew_tea(minutes: int) -> int:
        """Makes a hot drink from leaves."""
        return minutes

    Toolbox(theirs).register_tool(brew_tea)
    Toolbox(memory, agent_id="a1").get_most_similar_tools("a hot drink")  # they are embedded now
    settle(atlas)
    for agent_id in ("a1", None):
        found = Toolbox(memory, agent_id=agent_id).get_most_similar_tools("a hot drink")
        assert [tool["name"] for tool in found] == ["brew_tea"]


def test_shared_rows_without_a_memory_are_taken_where_memorizz_made_its_indexes(
    memory: Any, theirs: Any
) -> None:
    """It makes their memory_id unique; a second null would be refused, a missing field is not."""
    assert theirs.db.shared_memory.index_information()["shared_observability_record_unique"]
    for note in ("one", "two"):
        memory.store({"content": note}, MemoryType.SHARED_MEMORY)
    rows = memory.list_all(MemoryType.SHARED_MEMORY)
    assert sorted(row["content"] for row in rows) == ["one", "two"]
