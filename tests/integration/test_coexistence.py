"""What is there already, and what a user may not do: recall answers in the best permitted way."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymongo
import pytest
from support.embedder import CountingEmbedder
from support.internals import session_of
from support.standalone import direct, replica_set

from memorizz_async import (
    AsyncMongoDBProvider,
    AuthenticationError,
    DatabaseError,
    MemoryType,
    MongoDBConfig,
    UnsupportedOperationError,
    WriteError,
)
from memorizz_async.deadline import Deadline
from memorizz_async.results import Hits

KB = MemoryType.LONG_TERM_MEMORY
COLLECTIONS = {"LONG_TERM_MEMORY": "facts", "CONVERSATION_MEMORY": "turns"}
SECRET = "zebra-stripes"


@pytest.fixture
def config(mongod: Any, db_name: str) -> MongoDBConfig:
    """A database of the test's own."""
    return MongoDBConfig(mongod.uri, db_name, driver="pymongo", collections=COLLECTIONS)


@pytest.fixture
def database(mongod: Any, db_name: str) -> Iterator[Any]:
    """The same database, as another program has it."""
    with pymongo.MongoClient(mongod.uri, tz_aware=True) as client:
        yield client[db_name]


def opened(config: MongoDBConfig, **changes: Any) -> AsyncMongoDBProvider:
    return AsyncMongoDBProvider(replace(config, **changes), embedding_provider=CountingEmbedder())


async def recalled(provider: AsyncMongoDBProvider, text: str = "bees", **options: Any) -> Hits:
    return await provider.retrieve_memory_units_by_query_async(text, memory_id="ada", **options)


def contents(hits: Hits) -> set[str]:
    return {hit["content"] for hit in hits}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("memorizz_async") and record.levelno >= logging.WARNING
    ]


# -- text indexes -----------------------------------------------------------------------------

