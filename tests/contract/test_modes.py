"""Recall by words, by vectors, and by both: one scope, one deadline, clear errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from support.embedder import CountingEmbedder, vector_of
from support.internals import session_of

from memorizz_async import (
    AsyncMongoDBProvider,
    DatabaseError,
    EmbeddingError,
    InvalidInputError,
    InvalidQueryError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
    OperationTimeoutError,
    UnsupportedOperationError,
)
from memorizz_async.memory_provider.mongodb.scope import UNSET

KB = MemoryType.LONG_TERM_MEMORY
PLACES = ["a red door in Lisbon", "the blue door in Oslo", "a red boat in Oslo", "nothing at all"]


@pytest.fixture
async def indexed(
    provider: AsyncMongoDBProvider, backend: str
) -> AsyncIterator[AsyncMongoDBProvider]:
    """A provider of a server with the text index of the knowledge base."""
    report = await provider.ensure_indexes_async([KB])
    assert report.text["knowledge_base"] in ("created", "present")
    yield provider


async def found(provider: AsyncMongoDBProvider, query: str, **changes: Any) -> list[str]:
    arguments = {"memory_id": "m", "memory_type": KB, **changes}
    hits = await provider.retrieve_memory_units_by_query_async(query, **arguments)
    return [hit["content"] for hit in hits]


async def test_the_default_is_hybrid_where_there_is_a_text_index(
    provider: AsyncMongoDBProvider, backend: str, on_atlas: bool, strategy: str
) -> None:
    """Vectors before ensure_indexes_async, and on memory://; both after it, given a text."""
    await provider.store_many_async(PLACES, KB, memory_id="m")
    ask = provider.retrieve_memory_units_by_query_async
    assert (await ask("red", None, "m", KB)).mode == "vector"
    report = await provider.ensure_indexes_async([KB])
    hits = await ask("red", None, "m", KB)
    if backend == "memory":
        assert report.text == {}
        assert hits.mode == "vector"
        return
    assert hits.mode == "hybrid"
    assert on_atlas or hits.strategy == strategy
    assert (await ask(None, vector_of("red"), "m", KB)).mode == "vector"
    assert (await ask("red", vector_of("red"), "m", KB)).mode == "hybrid"
    assert (await ask("red", None, "m", KB, mode="vector")).mode == "vector"
    assert (await provider.ensure_indexes_async([KB])).text == {"knowledge_base": "present"}


@pytest.mark.parametrize("mode", ["vector", "hybrid", "text"])
async def test_what_a_row_has_under_the_name_of_a_score_is_not_lost(
    indexed: AsyncMongoDBProvider, mode: Any, settle: Any
) -> None:
    """Another program's row: the hit's names are the search's, its own values stand beside them."""
    own = {"score": "own", "text_score": 7, "fused_score": None, "memory_signal": [1]}
    row = {"content": "a red door", "memory_type": "theirs", "stored_fields": {"a": 1}, **own}
    vector = vector_of("a red door").tolist()
    await indexed.put_async({"_id": "r", "embedding": vector, **row}, KB, memory_id="m")
    await settle()
    unit = MemoryUnit(memory_provider=indexed)
    results = await unit.retrieve_all_memory_types_async(
        "a red door", "m", limits={KB: 1}, mode=mode
    )
    [hit] = results[KB]
    assert hit["stored_fields"] == {name: row[name] for name in row if name != "content"}
    assert isinstance(hit["score"], float) and isinstance(hit["memory_signal"], float)
    assert isinstance(hit["text_score"], float) if mode != "vector" else "text_score" not in hit
    assert (await indexed.get_async("r", KB, memory_id="m"))["score"] == "own"  # type: ignore[index]


@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_without_a_text_index_asking_for_words_is_a_clear_error(
    provider: AsyncMongoDBProvider, mode: Any
) -> None:
    """It names what to run; nothing is silently searched otherwise."""
    await provider.store_async("a", KB, memory_id="m")
    with pytest.raises(UnsupportedOperationError, match="ensure_indexes_async"):
        await found(provider, "a", mode=mode)


