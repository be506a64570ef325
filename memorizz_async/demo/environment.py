"""The environment of a run: server, driver, model and device."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.connection import folder_of
from memorizz_async.memory_provider.mongodb.driver import blocking_command, installed_driver
from memorizz_async.memory_provider.mongodb.local_server import LocalServer
from memorizz_async.redaction import redact_uri

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Database:
    """server: what it is and its version. address: without credentials; None for `memory://`.
    folder: where the data of a `local` server lies; None where that is not ours to know.
    """

    server: str
    address: str | None
    name: str
    driver: str
    folder: str | None

    def __str__(self) -> str:
        place = f"at {self.address}" if self.address else "in this process"
        return f"{self.server} {place}, driver {self.driver}"


@dataclass(frozen=True)
class Model:
    """The model that embeds, the device that it runs on, and where its weights came from."""

    name: str
    device: str
    dimensions: int
    source: str


async def database_of(provider: AsyncMongoDBProvider) -> Database:
    """The database of a provider that is open."""
    return await asyncio.to_thread(_database_of, provider)


def model_of(embedder: AsyncEmbeddingProvider) -> Model:
    """The model of an embedder that is loaded."""
    source = embedder.stats().source
    return Model(
        embedder.get_model_name(), embedder.get_device(), embedder.get_dimensions(), source
    )


def _database_of(provider: AsyncMongoDBProvider) -> Database:
    config = provider.config
    uri = config.resolved_uri()
    if uri.startswith("memory://"):
        return Database("mongomock", None, config.db_name, "memory", None)
    address, folder = uri, None
    if uri == "local" or uri.startswith("local://"):
        status = LocalServer(folder_of(uri)).status()
        address = f"mongodb://127.0.0.1:{status.port}/?directConnection=true"
        folder = str(status.folder)
    reply = blocking_command(address, {"buildInfo": 1}, timeout_s=_TIMEOUT_S)
    return Database(
        server=f"MongoDB {reply.get('version', '?')}",
        address=redact_uri(address).partition("/?")[0],
        name=config.db_name,
        driver=installed_driver(config),
        folder=folder,
    )
