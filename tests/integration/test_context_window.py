"""The context window manager on a real server with the real model."""

from __future__ import annotations

import asyncio
import copy
import importlib
import pickle
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from support.embedder import CountingEmbedder
from support.heartbeat import heartbeat
from support.internals import session_of

from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    ClosedError,
    ConfigurationError,
    ContextReport,
    ContextWindow,
    ContextWindowManager,
    InvalidInputError,
    InvalidLimitError,
    InvalidQueryError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
    ScopeError,
    ServerUnavailableError,
    StoredEmbeddingError,
)
from memorizz_async.embeddings import as_embedder

FACTS = [
    "Ada keeps bees on the roof of her flat in Lisbon.",
    "Ada is allergic to hazelnuts.",
    "ADA is  allergic to hazelnuts.",
    "The quarterly report is due on the second Friday of January.",
]
TURNS = ["Ada: I moved to Lisbon last spring.", "Ben: How are the bees doing?"]
STEPS = ["To restart the billing service, drain the queue first, then roll the pods."]
LIMITS = {
    MemoryType.LONG_TERM_MEMORY: 3,
    MemoryType.CONVERSATION_MEMORY: 2,
    MemoryType.WORKFLOW_MEMORY: 1,
}
NOBODY = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50"


@pytest.fixture(scope="module")
def model() -> Any:
    """One loaded model for the module."""
    provider = AsyncEmbeddingProvider()
    yield provider
    provider.shutdown()


@pytest.fixture
def config(mongod: Any, db_name: str) -> MongoDBConfig:
    """The real server, and a database of the test's own."""
    return MongoDBConfig(mongod.uri, db_name=db_name)


@pytest.fixture
async def provider(
    config: MongoDBConfig, model: AsyncEmbeddingProvider
) -> AsyncIterator[AsyncMongoDBProvider]:
    """With the real model."""
    async with AsyncMongoDBProvider(config, embedding_provider=model) as opened:
        yield opened


@pytest.fixture
async def stored(provider: AsyncMongoDBProvider) -> AsyncMongoDBProvider:
    """Ada's memories."""
    await provider.store_many_async(FACTS, MemoryType.LONG_TERM_MEMORY, memory_id="ada")
    await provider.store_conversation_async(TURNS, session_id="monday", memory_id="ada")
    await provider.store_many_async(STEPS, MemoryType.WORKFLOW_MEMORY, memory_id="ada")
    return provider


async def test_it_builds_what_the_guide_builds(stored: AsyncMongoDBProvider) -> None:
    """Two strings: the working memory, and memories of all types with their dates and sources."""
    manager = ContextWindowManager(
        stored, memory_id="ada", limits=LIMITS, header="# Now\nAda plans a dinner.", budget=300
    )
    window = await manager.build_async("Which nuts must Ada avoid?")
    header, context = window
    assert header == "# Now\nAda plans a dinner."
    assert context.startswith("## Long term memory\n- Ada is allergic to hazelnuts. (20")
    assert "; session monday, turn 0)" in context
    assert "## Workflow memory\n- To restart" in context
    assert context.lower().count("hazelnuts") == 1
    report = window.report
    [twin] = [left for left in report.left_out if left.reason == "duplicate"]
    assert twin.of == report.kept[0].id
    assert report.counted_by == "sentence-transformers/all-MiniLM-L6-v2"
    assert 0 < report.tokens <= report.budget == 300
    assert report.recall.embedding_ms > 0
    assert report.total_ms >= report.packing_ms > 0
    assert "hazelnuts" not in str(report)
    assert "1 duplicate" in str(report)
    assert window.text == f"{header}\n\n{context}"


async def test_equal_questions_get_equal_contexts(stored: AsyncMongoDBProvider) -> None:
    """Also from a manager of another make, and at another time."""
    first = ContextWindowManager(stored, memory_id="ada", limits=LIMITS)
    unit = MemoryUnit("conversational", stored, memory_id="ada")
    second = ContextWindowManager(unit, limits=LIMITS)
    assert await first.build_async("bees?") == await second.build_async("bees?")


