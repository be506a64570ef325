"""A change of model beside all that goes on meanwhile: recall, writes, kills, a second run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from support.internals import session_of
from support.models import Model

from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    EmbeddingModelMismatchError,
    MemoryType,
    MongoDBConfig,
    ReembedError,
    ReembedProgress,
)
from memorizz_async.deadline import CallTime, Deadline
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.memory_provider.mongodb.pipelines import models as queries
from memorizz_async.memory_provider.mongodb.reembedding.lease import Lease
from memorizz_async.memory_provider.mongodb.vector_search import VectorSearch
from memorizz_async.vectors import stored_vector

KB = MemoryType.LONG_TERM_MEMORY
NAME = KB.collection
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


async def raw(provider: AsyncMongoDBProvider, collection: str = NAME) -> list[dict[str, Any]]:
    session = await session_of(provider)
    return await session.driver.find(collection, {}, deadline=Deadline.after(30_000))


class Recalls:
    """Recalls one text after another, and remembers every answer that was not the right one."""

    def __init__(self, provider: AsyncMongoDBProvider, texts: list[str], mode: Any = None) -> None:
        self._provider = provider
        self._texts = texts
        self._mode = mode
        self.count = 0
        self.wrong: list[object] = []
        self._counted = asyncio.Condition()

    async def more(self, count: int) -> None:
        """Wait until so many more were made."""
        wanted = self.count + count
        async with self._counted:
            await self._counted.wait_for(lambda: self.count >= wanted)

    async def forever(self) -> None:
        while True:
            text = self._texts[self.count % len(self._texts)]
            self.count += 1
            try:
                hits = await self._provider.retrieve_memory_units_by_query_async(
                    text, memory_id="m", memory_type=KB, limit=3, mode=self._mode
                )
                found = [hit["content"] for hit in hits]
                if len(found) != 3 or found[0] != text:
                    self.wrong.append((text, found))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not have happened
                self.wrong.append(error)
            async with self._counted:
                self._counted.notify_all()


@asynccontextmanager
async def meanwhile(*works: Any) -> AsyncIterator[None]:
    """Works that go on for as long as the block does."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes


@pytest.mark.parametrize(
    ("dimensions", "strategy"), [(8, "resident"), (8, "scan"), (12, "auto")], ids=str
)
async def test_recall_and_writes_never_fail_while_the_model_changes(
    mongod: Any, db_name: str, dimensions: int, strategy: Any
) -> None:
    """Every answer is right, before, during and after; whatever was written meanwhile changes too.

    The one who changes the rows and those who use them are different providers.
    """
    config = MongoDBConfig(mongod.uri, db_name, search_strategy=strategy)
    old, new = Model("old/8"), Model("new/x", dimensions)
    texts = [f"memory {number}" for number in range(1_500)]
    async with (
        AsyncMongoDBProvider(config, embedding_provider=old) as first,
        AsyncMongoDBProvider(
            config, embedding_provider=new, retiring_embedding_provider=old
        ) as users,
        AsyncMongoDBProvider(config, embedding_provider=new) as changer,
    ):
        await first.store_many_async(texts, KB, memory_id="m")
        await users.ensure_indexes_async([KB])
        by_vector = Recalls(users, texts[::7], "vector")
        hybrid = Recalls(users, texts[::11])
        written: list[str] = []

        async def write() -> None:
            while True:
                text = f"written {len(written)}"
                await users.store_async(text, KB, memory_id="m")
                written.append(text)
                await asyncio.sleep(0.005)

        async with meanwhile(by_vector.forever(), hybrid.forever(), write()):
            with pytest.raises(EmbeddingModelMismatchError):
                await changer.retrieve_memory_units_by_query_async(
                    texts[0], memory_id="m", memory_type=KB
                )
            report = await changer.reembed_async([KB], batch_size=100)
            await by_vector.more(50)
        assert by_vector.wrong == []
        assert hybrid.wrong == []
        assert min(by_vector.count, hybrid.count) > 50
        assert report.types[KB.name].switched
        rows = await raw(users)
        assert {row["content"] for row in rows} >= {*texts, *written}
        assert len(rows) - len(texts) - len(written) in (0, 1)  # the last may not have been heard
        for row in rows:
            assert row["embedding_model"] == new.model_name
            assert (stored_vector(row["embedding"]) == new.vector(row["content"])).all()
            assert "embedding_next" not in row
        with pytest.raises(EmbeddingModelMismatchError):
            await first.retrieve_memory_units_by_query_async(
                texts[0], memory_id="m", memory_type=KB
            )
        with pytest.raises(EmbeddingModelMismatchError):
            await first.store_async("x", KB, memory_id="m")


