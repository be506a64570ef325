"""What Motor does differently from PyMongo Async."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from memorizz_async.memory_provider.mongodb.driver.change_stream import (
    ThreadedStream,
    stream_options,
)
from memorizz_async.memory_provider.mongodb.driver.server import MongoDriver
from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.threaded_loop import in_new_thread


class MotorDriver(MongoDriver):
    name = "motor"

    async def _aggregate(
        self, collection: str, pipeline: Sequence[Document], *, plain: bool = False, **options: Any
    ) -> Any:
        source = self._plain(collection) if plain else self._database[collection]
        return source.aggregate(list(pipeline), **options)

    async def _start_session(self) -> Any:
        return await self._client.start_session()

    async def _open_stream(
        self, pipeline: Sequence[Document], resume_after: Document | None, session: Any
    ) -> Any:
        # Motor would take a thread of its pool for each single change, and keep one for ever.
        options = {**stream_options(resume_after), "session": session.delegate}
        return await ThreadedStream.open(self._watched().delegate, pipeline, options)

    async def _next_changes(self, stream: Any) -> list[Document]:
        changes: list[Document] = await stream.next_changes()
        return changes

    async def close(self) -> None:
        # Motor closes on the calling thread: it says goodbye to the server and joins its monitors.
        if not self._inherited:
            await in_new_thread(self._client.close)

    def abandon(self) -> None:
        """Close the client from a thread: it needs no event loop for that."""
        threading.Thread(target=self._client.close, daemon=True).start()
