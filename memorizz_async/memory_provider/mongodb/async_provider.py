"""AsyncMongoDBProvider: memories in MongoDB, written, read and searched without blocking."""

from __future__ import annotations

from memorizz_async.memory_provider.mongodb.provider.deleting import Deleting
from memorizz_async.memory_provider.mongodb.provider.editing import Editing
from memorizz_async.memory_provider.mongodb.provider.listing import Listing
from memorizz_async.memory_provider.mongodb.provider.maintaining import Maintaining
from memorizz_async.memory_provider.mongodb.provider.putting import Putting
from memorizz_async.memory_provider.mongodb.provider.reading import Reading
from memorizz_async.memory_provider.mongodb.provider.recalling import Recalling
from memorizz_async.memory_provider.mongodb.provider.storing import Storing


class AsyncMongoDBProvider(
    Storing, Putting, Reading, Listing, Editing, Deleting, Recalling, Maintaining
):
    """The memories of one database.

    Constructing it does no I/O. It opens on first use (or on `async with`), keeps a client for each
    event loop that uses it, and closes what it opened. An embedder that it was lent stays open.

    config: where the database is; None takes `MONGODB_URI`, else `local`.
    embedding_provider: what embeds texts where no embedding is given: an `AsyncEmbeddingProvider`,
        any object with its methods, or a callable `f(list[str]) -> vectors`, plain or async. None
        takes the process-wide one, on first need.
    retiring_embedding_provider: while the rows are being changed to another model (see
        `reembed_async`): the embedder that they were made with, and `embedding_provider` the new
        one. Each collection is asked and written with the model that it has at that moment.
    reranker: gives what a recall by text found its final order; see `Reranker`.

    Every method takes `timeout_ms`, the deadline of the whole call in milliseconds, which reaches
    the server; left out, the configuration's bounds the database's work alone. Every method raises
    ServerUnavailableError, OperationTimeoutError, AuthenticationError or another DatabaseError
    where the database fails, and ClosedError after close.
    """
