"""The contract: the code of the memorizz guide runs with only `memorizz.` made `memorizz_async.`.

Its blocks (support/guide_blocks.py) run as they stand, against a real mongod and the real model;
the one other thing that changes is the address of the server. What patches or registers something
for the whole process runs in one of its own.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.guide_blocks import (
    BATCH_EMBEDDINGS,
    BATCH_QUERIES,
    BENCHMARK,
    BLOCKS,
    CLOSE_CONNECTIONS,
    CONTEXT_WINDOW,
    CUSTOM_PROVIDER,
    ENVIRONMENT,
    ERROR_HANDLING,
    EVENT_LOOP_RUNNING,
    FORCE_GPU,
    FULL_EXAMPLE,
    GPU_NOT_DETECTED,
    INDEXES,
    MINIMAL_EXAMPLE,
    POOL_MONITORING,
    QUICK_START,
    REUSE_PROVIDERS,
    SEQUENTIAL_AND_PARALLEL,
    SINGLE_EMBEDDING,
    SINGLE_QUERY,
    UNIT_TESTS,
    USE_THE_BATCH,
)
from support.pages import read_in_own_process

from memorizz_async import (
    AsyncMongoDBProvider,
    ClosedError,
    DeviceUnavailableError,
    InvalidQueryError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async.embeddings import (
    get_async_embedding_provider,
    get_embedding_async,
    reset_async_embedding_provider,
)
from memorizz_async.memory_provider.mongodb.driver import blocking_command

GUIDE = Path(__file__).parents[3] / "shared" / "seeds" / "001_e15b68b702aa4475.txt"
GUIDES_ADDRESS = "mongodb://localhost:27017"

FACTS = (
    "Machine learning finds patterns in data instead of being told rules.",
    "A neural network is trained by following the gradient of its error downhill.",
)
TURN = "user: I began to read about deep learning yesterday."
STEPS = "To train a model: collect data, split it, fit, measure, repeat."


@pytest.fixture(scope="module", autouse=True)
def _shared_model() -> Iterator[None]:
    """The process-wide model of the guide's functions: loaded once, gone after this file."""
    yield
    reset_async_embedding_provider()


class Guide:
    """Runs blocks in one namespace, one after the other, as a reader of the guide would."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.names: dict[str, Any] = {"__name__": "guide"}

    def run(self, block: str) -> None:
        code = compile(
            block.replace(GUIDES_ADDRESS, self.uri),
            "<guide>",
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        awaitable = eval(code, self.names)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(awaitable)

    def call(self, function: str) -> Any:
        return asyncio.run(self.names[function]())


@pytest.fixture
def guide(mongod: Any) -> Iterator[Guide]:
    """A reader with a server whose databases of the guide hold nothing yet."""
    for database in ("memorizz", "test"):
        blocking_command(mongod.uri, {"dropDatabase": 1}, timeout_s=30, database=database)
    yield Guide(mongod.uri)
    for database in ("memorizz", "test"):
        blocking_command(mongod.uri, {"dropDatabase": 1}, timeout_s=30, database=database)


@pytest.fixture
def remembered(guide: Guide) -> Guide:
    """The same, where the guide's users have memories, and so has somebody else."""

    async def remember() -> None:
        provider = AsyncMongoDBProvider(MongoDBConfig(guide.uri, "memorizz"))
        unit = MemoryUnit("conversational", memory_provider=provider)
        for tenant in ("user123", "user_alice", "somebody else"):
            own = "" if tenant != "somebody else" else "SECRET "
            for fact in FACTS:
                await unit.generate_memory_unit_async(own + fact, tenant, "LONG_TERM_MEMORY")
            await unit.generate_memory_unit_async(own + TURN, tenant, "CONVERSATION_MEMORY")
            await unit.generate_memory_unit_async(own + STEPS, tenant, "WORKFLOW_MEMORY")
        await provider.close_async()

    asyncio.run(remember())
    return guide


@pytest.fixture
def given_names(remembered: Guide) -> Guide:
    """With what the guide's snippets take for granted: `config` and `embedding_vector`."""
    remembered.names["config"] = MongoDBConfig(uri=remembered.uri, db_name="memorizz")
    remembered.names["embedding_vector"] = asyncio.run(get_embedding_async("machine learning"))
    return remembered


def contents(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["content"] for hit in hits]


