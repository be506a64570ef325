"""One row never hides the others, whatever another program stored in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from support.embedder import vector_of
from support.odd_rows import odd_rows, write

from memorizz_async import AsyncMongoDBProvider, MemoryType, MongoDBConfig
from memorizz_async.cli.output import plain

KB, TURNS = MemoryType.LONG_TERM_MEMORY, MemoryType.CONVERSATION_MEMORY
GOOD = {"bees", "cello"}
ADA = {"memory_id": "ada"}


def contents(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["content"] for row in rows if type(row["content"]) is str}


@pytest.fixture
async def among_odd_rows(
    provider: AsyncMongoDBProvider, config: MongoDBConfig, backend: str, settle: Any
) -> AsyncIterator[AsyncMongoDBProvider]:
    """A provider of a tenant with two good memories among hundreds of odd ones."""
    if backend in ("memory", "standalone"):
        pytest.skip("memory:// is no other program's; a standalone server is searched by scan, too")
    await provider.ensure_indexes_async([KB])
    for kind in (KB, TURNS):
        await write(config, kind, odd_rows(ADA, vector_of("nuts").tolist()))
        await provider.store_many_async(["bees", "cello"], kind, memory_id="ada")
    await settle()
    yield provider


async def test_every_read_finds_the_good_rows(
    among_odd_rows: AsyncMongoDBProvider, strategy: str
) -> None:
    """Recall in each mode, and reading in order; the odd rows come too, where they can."""
    provider = among_odd_rows
    for mode in ("vector", "hybrid", "text"):
        for limit in (1, 2_000):
            for options in ({}, {"consistency": "strong"}, {"include_embedding": True}):
                hits = await provider.retrieve_memory_units_by_query_async(
                    "bees", memory_type=KB, limit=limit, mode=mode, explain=True, **ADA, **options
                )
                assert hits[0]["content"] == "bees", (mode, limit, options)
                expected = {"bees"} if mode == "text" or limit == 1 else GOOD
                assert expected <= contents(hits)
                if options == {} and mode != "text":
                    assert hits.strategy == strategy
                json.dumps(hits, default=plain)
    for kind in (KB, TURNS):
        for options in ({}, {"include_embedding": True}, {"as_stored": True}):
            assert contents(await provider.list_async(kind, **ADA, **options)) >= GOOD
            everything = await provider.history_async(kind, **ADA, **options)
            assert contents(everything) >= GOOD
            assert contents(await provider.history_async(kind, limit=3, **ADA)) <= contents(
                everything
            )
