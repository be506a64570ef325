"""Wherever a change of model is cut off, and whatever happens to the rows: the next run ends it."""

from __future__ import annotations

import asyncio
import functools
import uuid
from typing import Any

import pymongo
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.internals import session_of
from support.models import Model

from memorizz_async import AsyncMongoDBProvider, MemoryType, MongoDBConfig, ReembedError
from memorizz_async.errors import DatabaseError, ServerUnavailableError
from memorizz_async.memory_provider.mongodb.reembedding import lease, one_type, run
from memorizz_async.vectors import stored_vector

KB = MemoryType.LONG_TERM_MEMORY
NAME = KB.collection
_ALL = 1_000_000
MODELS = {"a": Model("a/4", 4), "b": Model("b/4", 4), "c": Model("c/6", 6)}


class CutOff:
    """A driver whose server cannot be reached any more after so many operations."""

    def __init__(self, driver: Any, operations: int) -> None:
        self._driver = driver
        self._left = operations

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if name == "raw_batches":
            return functools.partial(self._streamed, found)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def counted(*args: Any, **options: Any) -> Any:
            self._count()
            return await found(*args, **options)

        return counted

    async def _streamed(self, found: Any, *args: Any, **options: Any) -> Any:
        stream = found(*args, **options)
        try:
            async for batch in stream:
                self._count()
                yield batch
        finally:
            await stream.aclose()

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ServerUnavailableError("cut off")


class Changes(RuleBasedStateMachine):
    """One program that uses the rows, one that changes their model and is cut off; a dict of texts
    is the truth.
    """

    uri = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.db_name = f"test_{uuid.uuid4().hex[:12]}"
        self.client: pymongo.MongoClient[Any] = pymongo.MongoClient(self.uri)
        self.rows: dict[str, str] = {}
        self.written = 0
        self.model, self.target = "a", "a"

    @initialize()
    def open(self) -> None:
        config = MongoDBConfig(self.uri, self.db_name, search_strategy="scan")
        self.provider = AsyncMongoDBProvider(config, embedding_provider=MODELS["a"])
        for _ in range(7):
            self.store()

    def between(self, old: str, new: str) -> AsyncMongoDBProvider:
        """A provider that knows both models of a change."""
        return AsyncMongoDBProvider(
            MongoDBConfig(self.uri, self.db_name, search_strategy="scan"),
            embedding_provider=MODELS[new],
            retiring_embedding_provider=MODELS[old],
        )

    @rule()
    def store(self) -> None:
        self.written += 1
        text = f"text {self.written}"
        row_id = self.runner.run(self.provider.store_async(text, KB, memory_id="m"))
        self.rows[row_id] = text

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        """As another program does it, which knows nothing of what is staged."""
        row_id = data.draw(st.sampled_from(sorted(self.rows)))
        self.written += 1
        self.rows[row_id] = f"edited {self.written}"
        self.client[self.db_name][NAME].update_one(
            {"content": {"$exists": True}, "_id": self.stored(row_id)},
            {"$set": {"content": self.rows[row_id]}},
        )

    @precondition(lambda self: len(self.rows) > 3)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        row_id = data.draw(st.sampled_from(sorted(self.rows)))
        del self.rows[row_id]
        self.client[self.db_name][NAME].delete_one({"_id": self.stored(row_id)})

    @rule(to=st.sampled_from(sorted(MODELS)), operations=st.integers(0, 40))
    def change(self, to: str, operations: int) -> None:
        """It may be cut off anywhere; in the middle of a switch it goes on to the same model."""
        state = self.state()
        if state["phase"] == "switching" or to == self.model:
            to = self.target
        if to == self.model:
            return
        if to != self.target:
            self.runner.run(self.provider.close_async())
            self.provider = self.between(self.model, to)
            self.target = to
        self.reembed(operations)
        if self.state()["phase"] == "active":
            self.model = self.state()["model"].partition("/")[0]

    def reembed(self, operations: int) -> None:
        async def work() -> None:
            provider = self.provider
            session = await session_of(provider)
            whole, session.driver = session.driver, CutOff(session.driver, operations)  # type: ignore[assignment]
            try:
                await provider.reembed_async([KB], to=MODELS[self.target], batch_size=2)
            except (ReembedError, DatabaseError):
                assert operations < _ALL
            finally:
                session.driver = whole
                provider._guard.states._known.clear()  # as after the pause that was left out

        self.runner.run(work())

    def state(self) -> dict[str, Any]:
        [state] = self.client[self.db_name]["embedding_models"].find()
        return dict(state)

    @staticmethod
    def stored(row_id: str) -> Any:
        from bson import ObjectId

        return ObjectId(row_id)

    @invariant()
    def every_row_is_there_and_found_by_its_own_model(self) -> None:
        rows = list(self.client[self.db_name][NAME].find())
        assert {str(row["_id"]): row["content"] for row in rows} == self.rows
        kept = [row for row in rows if row["content"].startswith("text")]
        if not kept:
            return
        wanted = kept[self.written % len(kept)]["content"]
        hits = self.runner.run(
            self.provider.retrieve_memory_units_by_query_async(
                wanted, memory_id="m", memory_type=KB, limit=50
            )
        )
        assert hits[0]["content"] == wanted
        assert len(hits) == len(self.rows)

    def teardown(self) -> None:
        if hasattr(self, "provider") and self.client[self.db_name]["embedding_models"].find_one():
            self.reembed(_ALL)
            self.runner.run(self.provider.close_async())
            assert self.state()["phase"] == "active"
            model = MODELS[self.target]
            for row in self.client[self.db_name][NAME].find():
                assert row["embedding_model"] == model.model_name
                assert "embedding_next" not in row
                if row["content"].startswith("text"):
                    vector = stored_vector(row["embedding"])
                    assert (vector == model.vector(row["content"])).all()
        self.client.drop_database(self.db_name)
        self.client.close()
        self.runner.close()


def test_a_change_that_is_cut_off_anywhere_is_ended_by_the_next(
    mongod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two stores, edits and deletes, after any operation, to a model of any dimension."""
    monkeypatch.setattr(one_type, "GRACE_S", 0.0)
    monkeypatch.setattr(run, "Lease", functools.partial(lease.Lease, lease_s=0.1))
    monkeypatch.setattr(lease, "_LOOK_S", 0.03)
    monkeypatch.setattr(Changes, "uri", mongod.uri)
    run_state_machine_as_test(
        Changes,
        settings=settings(
            max_examples=20,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
