"""Change streams: how they are asked for, where they stand, and Motor's in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bson import Timestamp

from memorizz_async.memory_provider.mongodb.protocol import Document
from memorizz_async.threaded_loop import in_new_thread

CHANGES_A_BATCH = 200
"""Few enough that decoding and applying them does not hold up the loop."""
CHANGES_WAIT_MS = 1_000
"""How long the server holds a request for changes where there are none."""
CHANGES_SILENCE_S = 10.0
"""A stream that has not even said "nothing new" for so long is broken, whatever the socket says."""
_KEY_STRING_TIMESTAMP = 130


def stream_options(resume_after: Document | None) -> dict[str, Any]:
    return {
        "full_document": "updateLookup",
        "resume_after": resume_after,
        "batch_size": CHANGES_A_BATCH,
        "max_await_time_ms": CHANGES_WAIT_MS,
    }


def time_of(token: Mapping[str, Any] | None) -> Timestamp | None:
    """The logical time in a resume token: its first part in every version of the format.

    The server writes it into the token of an empty batch, too, which nothing else dates. None for
    a token of another make: other databases speak this protocol.
    """
    try:
        data = bytes.fromhex(token["_data"])  # type: ignore[index]
        kind, seconds, number = struct.unpack_from(">BII", data)
    except (KeyError, TypeError, ValueError, struct.error):
        return None
    return Timestamp(seconds, number) if kind == _KEY_STRING_TIMESTAMP else None


def just_before(at: Timestamp | None) -> Timestamp | None:
    if at is None:
        return None
    return Timestamp(at.time, at.inc - 1) if at.inc else Timestamp(at.time - 1, 0xFFFF_FFFF)


def newest_time(session: Any) -> Timestamp | None:
    """The newest logical time of the server that a session has heard of; None without one."""
    told = session.cluster_time
    return None if told is None else told.get("clusterTime")


class ThreadedStream:
    """A blocking change stream in a thread of its own, which ends with it."""

    def __init__(self, stream: Any, thread: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._thread = thread

    @classmethod
    async def open(
        cls, database: Any, pipeline: Sequence[Document], options: Mapping[str, Any]
    ) -> ThreadedStream:
        thread = ThreadPoolExecutor(1, thread_name_prefix="memorizz-async changes")
        opening = thread.submit(functools.partial(database.watch, list(pipeline), **options))
        try:
            return cls(await asyncio.wrap_future(opening), thread)
        except BaseException:
            # Cancelled while it opens: what it opens is closed where it was opened.
            opening.add_done_callback(_close_opened)
            raise
        finally:
            if opening.cancelled() or (opening.done() and opening.exception() is not None):
                thread.shutdown(wait=False)

    @property
    def resume_token(self) -> Any:
        return self._stream.resume_token

    async def next_changes(self) -> list[Document]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._drain)

    async def close(self) -> None:
        # From another thread: killing the cursor is what ends a request that waits for changes.
        try:
            await in_new_thread(self._stream.close)
        finally:
            self._thread.shutdown(wait=False)

    def _drain(self) -> list[Document]:
        events = []
        event = self._stream.try_next()
        while event is not None:
            events.append(event)
            event = self._stream.try_next() if self._stream._cursor._has_next() else None
        return events


def _close_opened(opening: Any) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