@pytest.mark.parametrize("budget", [1, 5, 12, 20, 40, 80, 200])
async def test_the_models_own_tokens_stay_in_the_budget(
    stored: AsyncMongoDBProvider, model: AsyncEmbeddingProvider, budget: int
) -> None:
    """Counted anew from outside, header and context together."""
    manager = ContextWindowManager(stored, memory_id="ada", limits=LIMITS, header="Hi.")
    count = await model.token_counter_async()
    assert count is not None
    if budget < count("Hi."):
        with pytest.raises(InvalidInputError, match=r"header alone.*Seen: 2 tokens of 1"):
            await manager.build_async("bees?", budget=budget)
        return
    window = await manager.build_async("bees?", budget=budget)
    assert count(window.header + window.context) <= window.report.tokens <= budget
    assert count(window.text) <= budget
    assert len(window.report.kept) + len(window.report.left_out) == 7


async def test_the_tokenizer_counts_while_the_model_computes(model: AsyncEmbeddingProvider) -> None:
    """From several threads, alike and without an error: it is no longer the model's own."""
    count = await model.token_counter_async()
    assert count is not None
    assert (count(""), count("hello"), count("hello world")) == (0, 1, 2)
    texts = [f"number {n} " * (n % 300) + "end" for n in range(64)]
    expected = [count(text) for text in texts]
    assert expected[63] > 100  # longer than a batch is cut to by some models; never cut here
    counted, _ = await asyncio.gather(
        asyncio.gather(*(asyncio.to_thread(count, text) for text in texts)),
        model.encode_documents_async([f"{text} {n}" for n, text in enumerate(texts)]),
    )
    assert counted == expected


