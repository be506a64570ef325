"""memorizz's agents on our provider, as an application sets them up. Also a program of its own:

    python agents.py '{"uri": …, "db_name": …, "search_strategy": …}' AGENT_ID USER_ID QUESTION

loads an agent that another process has saved, asks it once, and prints the answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import memorizz.embeddings
from memorizz import MemAgent

from memorizz_async import AsyncEmbeddingProvider, MongoDBConfig
from memorizz_async.integrations.memorizz import MemorizzProvider, use_with_memorizz

if TYPE_CHECKING:
    from atlas_standin import AtlasStandin

NewAgent = Callable[..., Any]


@contextmanager
def agents_memory(config: MongoDBConfig, model: AsyncEmbeddingProvider) -> Iterator[Any]:
    """A provider for agents, whose embedder is memorizz's too as long as the block runs."""
    before = memorizz.embeddings._global_embedding_manager
    provider = MemorizzProvider(config, embedding_provider=model)
    try:
        use_with_memorizz(provider)
        yield provider
    finally:
        provider.close()
        memorizz.embeddings._global_embedding_manager = before


def close(agent: Any) -> None:
    """End an agent: what it writes in the background is written; the provider stays open."""
    report = agent.close(close_memory_provider=False)
    assert report["errors"] == []


def settle(atlas: AtlasStandin) -> None:
    """The search index has seen what was written; nothing to wait for elsewhere."""
    asyncio.run(atlas.sync())


def ask(config: MongoDBConfig, agent_id: str, user_id: str, question: str) -> str:
    """What the saved agent answers in a conversation of its own."""
    model = AsyncEmbeddingProvider()
    try:
        with agents_memory(config, model) as provider:
            agent = MemAgent.load(agent_id, memory_provider=provider)
            answer: str = agent.run(question, user_id=user_id)
            close(agent)
            return answer
    finally:
        model.shutdown()


if __name__ == "__main__":
    given, *said = sys.argv[1:]
    print(ask(MongoDBConfig(**json.loads(given)), *said))
