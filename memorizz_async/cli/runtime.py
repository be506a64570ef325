"""Run an async call of a command on a provider that is closed afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from memorizz_async.cli.output import console
from memorizz_async.enums import ApplicationMode, MemoryType
from memorizz_async.errors import InvalidInputError

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

T = TypeVar("T")


def run_on_provider(
    call: Callable[[AsyncMongoDBProvider], Awaitable[T]],
    *,
    uri: str | None,
    db: str | None,
    warm: bool = False,
    spinner: bool = True,
    model: str | None = None,
) -> T:
    """Run a call on a provider and close it.

    Nothing is opened or loaded before the call needs it, so that the call checks its arguments
    first.

    Args:
        call: Receives the provider.
        uri: The `--uri` of the command; None reads MONGODB_URI.
        db: The `--db` of the command; None takes the database in the URI.
        warm: Open the database and load the model first, so that the timings of the call are those
            of a warm model. The arguments must have been checked.
        spinner: Show a spinner on standard error, if that is a terminal.
        model: The name of the embedding model; None takes EMB_MODEL or the default.

    Returns:
        The result of the call.
    """
    import asyncio

    from memorizz_async.config import MongoDBConfig
    from memorizz_async.embeddings import AsyncEmbeddingProvider
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

    async def run() -> T:
        config = MongoDBConfig(uri) if db is None else MongoDBConfig(uri, db)
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

    text = "starting the database and the model …"
    with console(stderr=True).status(text) if spinner else contextlib.nullcontext():
        return asyncio.run(run())


def check_recall(
    query: str, types: Sequence[str], *, limit: int, condition: Any, tenant: dict[str, Any]
) -> None:
    """Raise InvalidInputError for what a recall would refuse, before a model is loaded for it."""
    from memorizz_async.memory_provider.mongodb.queries import queries_of

    shared = {"query": query, "limit": limit, "filter": condition, **tenant}
    queries_of([{"key": kind, "memory_type": kind, **shared} for kind in types], dimensions=None)


async def has_memories(provider: AsyncMongoDBProvider, tenant: dict[str, Any]) -> bool:
    """Return whether the database has any memory of the tenant, of any type."""
    for kind in MemoryType:
        if await provider.list_async(kind, limit=1, **tenant):
            return True
    return False


def default_types() -> list[str]:
    """Return the memory types that `recall` searches if none is given."""
    return [kind.name for kind in ApplicationMode.CONVERSATIONAL.memory_types]


def read_standard_input() -> str:
    """Return the text on standard input. Raises InvalidInputError if it is not UTF-8."""
    if sys.stdin is None:
        raise InvalidInputError("Standard input is closed", fix="pass the text as an argument")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            "Standard input is not text", seen=f"bytes that are not {error.encoding}"
        ) from None


def print_note(text: str) -> None:
    """Print a note on standard error, beside the result."""
    print(f"note: {text}", file=sys.stderr)
