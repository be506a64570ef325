"""Rows change their embedding model: on every driver and kind of server."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.internals import session_of
from support.models import REFUSED, Model

from memorizz_async import (
    AsyncMongoDBProvider,
    ConfigurationError,
    EmbeddingModelMismatchError,
    InvalidInputError,
    MemoryType,
    MongoDBConfig,
    ReembedError,
    ReembedProgress,
)
from memorizz_async.memory_provider.mongodb.reembedding import one_type
from memorizz_async.vectors import stored_vector

from .conftest import Settle
from .test_models import KB, OLD, OTHER, Opened, contents, opened, put, raw

__all__ = ["opened"]

TURNS = MemoryType.CONVERSATION_MEMORY
TALK = [f"turn {number}" for number in range(7)]


@pytest.fixture(autouse=True)
def _nobody_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests do one thing at a time: nobody has to be waited for before rows change."""
    monkeypatch.setattr(one_type, "GRACE_S", 0.0)


def has(row: dict[str, Any], model: Model, text: str) -> bool:
    """Whether a row's vector is a model's of a text, and nothing is left of the change."""
    right = np.array_equal(stored_vector(row["embedding"]), model.vector(text))
    return right and row["embedding_model"] == model.model_name and "embedding_next" not in row


@pytest.mark.parametrize("dimensions", [8, 12])
async def test_every_row_of_every_type_gets_the_other_model(
    opened: Opened, settle: Settle, dimensions: int, on_atlas: bool
) -> None:
    """Turns as they were stored, with those before them; rows of memorizz, too; each once."""
    new = Model("new/x", dimensions)
    texts = [f"memory {number}" for number in range(30)]
    async with opened(OLD) as provider:
        await provider.store_many_async(texts, KB, memory_id="m")
        await provider.store_conversation_async(TALK[:4], session_id="s", memory_id="m")
        await provider.store_conversation_async(TALK[4:], session_id="s", memory_id="m")
        vector = [float(x) for x in OLD.vector("theirs")]
        row = {"memory_id": "m", "content": "theirs", "embedding": vector, "_id": "theirs"}
        await put(provider, "knowledge_base", row)
    told: list[ReembedProgress] = []
    async with opened(new, retiring_embedding_provider=OLD) as provider:
        assert (await contents(provider, texts[3], limit=2))[0] == texts[3]
        report = await provider.reembed_async(batch_size=8, progress=told.append)
        assert sorted(new.texts[1:]) == sorted(set(new.texts[1:]))  # the first is a probe
        assert report.rows == 31 + len(TALK)
        assert {one.memory_type: one.rows for one in report.types.values()} == {
            KB.name: 31,
            TURNS.name: len(TALK),
        }
        for one in report.types.values():
            assert (one.switched, one.failed_count, one.skipped) == (True, 0, 0)
            index = "present" if dimensions == 8 else "updated"
            assert one.index == (index if on_atlas else None)
        rows = await raw(provider, "knowledge_base")
        assert len(rows) == 31
        assert all(has(row, new, row["content"]) for row in rows)
        for row in await raw(provider, "conversation_memory"):
            said = row["turn"]
            whole = "\n".join([TALK[said], *TALK[max(0, said - 2) : said]])
            assert has(row, new, whole)
        await settle()
        hits = await provider.retrieve_memory_units_by_query_async(
            texts[3], memory_id="m", memory_type=KB, mode="vector"
        )
        assert hits[0]["content"] == texts[3]
        assert (hits.strategy == "atlas") == on_atlas
        await provider.store_async("later", KB, memory_id="m")
        again = await provider.reembed_async([KB])
        assert again.rows == 0
        assert again.types[KB.name].skipped == 32
    steps = [each.step for each in told if each.memory_type == KB.name]
    assert steps == sorted(steps, key=["embedding", "switching", "done"].index)
    assert all(each.rows <= each.total for each in told)
    async with opened(OLD) as provider:
        with pytest.raises(EmbeddingModelMismatchError):
            await contents(provider, "red")


