"""One row never hides the others, whatever another program stored in it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pymongo
import pytest
from pymongo.errors import BulkWriteError
from support.embedder import CountingEmbedder, vector_of
from support.odd_values import FAR, NOT_UTF8, VECTORS, bson_of, odd_rows

from memorizz_async import (
    AsyncMongoDBProvider,
    ContextWindowManager,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async.cli.output import plain

KB, TURNS = MemoryType.LONG_TERM_MEMORY, MemoryType.CONVERSATION_MEMORY
GOOD = {"bees", "cello"}
ADA = {"memory_id": "ada"}


class Reversed:
    """A reranker that is given texts and nothing else."""

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Their lengths."""
        assert all(type(text) is str for text in texts)
        return [-len(text) for text in texts]


async def write(config: MongoDBConfig, rows: Sequence[Mapping[str, Any]], kind: MemoryType) -> None:
    """Past every check of ours, on the server itself."""

    def insert() -> None:
        with pymongo.MongoClient(config.uri) as client:
            target = client[config.db_name][kind.collection]
            try:
                target.insert_many(map(bson_of, rows), ordered=False)
            except BulkWriteError as error:  # a text index takes no text that is not UTF-8
                refused = (error.details or {})["writeErrors"]
                assert {entry["code"] for entry in refused} == {28755}

    await asyncio.to_thread(insert)


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
        await write(config, list(odd_rows(ADA, vector_of("nuts").tolist())), kind)
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
            assert GOOD <= contents(await provider.list_async(kind, **ADA, **options))
            everything = await provider.history_async(kind, **ADA, **options)
            assert GOOD <= contents(everything)
            assert contents(await provider.history_async(kind, limit=3, **ADA)) <= contents(
                everything
            )
