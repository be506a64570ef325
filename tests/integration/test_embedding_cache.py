"""A restart stays warm: the second process computes nothing that the first one knew."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pymongo
from support.models import Model

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig

PROGRAM = """
import asyncio, json, sys
from memorizz_async import AsyncEmbeddingProvider, AsyncMongoDBProvider, MongoDBConfig

async def main(uri, db_name):
    config = MongoDBConfig(uri, db_name, embedding_cache=True)
    async with (
        AsyncEmbeddingProvider() as embedder,
        AsyncMongoDBProvider(config, embedding_provider=embedder) as provider,
    ):
        texts = [f"On day {number} we planted trees." for number in range(20)]
        await provider.store_many_async(texts, memory_id="m")
        hits = await provider.retrieve_memory_units_by_query_async("trees on day 3", memory_id="m")
        stats = embedder.stats()
        print(json.dumps([hits[0]["content"], stats.computed, stats.tier_hits]))

asyncio.run(main(*sys.argv[1:]))
"""


def run(uri: str, db_name: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, uri, db_name], capture_output=True, text=True, check=True
    )
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_second_process_computes_nothing_that_is_known(mongod: Any, db_name: str) -> None:
    """With the real model: 21 texts the first time, none the second."""
    first = run(mongod.uri, db_name)
    assert first[1:] == [21, 0]
    assert run(mongod.uri, db_name) == [first[0], 0, 21]


def test_a_program_that_closes_nothing_keeps_its_vectors_too(mongod: Any, db_name: str) -> None:
    """They are written when its loop ends."""

    async def main() -> None:
        config = MongoDBConfig(mongod.uri, db_name, embedding_cache=True)
        provider = AsyncMongoDBProvider(config, embedding_provider=Model("m/8"))
        await provider.store_async("text", memory_id="m")

    asyncio.run(main())
    with pymongo.MongoClient[Any](mongod.uri) as client:
        assert client[db_name]["embedding_cache"].count_documents({}) == 1
        indexes = client[db_name]["embedding_cache"].index_information()
        assert indexes["expiry"]["expireAfterSeconds"] == 0
