"""The contract: the code of the memorizz guide runs with only `memorizz.` made `memorizz_async.`.

Each constant is one block of that guide, in its order. They run as they stand, against a real
mongod and the real model; the one other thing that changes is the address of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memorizz_async import (
    AsyncMongoDBProvider,
    DeviceUnavailableError,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async.embeddings import get_embedding_async, reset_async_embedding_provider
from memorizz_async.memory_provider.mongodb.driver import blocking_command

GUIDE = Path(__file__).parents[3] / "shared" / "seeds" / "001_e15b68b702aa4475.txt"
GUIDES_ADDRESS = "mongodb://localhost:27017"

QUICK_START = """\
import asyncio
from memorizz_async.memory_unit import MemoryUnit
from memorizz_async.memory_provider.mongodb import MongoDBConfig, AsyncMongoDBProvider
from memorizz_async.enums.memory_type import MemoryType

async def main():
    # Configure providers
    config = MongoDBConfig(
        uri="mongodb://localhost:27017",
        db_name="memorizz"
    )

    # Create async provider
    async_provider = AsyncMongoDBProvider(config)

    # Create memory unit
    mu = MemoryUnit(
        application_mode='conversational',
        memory_provider=async_provider  # Can use sync provider for backward compat
    )

    # Use batch retrieval API (3-5x faster!)
    results = await mu.retrieve_all_memory_types_async(
        query="What is machine learning?",
        memory_id="user123",
        limits={
            MemoryType.LONG_TERM_MEMORY: 5,
            MemoryType.CONVERSATION_MEMORY: 5,
            MemoryType.WORKFLOW_MEMORY: 5,
        },
        async_memory_provider=async_provider
    )

    # Access results
    semantic = results.get('LONG_TERM_MEMORY', [])
    episodic = results.get('CONVERSATION_MEMORY', [])
    procedural = results.get('WORKFLOW_MEMORY', [])

    print(f"Found {len(semantic)} semantic memories")
    print(f"Found {len(episodic)} episodic memories")
    print(f"Found {len(procedural)} procedural memories")

    # Cleanup
    await async_provider.close_async()

# Run
asyncio.run(main())
"""

SINGLE_QUERY = """\
from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
from memorizz_async.enums.memory_type import MemoryType

async def query_single_type():
    provider = AsyncMongoDBProvider(config)

    # Single async query
    results = await provider.retrieve_memory_units_by_query_async(
        query="machine learning",
        query_embedding=embedding_vector,  # Or pass None to compute
        memory_id="user123",
        memory_type=MemoryType.LONG_TERM_MEMORY,
        limit=5
    )

    return results
"""

BATCH_QUERIES = """\
async def query_batch():
    provider = AsyncMongoDBProvider(config)

    # Prepare batch queries
    queries = [
        {
            'key': 'semantic',
            'embedding': embedding_vector,
            'memory_id': 'user123',
            'memory_type': MemoryType.LONG_TERM_MEMORY,
            'limit': 5
        },
        {
            'key': 'episodic',
            'embedding': embedding_vector,
            'memory_id': 'user123',
            'memory_type': MemoryType.CONVERSATION_MEMORY,
            'limit': 5
        },
        {
            'key': 'procedural',
            'embedding': embedding_vector,
            'memory_id': 'user123',
            'memory_type': MemoryType.WORKFLOW_MEMORY,
            'limit': 5
        },
    ]

    # Execute all queries in PARALLEL!
    results = await provider.batch_retrieve_async(queries)

    # Results: {'semantic': [...], 'episodic': [...], 'procedural': [...]}
    return results
"""

SINGLE_EMBEDDING = """\
from memorizz_async.embeddings import get_embedding_async

async def compute_embedding():
    # Automatically uses GPU if available, falls back to CPU
    embedding = await get_embedding_async("What is machine learning?")

    print(f"Embedding dimension: {len(embedding)}")
    return embedding
"""

BATCH_EMBEDDINGS = """\
from memorizz_async.embeddings import get_embeddings_batch_async

