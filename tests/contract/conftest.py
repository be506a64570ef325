"""The same tests over every driver and kind of server: a contract that each of them keeps.

Through the stand-in for Atlas a search goes by the index, which follows writes a little later:
`await settle()` stands between a write and a search that must see it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from atlas_standin import AtlasStandin
from support.backends import BACKENDS
from support.embedder import CountingEmbedder
from support.internals import session_of

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig

SEARCHED = ["LONG_TERM_MEMORY", "CONVERSATION_MEMORY", "WORKFLOW_MEMORY", "SUMMARIES"]

Settle = Callable[[], Awaitable[None]]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Which driver a test runs on."""
    return str(request.param)


@pytest.fixture
def on_atlas(backend: str) -> bool:
    """Whether searches go by an index."""
    return backend.startswith("atlas")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the back ends that `--backend` does not name, and text search on memory://.

    memory:// has no text search; its error is asserted in `test_modes.py`.
    """
    named = config.getoption("--backend") or BACKENDS
    without = [
        item
        for item in items
        if _is_text_on_memory(item) or _backend_of(item) not in (None, *named)
    ]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def _is_text_on_memory(item: pytest.Item) -> bool:
    needs_text = item.get_closest_marker("needs_text") or "indexed" in getattr(
        item, "fixturenames", ()
    )
    return bool(needs_text) and _backend_of(item) == "memory"


def _backend_of(item: pytest.Item) -> str | None:
    """The back end of a contract test; None for a test of every other kind."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get("backend")


@pytest.fixture
def strategy(backend: str, on_atlas: bool) -> str:
    """How a search is carried out."""
    if on_atlas:
        return "atlas"
    return "resident" if backend.endswith("-resident") else "scan"


@pytest.fixture(scope="session")
def atlas(mongod: Any) -> Iterator[AtlasStandin]:
    """Atlas, as far as it can be here; its indexes are built at once, and follow writes late."""
    standin = AtlasStandin(mongod.host, mongod.port, pending_s=0, building_s=0)
    with standin.in_thread():
        yield standin
    assert standin.failures == []


@pytest.fixture
def config(backend: str, on_atlas: bool, request: pytest.FixtureRequest) -> MongoDBConfig:
    """A database of the test's own, on that driver."""
    if backend == "memory":
        return MongoDBConfig("memory://", db_name="test")
    db_name = request.getfixturevalue("db_name")
    if backend == "standalone":
        return MongoDBConfig(request.getfixturevalue("standalone"), db_name, driver="pymongo")
    if on_atlas:
        uri = request.getfixturevalue("atlas").uri
    else:
        mongod = request.getfixturevalue("mongod")
        # Half of them log in: it costs some milliseconds a client.
        uri = mongod.with_password if backend in ("pymongo", "motor-resident") else mongod.uri
    driver, _, strategy = backend.removeprefix("atlas-").partition("-")
    return MongoDBConfig(
        uri,
        db_name=db_name,
        driver=driver,  # type: ignore[arg-type]
        search_strategy="auto" if on_atlas else strategy or "scan",  # type: ignore[arg-type]
    )


@pytest.fixture
def settle(on_atlas: bool, request: pytest.FixtureRequest) -> Settle:
    """Await it after a write: the next search sees that. Nothing to wait for where it is exact."""
    standin = request.getfixturevalue("atlas") if on_atlas else None

    async def settled() -> None:
        if standin is not None:
            await standin.sync()

    return settled


@pytest.fixture
def embedder() -> CountingEmbedder:
    """What the providers of a test embed with."""
    return CountingEmbedder()


@pytest.fixture
async def provider(
    config: MongoDBConfig,
    embedder: CountingEmbedder,
    on_atlas: bool,
    request: pytest.FixtureRequest,
) -> AsyncIterator[AsyncMongoDBProvider]:
    """An open provider, closed afterwards; with its indexes where searches need them."""
    async with AsyncMongoDBProvider(config, embedding_provider=embedder) as opened:
        if on_atlas and "settle" in request.fixturenames:
            await opened.ensure_indexes_async(SEARCHED)
            embedder.texts.clear()
        yield opened


@pytest.fixture
def insert_raw(provider: AsyncMongoDBProvider) -> Callable[..., Any]:
    """Writes rows as another program would: past every check of ours."""

    async def insert(collection: str, *rows: dict[str, Any]) -> None:
        from bson import ObjectId

        from memorizz_async.deadline import Deadline

        session = await session_of(provider)
        outcome = await session.driver.insert_many(
            collection,
            [{"_id": ObjectId(), **row} for row in rows],
            deadline=Deadline.after(10_000),
        )
        assert not outcome.refused

    return insert