async def test_nothing_is_seen_of_it_until_it_is_switched(opened: Opened, settle: Settle) -> None:
    """A run that ends before the switch leaves old vectors answering, and the next one goes on."""

    class Enough(Exception):
        """The user's own, raised by the callback."""

    def stop_half_way(told: ReembedProgress) -> None:
        if told.rows >= 20:
            raise Enough

    texts = [f"memory {number}" for number in range(40)]
    async with opened(OLD) as provider:
        await provider.store_many_async(texts, KB, memory_id="m")
        new = Model("new/8")
        with pytest.raises(Enough):
            await provider.reembed_async([KB], to=new, batch_size=5, progress=stop_half_way)
        staged = [row for row in await raw(provider, "knowledge_base") if "embedding_next" in row]
        assert 20 <= len(staged) < 40
        await settle()
        hits = await provider.retrieve_memory_units_by_query_async(
            texts[1], memory_id="m", memory_type=KB, limit=40
        )
        assert hits[0]["content"] == texts[1]
        assert len(hits) == 40
        assert not any("embedding_next" in hit for hit in hits)
        row = await provider.get_async(str(staged[0]["_id"]), KB, memory_id="m")
        assert row is not None
        assert "embedding_next" not in row
        edited = staged[0]["_id"]
        session = await session_of(provider)
        await session.driver.update_many(
            "knowledge_base",
            {"_id": edited},
            {"$set": {"content": "edited"}},
            deadline=provider._call(None).for_database(),
        )
        report = await provider.reembed_async([KB], to=new, batch_size=5)
        assert report.types[KB.name].resumed == len(staged) - 1
        assert report.rows == 40 - len(staged) + 1
        rows = await raw(provider, "knowledge_base")
        assert len(rows) == 40
        assert all(has(row, new, row["content"]) for row in rows)


async def test_a_change_that_was_begun_can_be_taken_back(opened: Opened) -> None:
    """Embedding with the model that is in force gives the other one up, and tidies up."""

    class Enough(Exception):
        """The user's own, raised by the callback."""

    def stop(told: ReembedProgress) -> None:
        if told.rows:
            raise Enough

    async with opened(OLD) as provider:
        await provider.store_many_async(["a", "b", "c"], KB, memory_id="m")
        with pytest.raises(Enough):
            await provider.reembed_async([KB], to=OTHER, batch_size=1, progress=stop)
        assert (await raw(provider, "embedding_models"))[0]["phase"] == "migrating"
        report = await provider.reembed_async([KB])
        assert report.types[KB.name].switched
        [state] = await raw(provider, "embedding_models")
        assert (state["phase"], state["model"], state["target"]) == ("active", "old/8", None)
        assert all(has(r, OLD, r["content"]) for r in await raw(provider, "knowledge_base"))


async def test_rows_without_text_leave_a_type_as_it_is_unless_told(opened: Opened) -> None:
    """They are named before anything is done; with `drop_vector` they stay, without a vector."""
    async with opened(OLD) as provider:
        await provider.store_many_async(["a", "b"], KB, memory_id="m")
        silent = {"_id": "silent", "embedding": OLD.vector("?"), "content": "  "}
        await provider.store_async(silent, KB, memory_id="m")
        await provider.store_async("s", MemoryType.SUMMARIES, memory_id="m")
        with pytest.raises(ReembedError, match=r"1 rows.*silent.*drop_vector") as caught:
            await provider.reembed_async(to=OTHER)
        types = caught.value.report.types
        assert not types[KB.name].switched
        assert types["SUMMARIES"].switched
        assert types[KB.name].without_text == 1
        assert not any("embedding_next" in row for row in await raw(provider, "knowledge_base"))
        with pytest.raises(InvalidInputError):
            await provider.reembed_async(to=OTHER, on_unembeddable="perhaps")  # type: ignore[arg-type]
        report = await provider.reembed_async(to=OTHER, on_unembeddable="drop_vector")
        assert report.types[KB.name].dropped == 1
        rows = {row["_id"]: row for row in await raw(provider, "knowledge_base")}
        assert not {"embedding", "embedding_model", "embedding_next"} & set(rows.pop("silent"))
        assert all(has(row, OTHER, row["content"]) for row in rows.values())
    async with opened(OTHER) as provider:  # a vector of the caller's own is comparable, and stays
        silent["_id"] = "own"
        await provider.store_async(silent, KB, memory_id="m")
        again = await provider.reembed_async([KB])
        assert (again.types[KB.name].without_text, again.types[KB.name].switched) == (1, True)