async def compute_batch():
    texts = [
        "What is machine learning?",
        "How do neural networks work?",
        "Explain deep learning"
    ]

    # Compute all embeddings in ONE batch (much faster!)
    embeddings = await get_embeddings_batch_async(texts, batch_size=32)

    print(f"Computed {len(embeddings)} embeddings")
    return embeddings
"""

CUSTOM_PROVIDER = """\
from memorizz_async.embeddings.async_provider import AsyncEmbeddingProvider

async def custom_provider():
    # Custom model and device selection
    provider = AsyncEmbeddingProvider(
        model_name='sentence-transformers/all-mpnet-base-v2',  # Larger model
        device='cuda',  # Force GPU
        max_workers=8   # More threads for CPU fallback
    )

    # Use provider
    embeddings = await provider.encode_async([
        "text 1", "text 2", "text 3"
    ])

    print(f"Using device: {provider.get_device()}")
    print(f"Model: {provider.get_model_name()}")
    print(f"Dimensions: {provider.get_dimensions()}")

    # Cleanup
    provider.shutdown()

    return embeddings
"""

FULL_EXAMPLE = """\
import asyncio
from memorizz_async.memory_unit import MemoryUnit
from memorizz_async.memory_provider.mongodb import MongoDBConfig, AsyncMongoDBProvider
from memorizz_async.enums.memory_type import MemoryType

async def full_retrieval_example():
    # Setup
    config = MongoDBConfig(uri="mongodb://localhost:27017", db_name="memorizz")
    async_provider = AsyncMongoDBProvider(config)

    mu = MemoryUnit(
        application_mode='conversational',
        memory_provider=async_provider
    )

    # Define what to retrieve
    query = "How do I train a neural network?"
    memory_id = "user_alice"
    limits = {
        MemoryType.LONG_TERM_MEMORY: 5,        # Semantic knowledge
        MemoryType.CONVERSATION_MEMORY: 10,    # Recent conversations
        MemoryType.WORKFLOW_MEMORY: 3,         # Procedural memories
    }

    # Retrieve ALL types in parallel (ONE embedding, 3 parallel queries!)
    print("Retrieving memories...")
    results = await mu.retrieve_all_memory_types_async(
        query=query,
        memory_id=memory_id,
        limits=limits,
        async_memory_provider=async_provider
    )

    # Process results
    for memory_type, memories in results.items():
        print(f"\\n{memory_type}: {len(memories)} memories")
        for mem in memories[:2]:  # Show first 2
            content = mem.get('content', '')[:100]
            score = mem.get('memory_signal', 0)
            print(f"  - [{score:.3f}] {content}")

    # Cleanup
    await async_provider.close_async()

asyncio.run(full_retrieval_example())
"""

SEQUENTIAL_AND_PARALLEL = """\
import asyncio
import time

async def compare_performance():
    provider = AsyncMongoDBProvider(config)
    mu = MemoryUnit('conversational', memory_provider=provider)

    query = "machine learning"
    memory_id = "user123"

    # OLD WAY: Sequential (slow)
    start = time.time()
    semantic = await provider.retrieve_memory_units_by_query_async(
        query, None, memory_id, MemoryType.LONG_TERM_MEMORY, 5
    )
    episodic = await provider.retrieve_memory_units_by_query_async(
        query, None, memory_id, MemoryType.CONVERSATION_MEMORY, 5
    )
    procedural = await provider.retrieve_memory_units_by_query_async(
        query, None, memory_id, MemoryType.WORKFLOW_MEMORY, 5
    )
    sequential_time = time.time() - start

    # NEW WAY: Batch (fast!)
    start = time.time()
    results = await mu.retrieve_all_memory_types_async(
        query, memory_id,
        {
            MemoryType.LONG_TERM_MEMORY: 5,
            MemoryType.CONVERSATION_MEMORY: 5,
            MemoryType.WORKFLOW_MEMORY: 5,
        },
        async_memory_provider=provider
    )
    batch_time = time.time() - start

    print(f"Sequential: {sequential_time:.3f}s")
    print(f"Batch: {batch_time:.3f}s")
    print(f"Speedup: {sequential_time/batch_time:.1f}x")
    # Expected: 3-5x speedup!

    await provider.close_async()
