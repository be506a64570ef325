"""Several writers of one conversation: calls, providers, processes; and those that break off."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from support.embedder import CountingEmbedder, vector_of

from memorizz_async import (
    AsyncMongoDBProvider,
    EmbeddingError,
    MemoryType,
    MongoDBConfig,
    WriteError,
)
from memorizz_async.embeddings import as_embedder
from memorizz_async.memory_provider.mongodb import writing
from memorizz_async.memory_provider.mongodb.session_locks import SessionName

KIND = MemoryType.CONVERSATION_MEMORY
COLLECTION = "conversation_memory"
WHOLE = {"memory_id": "m", "user_id": None}
LOCK = SessionName("m", None, "s").key(COLLECTION)

WRITER = """
import asyncio, sys
from support.embedder import CountingEmbedder
from memorizz_async import AsyncMongoDBProvider, MongoDBConfig
from memorizz_async.memory_provider.mongodb import session_locks

session_locks.LEASE_S = 0.4
uri, db_name, name, calls = *sys.argv[1:4], int(sys.argv[4])

async def main():
    async with AsyncMongoDBProvider(
        MongoDBConfig(uri, db_name), embedding_provider=CountingEmbedder()
    ) as provider:
        async def append(number):
            turns = [f"{name}{number}{part}" for part in "ab"]
            await provider.store_conversation_async(
                turns, session_id="s", memory_id="m", user_id=None
            )
        async def append_keyed(number):
            turns = [{"content": f"k{number}{c}", "dedup_key": f"{number}{c}"} for c in "ab"]
            return await provider.store_conversation_async(
                turns, session_id="keyed", memory_id="m", user_id=None
            )
        print("ready", flush=True)
        sys.stdin.readline()
        if name == "killed":
            for number in range(calls):
                await append(number)
                print(number, flush=True)
        await asyncio.gather(*map(append, range(calls)))
        ids = await asyncio.gather(*map(append_keyed, range(calls)))
        print(*(one for some in ids for one in some), flush=True)

asyncio.run(main())
"""


async def writer(mongod: Any, db_name: str, *arguments: str) -> asyncio.subprocess.Process:
    """A process that waits for a line before it appends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, mongod.uri, db_name, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def go(process: asyncio.subprocess.Process) -> list[str]:
    out, _ = await process.communicate(b"\n")
    assert process.returncode == 0
    return out.decode().split()


@pytest.fixture
async def provider(mongod: Any, db_name: str) -> AsyncIterator[AsyncMongoDBProvider]:
    config = MongoDBConfig(mongod.uri, db_name)
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as opened:
        yield opened


@pytest.fixture
def rows(mongod: Any, db_name: str) -> Any:
    """What the database holds, past the provider."""
    with pymongo.MongoClient(mongod.uri) as client:
        yield client[db_name]


def check_all(database: Any, *, holes: int = 0, session_id: str = "s") -> list[str]:
    """Every turn has a number of its own, the context and the vector of its place; the contents."""
    found = list(database[COLLECTION].find({"session_id": session_id}, sort=[("turn", 1)]))
    numbers = [row["turn"] for row in found]
    assert len(set(numbers)) == len(numbers)
    assert numbers[-1] - len(numbers) + 1 <= holes, numbers
    texts = [row["content"] for row in found]
    for at, row in enumerate(found):
        before, after = texts[max(0, at - 2) : at], texts[at + 1 : at + 3]
        assert row["context"] == "\n".join([*before, *after])
        vector = vector_of("\n".join([row["content"], *before])).astype("<f4")
        assert bytes(row["embedding"])[2:] == vector.tobytes()
    return texts


async def test_appends_of_several_processes_come_one_after_the_other(
    mongod: Any, db_name: str, rows: Any
) -> None:
    """Numbers without a hole; the turns of one call side by side; neighbours know each other. A
    `dedup_key` gives both the same ids.
    """
    writers = await asyncio.gather(*(writer(mongod, db_name, name, "6") for name in ("x", "y")))
    one, other = await asyncio.gather(*map(go, writers))
    assert one == other
    assert len(check_all(rows, session_id="keyed")) == 12
    texts = check_all(rows)
    assert len(texts) == 24
    assert [text[:2] + "b" for text in texts[::2]] == texts[1::2]
    assert rows.session_locks.count_documents({}) == 0


async def test_a_killed_writer_stops_nobody(
    mongod: Any, db_name: str, rows: Any, provider: AsyncMongoDBProvider
) -> None:
    """Who comes next waits for its lease, gives no number twice, and mends what it left."""
    process = await writer(mongod, db_name, "killed", "1000")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    for _ in range(3):
        await process.stdout.readline()
    process.kill()
    await process.communicate()
    await provider.store_conversation_async(["last", "words"], session_id="s", **WHOLE)
    assert check_all(rows, holes=2)[-2:] == ["last", "words"]


async def test_numbers_that_a_slow_writer_may_be_using_are_not_given_again(
    rows: Any, provider: AsyncMongoDBProvider
) -> None:
    """Its lock has run out; its rows may come all the same."""
    now = datetime.now(UTC)
    rows.session_locks.insert_one(
        {"_id": LOCK, "owner": "slow", "until": now + timedelta(seconds=0.2), "next": 3}
    )
    await provider.store_conversation_async(["one"], session_id="s", **WHOLE)
    assert datetime.now(UTC) - now > timedelta(seconds=0.2)
    assert [row["turn"] for row in rows[COLLECTION].find()] == [3]


