"""Whatever happens to the rows, whoever does it: a search in memory answers as a model of them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import numpy as np
import pymongo
import pytest
from atlas_standin import filters as standin
from bson import Binary, Decimal128
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

from memorizz_async import (
    AsyncMongoDBProvider,
    MemoryType,
    MongoDBConfig,
    StoredEmbeddingError,
)
from memorizz_async.deadline import Deadline
from memorizz_async.memory_provider.mongodb.driver import change_stream
from memorizz_async.vectors import stored_vector, to_bson

KB = MemoryType.LONG_TERM_MEMORY
NAME = KB.collection
TENANTS = ("m", "n")
USERS = ("u", "v", None)
PAST = 0
FUTURE = 4_000_000_000_000

numbers = st.integers(-2, 2)
good = st.tuples(numbers, numbers, numbers).filter(any)
tenants, users = st.sampled_from(TENANTS), st.sampled_from(USERS)
stored = st.one_of(
    good.map(lambda v: to_bson(np.array(v, np.float32))),
    good.map(lambda v: [float(x) for x in v]),
    good.map(list),
    st.just([0.0, 0.0, 0.0]),
    st.just([1.0, 2.0]),
    st.just([1.0, float("nan"), 0.0]),
    st.just("no vector"),
    st.just(None),
    st.just(Binary(b"\x03\x00abc", 9)),
)
UNKEPT = Decimal128("7.5")
"""Equal to nothing that is asked for, and compared on the server only."""
roles = st.sampled_from(["missing", "a", "b", ["a", "b"], None, 1, True, UNKEPT])
topics = st.sampled_from(["missing", "tea", ["tea", "oil"], 2.0, None])
filters = st.sampled_from(
    [
        None,
        {"role": "a"},
        {"role": {"$ne": "a"}},
        {"role": None},
        {"role": 1},
        {"role": {"$gte": "b"}},
        {"metadata.topic": {"$in": ["tea", "milk"]}},
        {"metadata.topic": {"$lte": 2}},
        {"role": {"$nin": ["a"]}, "metadata.topic": "tea"},
        {"$or": [{"role": True}, {"metadata.topic": {"$ne": "tea"}}]},
        {"_id": {"$in": ["r1", "r2", "r3", "r5", "r8"]}, "role": {"$ne": None}},
    ]
)
expiries = st.sampled_from(["missing", None, PAST, FUTURE, "text", [PAST, FUTURE], []])


def moment(value: Any) -> Any:
    from bson.datetime_ms import DatetimeMS

    if isinstance(value, list):
        return [moment(each) for each in value]
    return DatetimeMS(value) if isinstance(value, int) else value


def fields(role: Any, topic: Any) -> dict[str, Any]:
    """What filters ask for, as it is stored."""
    stored_fields: dict[str, Any] = {} if role == "missing" else {"role": role}
    if topic != "missing":
        stored_fields["metadata"] = {"topic": topic, "other": 1}
    return stored_fields


def passes(row_id: str, row: dict[str, Any], wanted: Any) -> bool:
    """Whether a row of the model satisfies a filter, by the stand-in's own matcher."""
    matcher = standin.parse_filter(wanted or {}, "filter")
    document = {"_id": row_id, **row}
    paths = set(matcher.paths())
    return matcher.matches({path: standin.values_at(document, path) for path in paths})