def test_quick_start(remembered: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """Three types at once; each finds what this user has of it, and nobody else's."""
    remembered.run(QUICK_START)
    printed = capsys.readouterr().out
    assert "Found 2 semantic memories" in printed
    assert "Found 1 episodic memories" in printed
    assert "Found 1 procedural memories" in printed


def test_minimal_example(remembered: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """The results print as a dict by type, without vectors, without other tenants."""
    remembered.run(MINIMAL_EXAMPLE)
    printed = capsys.readouterr().out
    assert printed.startswith("{'LONG_TERM_MEMORY': [{'_id':")
    assert all(fact in printed for fact in FACTS)
    assert "SECRET" not in printed
    assert "embedding':" not in printed


def test_quick_start_on_an_empty_database(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """A first run finds nothing, and says so."""
    guide.run(QUICK_START)
    assert "Found 0 semantic memories" in capsys.readouterr().out


def test_single_query(given_names: Guide) -> None:
    """One type; the best first; the snippet does not even close its provider."""
    given_names.run(SINGLE_QUERY)
    results = given_names.call("query_single_type")
    assert contents(results)[0] == FACTS[0]
    assert sorted(contents(results)) == sorted(FACTS)
    assert results[0]["score"] > results[1]["score"]
    given_names.names["embedding_vector"] = None  # "Or pass None to compute"
    again = given_names.call("query_single_type")
    assert contents(again) == contents(results)
    assert again[0]["score"] == pytest.approx(results[0]["score"], abs=1e-4)


def test_batch_queries(given_names: Guide) -> None:
    """The list of dicts: results under each query's key."""
    given_names.run(SINGLE_QUERY)  # its imports
    given_names.run(BATCH_QUERIES)
    results = given_names.call("query_batch")
    assert list(results) == ["semantic", "episodic", "procedural"]
    assert sorted(contents(results["semantic"])) == sorted(FACTS)
    assert contents(results["episodic"]) == [TURN]
    assert contents(results["procedural"]) == [STEPS]


def test_single_embedding(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of floats of the default model."""
    guide.run(SINGLE_EMBEDDING)
    embedding = guide.call("compute_embedding")
    assert capsys.readouterr().out == "Embedding dimension: 384\n"
    assert isinstance(embedding, list)
    assert {type(number) for number in embedding} == {float}


def test_batch_embeddings(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """Three texts, three vectors, in order."""
    guide.run(BATCH_EMBEDDINGS)
    guide.run(SINGLE_EMBEDDING)
    embeddings = guide.call("compute_batch")
    assert "Computed 3 embeddings" in capsys.readouterr().out
    assert [len(vector) for vector in embeddings] == [384] * 3
    assert embeddings[0] == pytest.approx(guide.call("compute_embedding"), abs=1e-5)


@pytest.fixture
def no_gpu() -> None:
    """What a block that asks for a GPU does where there is none can be seen only there."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the GPU that the guide asks for; its model is not at hand")


NO_CUDA = r"'cuda', while this machine has .*cpu"


@pytest.mark.usefixtures("no_gpu")
def test_custom_provider_as_written(guide: Guide) -> None:
    """It asks for a GPU: where there is none, the error says so and names the devices there are."""
    guide.run(CUSTOM_PROVIDER)
    with pytest.raises(DeviceUnavailableError, match=NO_CUDA):
        guide.call("custom_provider")


@pytest.mark.usefixtures("no_gpu")
def test_forcing_the_gpu(guide: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """Asking torch, then insisting: making the provider is free, its first use is the error."""
    guide.run(GPU_NOT_DETECTED)
    assert capsys.readouterr().out == "CUDA available: False\nCUDA device: N/A\n"
    guide.run(FORCE_GPU)
    with pytest.raises(DeviceUnavailableError, match=NO_CUDA):
        asyncio.run(guide.names["provider"].encode_async("a text"))
    guide.names["provider"].shutdown()


def test_custom_provider_with_what_is_here(
    guide: Guide, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same code with another model and device."""
    adapted = CUSTOM_PROVIDER.replace("all-mpnet-base-v2", "all-MiniLM-L6-v2")
    guide.run(adapted.replace("'cuda'", "'cpu'"))
    embeddings = guide.call("custom_provider")
    assert [len(vector) for vector in embeddings] == [384] * 3
    assert capsys.readouterr().out.splitlines() == [
        "Using device: cpu",
        "Model: sentence-transformers/all-MiniLM-L6-v2",
        "Dimensions: 384",
    ]


def test_full_example(remembered: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """Iterates over the results by name; each hit has its content and its memory_signal."""
    remembered.run(FULL_EXAMPLE)
    printed = capsys.readouterr().out
    assert "LONG_TERM_MEMORY: 2 memories" in printed
    assert "CONVERSATION_MEMORY: 1 memories" in printed
    assert "WORKFLOW_MEMORY: 1 memories" in printed
    assert f"] {STEPS[:100]}" in printed
    assert "[0.000]" not in printed


def test_sequential_and_parallel(given_names: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """Positional arguments, in the guide's order, of both calls."""
    given_names.run(QUICK_START)  # its imports
    given_names.run(SEQUENTIAL_AND_PARALLEL)
    given_names.call("compare_performance")
    assert "Speedup: " in capsys.readouterr().out


def test_indexes(given_names: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """They are made, and making them again changes nothing."""
    given_names.run(SINGLE_QUERY)  # its imports
    given_names.names["asyncio"] = asyncio
    given_names.run(INDEXES)
    given_names.run(INDEXES)
    assert capsys.readouterr().out.count("Database indexes created") == 2
    command = {"listIndexes": "knowledge_base"}
    reply = blocking_command(given_names.uri, command, timeout_s=30, database="memorizz")
    keys = [list(index["key"]) for index in reply["cursor"]["firstBatch"]]
    assert ["memory_id", "user_id"] in keys


def test_error_handling(given_names: Guide) -> None:
    """A recall in try, except and finally."""
    given_names.run(QUICK_START)  # its imports
    given_names.run(ERROR_HANDLING)
    results = given_names.call("robust_retrieval")
    assert len(results[MemoryType.LONG_TERM_MEMORY]) == 2


@pytest.mark.parametrize("rows", [0, 8])
def test_unit_tests(guide: Guide, rows: int) -> None:
    """The guide's own tests pass, on an empty database and on one with more than the limit."""

    async def fill() -> None:
        async with AsyncMongoDBProvider(MongoDBConfig(guide.uri, "test")) as provider:
            for tenant in ("test_user", "test"):
                for kind in ("LONG_TERM_MEMORY", "CONVERSATION_MEMORY"):
                    vectors = [[0.1] * 383 + [float(number + 1)] for number in range(rows)]
                    await provider.store_many_async(
                        [{"content": "row", "embedding": vector} for vector in vectors],
                        kind,
                        memory_id=tenant,
                    )

    asyncio.run(fill())
    guide.names["MongoDBConfig"] = MongoDBConfig  # the block takes it for granted
    guide.run(UNIT_TESTS)
    guide.call("test_async_single_query")
    guide.call("test_batch_retrieval")


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
def test_pool_monitoring(guide: Guide, tmp_path: Path, driver: str) -> None:
    """A listener of PyMongo's sees each connection that we open, with either driver."""
    page = tmp_path / "page.md"
    given = (
        "import asyncio\n"
        "from memorizz_async import AsyncMongoDBProvider, MongoDBConfig\n"
        f"config = MongoDBConfig('{GUIDES_ADDRESS}', driver='{driver}')\n"
    )
    used = (
        "await provider.retrieve_memory_units_by_query_async('q', [0.1] * 8, 'user123')\n"
        "await provider.close_async()\n"
    )
    page.write_text("".join(f"```python\n{block}```\n" for block in (given, POOL_MONITORING, used)))
    report, ended = read_in_own_process(page, guide.uri, tmp_path)
    assert report["failed"] is None, report["failed"]
    created, closed = (ended.stdout.count(f"Connection {what}: ") for what in ("created", "closed"))
    assert created >= 1
    # With Motor the thread of the change stream notices the end a second later.
    assert closed == created if driver == "pymongo" else closed >= 1


def test_context_window(remembered: Guide) -> None:
    """The guide's class, with the parts that it leaves out: one recall of the types it has."""

    class Session:
        memory_id = "user123"
        wm_active_types = ("notes",)

        def __init__(self, unit: MemoryUnit) -> None:
            self.memory_unit = unit

    class Recording(MemoryUnit):
        recalled: Any = None

        async def retrieve_all_memory_types_async(self, *args: Any, **kwargs: Any) -> Any:
            self.recalled = await super().retrieve_all_memory_types_async(*args, **kwargs)
            return self.recalled

    remembered.run(CONTEXT_WINDOW)

    class Manager(remembered.names["ContextWindowManager"]):  # type: ignore[misc]
        k_semantic, k_episodic, k_procedural = 5, 3, 1

        def __init__(self, session: Session) -> None:
            super().__init__(session)
            self.session = session

        def _wm_header_getter(self, active: Any) -> str:
            return f"active: {active}"

        def _mt_long_term(self) -> Any:
            return MemoryType.LONG_TERM_MEMORY

        def _mt_conversation(self) -> Any:
            return MemoryType.CONVERSATION_MEMORY

        def _mt_procedural(self) -> None:
            """An application without procedures."""

    async def build() -> Any:
        async with AsyncMongoDBProvider(MongoDBConfig(remembered.uri)) as provider:
            unit = Recording("conversational")
            manager = Manager(Session(unit))
            manager.async_provider = provider  # "Set externally"
            await manager.build_async("What is machine learning?")
            return unit.recalled

    recalled = asyncio.run(build())
    assert list(recalled) == ["LONG_TERM_MEMORY", "CONVERSATION_MEMORY"]
    assert sorted(contents(recalled["LONG_TERM_MEMORY"])) == sorted(FACTS)
    assert contents(recalled["CONVERSATION_MEMORY"]) == [TURN]


def test_benchmark(given_names: Guide, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints mean, median and p95."""
    given_names.run(QUICK_START)  # its imports
    given_names.run(BENCHMARK)
    printed = capsys.readouterr().out
    assert re.findall(r"Batch API - (\w+): \d+\.\dms", printed) == ["Mean", "P50", "P95"]


def test_event_loop_already_running(guide: Guide, tmp_path: Path) -> None:
    """Inside a running loop asyncio.run is an error, and with nest_asyncio it works."""
    page = tmp_path / "page.md"
    alone = EVENT_LOOP_RUNNING.splitlines()[-1]
    page.write_text(
        f"```python\n{QUICK_START}```\n"
        f"<!-- raises: RuntimeError; in a running loop -->\n```python\n{alone}\n```\n"
        f"<!-- in a running loop -->\n```python\n{EVENT_LOOP_RUNNING}```\n"
    )
    report, ended = read_in_own_process(page, guide.uri, tmp_path)
    assert report["failed"] is None, report["failed"]
    assert len(report["python"]) == 3
    assert ended.stdout.count("Found 0 procedural memories") == 2


def test_reuse_providers(given_names: Guide) -> None:
    """The good half runs; where the bad half writes `...` for a query, nothing is sent for it."""
    given_names.names["queries"] = ["one", "two"]
    with pytest.raises(InvalidQueryError, match="must be a string"):
        given_names.run(SINGLE_QUERY + REUSE_PROVIDERS)
    with pytest.raises(ClosedError):
        asyncio.run(given_names.names["async_provider"].get_async("id", "SUMMARIES", user_id="u"))
    asyncio.run(given_names.names["provider"].close_async())


def test_use_the_batch(given_names: Guide) -> None:
    """The good half recalls with the unit's own provider; the bad half's `...` is no query."""
    provider = AsyncMongoDBProvider(given_names.names["config"])
    given_names.names.update(
        provider=provider,
        mu=MemoryUnit("conversational", memory_provider=provider),
        query="machine learning",
        memory_id="user123",
        limits={MemoryType.LONG_TERM_MEMORY: 5},
    )
    with pytest.raises(InvalidQueryError, match="must be a string"):
        given_names.run(USE_THE_BATCH)
    assert sorted(contents(given_names.names["results"]["LONG_TERM_MEMORY"])) == sorted(FACTS)
    asyncio.run(provider.close_async())


def test_close_connections(given_names: Guide) -> None:
    """A provider that was never used is closed as well as any."""
    given_names.run(SINGLE_QUERY)  # its imports
    given_names.run(CLOSE_CONNECTIONS)
    given_names.call("good_pattern")


@pytest.mark.usefixtures("no_gpu")
def test_environment(guide: Guide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first part is a `.env`, whose settings the code picks up: the GPU is then insisted on."""
    settings, code = ENVIRONMENT.replace(GUIDES_ADDRESS, guide.uri).split("\n\n")
    (tmp_path / ".env").write_text(settings, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    reset_async_embedding_provider()
    guide.names["get_async_embedding_provider"] = get_async_embedding_provider
    guide.run(code)
    provider = guide.names["provider"]
    try:
        assert provider.get_model_name() == "sentence-transformers/all-mpnet-base-v2"
        assert provider.get_device() == "cuda"
        assert MongoDBConfig().resolved_uri() == guide.uri
        with pytest.raises(DeviceUnavailableError, match=NO_CUDA):
            asyncio.run(provider.load_async())
    finally:
        reset_async_embedding_provider()


def test_the_blocks_are_the_guides() -> None:
    """All of them, word for word and in order, where the guide is at hand; each has a test here."""
    assert len(BLOCKS) == 22
    tests = Path(__file__).read_text(encoding="utf-8").partition("class Guide:")[2]
    assert not [name for name in BLOCKS if name not in tests]
    if not GUIDE.is_file():
        pytest.skip(f"{GUIDE} is absent: the blocks here were not compared with the guide's")
    text = GUIDE.read_text(encoding="utf-8").replace("memorizz.", "memorizz_async.")
    # The guide's check mark was once saved in another encoding.
    text = text.replace("✅".encode().decode("cp1252"), "✅")
    assert list(BLOCKS.values()) == re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
