"""Running a call on a provider that lives as long as the command."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from memorizz_async.cli.output import console

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

T = TypeVar("T")


def on_provider(
    options: argparse.Namespace,
    call: Callable[[AsyncMongoDBProvider], Awaitable[T]],
    *,
    embeds: bool = True,
    spins: bool = True,
    model: str | None = None,
) -> T:
    """The result of a call on a provider of the options' database, which is closed afterwards.

    Meanwhile a spinner turns on standard error, where that is a terminal; `spins` is whether it is
    ours. model: left out, `EMB_MODEL` or the default.
    """
    from memorizz_async.config import MongoDBConfig
    from memorizz_async.embeddings import AsyncEmbeddingProvider
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

    async def run() -> T:
        embedder = AsyncEmbeddingProvider(model)
        named = {} if options.db is None else {"db_name": options.db}
        config = MongoDBConfig(options.uri, **named)
        try:
            async with AsyncMongoDBProvider(config, embedding_provider=embedder) as provider:
                if embeds:  # now, so that the timings of the call are those of a warm model
                    await embedder.load_async()
                return await call(provider)
        finally:
            await embedder.close_async()

    said = "starting the database and the model …"
    with console(stderr=True).status(said) if spins else contextlib.nullcontext():
        return asyncio.run(run())