async def test_a_row_without_text_that_came_in_the_switch_is_named(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type is switched by then; the row stays as it was, and nobody has to find it out."""
    async with opened(OLD) as provider:
        await provider.store_async("a", KB, memory_id="m")
        settle = one_type.OneType._settle

        async def late(self: one_type.OneType) -> None:
            await settle(self)
            vector = [float(x) for x in OLD.vector("?")]
            row = {"_id": "late", "memory_id": "m", "embedding": vector}
            if not any(each["_id"] == "late" for each in await raw(provider, "knowledge_base")):
                await put(provider, "knowledge_base", row)

        monkeypatch.setattr(one_type.OneType, "_settle", late)
        with pytest.raises(ReembedError, match="late") as caught:
            await provider.reembed_async([KB], to=OTHER)
        assert caught.value.report.types[KB.name].switched
        assert "left as they are" in str(caught.value)


async def test_a_text_that_no_model_embeds_is_named_and_its_type_not_switched(
    opened: Opened,
) -> None:
    """Its neighbours in the batch are staged; mended, the next run does what is left."""
    async with opened(OLD) as provider:
        bad = {"_id": "bad", "content": REFUSED, "embedding": OLD.vector("?")}
        await provider.store_many_async(["a", bad, "b"], KB, memory_id="m")
        with pytest.raises(ReembedError, match="bad") as caught:
            await provider.reembed_async([KB], to=OTHER)
        report = caught.value.report.types[KB.name]
        assert (report.rows, report.failed_count, report.switched) == (2, 1, False)
        assert "bad" in report.failed
        assert await contents(provider, "a") != []
        session = await session_of(provider)
        await session.driver.delete_many(
            "knowledge_base", {"_id": "bad"}, deadline=provider._call(None).for_database()
        )
        again = await provider.reembed_async([KB], to=OTHER)
        assert (again.rows, again.types[KB.name].resumed) == (0, 2)
        assert all(has(r, OTHER, r["content"]) for r in await raw(provider, "knowledge_base"))


async def test_a_database_without_memories_has_nothing_to_change(opened: Opened) -> None:
    """No type, no row, no error."""
    async with opened(OTHER) as provider:
        report = await provider.reembed_async()
        assert (report.types, report.rows) == ({}, 0)


async def test_what_could_not_be_told_apart_is_refused_at_once(
    opened: Opened, config: MongoDBConfig
) -> None:
    """Another length of the same model, or another dimension than the one that is configured."""
    async with opened(OLD) as provider:
        await provider.store_async("a", KB, memory_id="m")
        with pytest.raises(ReembedError, match="another model_name"):
            await provider.reembed_async([KB], to=Model(OLD.model_name, 12))
    strict = AsyncMongoDBProvider(replace(config, dimensions=8), embedding_provider=OLD)
    async with strict as provider:
        with pytest.raises(ConfigurationError, match="12 numbers"):
            await provider.reembed_async([KB], to=Model("new/12", 12))


async def test_indexes_are_made_for_the_rows_that_are_there(opened: Opened, on_atlas: bool) -> None:
    """A provider on its way to another dimension does not spoil the index that answers."""
    async with opened(OLD) as provider:
        await provider.store_async("a", KB, memory_id="m")
    both = {"retiring_embedding_provider": OLD}
    async with opened(Model("new/12", 12), **both) as provider:
        report = await provider.ensure_indexes_async([KB, MemoryType.PERSONAS])
        made = {"knowledge_base": "present", "personas": "created"} if on_atlas else {}
        assert report.search == made