class Command:
    """`memorizz-async reembed` as a process of its own."""

    def __init__(self, config: MongoDBConfig) -> None:
        self._line = [
            *(sys.executable, "-m", "memorizz_async", "reembed", "--json", "--batch-size", "64"),
            *("--type", KB.name, "--model", MINILM, "--db", config.db_name),
            *("--uri", config.resolved_uri()),
        ]
        self.lines: list[str] = []

    async def run(self, *, kill_at: Callable[[str], bool] | None = None) -> dict[str, Any] | None:
        """Its report; None where it was killed (SIGKILL) after a line of progress."""
        process = await asyncio.create_subprocess_exec(
            *self._line,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        assert process.stderr is not None
        assert process.stdout is not None
        while line := (await process.stderr.readline()).decode():
            self.lines.append(line)
            if kill_at is not None and kill_at(line):
                process.kill()
                await process.communicate()
                return None
        out = await process.stdout.read()
        assert await process.wait() == 0, self.lines
        assert kill_at is None, self.lines
        report: dict[str, Any] = json.loads(out)
        return report


async def test_killed_and_run_again_every_row_is_changed_once_and_recall_never_failed(
    mongod: Any, db_name: str
) -> None:
    """SIGKILL half-way through the embedding, then again in the switch; the third run ends it."""
    config = MongoDBConfig(mongod.uri, db_name)
    old = Model("old/384", 384)
    texts = [f"On day {number} we planted {number % 13} trees." for number in range(1_200)]

    def half_way(line: str) -> bool:
        words = line.replace(",", "").split()
        return "embedding" in words and 400 <= int(words[2]) < 1_000

    async with (
        AsyncEmbeddingProvider(MINILM) as new,
        AsyncMongoDBProvider(
            config, embedding_provider=new, retiring_embedding_provider=old
        ) as provider,
    ):
        async with AsyncMongoDBProvider(config, embedding_provider=old) as before:
            ids = await before.store_many_async(texts, KB, memory_id="m")
        recalls = Recalls(provider, texts[::100], "vector")
        async with meanwhile(recalls.forever()):
            assert await Command(config).run(kill_at=half_way) is None
            [state] = await raw(provider, "embedding_models")
            assert (state["phase"], state["model"]) == ("migrating", "old/384")
            staged = sum("embedding_next" in row for row in await raw(provider))
            assert 400 <= staged < 1_200
            assert all(row["embedding_model"] == "old/384" for row in await raw(provider))

            assert await Command(config).run(kill_at=lambda line: "switching" in line) is None
            [state] = await raw(provider, "embedding_models")
            assert state["phase"] == "switching"

            report = await Command(config).run()
        assert recalls.wrong == []
        assert recalls.count > 100
        assert report is not None
        one = report["types"][KB.name]
        assert (one["switched"], one["rows"], one["resumed"]) == (True, 0, 1_200)
        rows = await raw(provider)
        assert sorted(str(row["_id"]) for row in rows) == sorted(ids)
        assert {row["embedding_model"] for row in rows} == {MINILM}
        assert not any("embedding_next" in row for row in rows)
        wanted = await new.encode_documents_async([row["content"] for row in rows])
        for row, vector in zip(rows, wanted, strict=True):
            # The same text in another batch is padded otherwise: equal but for rounding.
            assert stored_vector(row["embedding"]) @ vector > 0.9999
        hits = await provider.retrieve_memory_units_by_query_async(
            texts[5], memory_id="m", memory_type=KB
        )
        assert hits[0]["content"] == texts[5]


async def test_a_second_run_says_who_is_at_it(mongod: Any, db_name: str) -> None:
    """Two at once would not harm each other, but one of them has nothing to do."""
    config = MongoDBConfig(mongod.uri, db_name)
    old, new = Model("old/8"), Model("new/8")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def embed(texts: list[str]) -> list[Any]:
        if "memory 0" in texts:
            begun.set()
            await go_on.wait()
        return [new.vector(text) for text in texts]

    slow = FunctionBackend(embed, model_name=new.model_name)
    async with AsyncMongoDBProvider(config, embedding_provider=old) as provider:
        await provider.store_many_async([f"memory {n}" for n in range(3)], KB, memory_id="m")
        running = asyncio.create_task(provider.reembed_async([KB], to=slow))
        await begun.wait()
        with pytest.raises(ReembedError, match=f"process {os.getpid()} on .*new/8"):
            await provider.reembed_async([KB], to=new)
        go_on.set()
        report = await running
        assert report.rows == 3


async def test_a_lease_is_taken_over_once_its_holder_is_silent_and_fences_him(
    mongod: Any, db_name: str
) -> None:
    """A holder that is alive keeps it; one that was taken for dead can change nothing any more."""
    config = MongoDBConfig(mongod.uri, db_name)
    async with AsyncMongoDBProvider(config, embedding_provider=Model("old/8")) as provider:
        await provider.store_async("x", KB, memory_id="m")
        driver = (await session_of(provider)).driver
        call = CallTime(None, 10_000)
        dead = Lease(driver, NAME, call, lease_s=1.5)
        first = await dead.acquire()
        assert dead._renewing is not None
        dead._renewing.cancel()  # as if its process hung
        second = Lease(driver, NAME, call, lease_s=1.5)
        state = await second.acquire()
        assert state.lease_token == first.lease_token + 1
        with pytest.raises(ReembedError, match="taken over"):
            await dead.change(queries.begin_switching(datetime.now(UTC)))
        await dead.release()
        third = Lease(driver, NAME, call, lease_s=1.5)
        with pytest.raises(ReembedError, match="already"):
            await third.acquire()
        second.check()
        await second.release()
        assert (await third.acquire()).lease_token == state.lease_token + 1
        await third.release()


async def test_a_holder_learns_that_it_was_taken_over(mongod: Any, db_name: str) -> None:
    """By its own renewal: it stops before its next batch."""
    config = MongoDBConfig(mongod.uri, db_name)
    async with AsyncMongoDBProvider(config, embedding_provider=Model("old/8")) as provider:
        await provider.store_async("x", KB, memory_id="m")
        driver = (await session_of(provider)).driver
        lease = Lease(driver, NAME, CallTime(None, 10_000), lease_s=0.2)
        await lease.acquire()
        later = datetime.now(UTC) + timedelta(minutes=1)
        await driver.find_and_update(
            queries.COLLECTION,
            queries.one_state(NAME),
            queries.take_lease("somebody else", later),
            deadline=Deadline.after(10_000),
        )
        assert lease._renewing is not None
        await asyncio.wait([lease._renewing])
        with pytest.raises(ReembedError, match="taken over"):
            lease.check()
        await lease.release()
        [state] = await raw(provider, queries.COLLECTION)
        assert state["lease"]["owner"] == "somebody else"


async def test_a_cancelled_run_leaves_no_task_and_gives_the_lease_back(
    mongod: Any, db_name: str
) -> None:
    """Whoever comes next need not wait."""
    config = MongoDBConfig(mongod.uri, db_name)
    old, new = Model("old/8"), Model("new/8")
    half = asyncio.Event()

    def tell(told: ReembedProgress) -> None:
        if told.rows >= 100:
            half.set()

    async with AsyncMongoDBProvider(config, embedding_provider=old) as provider:
        await provider.store_many_async([f"m {n}" for n in range(400)], KB, memory_id="m")
        running = asyncio.create_task(
            provider.reembed_async([KB], to=new, batch_size=10, progress=tell)
        )
        await half.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        left = {task.get_name() for task in asyncio.all_tasks()}
        assert not {name for name in left if "reembed" in name or "lease" in name}
        [state] = await raw(provider, queries.COLLECTION)
        assert (state["lease"], state["phase"]) == (None, "migrating")


async def test_two_first_writers_of_two_models_agree_on_one(mongod: Any, db_name: str) -> None:
    """Of many at once one model wins, and no row of the other is there."""
    config = MongoDBConfig(mongod.uri, db_name)
    async with (
        AsyncMongoDBProvider(config, embedding_provider=Model("a/8")) as a,
        AsyncMongoDBProvider(config, embedding_provider=Model("b/8")) as b,
    ):
        writes = [p.store_async(f"{n}", KB, memory_id="m") for n in range(10) for p in (a, b)]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, EmbeddingModelMismatchError)]
        rows = await raw(a)
        assert len({row["embedding_model"] for row in rows}) == 1
        assert len(rows) == len(outcomes) - len(refused) == 10