UNUSABLE: dict[str, tuple[list[tuple[str, Any]], dict[str, Any], str]] = {
    "hidden": ([("memory_id", 1), ("content", "text")], {"hidden": True}, "is hidden"),
    "partial": (
        [("content", "text")],
        {"partialFilterExpression": {"kind": "note"}},
        "only a part of the rows",
    ),
    "prefix": ([("kind", 1), ("content", "text")], {}, "begins with kind"),
    "other field": ([("title", "text")], {}, "does not cover 'content'"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_a_text_index_that_cannot_serve_is_gone_without(
    config: MongoDBConfig, database: Any, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Vectors answer where no mode is named, with one line; a named mode is refused, with why."""
    keys, options, reason = UNUSABLE[case]
    database.facts.create_index(keys, name="theirs", **options)
    async with opened(config) as provider:
        await provider.store_many_async(["bees on the roof", "nuts"], KB, memory_id="ada")
        for number in range(3):
            hits = await recalled(provider, f"bees {number}")
            assert len(hits) == 2
            assert hits.mode == "vector"
        assert [reason in line for line in warnings(caplog)] == [True]
        for mode in ("hybrid", "text"):
            with pytest.raises(UnsupportedOperationError, match=reason):
                await recalled(provider, mode=mode)
        report = await provider.ensure_indexes_async([KB])
        assert report.text["facts"] == "other: theirs (english)"
        assert reason in report.skipped["facts"]["memorizz_text"]


@pytest.mark.parametrize(
    "keys",
    [[("content", "text")], [("$**", "text")], [("memory_id", 1), ("content", "text")]],
    ids=["content", "wildcard", "by tenant"],
)
async def test_a_text_index_of_somebody_elses_that_covers_the_content_serves(
    config: MongoDBConfig, database: Any, keys: list[tuple[str, Any]]
) -> None:
    """In whatever language, with whatever weights."""
    options: dict[str, Any] = {"default_language": "german"}
    database.facts.create_index(keys, **options)
    async with opened(config) as provider:
        await provider.store_many_async(["bees on the roof", "nuts"], KB, memory_id="ada")
        assert contents(await recalled(provider, mode="text")) == {"bees on the roof"}
        assert (await recalled(provider)).mode == "hybrid"


@pytest.mark.parametrize("change", ["hidden", "dropped"])
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_text_index_that_stops_serving_is_noticed_by_the_next_recall(
    config: MongoDBConfig, database: Any, change: str, driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """That recall goes without it already, and none is refused."""
    async with opened(config, driver=driver) as provider:
        await provider.ensure_indexes_async([KB])
        await provider.store_many_async(["bees on the roof", "nuts"], KB, memory_id="ada")
        assert (await recalled(provider)).mode == "hybrid"
        if change == "hidden":
            index = {"name": "memorizz_text", "hidden": True}
            database.command("collMod", "facts", index=index)
        else:
            database.facts.drop_index("memorizz_text")
        for _ in range(2):
            hits = await recalled(provider)
            assert len(hits) == 2
            assert hits.mode == "vector"
        assert len(warnings(caplog)) == 1


# -- ordinary indexes -------------------------------------------------------------------------

SESSION = [("memory_id", 1), ("session_id", 1), ("turn", -1)]
THEIRS: dict[str, tuple[list[tuple[str, Any]], dict[str, Any], str | None, str | None]] = {
    # the user's keys and options; the index that is to serve in place of ours; or why none does
    "name, other fields": ([("q", 1)], {"name": "session"}, "memorizz_session", None),
    "fields, other name": (SESSION, {"name": "theirs"}, "theirs", None),
    "same fields, sparse": (SESSION, {"name": "session", "sparse": True}, "memorizz_session", None),
    "same fields, unique": (SESSION, {"name": "theirs", "unique": True}, "session", None),
    "same fields, hidden": (SESSION, {"name": "theirs", "hidden": True}, None, "differs in hidden"),
    "expiry later": (
        [("expires_at", 1)],
        {"name": "expiry", "expireAfterSeconds": 60},
        None,
        "differs in expireAfterSeconds",
    ),
    "no expiry": (
        [("expires_at", 1)], {"name": "theirs"}, None, "differs in expireAfterSeconds",
    ),
    "the same expiry": (
        [("expires_at", 1)], {"name": "theirs", "expireAfterSeconds": 0}, "theirs", None,
    ),
    "expiry partial": (
        [("expires_at", 1)],
        {"name": "expiry", "partialFilterExpression": {"a": 1}},
        "memorizz_expiry",
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", THEIRS)
async def test_indexes_that_are_there_stay_and_the_rest_is_made(
    config: MongoDBConfig, database: Any, case: str
) -> None:
    """The report names what serves in place of ours, or why nothing does."""
    keys, options, serves, reason = THEIRS[case]
    database.turns.create_index(keys, **options)
    before = database.turns.index_information()
    async with opened(config) as provider:
        report = await provider.ensure_indexes_async([MemoryType.CONVERSATION_MEMORY])
        again = await provider.ensure_indexes_async([MemoryType.CONVERSATION_MEMORY])
    after = database.turns.index_information()
    assert before.items() <= after.items()
    ours = "expiry" if keys[0][0] == "expires_at" else "session"
    usual = ["tenant", "user", "expiry", "session", "history"]
    assert report.ordinary["turns"] == [
        name for name in (serves if one == ours else one for one in usual) if name
    ]
    assert set(report.ordinary["turns"]) <= set(after)
    skipped = report.skipped.get("turns", {})
    assert list(skipped) == ([] if reason is None else [ours])
    if reason is not None:
        assert reason in skipped[ours]
    assert report.text["turns"] == "created"
    assert (again.ordinary, again.skipped) == (report.ordinary, report.skipped)


async def test_our_text_index_gets_another_name_where_its_own_is_taken(
    config: MongoDBConfig, database: Any
) -> None:
    """By an index that is no text index; and it serves."""
    database.facts.create_index([("q", 1)], name="memorizz_text")
    async with opened(config) as provider:
        assert (await provider.ensure_indexes_async([KB])).text["facts"] == "created"
        assert (await provider.ensure_indexes_async([KB])).text["facts"] == "present"
        await provider.store_async("bees", KB, memory_id="ada")
        assert (await recalled(provider, mode="text"))[0]["content"] == "bees"


async def test_a_collection_that_is_full_of_indexes_is_reported(
    config: MongoDBConfig, database: Any
) -> None:
    """64 are the most; recall needs none of ours."""
    for number in range(62):
        database.facts.create_index([(f"f{number}", 1)])
    async with opened(config) as provider:
        report = await provider.ensure_indexes_async([KB])
        assert report.ordinary["facts"] == ["tenant"]
        assert set(report.skipped["facts"]) == {"user", "expiry", "memorizz_text"}
        await provider.store_async("bees", KB, memory_id="ada")
        assert len(await recalled(provider)) == 1


# -- what is no plain collection --------------------------------------------------------------


@pytest.fixture(params=["pymongo", "motor"])
def strategies(request: pytest.FixtureRequest, config: MongoDBConfig) -> MongoDBConfig:
    """On each driver, searching in memory where it can."""
    return replace(config, driver=request.param, search_strategy="resident")


@pytest.mark.parametrize("over", ["facts", "a view"])
async def test_a_view_is_scanned_and_never_stale(
    strategies: MongoDBConfig, database: Any, over: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody tells of its changes; that it is scanned is logged once."""
    database.create_collection("facts")
    shown: list[dict[str, Any]] = [{"$match": {"hidden": None}}]
    database.create_collection("first", viewOn="facts", pipeline=shown)
    database.create_collection(
        "public", viewOn="first" if over == "a view" else "facts", pipeline=shown
    )
    names = {"LONG_TERM_MEMORY": "public"}
    async with opened(strategies) as writer, opened(strategies, collections=names) as reader:
        await writer.store_async("bees", KB, memory_id="ada")
        for expected in ({"bees"}, {"bees", "nuts"}):
            hits = await recalled(reader)
            assert contents(hits) == expected
            assert hits.strategy == "scan"
            filtered = await recalled(reader, filter={"importance": {"$gte": 0}})
            assert contents(filtered) == expected
            await writer.store_async("nuts", KB, memory_id="ada")
        assert ["is a view" in line for line in warnings(caplog)] == [True]
        with pytest.raises(UnsupportedOperationError, match="is a view"):
            await recalled(reader, mode="text")
        report = await reader.ensure_indexes_async([KB])
        assert report.ordinary["public"] == []
        assert set(report.skipped["public"]) == {"tenant", "user", "expiry", "memorizz_text"}


async def test_a_view_that_takes_the_place_of_a_collection_is_seen(
    strategies: MongoDBConfig, database: Any
) -> None:
    """Also where nothing was, and recalls have looked already."""
    async with opened(strategies, collections={"SUMMARIES": "facts"}) as writer:
        await writer.store_async("bees", MemoryType.SUMMARIES, memory_id="ada")
        names = {"LONG_TERM_MEMORY": "public"}
        async with opened(strategies, collections=names) as reader:
            for some in ({}, {"filter": {"importance": {"$gte": 0}}}):
                assert await recalled(reader, **some) == []
            database.create_collection("public", viewOn="facts", pipeline=[])
            await writer.store_async("nuts", MemoryType.SUMMARIES, memory_id="ada")
            for some in ({}, {"filter": {"importance": {"$gte": 0}}}):
                assert contents(await recalled(reader, **some)) == {"bees", "nuts"}


async def test_a_time_series_is_recalled_from_and_never_stale(
    strategies: MongoDBConfig, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no change stream, no text index and no counts of recalls."""
    database.create_collection(
        "facts", timeseries={"timeField": "created_at", "metaField": "memory_id"}
    )
    async with opened(strategies) as provider:
        report = await provider.ensure_indexes_async([KB])
        assert set(report.skipped["facts"]) == {"expiry", "memorizz_text"}
        caplog.clear()
        await provider.store_async("bees", KB, memory_id="ada")
        assert contents(await recalled(provider)) == {"bees"}
        async with opened(strategies) as another:
            await another.store_async("nuts", KB, memory_id="ada")
        for _ in range(2):
            assert contents(await recalled(provider)) == {"bees", "nuts"}
    assert len(warnings(caplog)) == len(set(warnings(caplog)))
    assert sum("cannot be followed" in line for line in warnings(caplog)) == 1
    assert sum("recall counts" in line for line in warnings(caplog)) == 1


async def test_rows_that_a_capped_collection_has_dropped_are_not_recalled(
    strategies: MongoDBConfig, database: Any
) -> None:
    """The newest stay; memory follows."""
    database.create_collection("facts", capped=True, size=4096)
    async with opened(strategies) as provider:
        report = await provider.ensure_indexes_async([KB])
        assert list(report.skipped["facts"]) == ["expiry"]
        await provider.store_async("bees", KB, memory_id="ada")
        assert contents(await recalled(provider)) == {"bees"}
        texts = [f"{'nuts ' * 60}{number}" for number in range(20)]
        await provider.store_many_async(texts, KB, memory_id="ada")
        left = {row["content"] for row in database.facts.find()}
        assert "bees" not in left
        assert contents(await recalled(provider, "bees", limit=30)) == left


@pytest.mark.parametrize("strategy", ["scan", "resident"])
@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_collection_that_ignores_case_mixes_no_tenants(
    config: MongoDBConfig, database: Any, driver: Any, strategy: Any
) -> None:
    """Its default collation says that `ada` is `ADA`; every read and write compares exactly."""
    database.create_collection("facts", collation={"locale": "en", "strength": 2})
    database.facts.create_index([("memory_id", 1), ("user_id", 1)], name="tenant")
    async with opened(config, driver=driver, search_strategy=strategy) as provider:
        report = await provider.ensure_indexes_async([KB])
        assert report.ordinary["facts"] == ["memorizz_tenant", "user", "expiry"]
        assert report.text["facts"] == "created"
        await provider.store_async("bees", KB, memory_id="ada")
        theirs = await provider.store_async("bees of another", KB, memory_id="ADA")
        for mode in ("vector", "text", "hybrid"):
            assert contents(await recalled(provider, mode=mode)) == {"bees"}
        assert len(await provider.list_async(KB, memory_id="ada")) == 1
        assert not await provider.update_async(theirs, KB, {"note": 1}, memory_id="ada")
        assert await provider.delete_many_async(KB, memory_id="ada") == 1
        assert database.facts.count_documents({}) == 1


# -- validators -------------------------------------------------------------------------------


async def test_what_a_validator_refuses_is_an_error_that_quotes_nothing(
    config: MongoDBConfig, database: Any
) -> None:
    """It names the collection and the code."""
    database.create_collection(
        "facts", validator={"$jsonSchema": {"properties": {"title": {"bsonType": "string"}}}}
    )
    async with opened(config) as provider:
        row_id = await provider.store_async("bees", KB, memory_id="ada")
        with pytest.raises(WriteError, match="'facts'") as stored:
            await provider.store_async({"content": SECRET, "title": 7}, KB, memory_id="ada")
        assert stored.value.code == 121
        assert "validator" in str(stored.value)
        with pytest.raises(DatabaseError) as updated:
            await provider.update_async(row_id, KB, {"title": 7, "note": SECRET}, memory_id="ada")
        assert updated.value.code == 121
        for error in (stored.value, updated.value):
            assert SECRET not in str(error)
        assert contents(await recalled(provider)) == {"bees"}


async def test_counts_that_a_validator_refuses_are_logged_once(
    config: MongoDBConfig, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Recall does not depend on them."""
    async with opened(config) as provider:
        await provider.store_async("bees", KB, memory_id="ada")
        database.command("collMod", "facts", validator={"title": {"$exists": True}})
        for number in range(3):
            assert len(await recalled(provider, f"bees {number}")) == 1
            await (await session_of(provider)).tracker._write()
    assert ["recall counts of 'facts'" in line for line in warnings(caplog)] == [True]


# -- rights -----------------------------------------------------------------------------------


class Secured:
    """A database of a test's own on a server that asks who one is."""

    def __init__(self, host: str, driver: Any) -> None:
        self.name = f"test_{uuid.uuid4().hex[:12]}"
        self._host, self._driver = host, driver
        self.client: Any = pymongo.MongoClient(self._uri("root", "admin"), tz_aware=True)
        self.database = self.client[self.name]

    def _uri(self, user: str, source: str) -> str:
        return f"mongodb://{user}:pw@{self._host}/?directConnection=true&authSource={source}"

    def config(self, user: str = "root", **settings: Any) -> MongoDBConfig:
        uri = self._uri(user, "admin" if user == "root" else self.name)
        return MongoDBConfig(
            uri, self.name, driver=self._driver, collections=COLLECTIONS, **settings
        )

    def user(self, actions: Mapping[str, list[str]]) -> MongoDBConfig:
        """Of a user who may do this, by collection; "" is every collection."""
        privileges = [
            {"resource": {"db": self.name, "collection": name}, "actions": allowed}
            for name, allowed in actions.items()
        ]
        self.database.command("createRole", "some", privileges=privileges, roles=[])
        self.database.command("createUser", "some", pwd="pw", roles=["some"])
        return self.config("some")


@pytest.fixture(params=["pymongo", "motor"])
def secure(request: pytest.FixtureRequest, secured: str) -> Iterator[Secured]:
    """On each driver; root has made the indexes of `facts`, and stored two rows there."""
    made = Secured(secured, request.param)
    yield made
    for kind in ("dropAllUsersFromDatabase", "dropAllRolesFromDatabase", "dropDatabase"):
        made.database.command(kind)
    made.client.close()


async def furnished(secure: Secured) -> None:
    """Indexes and two rows, by root."""
    async with opened(secure.config()) as root:
        await root.ensure_indexes_async([KB])
        await root.store_many_async(["bees on the roof", "nuts"], KB, memory_id="ada")


async def test_a_user_who_may_only_read_recalls(
    secure: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """In memory and by words as ever; that recalls are not counted is logged once."""
    await furnished(secure)
    secure.database.command("createUser", "reader", pwd="pw", roles=["read"])
    async with opened(secure.config("reader")) as reader:
        for number in range(3):
            hits = await recalled(reader, f"bees {number}")
            assert len(hits) == 2
            assert (hits.mode, hits.strategy) == ("hybrid", "resident")
            await (await session_of(reader)).tracker._write()
    lines = warnings(caplog)
    assert ["recall counts" in line for line in lines] == [True]
    assert len(lines[0]) < 250


async def test_a_user_who_may_find_and_nothing_else_recalls(
    secure: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """By scan, and by words, though the indexes cannot be listed; each lack is logged once."""
    await furnished(secure)
    config = secure.user({"facts": ["find"]})
    for _ in range(2):  # one provider each: what one has logged, another logs, too
        caplog.clear()
        async with opened(config) as some:
            for number in range(3):
                hits = await recalled(some, f"bees {number}")
                assert len(hits) == 2
                assert (hits.mode, hits.strategy) == ("hybrid", "scan")
            with pytest.raises(AuthenticationError):
                await recalled(some, memory_type=MemoryType.SUMMARIES)
        lines = warnings(caplog)
        assert len(lines) == len({line.partition("(")[0] for line in lines})
        assert sum("no change streams" in line for line in lines) == 1
        assert sum("'embedding_models'" in line for line in lines) == 1


async def test_a_user_who_may_find_recalls_by_vectors_where_there_is_no_text_index(
    secure: Secured,
) -> None:
    """The indexes cannot be listed: `$text` says that there is none."""
    async with opened(secure.config()) as root:
        await root.store_async("bees", KB, memory_id="ada")
    async with opened(secure.user({"facts": ["find"]})) as some:
        assert (await recalled(some)).mode == "vector"
        with pytest.raises(UnsupportedOperationError):
            await recalled(some, mode="text")


async def test_indexes_of_a_user_who_may_not_create_any(secure: Secured) -> None:
    """What is there is reported; what is missing is an error that was not there in recall."""
    await furnished(secure)
    write = ["find", "insert", "update", "remove", "listIndexes"]
    config = secure.user({"": write})
    async with opened(config) as some:
        report = await some.ensure_indexes_async([KB])
        assert report.ordinary["facts"] == ["tenant", "user", "expiry"]
        assert report.text["facts"] == "present"
        with pytest.raises(AuthenticationError):
            await some.ensure_indexes_async([MemoryType.SUMMARIES])
        await some.store_async("honey", MemoryType.SUMMARIES, memory_id="ada")
        assert len(await recalled(some, memory_type=MemoryType.SUMMARIES)) == 1


async def test_a_user_who_may_not_write_our_own_collections_stores_and_recalls(
    secure: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    """Models of collections and the embedding cache are gone without, with one line each."""
    config = secure.user({"facts": ["find", "insert", "update", "listIndexes"]})
    async with opened(config, embedding_cache=True) as some:
        for number in range(3):
            await some.store_async(f"bees {number}", KB, memory_id="ada")
            assert len(await recalled(some)) == number + 1
    lines = warnings(caplog)
    assert len(lines) == len({line.partition("(")[0] for line in lines})


# -- a replica set without a majority ---------------------------------------------------------


async def test_without_a_majority_recall_scans_and_is_not_stale(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Primary and arbiter are left: writes go on, and no change stream delivers them.

    Providers that followed changes already notice; new ones do not wait for their deadline.
    """
    members = [{"priority": 2}, {"priority": 0}, {"arbiterOnly": True}]
    with replica_set(tmp_path, members) as (primary, secondary, _), direct(primary) as client:
        majority = pymongo.WriteConcern("majority", wtimeout=60_000)
        client.test.get_collection("warm", write_concern=majority).insert_one({})
        uri = f"{primary.uri}/?directConnection=true"
        configs = [
            MongoDBConfig(uri, "test", driver=driver, collections=COLLECTIONS)
            for driver in ("pymongo", "motor")
        ]
        async with opened(configs[0]) as one, opened(configs[1]) as two:
            await one.store_async("bees", KB, memory_id="ada")
            for provider in (one, two):
                assert await (await session_of(provider)).residents.caught_up(
                    Deadline.after(20_000)
                )
                assert (await recalled(provider)).strategy == "resident"
            secondary.kill()
            row = client.test.facts.find_one({"content": "bees"})
            client.test.facts.insert_one({**row, "_id": "other", "content": "nuts"})
            ends = time.monotonic() + 3.5
            for provider in (one, two):
                while contents(await recalled(provider)) != {"bees", "nuts"}:
                    assert time.monotonic() < ends, "a row that was written is not seen"
                    await asyncio.sleep(0.1)
                assert (await recalled(provider)).strategy == "scan"
        caplog.clear()
        for config in configs:
            async with opened(config) as new:
                for limit_s in (2.5, 0.5):  # the first one looks for a majority, once
                    started = time.monotonic()
                    assert len(await recalled(new)) == 2
                    assert time.monotonic() - started < limit_s
        assert sum("not delivering" in line for line in warnings(caplog)) == 2
