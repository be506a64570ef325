"""Whatever is written comes back as it was, or is refused by an error of ours before anything is
written; and the rows beside it always come back.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bson_values import KEYS, STORABLE, VALUES, as_read, same
from support.embedder import CountingEmbedder, vector_of

from memorizz_async import AsyncMongoDBProvider, MemoryUnit, MongoDBConfig
from memorizz_async.enums import MemoryType
from memorizz_async.errors import (
    DatabaseError,
    InvalidInputError,
    StoredEmbeddingError,
)
from memorizz_async.memory_provider.mongodb.fields import RESULT_NAMES

Row = dict[str, Any]
KIND = MemoryType.CONVERSATION_MEMORY
NOW = datetime.now(UTC).replace(microsecond=0)
BESIDE = ("a kite in the wind", "a boat on the lake")

KNOWN: dict[str, list[Any]] = {
    "content": ["some words", "", "  ", 5, None],
    "expires_at": [NOW + timedelta(days=9), NOW - timedelta(days=9), "2099-01-01", 4e9, None],
    "importance": [0, 0.25, 1, 7, float("nan"), "high", True, None],
    "created_at": [NOW, "2026-01-01", 5, None],
    "updated_at": [NOW, "2026-01-01"],
    "timestamp": [NOW, "2026-01-01T10:00:00Z", 1_700_000_000, float("inf"), True],
    "metadata": [{"topic": "tea"}, [], "tea", None],
    "tags": [["a", "b"], "ab", [1], None],
    "session_id": ["s", "", 5, None],
    "dedup_key": ["k", "", 5, None],
    "embedding": [vector_of("x").tolist(), [1.0, 2.0], [float("nan")] * 8, "vector", [], None],
    "embedding_model": ["m/1", "", 5, None],
    "recall_count": [3, -1, "3", None, 2**60],
    "access_count": [3, "3", None],
    "last_recalled_at": [NOW, "2026-01-01", None],
    "turn": [3, 2**31, "3", float("nan"), None],
    "context": ["words around", ["words"], None],
    "memory_type": ["CONVERSATION_MEMORY", "conversation_memory", "mine"],
    "_id": ["", 5, None, {"a": 1}],
    "user_id": ["u", "", 5, {"$gt": ""}, None],
    "embedding_next": [{"model": "m", "embedding": [1.0]}],
    "_memorizz_score": [1.0],
    "stored_fields": [{"score": 1}, "mine"],
    **{name: ["mine", 0.5] for name in ("score", "text_score", "fused_score", "memory_signal")},
}
GOOD = {
    "expires_at": KNOWN["expires_at"][:2],
    "importance": [0, 0.25, 1],
    "timestamp": KNOWN["timestamp"][:3],
    "metadata": [{"topic": "tea"}],
    "tags": [["a", "b"]],
    "session_id": ["s"],
    "recall_count": [3],
    "last_recalled_at": [NOW],
    "embedding": KNOWN["embedding"][:1],
    "created_at": [NOW],
}


def drawn_from(table: dict[str, list[Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.sampled_from([(name, value) for name, several in table.items() for value in several])


good = st.one_of(
    drawn_from(GOOD), st.tuples(st.sampled_from(["note", "steps", "naïve", "mood"]), STORABLE)
)
any_name = st.one_of(
    st.sampled_from(list(KNOWN)),
    st.sampled_from(["note.part", "metadata.topic", "steps.0", "expires_at.x", "note.a.b"]),
    st.sampled_from(["$set", "", "a..b", "a.$", "x\0y", "note", "steps"]),
    KEYS,
)
bad = st.one_of(drawn_from(KNOWN), st.tuples(any_name, VALUES))
documents = st.builds(
    lambda goods, bads, content: {**content, **dict(goods), **dict(bads)},
    st.lists(good, max_size=3),
    st.one_of(st.just([]), st.just([]), st.lists(bad, min_size=1, max_size=2)),
    st.sampled_from([{"content": "words of its own"}] * 3 + [{}]),
)
WAYS = (
    "store", "store_many", "conversation", "put", "put_many", "update", "update_record",
    "update_many", "swap", "upsert", "upsert_record",
)  # fmt: skip


@dataclass
class Writer:
    """One provider on a loop of its own, and the ways of writing through it."""

    provider: AsyncMongoDBProvider
    runner: asyncio.Runner

    async def write(self, way: str, document: Row, memory_id: str) -> str:
        """The id of the row that was written or changed."""
        base = f"base-{memory_id}"
        to, mine = self.provider, {"memory_id": memory_id}
        if way == "store":
            return await to.store_async(document, KIND, **mine)
        if way == "store_many":
            return (await to.store_many_async([document, "one more"], KIND, **mine))[0]
        if way == "conversation":
            [row_id] = await to.store_conversation_async([document], KIND, session_id="s", **mine)
            return row_id
        if way == "put":
            return await to.put_async(document, KIND, **mine)
        if way == "put_many":
            return (await to.put_many_async([document, {"note": "one more"}], KIND, **mine))[0]
        if way == "update_many":
            await to.update_many_async(KIND, document, where={"base": True}, **mine)
        elif way == "swap":
            assert await to.compare_and_swap_async(base, KIND, {"base": True}, document, **mine)
        elif way in ("upsert", "upsert_record"):
            record = way == "upsert_record"
            await to.upsert_async(KIND, {"base": True}, document, as_record=record, **mine)
        else:
            record = way == "update_record"
            assert await to.update_async(base, KIND, document, as_record=record, **mine)
        return base

    async def rows(self, memory_id: str) -> dict[str, Row]:
        """Every row, as it is stored."""
        rows = await self.provider.list_async(
            KIND, memory_id=memory_id, include_expired=True, as_stored=True
        )
        return {row["_id"]: row for row in rows}

    async def check(self, way: str, document: Row) -> None:
        memory_id = uuid.uuid4().hex
        mine = {"memory_id": memory_id}
        beside = await self.provider.store_many_async(BESIDE, KIND, **mine)
        base = {"content": "what was there", "base": True, "steps": [0, 1], "note": {"part": 0}}
        await self.provider.put_async(
            {"_id": f"base-{memory_id}", "metadata": {}, **base}, KIND, **mine
        )
        before = await self.rows(memory_id)
        try:
            row_id = await self.write(way, document, memory_id)
        except (InvalidInputError, StoredEmbeddingError, DatabaseError):
            assert await self.rows(memory_id) == before
        else:
            row = (await self.rows(memory_id)).get(row_id, {})
            if not row:  # the server has deleted it: its time is over
                assert document["expires_at"] < NOW
                document = {}
            for name, value in document.items():
                if name not in ("_id", "embedding"):
                    assert same(at(row, name), as_read(value)), name
            if (row.get("expires_at") or NOW) >= NOW and row:
                await self.check_shown(way, document, row_id, row, mine)
        await self.check_beside(beside, mine)
        await self.provider.delete_many_async(KIND, **mine)

    async def check_shown(self, way: str, document: Row, row_id: str, row: Row, mine: Row) -> None:
        """A row that was written is shown by every read."""
        shown = await self.provider.get_async(row_id, KIND, **mine)
        assert shown is not None
        assert row_id in {each["_id"] for each in await self.provider.list_async(KIND, **mine)}
        if way.startswith("put") or way.endswith("record") or way.startswith("up"):
            return
        history = await self.provider.history_async(KIND, **mine)
        assert row_id in {each["_id"] for each in history}
        unit = MemoryUnit(memory_provider=self.provider)
        found = await unit.retrieve_all_memory_types_async(
            document.get("content") or "x", limits={KIND: 50}, consistency="strong", **mine
        )
        if way == "swap" and row.get("embedding_model") is None:
            return
        [hit] = [each for each in found[KIND] if each["_id"] == row_id]
        for name, value in document.items():
            if name not in (*RESULT_NAMES, "embedding", "_id", "content", "recall_count"):
                assert same(at(hit, name), as_read(value)), name

    async def check_beside(self, beside: list[str], mine: Row) -> None:
        unit = MemoryUnit(memory_provider=self.provider)
        for text, row_id in zip(BESIDE, beside, strict=True):
            for consistency in ("session", "strong"):
                found = await unit.retrieve_all_memory_types_async(
                    text, limits={KIND: 1}, consistency=consistency, **mine
                )
                assert [hit["_id"] for hit in found[KIND]] == [row_id]
        for rows in (
            await self.provider.list_async(KIND, **mine),
            await self.provider.history_async(KIND, **mine),
            await self.provider.list_async(KIND, ids=beside, **mine),
        ):
            assert set(beside) <= {row["_id"] for row in rows}


def at(row: Any, path: str) -> Any:
    """The value at a path."""
    for part in path.split("."):
        row = row[int(part)] if isinstance(row, list) else row[part]
    return row


@pytest.fixture(params=["pymongo", "motor", "memory"])
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    """Over each driver; UUIDs can be written on the first."""
    config = MongoDBConfig("memory://", "test")
    if request.param != "memory":
        uri = request.getfixturevalue("mongod").uri
        uri += "&uuidRepresentation=standard" if request.param == "pymongo" else ""
        config = MongoDBConfig(uri, request.getfixturevalue("db_name"), driver=request.param)
    with asyncio.Runner() as runner:
        provider = AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder())
        if request.param != "memory":
            runner.run(provider.ensure_indexes_async([KIND]))
        try:
            yield Writer(provider, runner)
        finally:
            runner.run(provider.close_async())


EXAMPLES = {"pymongo": 60, "motor": 15, "memory": 30}


def test_what_is_written_comes_back_or_is_refused(
    writer: Writer, request: pytest.FixtureRequest
) -> None:
    """By every way of writing and every way of reading."""
    examples = EXAMPLES[request.node.callspec.params["writer"]]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.sampled_from(WAYS), documents)
    def check(way: str, document: Row) -> None:
        writer.runner.run(writer.check(way, document))

    check()
