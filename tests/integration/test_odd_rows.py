"""Odd rows in what stands on recall: units, contexts, conversations, changes of model, memorizz."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bson import Binary, Code, ObjectId
from bson.binary import BinaryVectorDtype
from pymongo import MongoClient
from support.embedder import CountingEmbedder, vector_of
from support.internals import session_of
from support.odd_rows import FAR, IDS, NOT_UTF8, VECTORS, odd_rows, write

from memorizz_async import (
    AsyncMongoDBProvider,
    ContextWindowManager,
    EmbeddingModelMismatchError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
    ReembedError,
)
from memorizz_async.deadline import Deadline
from memorizz_async.embeddings import as_embedder

KB, TURNS = MemoryType.LONG_TERM_MEMORY, MemoryType.CONVERSATION_MEMORY
ADA = {"memory_id": "ada"}
GOOD = {"bees", "cello"}
INT8 = Binary.from_vector([1] * 8, BinaryVectorDtype.INT8)


class ByLength:
    """A reranker that prefers short texts."""

    async def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """One score a text."""
        assert all(type(text) is str for text in texts)
        return [-len(text) if text else -1000 for text in texts]


def embedder() -> Any:
    return as_embedder(CountingEmbedder(), model_name="stub/1")


def ids(hits: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [hit["_id"] for hit in hits]


@pytest.fixture(params=["pymongo", "motor"])
def config(mongod: Any, db_name: str, request: pytest.FixtureRequest) -> MongoDBConfig:
    """A database of the test's own, on each driver."""
    return MongoDBConfig(mongod.uri, db_name, driver=request.param)


@pytest.fixture
async def provider(config: MongoDBConfig) -> AsyncIterator[AsyncMongoDBProvider]:
    """An open provider."""
    async with AsyncMongoDBProvider(config, embedding_provider=embedder()) as opened:
        yield opened


def contents(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["content"] for row in rows if type(row["content"]) is str}