"""

INDEXES = """\
async def setup_indexes():
    provider = AsyncMongoDBProvider(config)

    # Create optimized indexes (run once during setup)
    await provider.ensure_indexes_async()

    print("✅ Database indexes created")
    await provider.close_async()

asyncio.run(setup_indexes())
"""

ERROR_HANDLING = """\
async def robust_retrieval():
    provider = AsyncMongoDBProvider(config)
    mu = MemoryUnit('conversational', memory_provider=provider)

    try:
        results = await mu.retrieve_all_memory_types_async(
            query="test query",
            memory_id="user123",
            limits={MemoryType.LONG_TERM_MEMORY: 5},
            async_memory_provider=provider
        )
    except Exception as e:
        print(f"Error during retrieval: {e}")
        # Fallback to empty results
        results = {}
    finally:
        await provider.close_async()

    return results
"""

UNIT_TESTS = """\
import pytest
import asyncio
from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
from memorizz_async.enums.memory_type import MemoryType

@pytest.mark.asyncio
async def test_async_single_query():
    config = MongoDBConfig(uri="mongodb://localhost:27017", db_name="test")
    provider = AsyncMongoDBProvider(config)

    results = await provider.retrieve_memory_units_by_query_async(
        query="test",
        query_embedding=[0.1] * 384,
        memory_id="test_user",
        memory_type=MemoryType.LONG_TERM_MEMORY,
        limit=5
    )

    assert isinstance(results, list)
    assert len(results) <= 5

    await provider.close_async()

@pytest.mark.asyncio
async def test_batch_retrieval():
    config = MongoDBConfig(uri="mongodb://localhost:27017", db_name="test")
    provider = AsyncMongoDBProvider(config)

    queries = [
        {'key': 'semantic', 'embedding': [0.1]*384, 'memory_id': 'test',
         'memory_type': MemoryType.LONG_TERM_MEMORY, 'limit': 5},
        {'key': 'episodic', 'embedding': [0.2]*384, 'memory_id': 'test',
         'memory_type': MemoryType.CONVERSATION_MEMORY, 'limit': 5},
    ]

    results = await provider.batch_retrieve_async(queries)

    assert 'semantic' in results
    assert 'episodic' in results
    assert len(results['semantic']) <= 5
    assert len(results['episodic']) <= 5

    await provider.close_async()
"""

MINIMAL_EXAMPLE = """\
import asyncio
from memorizz_async.memory_unit import MemoryUnit
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider, MongoDBConfig
from memorizz_async.enums.memory_type import MemoryType

async def main():
    provider = AsyncMongoDBProvider(MongoDBConfig("mongodb://localhost:27017"))
    mu = MemoryUnit('conversational', memory_provider=provider)

    results = await mu.retrieve_all_memory_types_async(
        "What is ML?", "user123",
        {MemoryType.LONG_TERM_MEMORY: 5},
        async_memory_provider=provider
    )

    print(results)
    await provider.close_async()

asyncio.run(main())
"""


BLOCKS = {
    name: block for name, block in list(globals().items()) if name.isupper() and "\n" in str(block)
}

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
        exec(compile(block.replace(GUIDES_ADDRESS, self.uri), "<guide>", "exec"), self.names)

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


def test_custom_provider_as_written(guide: Guide) -> None:
    """It asks for a GPU: where there is none, the error says so and names the devices there are."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the GPU that the guide asks for; its model is not at hand")
    guide.run(CUSTOM_PROVIDER)
    with pytest.raises(DeviceUnavailableError, match=r"'cuda', while this machine has .*cpu"):
        guide.call("custom_provider")


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


def test_the_blocks_are_the_guides() -> None:
    """Word for word, where the guide is at hand."""
    if not GUIDE.is_file():
        pytest.skip(f"{GUIDE} is absent: the blocks here were not compared with the guide's")
    text = GUIDE.read_text(encoding="utf-8").replace("memorizz.", "memorizz_async.")
    # The guide's check mark was once saved in another encoding.
    text = text.replace("✅".encode().decode("cp1252"), "✅")
    assert len(BLOCKS) == 12
    missing = [name for name, block in BLOCKS.items() if f"```python\n{block}```" not in text]
    assert not missing