async def test_a_writer_that_has_lost_its_lock_starts_again(
    rows: Any, provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was too slow: another one has written meanwhile."""
    await provider.store_conversation_async(["first"], session_id="s", **WHOLE)
    embedder = provider.embedder
    encode = embedder.encode_documents_async
    asked = 0

    async def slow(texts: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            rows.session_locks.update_one({"_id": LOCK}, {"$set": {"until": datetime.now(UTC)}})
            other = AsyncMongoDBProvider(provider.config, embedding_provider=CountingEmbedder())
            async with other:
                await other.store_conversation_async(["second"], session_id="s", **WHOLE)
        return await encode(texts)

    monkeypatch.setattr(embedder, "encode_documents_async", slow)
    await provider.store_conversation_async(["third"], session_id="s", **WHOLE)
    assert check_all(rows) == ["first", "second", "third"]


async def test_a_cancelled_append_leaves_no_hole(rows: Any, provider: AsyncMongoDBProvider) -> None:
    """Whenever it is cancelled: its turns are there together, or not at all."""
    for step in range(12):
        append = asyncio.create_task(
            provider.store_conversation_async([f"{step}a", f"{step}b"], session_id="s", **WHOLE)
        )
        await asyncio.sleep(step / 2000)
        append.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await append
    await provider.store_conversation_async(["last"], session_id="s", **WHOLE)
    texts = check_all(rows)
    assert texts[0:-1:2] == [text[:-1] + "a" for text in texts[1:-1:2]]
    assert rows.session_locks.count_documents({}) == 0


async def test_a_refused_turn_leaves_no_words_with_the_others(
    rows: Any, provider: AsyncMongoDBProvider
) -> None:
    """The turns beside it are as if it had not been there, and those far before it stay as is."""
    first = [f"first{number}" for number in range(12)]
    await provider.store_conversation_async([*first, "one"], session_id="s", **WHOLE)
    await provider.store_async({"content": "x", "_id": "taken"}, "SUMMARIES", **WHOLE)
    rows[COLLECTION].insert_one({"_id": "taken", "memory_id": "other"})
    turns: list[Any] = ["two", {"content": "bad", "_id": "taken"}, "three"]
    with pytest.raises(WriteError):
        await provider.store_conversation_async(turns, session_id="s", **WHOLE)
    rows[COLLECTION].delete_one({"_id": "taken"})
    assert check_all(rows, holes=1) == [*first, "one", "two", "three"]


async def test_a_turn_that_another_session_got_at_the_same_time_leaves_no_words(
    rows: Any, provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both calls see that its dedup_key is free; one of them writes it."""
    keyed = {"content": "once", "dedup_key": "k"}
    insert = writing.insert

    async def late(*args: Any, **options: Any) -> list[str]:
        monkeypatch.undo()
        await provider.store_conversation_async([keyed], session_id="t", **WHOLE)
        return await insert(*args, **options)

    await provider.store_conversation_async(["one"], session_id="s", **WHOLE)
    monkeypatch.setattr(writing, "insert", late)
    ids = await provider.store_conversation_async([keyed, "two"], session_id="s", **WHOLE)
    assert len(set(ids)) == 2
    assert check_all(rows, holes=1) == ["one", "two"]
    assert check_all(rows, session_id="t") == ["once"]


async def test_where_the_model_fails_nothing_is_deleted(
    rows: Any, provider: AsyncMongoDBProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The neighbours could not be embedded without the turn; the call can be repeated."""
    ids = await provider.store_conversation_async(["1", "2", "3", "4"], session_id="s", **WHOLE)

    async def fails(texts: Any) -> Any:
        raise EmbeddingError("down")

    with monkeypatch.context() as patched:
        patched.setattr(provider.embedder, "encode_documents_async", fails)
        with pytest.raises(EmbeddingError):
            await provider.delete_async(ids[1], KIND, memory_id="m")
    assert check_all(rows) == ["1", "2", "3", "4"]
    assert await provider.delete_async(ids[1], KIND, memory_id="m")
    assert check_all(rows, holes=1) == ["1", "3", "4"]


async def test_without_the_model_of_the_neighbours_their_vectors_go(
    rows: Any, provider: AsyncMongoDBProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """They hold the meaning of what is deleted; the log says how many."""
    ids = await provider.store_conversation_async(["1", "2", "3", "4"], session_id="s", **WHOLE)
    config = MongoDBConfig(provider.config.uri, provider.config.db_name)
    stranger = as_embedder(CountingEmbedder(), model_name="another")
    async with AsyncMongoDBProvider(config, embedding_provider=stranger) as other:
        assert await other.delete_many_async(KIND, ids=[ids[1]], memory_id="m") == 1
    left = list(rows[COLLECTION].find(sort=[("turn", 1)]))
    assert ["embedding" in row for row in left] == [True, False, False]
    assert [row["context"] for row in left] == ["3\n4", "1\n4", "1\n3"]
    assert "2 turns of" in caplog.text