async def test_an_agent_gets_the_good_rows(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """Its unit, its context, its reranker and its conversation, among odd rows in every field."""
    for kind in (KB, TURNS):
        await provider.store_many_async(["bees", "cello"], kind, memory_id="ada")
        await write(config, kind, odd_rows(ADA, vector_of("nuts").tolist()))
    unit = MemoryUnit(memory_provider=provider, **ADA)
    limits = {KB: 1_500, TURNS: 1_500}
    for options in ({}, {"include_embedding": True}):
        found = await unit.retrieve_all_memory_types_async("bees", limits=limits, **options)
        for kind in limits:
            assert contents(found[kind.name]) >= GOOD
            assert all(0 <= hit["memory_signal"] <= 1 for hit in found[kind.name])
    window = await ContextWindowManager(
        unit, limits=limits, candidates=1, budget=60_000, count_tokens=len
    ).build_async("bees")
    assert "- bees" in window.context
    assert "- cello" in window.context
    assert "Regex(" not in window.context
    assert "b'" not in window.context
    reranked = AsyncMongoDBProvider(config, embedding_provider=embedder(), reranker=ByLength())
    async with reranked:
        hits = await reranked.retrieve_memory_units_by_query_async("bees", limit=1_500, **ADA)
        assert contents(hits) >= GOOD
    ids = await provider.store_conversation_async(
        [{"role": "user", "content": "hi"}, {"role": "user", "content": "yes"}],
        memory_id="ada", session_id="s",
    )  # fmt: skip
    turns = [await provider.get_async(row_id, TURNS, **ADA) for row_id in ids]
    assert [turn and turn["turn"] for turn in turns] == [8, 9]  # after Decimal128("7.5")


async def test_an_odd_row_is_named_once(
    provider: AsyncMongoDBProvider, config: MongoDBConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log once, in every explanation and report, with its id and no text of it."""
    await provider.store_many_async(["bees", "cello"], KB, memory_id="ada")
    vector = vector_of("nuts").tolist()
    odd = {
        "vector": {"embedding": INT8},
        "expiry": {"embedding": vector, "expires_at": "a secret day"},
        "content": {"embedding": vector, "content": {"a": "secret"}},
        "count": {"embedding": vector, "recall_count": "secretly"},
        "time": {"embedding": vector, "timestamp": "secret times"},
    }
    rows = [{"_id": name, "content": "nuts", **ADA, **row} for name, row in odd.items()]
    await write(config, KB, rows)
    with caplog.at_level(logging.DEBUG, "memorizz_async"):
        for options in ({}, {"consistency": "strong"}, {"include_embedding": True}):
            for _ in range(2):
                hits = await provider.retrieve_memory_units_by_query_async(
                    "bees", limit=10, explain=True, **ADA, **options
                )
                assert contents(hits) >= GOOD
                assert {hit["_id"] for hit in hits} >= set(odd) - {"vector"}
                assert hits.unsearchable is not None
                assert set(hits.unsearchable.rows) == {"vector"}
                assert hits.explain is not None
                assert set(hits.explain.problems) == set(odd)
        listed = await provider.list_async(KB, include_embedding=True, **ADA)
        assert [row["embedding"] for row in listed if row["_id"] == "vector"] == [None]
        await provider.list_async(KB, include_embedding=True, **ADA)
    for name in odd:
        lines = [
            record for record in caplog.records
            if record.levelno == logging.WARNING and f"Row {name} of" in record.getMessage()
        ]  # fmt: skip
        # A vector is named by a search, which cannot compare it, and by a list, which cannot show
        # it: two reasons.
        assert len(lines) == (2 if name == "vector" else 1), name
    assert "secret" not in caplog.text


async def test_recalls_are_counted_beside_a_row_that_cannot_be(config: MongoDBConfig) -> None:
    """A `recall_count` that is text would fail the update of all."""
    for odd in ("many", None, [1], 2**63 - 1):
        async with AsyncMongoDBProvider(config, embedding_provider=embedder()) as provider:
            row = {"_id": ObjectId(), "content": "nuts", **ADA, "recall_count": odd}
            await write(config, KB, [{**row, "embedding": vector_of("bees").tolist()}])
            await provider.store_async("bees", KB, memory_id="ada")
            await provider.retrieve_memory_units_by_query_async("bees", limit=9, **ADA)
        async with AsyncMongoDBProvider(config, embedding_provider=embedder()) as provider:
            bees = await provider.list_async(KB, where={"content": "bees"}, **ADA)
            assert [row["recall_count"] for row in bees] == [1]
            await provider.delete_many_async(KB, **ADA)


async def test_an_id_that_is_not_utf8_takes_no_place(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """Its row cannot be asked for: another stands in for it, and it is named."""
    vector = vector_of("bees").tolist()
    rows = [{"_id": f"bees {n} ü", "content": "bees", **ADA, "embedding": vector} for n in range(9)]
    bad = [{**rows[0], "_id": f"bees {n} @@"} for n in range(9)]
    await write(config, KB, [*bad, *rows])
    for options in ({"consistency": "strong"}, {}):
        hits = await provider.retrieve_memory_units_by_query_async(
            "bees", limit=9, mode="vector", **ADA, **options
        )
        assert sorted(hit["_id"] for hit in hits) == [row["_id"] for row in rows]
        assert hits.unsearchable is not None
        assert hits.unsearchable.count == 9
        assert "not UTF-8" in str(hits.unsearchable)


@pytest.mark.parametrize(
    ("good", "odd"),
    [
        ("row \ufffd\ufffd", ["row @@", "@@ row", {"a": "@@"}]),
        ({"a": [{"b": "\ufffd\ufffd"}]}, [{"a": [{"b": "@@"}]}, {"@@": 1}, "@@"]),
        (Code("\ufffd\ufffd"), [Code("@@"), Code("@@", {"a": 1}), Code("f()", {"a": "@@"})]),
    ],
    ids=["text", "document", "code"],
)
@pytest.mark.parametrize("mode", ["vector", "hybrid"])
async def test_an_id_that_reads_like_anothers_is_told_apart(
    provider: AsyncMongoDBProvider,
    config: MongoDBConfig,
    good: Any,
    odd: list[Any],
    mode: Any,
) -> None:
    """Rows whose ids have text that is not UTF-8 are counted alike in memory and by a scan, and
    take neither the place nor the vector of the row whose id they seem to have.
    """
    await provider.ensure_indexes_async([KB])
    await provider.store_async("cello", KB, memory_id="ada")
    nuts = {"content": "nuts", **ADA, "embedding": vector_of("bees").tolist()}
    await write(config, KB, [{"_id": odd[0], **nuts}])  # loaded; the others come by the stream
    await provider.retrieve_memory_units_by_query_async("bees", mode=mode, **ADA)
    await write(config, KB, [{"_id": good, **nuts, "content": "bees"}])
    await write(config, KB, [{"_id": row_id, **nuts} for row_id in odd[1:]])
    session = await session_of(provider)
    assert await session.residents.caught_up(Deadline.after(10_000))
    for consistency in ("strong", "session"):
        hits = await provider.retrieve_memory_units_by_query_async(
            "bees", limit=2, mode=mode, consistency=consistency, **ADA
        )
        assert [hit["content"] for hit in hits] == ["bees", "cello"]
        assert hits.unsearchable is not None
        assert hits.unsearchable.count == 3
    assert hits.strategy == "resident"
    await provider.delete_async(good, KB, **ADA)
    for consistency in ("strong", "session"):
        hits = await provider.retrieve_memory_units_by_query_async(
            "bees", limit=2, mode="vector", consistency=consistency, **ADA
        )
        assert [hit["content"] for hit in hits] == ["cello"]
        assert hits.unsearchable is not None
        assert hits.unsearchable.count == 3


async def test_a_filter_reads_text_that_is_not_utf8_as_the_server_does(
    config: MongoDBConfig,
) -> None:
    """What Python reads as U+FFFD are other bytes to the server, and compare otherwise."""
    rows = [
        {"_id": ObjectId(), **ADA, "kind": kind, "embedding": vector_of("bees").tolist()}
        for kind in ("@@", "\ufffd\ufffd", "a", "\U0001f600", ["a", "@@"])
    ]
    conditions: list[Any] = [
        "\ufffd\ufffd", {"$ne": "\ufffd\ufffd"}, {"$gt": "\U00010000"}, {"$gte": "\uffff"},
        {"$lt": "\uffff"}, {"$in": ["a", "\ufffd\ufffd"]}, {"$nin": ["a", "\ufffd\ufffd"]},
    ]  # fmt: skip
    with_kind = replace(config, filter_fields=["kind"])
    async with AsyncMongoDBProvider(with_kind, embedding_provider=embedder()) as provider:
        for some in (rows[:2], rows[2:]):  # loaded, and brought by the change stream
            await write(config, KB, some)
            session = await session_of(provider)
            assert await session.residents.caught_up(Deadline.after(10_000))
            for condition in conditions:
                found = [
                    await provider.retrieve_memory_units_by_query_async(
                        "bees", limit=9, mode="vector", filter={"kind": condition},
                        consistency=consistency, **ADA,
                    )
                    for consistency in ("session", "strong")
                ]  # fmt: skip
                assert ids(found[0]) == ids(found[1]), condition


async def test_the_model_of_a_collection_is_what_most_rows_say(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """Not the one that happens to be first: writes of the right dimension are taken."""
    good = [
        {"content": f"bees {n}", **ADA, "embedding": vector_of(f"bees {n}").tolist()}
        for n in range(5)
    ]
    odd = [{"content": "odd", **ADA, "embedding": value} for value in VECTORS]
    await write(config, KB, [{"_id": ObjectId(), **row} for row in (*odd[-20:], *good)])
    await provider.store_async("cello", KB, memory_id="ada")
    hits = await provider.retrieve_memory_units_by_query_async("bees 1", limit=2, **ADA)
    assert hits[0]["content"] == "bees 1"


@pytest.mark.parametrize("consistency", ["session", "strong"])
@pytest.mark.parametrize("mode", ["vector", "hybrid"])
async def test_a_row_of_another_model_and_an_odd_vector_are_both_named(
    provider: AsyncMongoDBProvider, config: MongoDBConfig, mode: Any, consistency: Any
) -> None:
    """Beside good rows, and where there are none."""
    await provider.ensure_indexes_async([KB])
    await provider.store_async("bees", KB, memory_id="bob")
    await provider.store_async("bees", KB, memory_id="ada")
    for who in ("ada", "bob"):
        row = {"memory_id": who, "content": "bees", "embedding": vector_of("bees").tolist()}
        odd = [
            {**row, "_id": f"stray of {who}", "embedding_model": "other/1"},
            {**row, "_id": f"short of {who}", "embedding": [1.0] * 3},
        ]
        await write(config, KB, odd)
    hits = await provider.retrieve_memory_units_by_query_async(
        "bees", mode=mode, consistency=consistency, explain=True, **ADA
    )
    assert len(hits) == (1 if mode == "vector" else 3)
    assert hits.unsearchable is not None
    assert hits.unsearchable.count == 2
    assert hits.explain is not None
    assert set(hits.explain.problems) == {"stray of ada", "short of ada"}
    await provider.delete_many_async(KB, where={"embedding_model": "stub/1"}, memory_id="bob")
    with pytest.raises(EmbeddingModelMismatchError) as caught:
        await provider.retrieve_memory_units_by_query_async(
            "bees", memory_id="bob", mode="vector", consistency=consistency
        )
    assert set(caught.value.rows) == {"stray of bob", "short of bob"}


@pytest.mark.parametrize(("odd", "good"), [(1, 1), (3, 4), (40, 50), (40, 40)])
@pytest.mark.parametrize("odd_first", [True, False])
async def test_the_dimension_of_a_collection_does_not_hang_on_the_order_of_its_rows(
    provider: AsyncMongoDBProvider, config: MongoDBConfig, odd: int, good: int, odd_first: bool
) -> None:
    """As many odd rows as good ones do not decide either, nor does a run of them at one end."""
    rows = [
        [{"content": "odd", **ADA, "embedding": [1.0] * 5} for _ in range(odd)],
        [
            {"content": f"bees {n}", **ADA, "embedding": vector_of(f"bees {n}").tolist()}
            for n in range(good)
        ],
    ]
    for some in rows if odd_first else rows[::-1]:
        await write(config, KB, [{**row, "_id": ObjectId()} for row in some])
    await provider.store_async("cello", KB, memory_id="ada")
    hits = await provider.retrieve_memory_units_by_query_async("cello", limit=1, **ADA)
    assert contents(hits) == {"cello"}
    assert hits.unsearchable is not None
    assert hits.unsearchable.count == odd


async def test_words_answer_where_no_vector_can_be_compared(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """A row without a vector is not hidden by one whose vector is odd."""
    await provider.ensure_indexes_async([KB])
    await write(
        config, KB,
        [
            {"_id": ObjectId(), "content": "a bow for the cello", **ADA, "embedding": INT8},
            {"_id": ObjectId(), "content": "the cello is old", **ADA},
        ],
    )  # fmt: skip
    hits = await provider.retrieve_memory_units_by_query_async("cello", **ADA)
    assert contents(hits) == {"a bow for the cello", "the cello is old"}
    assert hits.mode == "text"
    assert hits.unsearchable is not None


async def test_history_with_a_limit_is_the_last_rows_in_time(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """A `timestamp` that is no time stands anywhere in the index, and hides no other row."""
    odd = list(odd_rows(ADA, None))
    await write(config, TURNS, [{**row, "created_at": -1e9} for row in odd])
    times = ["2024-01-01", 1704153600, "2024-01-03T00:00:00Z"]
    await provider.store_many_async(
        [{"content": f"turn {at}", "timestamp": time} for at, time in enumerate(times)],
        TURNS, memory_id="ada",
    )  # fmt: skip
    everything = await provider.history_async(TURNS, **ADA)
    assert len(everything) >= len(odd)
    for limit in (1, 3, 5, 12):
        latest = await provider.history_async(TURNS, limit=limit, **ADA)
        assert latest == everything[-limit:]
    assert {"turn 0", "turn 1", "turn 2"} <= contents(everything[-12:])


async def test_reembed_names_the_rows_that_it_cannot_embed(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """The others are embedded, and with the odd ones gone the switch is made."""
    await provider.store_many_async(["bees", "cello"], KB, memory_id="ada")
    turns = {"session_id": "s", **ADA}
    odd_turns = [
        {"content": f"turn {at}", "turn": turn, **turns, "embedding": vector_of("x").tolist()}
        for at, turn in enumerate((1, float("nan"), float("inf"), [1], "a", FAR, {"a": 1}, 2.5))
    ]
    rows = [
        {
            "content": "nuts",
            "embedding": INT8,
            "memory_id": {"$gt": ""},
            "turn": 1,
            "session_id": "s",
        },
        {"content": "far", "embedding": INT8, **ADA, "metadata": {"at": FAR}},
        *odd_turns,
    ]
    await write(config, KB, [{"_id": ObjectId(), **row} for row in rows])
    bad = {"_id": "bad", "content": NOT_UTF8, **ADA, "embedding": vector_of("y").tolist()}
    await write(config, KB, [bad])
    target = as_embedder(CountingEmbedder(), model_name="stub/2")
    with pytest.raises(ReembedError) as caught:
        await provider.reembed_async([KB], to=target)
    assert "row bad" in str(caught.value) or "bad" in str(caught.value)
    await provider.delete_async("bad", KB, **ADA)
    report = await provider.reembed_async([KB], to=target)
    assert report.types["LONG_TERM_MEMORY"].switched
    with pytest.raises(EmbeddingModelMismatchError):
        await provider.retrieve_memory_units_by_query_async("bees", **ADA)


async def test_an_odd_row_of_the_embedding_cache_is_computed_anew(config: MongoDBConfig) -> None:
    """The others are taken from it."""
    kept = replace(config, embedding_cache=True)
    async with AsyncMongoDBProvider(kept, embedding_provider=embedder()) as provider:
        await provider.store_many_async(["bees", "cello", "nuts"], KB, memory_id="ada")
    with MongoClient(config.uri) as client:
        cache = client[config.db_name].embedding_cache
        first = cache.find_one()
        assert first is not None
        cache.update_one({"_id": first["_id"]}, {"$set": {"vector": "text"}})
    counting = CountingEmbedder()
    again = as_embedder(counting, model_name="stub/1")
    async with AsyncMongoDBProvider(kept, embedding_provider=again) as provider:
        await provider.store_many_async(["bees", "cello", "nuts"], KB, memory_id="ada")
    assert len(counting.texts) == 1


async def test_uuids_of_the_address_hide_no_row(config: MongoDBConfig) -> None:
    """One of another length than 16 bytes cannot be decoded as a UUID: then none is."""
    wanted = replace(config, uri=f"{config.uri}&uuidRepresentation=standard")
    rows = [
        {"_id": Binary(b"0" * 16, 4), "content": "bees", "tag": Binary(b"1" * 16, 4)},
        {"_id": "short", "content": "nuts", "tag": Binary(b"abc", 4)},
    ]
    vector = vector_of("bees").tolist()
    async with AsyncMongoDBProvider(wanted, embedding_provider=embedder()) as provider:
        await provider.ensure_indexes_async([KB])
        await write(config, KB, [{**row, **ADA, "embedding": vector} for row in rows])
        for mode in ("vector", "hybrid", "text"):
            hits = await provider.retrieve_memory_units_by_query_async(
                "bees nuts", mode=mode, **ADA
            )
            assert contents(hits) == {"bees", "nuts"}
        assert len(await provider.list_async(KB, **ADA)) == 2


async def test_rows_with_odd_ids_come(
    provider: AsyncMongoDBProvider, config: MongoDBConfig
) -> None:
    """Of every type of BSON, in memory and by scan."""
    vector = vector_of("bees").tolist()
    ids = [row_id for row_id in IDS if row_id != NOT_UTF8]
    await write(config, KB, [{"_id": i, "content": "x", **ADA, "embedding": vector} for i in ids])
    for options in ({"consistency": "strong"}, {}):
        hits = await provider.retrieve_memory_units_by_query_async("x", limit=99, **ADA, **options)
        assert len(hits) == len(ids)
    assert len(await provider.list_async(KB, **ADA)) == len(ids)
    assert np.isfinite([hit["score"] for hit in hits]).all()
