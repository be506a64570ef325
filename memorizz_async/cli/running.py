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
    warm: bool = False,
    spins: bool = True,
    model: str | None = None,
) -> T:
    """The result of a call on a provider of the options' database, which is closed afterwards.

    Nothing is opened or loaded before the call needs it, so that it checks its arguments first.

    Args:
        options: The options of the command; `uri` and `db` name the database.
        call: What to do with the provider.
        warm: Open the database and load the model first, so that the timings of the call are those
            of a warm model. The arguments must have been checked.
        spins: Show a spinner on standard error, where that is a terminal.
        model: The name of the embedding model; None is `EMB_MODEL` or the default.

    Returns:
        What the call returned.
    """
    from memorizz_async.config import MongoDBConfig
    from memorizz_async.embeddings import AsyncEmbeddingProvider
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

    async def run() -> T:
        named = {} if options.db is None else {"db_name": options.db}
        config = MongoDBConfig(options.uri, **named)
        embedder = AsyncEmbeddingProvider(model)
        provider = AsyncMongoDBProvider(config, embedding_provider=embedder)
        try:
            if warm:
                await provider.__aenter__()
                await embedder.load_async()
            return await call(provider)
        finally:
            await provider.close_async()
            await embedder.close_async()

    said = "starting the database and the model …"
    with console(stderr=True).status(said) if spins else contextlib.nullcontext():
        return asyncio.run(run())