async def test_a_mode_that_cannot_work_is_refused_before_anything_is_sent(
    provider: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """Another word, and words to search without a text."""
    with pytest.raises(InvalidInputError, match="hybrid, vector, text"):
        await found(provider, "a", mode="both")
    for mode in ("hybrid", "text"):
        with pytest.raises(InvalidQueryError):
            await provider.retrieve_memory_units_by_query_async(None, [1.0] * 8, "m", KB, mode=mode)
    assert embedder.texts == []


async def test_hybrid_scores_are_those_of_numpy(
    indexed: AsyncMongoDBProvider, settle: Callable[[], Awaitable[None]]
) -> None:
    """`score` is the vector's, `text_score` MongoDB's; their standard scores make the order."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    await settle()  # an index and the exact search round the last bit of a score differently
    ask = indexed.retrieve_memory_units_by_query_async
    vector = {h["_id"]: h["score"] for h in await ask("red door", None, "m", KB, mode="vector")}
    text = {h["_id"]: h["text_score"] for h in await ask("red door", None, "m", KB, mode="text")}
    hits = await ask("red door", None, "m", KB)
    assert len(vector) == 4
    assert len(text) == 3
    ids = list(vector)
    both = np.array([[vector[i], text.get(i, 0.0)] for i in ids])
    fused = ((both - both.mean(axis=0)) / both.std(axis=0)).sum(axis=1)
    assert [hit["_id"] for hit in hits] == [ids[at] for at in np.argsort(-fused)]
    for hit in hits:
        assert hit["score"] == vector[hit["_id"]]
        assert hit["text_score"] == text.get(hit["_id"], 0.0)
        assert hit["fused_score"] == pytest.approx(fused[ids.index(hit["_id"])], abs=1e-6)
        assert "embedding" not in hit


async def test_rows_found_by_words_alone_have_their_vectors_score(
    indexed: AsyncMongoDBProvider,
) -> None:
    """Beyond the nearest candidates a word still finds its row, scored as if it were near."""
    query, aside = vector_of("zebra"), vector_of("aside")
    aside -= query * (aside @ query) / (query @ query)
    near = [{"content": f"filler {n}", "embedding": query + aside * n / 40} for n in range(120)]
    far = {"content": "a zebra", "embedding": aside}
    await indexed.store_many_async([*near, far], KB, memory_id="m")
    hits = await indexed.retrieve_memory_units_by_query_async(
        "zebra", query, "m", KB, 5, include_embedding=True
    )
    assert hits[0]["content"] == "a zebra"
    assert hits[0]["text_score"] > 0
    assert hits[0]["score"] == pytest.approx(0.5, abs=1e-5)
    assert hits[0]["embedding"] == pytest.approx(aside.tolist())


async def test_a_row_without_a_vector_is_found_by_its_words(
    indexed: AsyncMongoDBProvider, insert_raw: Callable[..., Any]
) -> None:
    """It has score 0: nothing says how similar it is."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    await insert_raw("knowledge_base", {"memory_id": "m", "content": "a zebra"})
    hits = await indexed.retrieve_memory_units_by_query_async("zebra", None, "m", KB, 5)
    assert [hit["score"] for hit in hits if hit["content"] == "a zebra"] == [0.0]


async def test_text_mode_asks_no_model(
    indexed: AsyncMongoDBProvider, embedder: CountingEmbedder
) -> None:
    """Only rows with a word of the query, scored in [0, 1), and nothing embedded."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    embedder.texts.clear()
    hits = await indexed.retrieve_memory_units_by_query_async(
        "doors in oslo", memory_id="m", memory_type=KB, mode="text"
    )
    assert (hits.mode, hits.strategy) == ("text", "text")
    assert hits[0]["content"] == "the blue door in Oslo"
    assert len(hits) == 3
    assert all(0 < hit["score"] == hit["text_score"] / (1 + hit["text_score"]) for hit in hits)
    assert embedder.texts == []


@pytest.mark.parametrize("query", ['"red door" boat', "boat -red", "-boat", '"', "- -", "the of"])
@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_a_users_text_is_words_and_nothing_else(
    indexed: AsyncMongoDBProvider, query: str, mode: Any
) -> None:
    """Quotes and minus signs neither demand nor exclude; a text may have no words at all."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    texts = await found(indexed, query, mode=mode)
    if "boat" in query:
        assert "a red boat in Oslo" in texts
    if mode == "hybrid":
        assert len(texts) == 4


@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_words_find_no_row_of_another_tenant(
    indexed: AsyncMongoDBProvider, mode: Any
) -> None:
    """Over every pair of memory and user, as by vectors; also where only the user is named."""
    memories: Sequence[str | None] = ["m", "m2", None]
    users: Sequence[str | None] = ["u", "u2", None]
    kind = MemoryType.CONVERSATION_MEMORY
    await indexed.ensure_indexes_async([kind])
    for memory in memories:
        for user in users:
            await indexed.store_async(f"pear {memory} {user}", kind, memory_id=memory, user_id=user)
    for memory in memories:
        for user in users:
            scope = {"memory_id": memory, "user_id": user}
            assert await found(indexed, "pear", memory_type=kind, mode=mode, **scope) == [
                f"pear {memory} {user}"
            ]
    ask = indexed.retrieve_memory_units_by_query_async
    for user in users:
        hits = await ask("pear", memory_type=kind, user_id=user, mode=mode)
        assert {hit["memory_id"] for hit in hits} == set(memories)
        assert {hit["user_id"] for hit in hits} == {user}


async def test_agent_wide_rows_are_found_by_words_too(indexed: AsyncMongoDBProvider) -> None:
    """In the knowledge base a user sees the rows of nobody, and none of another's."""
    for user in ("u", "v", None):
        await indexed.store_async(f"pear of {user}", KB, memory_id="m", user_id=user)
    texts = await found(indexed, "pear", user_id="u", mode="text")
    assert sorted(texts) == ["pear of None", "pear of u"]


async def test_a_user_of_very_many_memories_is_searched_by_vectors(
    indexed: AsyncMongoDBProvider, settle: Any
) -> None:
    """The text index is by memory_id: asked outright it is an error, by default it is left out."""
    for number in range(17):
        await indexed.store_async(f"pear {number}", KB, memory_id=f"m{number}", user_id="u")
    await settle()
    ask = indexed.retrieve_memory_units_by_query_async
    hits = await ask("pear", memory_type=KB, user_id="u", limit=20)
    assert (hits.mode, len(hits)) == ("vector", 17)
    for mode in ("text", "hybrid"):
        with pytest.raises(UnsupportedOperationError, match="16 memory_ids"):
            await ask("pear", memory_type=KB, user_id="u", mode=mode)


@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_a_filter_holds_for_words_too(indexed: AsyncMongoDBProvider, mode: Any) -> None:
    """Rows outside it are found by neither search, whatever the scope names."""
    rows = [
        {"content": f"pear {memory} {role}", "role": role, "memory_id": memory, "user_id": "u"}
        for memory in ("m", "n")
        for role in ("user", "assistant", None)
    ]
    await indexed.store_many_async([*rows, {"content": "pear of nobody", "memory_id": "m"}], KB)
    for given, wanted in (
        ({"role": "user"}, ["pear m user"]),
        ({"role": None}, ["pear m None"]),
        ({"role": {"$ne": None}}, ["pear m assistant", "pear m user", "pear of nobody"]),
        ({"$or": [{"role": "user"}, {"user_id": None}]}, ["pear m user", "pear of nobody"]),
        ({"role": {"$in": []}}, []),
        ({"memory_id": "n"}, []),
        ({"memory_id": {"$in": ["m", "n"]}, "role": "user"}, ["pear m user"]),
    ):
        assert sorted(await found(indexed, "pear", mode=mode, filter=given)) == wanted
    of_user: dict[str, Any] = {"memory_id": UNSET, "user_id": "u", "mode": mode}
    for given, wanted in (
        ({"role": "user"}, ["pear m user", "pear n user"]),
        ({"memory_id": "n", "role": "user"}, ["pear n user"]),
        ({"memory_id": {"$ne": "n"}, "role": "user"}, ["pear m user"]),
        ({"role": "robot"}, []),
    ):
        assert sorted(await found(indexed, "pear", filter=given, **of_user)) == wanted


async def test_an_explanation_says_which_search_found_a_hit(indexed: AsyncMongoDBProvider) -> None:
    """Both with their ranks and scores, in hybrid recall; the words' alone in mode text."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    ask = indexed.retrieve_memory_units_by_query_async
    hits = await ask("red door", None, "m", KB, explain=True)
    assert hits.explain is not None
    assert "memorizz_text" in hits.explain.why
    assert {"words", "fusion"} <= set(hits.explain.steps_ms)
    by_vector = sorted((hit["score"] for hit in hits), reverse=True)
    by_words = sorted((hit["text_score"] for hit in hits if hit["text_score"]), reverse=True)
    for hit, told in zip(hits, hits.explain.hits, strict=True):
        assert (told.id, told.score) == (hit["_id"], hit["score"])
        ways = {way.how: way for way in told.found_by}
        assert ways[hits.strategy].score == hit["score"] == by_vector[ways[hits.strategy].rank - 1]
        assert ("text" in ways) == (hit["text_score"] > 0)
        if "text" in ways:
            assert ways["text"].score == hit["text_score"] == by_words[ways["text"].rank - 1]
    hits = await ask("red door", None, "m", KB, mode="text", explain=True)
    assert hits.explain is not None
    assert (hits.explain.strategy, hits.explain.index) == ("text", "memorizz_text")
    assert [[way.how for way in told.found_by] for told in hits.explain.hits] == [["text"]] * 3
    assert hits.explain.hits[0].found_by[0].score == hits[0]["text_score"]


async def test_rows_of_another_program_are_fused_too(
    indexed: AsyncMongoDBProvider, insert_raw: Callable[..., Any]
) -> None:
    """An `_id` may be a document; and an index looks at no fewer rows than hybrid recall wants."""
    embedding = vector_of("zebra").tolist()
    rows = [
        {"_id": {"part": number}, "memory_id": "m", "content": "a zebra", "embedding": embedding}
        for number in range(3)
    ]
    await insert_raw("knowledge_base", *rows)
    hits = await indexed.retrieve_memory_units_by_query_async(
        "zebra", None, "m", KB, 2, num_candidates=2
    )
    assert (hits.mode, len({str(hit["_id"]) for hit in hits})) == ("hybrid", 2)


async def test_expired_rows_are_not_found_by_words(indexed: AsyncMongoDBProvider) -> None:
    """A row whose time is over is gone at once."""
    gone = datetime.now(UTC) - timedelta(seconds=1)
    await indexed.store_async({"content": "a pear", "expires_at": gone}, KB, memory_id="m")
    assert await found(indexed, "pear", mode="text") == []
    assert await found(indexed, "pear") == []


async def test_rows_with_a_language_of_their_own_are_stored_and_found(
    indexed: AsyncMongoDBProvider,
) -> None:
    """A `language` of the user's is no instruction to the text index."""
    await indexed.store_async({"content": "two pears", "language": "tlhIngan"}, KB, memory_id="m")
    assert await found(indexed, "pear", mode="text") == ["two pears"]


@pytest.mark.needs_text
async def test_another_text_index_is_used_as_it_is_and_reported(
    provider: AsyncMongoDBProvider, backend: str
) -> None:
    """A collection can have only one: the user's stays, and serves."""
    session = await session_of(provider)
    from memorizz_async.deadline import Deadline

    deadline = Deadline.after(10_000)
    for collection, keys in {
        "knowledge_base": [("content", "text")],
        "summaries": [("tenant", 1), ("content", "text")],
    }.items():
        await session.driver.create_index(collection, keys, name="theirs", deadline=deadline)
    report = await provider.ensure_indexes_async([KB, MemoryType.SUMMARIES])
    assert set(report.text.values()) == {"other: theirs (english)"}
    await provider.store_many_async(PLACES, KB, memory_id="m", user_id="u")
    await provider.store_many_async(PLACES, MemoryType.SUMMARIES, memory_id="m")
    assert await found(provider, "boats", mode="text") == ["a red boat in Oslo"]
    hits = await provider.retrieve_memory_units_by_query_async(
        "boats", memory_type=KB, user_id="u", mode="text"
    )
    assert len(hits) == 1
    with pytest.raises(UnsupportedOperationError, match="begins with tenant"):
        await found(provider, "boats", memory_type=MemoryType.SUMMARIES, mode="text")
    hits = await provider.retrieve_memory_units_by_query_async(
        "boats", None, "m", MemoryType.SUMMARIES
    )
    assert hits.mode == "vector"


async def test_a_text_index_that_is_dropped_is_noticed(
    indexed: AsyncMongoDBProvider,
) -> None:
    """By default the vectors answer; asked outright it is an error."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    assert len(await found(indexed, "door")) == 4
    from memorizz_async.deadline import Deadline

    session = await session_of(indexed)
    drop = {"dropIndexes": "knowledge_base", "index": "memorizz_text"}
    await session.driver.command(drop, deadline=Deadline.after(10_000))
    hits = await indexed.retrieve_memory_units_by_query_async("door", None, "m", KB)
    assert hits.mode == "vector"
    with pytest.raises(UnsupportedOperationError):
        await found(indexed, "door", mode="text")


@pytest.mark.needs_text
async def test_the_language_is_a_setting(config: MongoDBConfig, backend: str) -> None:
    """German words are stemmed by German rules; a language that MongoDB lacks is its error."""
    async with AsyncMongoDBProvider(
        replace(config, text_language="german"), embedding_provider=CountingEmbedder()
    ) as provider:
        await provider.ensure_indexes_async([KB])
        await provider.store_async("zwei Häuser", KB, memory_id="m")
        assert await found(provider, "Haus", mode="text") == ["zwei Häuser"]
    async with AsyncMongoDBProvider(replace(config, text_language="klingon")) as provider:
        with pytest.raises(DatabaseError, match="klingon"):
            await provider.ensure_indexes_async([MemoryType.SUMMARIES])


@pytest.mark.needs_text
@pytest.mark.parametrize("fusion", ["zscore", "rrf"])
async def test_both_fusions_put_first_what_both_searches_prefer(
    config: MongoDBConfig, backend: str, fusion: Any
) -> None:
    """The exact text of a row, asked for, comes first either way."""
    chosen = replace(config, fusion=fusion)
    async with AsyncMongoDBProvider(chosen, embedding_provider=CountingEmbedder()) as provider:
        await provider.ensure_indexes_async([KB])
        await provider.store_many_async(PLACES, KB, memory_id="m")
        for place in PLACES[:3]:
            assert (await found(provider, place, mode="hybrid"))[0] == place


async def test_a_unit_recalls_every_type_in_the_mode(indexed: AsyncMongoDBProvider) -> None:
    """One argument for all types; types without a text index follow the default's rule."""
    await indexed.store_many_async(PLACES, KB, memory_id="m")
    await indexed.store_many_async(PLACES, MemoryType.SUMMARIES, memory_id="m")
    unit = MemoryUnit(memory_provider=indexed)
    limits = {KB: 2, MemoryType.SUMMARIES: 2}
    results = await unit.retrieve_all_memory_types_async("red", "m", limits)
    assert [results[kind].mode for kind in limits] == ["hybrid", "vector"]
    assert all(0 <= hit["memory_signal"] <= 1 for hit in results[KB])
    results = await unit.retrieve_all_memory_types_async("red", "m", limits, mode="vector")
    assert [results[kind].mode for kind in limits] == ["vector", "vector"]
    with pytest.raises(UnsupportedOperationError, match="'summaries'"):
        await unit.retrieve_all_memory_types_async("red", "m", limits, mode="hybrid")


class LongestFirst:
    """A reranker with a simple taste."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.error: Exception | None = None
        self.takes_s = 0.0

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        self.asked.append((query, len(texts)))
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return [float(len(text)) for text in texts]


async def test_a_reranker_has_the_last_word(config: MongoDBConfig) -> None:
    """It sees more rows than are wanted and orders them; without a text it is not asked."""
    reranker = LongestFirst()
    async with AsyncMongoDBProvider(
        config, embedding_provider=CountingEmbedder(), reranker=reranker
    ) as provider:
        await provider.store_many_async(["x" * n for n in range(1, 41)], KB, memory_id="m")
        hits = await provider.retrieve_memory_units_by_query_async("q", None, "m", KB, 3)
        assert reranker.asked == [("q", 20)]
        lengths = [len(hit["content"]) for hit in hits]
        assert lengths == sorted(lengths, reverse=True)
        assert [hit["rerank_score"] for hit in hits] == lengths
        await provider.retrieve_memory_units_by_query_async(None, [1.0] * 8, "m", KB, 3)
        assert len(reranker.asked) == 1
        hits = await provider.retrieve_memory_units_by_query_async(
            "q", None, "m", KB, 3, explain=True
        )
        assert hits.explain is not None
        assert [hit.id for hit in hits.explain.hits] == [hit["_id"] for hit in hits]
        assert "reranking" in hits.explain.steps_ms
        assert len({hit.found_by[0].rank for hit in hits.explain.hits}) == 3
        reranker.error = TimeoutError("of its own")
        with pytest.raises(EmbeddingError, match="reranker"):
            await provider.retrieve_memory_units_by_query_async("q", None, "m", KB, timeout_ms=5000)
        reranker.takes_s = 60.0
        with pytest.raises(OperationTimeoutError, match="reranking"):
            await provider.retrieve_memory_units_by_query_async("q", None, "m", KB, timeout_ms=1000)