async def test_who_may_not_read_the_models_recalls_all_the_same(
    mongod: Any, db_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows name their models; a provider that cannot read the states goes by those."""
    from memorizz_async.errors import AuthenticationError
    from memorizz_async.memory_provider.mongodb.driver.motor import MotorDriver

    config = MongoDBConfig(mongod.uri, db_name, driver="motor")
    async with AsyncMongoDBProvider(config, embedding_provider=Model("old/8")) as provider:
        await provider.store_async("x", KB, memory_id="m")
    find, find_and_update = MotorDriver.find, MotorDriver.find_and_update

    async def refuse(self: Any, collection: str, *args: Any, **options: Any) -> Any:
        if collection == queries.COLLECTION:
            raise AuthenticationError("not allowed", code=13)
        return await find(self, collection, *args, **options)

    async def refuse_update(self: Any, collection: str, *args: Any, **options: Any) -> Any:
        if collection == queries.COLLECTION:
            raise AuthenticationError("not allowed", code=13)
        return await find_and_update(self, collection, *args, **options)

    monkeypatch.setattr(MotorDriver, "find", refuse)
    monkeypatch.setattr(MotorDriver, "find_and_update", refuse_update)
    async with AsyncMongoDBProvider(config, embedding_provider=Model("old/8")) as provider:
        hits = await provider.retrieve_memory_units_by_query_async(
            "x", memory_id="m", memory_type=KB
        )
        assert [hit["content"] for hit in hits] == ["x"]
        await provider.store_async("y", KB, memory_id="m")
    async with AsyncMongoDBProvider(config, embedding_provider=Model("new/8")) as provider:
        with pytest.raises(EmbeddingModelMismatchError):
            await provider.retrieve_memory_units_by_query_async("x", memory_id="m", memory_type=KB)


async def test_the_search_in_memory_knows_the_new_vectors_at_once(
    mongod: Any, db_name: str
) -> None:
    """The logical time of the switch is waited for, as one's own writes are."""
    config = MongoDBConfig(mongod.uri, db_name, search_strategy="resident")
    old, new = Model("old/8"), Model("new/8")
    async with (
        AsyncMongoDBProvider(config, embedding_provider=old) as changer,
        AsyncMongoDBProvider(
            config, embedding_provider=new, retiring_embedding_provider=old
        ) as user,
    ):
        await changer.store_many_async([f"m {n}" for n in range(50)], KB, memory_id="m")
        for _ in range(3):
            hits = await user.retrieve_memory_units_by_query_async(
                "m 7", memory_id="m", memory_type=KB
            )
        assert hits.strategy == "resident"
        await changer.reembed_async([KB], to=new)
        hits = await user.retrieve_memory_units_by_query_async("m 7", memory_id="m", memory_type=KB)
        assert hits[0]["content"] == "m 7"
        search: VectorSearch = user._search
        assert NAME in search._written
        assert isinstance(hits[0]["_id"], str)
        assert ObjectId.is_valid(hits[0]["_id"])