async def test_an_embedder_without_tokenizer_asks_tiktoken(
    config: MongoDBConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whatever vocabulary it has at hand; text that looks like a control token is text."""
    tiktoken = importlib.import_module("tiktoken")
    encoding = tiktoken.Encoding(
        "o200k_base",
        pat_str=r"[^\r\n]|\s",
        mergeable_ranks={bytes([n]): n for n in range(256)},
        special_tokens={"<|endoftext|>": 256},
    )
    registry = importlib.import_module("tiktoken.registry")
    monkeypatch.setitem(registry.ENCODINGS, "o200k_base", encoding)
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
        await provider.store_async("<|endoftext|>", memory_id="ada")
        manager = ContextWindowManager(provider, memory_id="ada")
        window = await manager.build_async("q")
    assert window.report.counted_by == "tiktoken o200k_base"
    assert "<|endoftext|>" in window.context
    assert window.report.tokens == len(window.context.encode())


async def test_without_any_tokenizer_it_says_what_to_pass(
    config: MongoDBConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Where tiktoken cannot fetch its vocabulary; with count_tokens nobody asks."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    async with AsyncMongoDBProvider(config, embedding_provider=CountingEmbedder()) as provider:
        await provider.store_async("a fact", memory_id="ada")
        with pytest.raises(ConfigurationError, match=r"nothing to count.*To do: pass count_tokens"):
            await ContextWindowManager(provider, memory_id="ada").build_async("q")
        manager = ContextWindowManager(provider, memory_id="ada", count_tokens=len, budget=60)
        window = await manager.build_async("q")
    assert window.report.counted_by == "len"
    assert len(window.context) == window.report.tokens


async def test_an_embedder_of_the_users_may_count(config: MongoDBConfig) -> None:
    """Its `token_counter_async` is used where it has one; `async with` works on what wraps it."""

    class Words:
        async def encode_query_async(self, text: str) -> Any:
            return np.ones(4)

        async def encode_documents_async(self, texts: Any) -> Any:
            return np.ones((len(texts), 4))

        def get_model_name(self) -> str:
            return "ones"

        def get_dimensions(self) -> int:
            return 4

        async def token_counter_async(self) -> Any:
            return lambda text: len(text.split())

    async with (
        as_embedder(Words()) as embedder,
        AsyncMongoDBProvider(config, embedding_provider=embedder) as provider,
    ):
        await provider.store_async("three words here", memory_id="ada")
        window = await ContextWindowManager(provider, memory_id="ada").build_async("q")
    assert window.report.counted_by == "ones"
    assert window.report.tokens == len(window.context.split())


# -- failures ---------------------------------------------------------------------------------


async def spoil(provider: AsyncMongoDBProvider, collection: str) -> None:
    """Rows of another dimension only: that type cannot be searched with this model."""
    from bson import ObjectId

    from memorizz_async.deadline import Deadline

    session = await session_of(provider)
    rows = [{"_id": ObjectId(), "memory_id": "ada", "content": "x", "embedding": [1.0, 2.0]}]
    await session.driver.insert_many(collection, rows, deadline=Deadline.after(10_000))


async def test_a_type_that_fails_raises_or_is_said(stored: AsyncMongoDBProvider) -> None:
    """By default it raises; with `partial` report and context say it, beside what was found."""
    await spoil(stored, "summaries")
    limits = {**LIMITS, MemoryType.SUMMARIES: 2}
    manager = ContextWindowManager(stored, memory_id="ada", limits=limits)
    with pytest.raises(StoredEmbeddingError):
        await manager.build_async("bees?")
    window = await manager.build_async("bees?", on_error="partial")
    assert set(window.report.errors) == {"SUMMARIES"}
    assert "bees on the roof" in window.context
    assert "## Summaries\n(could not be searched now" in window.context
    assert "error in SUMMARIES" in str(window.report)


async def test_where_nothing_could_be_searched_partial_raises_too(
    stored: AsyncMongoDBProvider,
) -> None:
    """No part is no partial result: an empty context would look like no memories."""
    await spoil(stored, "summaries")
    manager = ContextWindowManager(stored, memory_id="ada", limits={MemoryType.SUMMARIES: 2})
    with pytest.raises(StoredEmbeddingError):
        await manager.build_async("bees?", on_error="partial")


@pytest.mark.parametrize("on_error", ["raise", "partial"])
async def test_a_missing_server_raises(on_error: Any) -> None:
    """Whatever on_error is."""
    manager = ContextWindowManager(MongoDBConfig(NOBODY), memory_id="ada", count_tokens=len)
    with pytest.raises(ServerUnavailableError):
        await manager.build_async("bees?", on_error=on_error)
    await manager.close_async()


async def test_an_empty_tenant_is_an_empty_context(stored: AsyncMongoDBProvider) -> None:
    """No memories, no failure, no headings."""
    window = await ContextWindowManager(stored, memory_id="nobody").build_async("bees?")
    assert window == ("", "")
    assert window.report.kept == window.report.left_out == ()
    assert window.report.errors == {}


async def test_arguments_that_cannot_work_are_refused(stored: AsyncMongoDBProvider) -> None:
    """Before anything is sent."""
    for options in (
        {"budget": 0}, {"budget": 1.5}, {"budget": True}, {"limits": {}}, {"limits": [5]},
        {"mmr_lambda": 1.1}, {"mmr_lambda": "a"}, {"duplicate_cosine": -0.1}, {"order": "date"},
        {"candidates": 0}, {"max_memories": 0}, {"limits": {MemoryType.SUMMARIES: 0}},
        {"count_tokens": 5},
    ):  # fmt: skip
        with pytest.raises((InvalidInputError, ConfigurationError)):
            ContextWindowManager(stored, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="somewhere to recall from"):
        ContextWindowManager("mongodb://h")  # type: ignore[arg-type]
    manager = ContextWindowManager(stored, memory_id="ada", header=lambda: 5)  # type: ignore[arg-type,return-value]
    with pytest.raises(InvalidInputError, match="header must be a string"):
        await manager.build_async("q")
    with pytest.raises(InvalidQueryError):
        await manager.build_async(" ")
    with pytest.raises(InvalidLimitError):
        await manager.build_async("q", limits={MemoryType.SUMMARIES: -1})
    with pytest.raises(ScopeError):
        await ContextWindowManager(stored).build_async("q")
    with pytest.raises(ConfigurationError, match="no provider"):
        await ContextWindowManager(MemoryUnit()).build_async("q")


# -- header, relevance, template --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "function", "coroutine"])
async def test_the_header_comes_from_a_string_or_a_function(
    stored: AsyncMongoDBProvider, kind: str
) -> None:
    """Async or not; its own errors pass through."""

    async def later() -> str:
        return "working memory"

    header: Any = {"text": "working memory", "function": lambda: "working memory"}.get(kind, later)
    manager = ContextWindowManager(stored, memory_id="ada", header=header)
    assert (await manager.build_async("bees?")).header == "working memory"
    with pytest.raises(ZeroDivisionError):
        await ContextWindowManager(stored, memory_id="ada", header=lambda: str(1 // 0)).build_async(
            "q"
        )


async def test_relevance_may_be_the_memory_signal(stored: AsyncMongoDBProvider) -> None:
    """What is important comes first, then."""
    await stored.store_async(
        {"content": "Ada's flat is on the fifth floor.", "importance": 1.0}, memory_id="ada"
    )
    limits = {MemoryType.LONG_TERM_MEMORY: 1}
    unit = MemoryUnit(memory_provider=stored, memory_id="ada")
    by_score = ContextWindowManager(unit, limits=limits, candidates=5)
    by_weight = ContextWindowManager(
        unit, limits=limits, candidates=5, relevance=lambda hit: hit["importance"]
    )
    assert "bees" in (await by_score.build_async("bees on the roof")).context
    assert "fifth floor" in (await by_weight.build_async("bees on the roof")).context
    broken = ContextWindowManager(unit, limits=limits, relevance=lambda hit: hit["nothing"])
    with pytest.raises(ConfigurationError, match="relevance failed"):
        await broken.build_async("bees?")
    infinite = ContextWindowManager(unit, limits=limits, relevance=lambda hit: float("nan"))
    with pytest.raises(ConfigurationError, match="must be finite"):
        await infinite.build_async("bees?")


async def test_more_is_recalled_than_kept_so_that_repetitions_cost_no_place(
    provider: AsyncMongoDBProvider,
) -> None:
    """Three times the limit: two copies of a fact leave room for a second fact."""
    texts = ["Ada keeps bees.", "ada keeps bees.", "Ada  keeps bees.", "Ben keeps wasps."]
    await provider.store_many_async(texts, memory_id="ada")
    limits = {MemoryType.LONG_TERM_MEMORY: 2}
    manager = ContextWindowManager(provider, memory_id="ada", limits=limits)
    window = await manager.build_async("Who keeps bees?")
    assert len(window.report.kept) == 2
    assert "wasps" in window.context


async def test_a_window_can_be_copied_and_sent(stored: AsyncMongoDBProvider) -> None:
    """With its report."""
    window = await ContextWindowManager(stored, memory_id="ada").build_async("bees?")
    for moved in (copy.copy(window), copy.deepcopy(window), pickle.loads(pickle.dumps(window))):
        assert isinstance(moved, ContextWindow)
        assert moved == window
        assert moved.report == window.report
    assert isinstance(window.report, ContextReport)


# -- whose provider ---------------------------------------------------------------------------


async def test_it_closes_what_it_opened_and_nothing_else(
    config: MongoDBConfig, stored: AsyncMongoDBProvider
) -> None:
    """A provider or a unit is borrowed; one made from a configuration is the manager's."""
    async with ContextWindowManager(stored, memory_id="ada") as manager:
        await manager.build_async("bees?")
    with pytest.raises(ClosedError):
        await manager.build_async("bees?")
    with pytest.raises(ClosedError):
        await manager.__aenter__()
    async with MemoryUnit(memory_provider=config, memory_id="ada") as unit:
        async with ContextWindowManager(unit) as borrowing:
            assert (await borrowing.build_async("bees?")).context
        assert (await unit.retrieve_all_memory_types_async("bees?"))["LONG_TERM_MEMORY"]
    assert await stored.retrieve_memory_units_by_query_async("bees?", memory_id="ada")
    async with ContextWindowManager(config, memory_id="ada") as owning:
        assert (await owning.build_async("bees?")).context
    await owning.close_async()
    with pytest.raises(ClosedError):
        await owning.memory_unit.retrieve_all_memory_types_async("bees?", "ada")


async def test_a_unit_owns_the_provider_that_it_made(
    config: MongoDBConfig, stored: AsyncMongoDBProvider
) -> None:
    """From a MongoDBConfig; opened on entry, closed at the end, twice is fine. A lent one stays."""
    unit = MemoryUnit(memory_provider=config, memory_id="ada")
    async with unit:
        assert (await unit.retrieve_all_memory_types_async("bees?"))["LONG_TERM_MEMORY"]
    await unit.close_async()
    with pytest.raises(ClosedError):
        await unit.retrieve_all_memory_types_async("bees?")
    async with MemoryUnit(memory_provider=stored, memory_id="ada") as borrowing:
        pass
    assert (await borrowing.retrieve_all_memory_types_async("bees?"))["LONG_TERM_MEMORY"]
    with pytest.raises(ServerUnavailableError):
        async with MemoryUnit(memory_provider=MongoDBConfig(NOBODY, timeout_ms=500)):
            pass


# -- the loop ---------------------------------------------------------------------------------


async def test_the_loop_keeps_ticking_while_thousands_of_memories_are_packed(
    provider: AsyncMongoDBProvider,
) -> None:
    """2,000 rows chosen from 4,000: 99 of 100 ticks are on time by 100 ms."""
    rng = np.random.default_rng(1)
    rows = [
        {"content": f"Fact {n} about bees, roofs and Lisbon.", "embedding": vector}
        for n, vector in enumerate(rng.normal(size=(4_000, 384)))
    ]
    await provider.store_many_async(rows, memory_id="many")
    limits = {MemoryType.LONG_TERM_MEMORY: 2_000}
    manager = ContextWindowManager(
        provider, memory_id="many", limits=limits, candidates=2, budget=100_000
    )
    await manager.build_async("bees?", limits={MemoryType.LONG_TERM_MEMORY: 1})
    async with heartbeat() as late:
        window = await manager.build_async("bees?")
    assert len(window.report.kept) == 2_000
    assert len(late) > 10
    assert np.percentile(late, 99) < 0.1


async def test_a_cancelled_build_stops_its_thread(stored: AsyncMongoDBProvider) -> None:
    """The thread counts no further, and the manager goes on serving others."""
    counting, go_on = threading.Event(), threading.Event()
    counts: list[str] = []

    def count(text: str) -> int:
        counts.append(text)
        counting.set()
        go_on.wait(10)
        return len(text)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    manager = ContextWindowManager(stored, memory_id="ada", count_tokens=count)
    building = asyncio.create_task(manager.build_async("bees?"))
    await asyncio.to_thread(counting.wait, 10)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    go_on.set()
    # Two at the same time, in a pool of two: the thread of the cancelled build is back.
    meeting = threading.Barrier(2)
    await asyncio.gather(*(asyncio.to_thread(meeting.wait, 10) for _ in range(2)))
    assert len(counts) == 1
    assert (await manager.build_async("bees?")).context