class Residents(RuleBasedStateMachine):
    """Two providers, one a driver, and a program that writes past both; the model is a dict."""

    uri = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.db_name = f"test_{uuid.uuid4().hex[:12]}"
        self.client: pymongo.MongoClient[Any] = pymongo.MongoClient(self.uri)
        self.rows: dict[str, dict[str, Any]] = {}
        self.next_id = 0

    @initialize()
    def open(self) -> None:
        async def opened() -> list[AsyncMongoDBProvider]:
            return [
                await AsyncMongoDBProvider(
                    MongoDBConfig(
                        self.uri,
                        self.db_name,
                        driver=name,
                        search_strategy="resident",
                        dimensions=3,
                        filter_fields=["metadata.topic"],
                    )
                ).__aenter__()
                for name in ("pymongo", "motor")
            ]

        self.providers = self.runner.run(opened())

    def teardown(self) -> None:
        async def closed() -> None:
            for provider in self.providers:
                await provider.close_async()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        if hasattr(self, "providers"):
            self.runner.run(closed())
        self.runner.close()
        self.client.drop_database(self.db_name)
        self.client.close()

    @property
    def collection(self) -> Any:
        return self.client[self.db_name][NAME]

    def some_id(self, number: int) -> str:
        ids = sorted(self.rows)
        return ids[number % len(ids)]

    @rule(
        by=st.integers(0, 1),
        tenant=tenants,
        user=users,
        vectors=st.lists(good, max_size=4),
        role=st.sampled_from(["missing", "a", "b"]),
    )
    def store(self, by: int, tenant: str, user: str | None, vectors: list[Any], role: str) -> None:
        """A provider writes, and sees it at once, also through a filter."""
        more = {} if role == "missing" else {"role": role}
        memories = []
        for vector in vectors:
            self.next_id += 1
            row_id = f"r{self.next_id}"
            memories.append({"_id": row_id, "content": "c", "embedding": list(vector), **more})
            self.rows[row_id] = {
                "memory_id": tenant,
                "user_id": user,
                "embedding": to_bson(np.array(vector, np.float32)),
                "metadata": {},  # as every row of ours
                **more,
            }

        async def write_and_search() -> set[str]:
            provider = self.providers[by]
            await provider.store_many_async(memories, KB, memory_id=tenant, user_id=user)
            if not memories:
                return set()
            hits = await provider.retrieve_memory_units_by_query_async(
                None, [1.0, 2.0, 3.0], tenant, KB, 10_000, user_id=user, filter=more or None
            )
            return {hit["_id"] for hit in hits}

        assert {memory["_id"] for memory in memories} <= self.runner.run(write_and_search())

    @rule(tenant=tenants, user=users, value=stored, expiry=expiries, role=roles, topic=topics)
    def write_past_us(
        self, *, tenant: str, user: str | None, value: Any, expiry: Any, role: Any, topic: Any
    ) -> None:
        """Another program inserts anything."""
        self.next_id += 1
        row: dict[str, Any] = {"memory_id": tenant, "embedding": value, **fields(role, topic)}
        if user is not None:
            row["user_id"] = user
        if expiry != "missing":
            row["expires_at"] = moment(expiry)
        self.rows[f"r{self.next_id}"] = row
        self.collection.insert_one({"_id": f"r{self.next_id}", **row})

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0), value=stored)
    def embed_again(self, number: int, value: Any) -> None:
        """A row gets another vector, of any kind, or loses it."""
        row_id = self.some_id(number)
        self.rows[row_id]["embedding"] = value
        change: Any = {"$set": {"embedding": value}}
        if value is None and number % 2:
            change = {"$unset": {"embedding": 1}}
        self.collection.update_one({"_id": row_id}, change)

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0), value=numbers)
    def change_one_number(self, number: int, value: int) -> None:
        """One element of an array, under a name with a dot."""
        row = self.rows[self.some_id(number)]
        if isinstance(row["embedding"], list) and row["embedding"]:
            row["embedding"] = [*row["embedding"][:-1], float(value)]
            last = len(row["embedding"]) - 1
            self.collection.update_one(
                {"_id": self.some_id(number)}, {"$set": {f"embedding.{last}": float(value)}}
            )

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0), role=roles, topic=topics)
    def change_fields(self, number: int, role: Any, topic: Any) -> None:
        """What filters ask for is set, or taken away; of a nested field only itself."""
        row_id = self.some_id(number)
        row, now = self.rows[row_id], fields(role, topic)
        row.pop("role", None)
        row |= {name: value for name, value in now.items() if name == "role"}
        row["metadata"] = {**row.get("metadata", {})}
        row["metadata"].pop("topic", None)
        change: dict[str, Any] = {"$set": {}, "$unset": {}}
        if "role" in now:
            change["$set"]["role"] = role
        else:
            change["$unset"]["role"] = 1
        if "metadata" in now:
            row["metadata"]["topic"] = change["$set"]["metadata.topic"] = topic
        else:
            change["$unset"]["metadata.topic"] = 1
        self.collection.update_one({"_id": row_id}, {k: v for k, v in change.items() if v})

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0))
    def truncate_a_list(self, number: int) -> None:
        """An update by a pipeline may come as a list made shorter."""
        row_id = self.some_id(number)
        row = self.rows[row_id]
        if isinstance(row.get("role"), list):
            row["role"] = row["role"][:1]
            self.collection.update_one(
                {"_id": row_id}, [{"$set": {"role": {"$slice": ["$role", 1]}}}]
            )

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0), tenant=tenants, user=users)
    def move(self, number: int, tenant: str, user: str | None) -> None:
        """A row goes to another tenant."""
        row_id = self.some_id(number)
        self.rows[row_id].update(memory_id=tenant, user_id=user)
        self.collection.update_one(
            {"_id": row_id}, {"$set": {"memory_id": tenant, "user_id": user}}
        )

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0), expiry=expiries)
    def expire(self, number: int, expiry: Any) -> None:
        """A row is to end, or no longer is."""
        row_id = self.some_id(number)
        self.rows[row_id].pop("expires_at", None)
        if expiry == "missing":
            self.collection.update_one({"_id": row_id}, {"$unset": {"expires_at": 1}})
        else:
            self.rows[row_id]["expires_at"] = moment(expiry)
            self.collection.update_one({"_id": row_id}, {"$set": {"expires_at": moment(expiry)}})

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0), tenant=tenants, value=stored, role=roles, topic=topics)
    def replace(self, number: int, tenant: str, value: Any, role: Any, topic: Any) -> None:
        """The whole row is another."""
        row_id = self.some_id(number)
        self.rows[row_id] = {"memory_id": tenant, "embedding": value, **fields(role, topic)}
        self.collection.replace_one({"_id": row_id}, self.rows[row_id])

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0))
    def delete(self, number: int) -> None:
        """A row goes."""
        row_id = self.some_id(number)
        del self.rows[row_id]
        self.collection.delete_one({"_id": row_id})

    @rule(how=st.sampled_from(["drop", "rename", "database"]), chance=st.integers(0, 5))
    def lose_everything(self, how: str, chance: int) -> None:
        """Now and then the collection goes, in one of three ways."""
        if chance or not self.rows:
            return
        if how == "drop":
            self.collection.drop()
        elif how == "rename":
            self.collection.rename("elsewhere", dropTarget=True)
        else:
            self.client.drop_database(self.db_name)
        self.rows.clear()

    @rule(
        by=st.integers(0, 1),
        tenant=tenants,
        user=st.sampled_from([*USERS, "unset"]),
        query=good,
        limit=st.integers(1, 6),
        wanted=filters,
    )
    def search(
        self, *, by: int, tenant: str, user: str | None, query: Any, limit: int, wanted: Any
    ) -> None:
        """Once the stream has brought everything, a search is what numpy says of the model."""
        expected = self.expected(tenant, user, query, wanted)
        scope = {} if user == "unset" else {"user_id": user}
        asked = {"memory_id": tenant, "limit": limit, "filter": wanted, **scope}
        self.runner.run(self.compare(self.providers[by], list(query), asked, expected))

    async def compare(
        self,
        provider: AsyncMongoDBProvider,
        query: list[int],
        asked: dict[str, Any],
        expectation: tuple[dict[str, float], set[str], bool],
    ) -> None:
        session = await session_of(provider)
        assert await session.residents.caught_up(Deadline.after(30_000))
        expected, bad, in_memory = expectation
        limit = asked["limit"]
        try:
            hits = await provider.retrieve_memory_units_by_query_async(
                None, query, memory_type=KB, **asked
            )
        except StoredEmbeddingError as error:
            assert not expected
            assert error.count == len(bad)
            assert set(error.rows) <= bad
            return
        assert len(hits) == min(limit, len(expected))
        assert len({hit["_id"] for hit in hits}) == len(hits)
        best = sorted(expected.values(), reverse=True)[:limit]
        assert [hit["score"] for hit in hits] == pytest.approx(best, abs=1e-5)
        for hit in hits:
            assert hit["score"] == pytest.approx(expected[hit["_id"]], abs=1e-5)
        if hits:
            assert hits.strategy == ("resident" if in_memory else "scan")
        assert (hits.unsearchable.count if hits.unsearchable else 0) == len(bad)
        if hits.unsearchable:
            assert set(hits.unsearchable.rows) <= bad
        by_server = await provider.retrieve_memory_units_by_query_async(
            None, query, memory_type=KB, consistency="strong", **asked
        )
        ranked = [[(hit["_id"], hit["score"]) for hit in each] for each in (hits, by_server)]
        assert ranked[0] == ranked[1]
        assert str(hits.unsearchable) == str(by_server.unsearchable)

    def expected(
        self, tenant: str, user: Any, query: Any, wanted: Any
    ) -> tuple[dict[str, float], set[str], bool]:
        """The score of each row found, the rows that have none, and whether memory can tell."""
        scores, bad, in_memory = {}, set(), True
        by_role = "role" in set(standin.parse_filter(wanted or {}, "filter").paths())
        asked = np.asarray(query, np.float64)
        for row_id, row in self.rows.items():
            whose = row.get("user_id")
            mine = user in ("unset", whose) or (user is not None and whose is None)
            until = row.get("expires_at")
            alive = f"({PAST})" not in repr(until)  # what is no date never ends
            if row["memory_id"] != tenant or not mine or not alive or row["embedding"] is None:
                continue
            if by_role and row.get("role") == UNKEPT:
                in_memory = False
            if not passes(row_id, row, wanted):
                continue
            try:
                vector = stored_vector(row["embedding"]).astype(np.float64)
            except (TypeError, ValueError):
                vector = np.zeros(3)
            if vector.shape != (3,) or not np.isfinite(vector).all() or not vector.any():
                bad.add(row_id)
                continue
            cosine = vector @ asked / (np.linalg.norm(vector) * np.linalg.norm(asked))
            scores[row_id] = (1 + cosine) / 2
        return scores, bad, in_memory

    @invariant()
    def bytes_are_counted(self) -> None:
        """What is said of the memory in use is the sum of what is there."""

        async def check() -> None:
            for provider in self.providers:
                held = (await session_of(provider)).residents.held
                assert held.nbytes == sum(held._sizes.values()) >= 0
                assert set(held._sizes) >= set(held._serving.values())
                assert all(scope.nbytes == size for scope, size in held._sizes.items())

        if hasattr(self, "providers"):
            self.runner.run(check())


def test_a_search_in_memory_answers_as_a_model_of_the_rows(
    mongod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random inserts, updates, moves, expiries, deletes and drops, from three writers, searched by
    random filters.
    """
    monkeypatch.setattr(change_stream, "CHANGES_WAIT_MS", 20)
    monkeypatch.setattr(Residents, "uri", mongod.uri)
    run_state_machine_as_test(
        Residents,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.generate,),  # making an example smaller would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
