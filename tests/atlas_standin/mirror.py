"""A collection as its search indexes see it: read from the real server, some time behind.

Like mongot it reads everything once and then follows a change stream. Unlike mongot it reads the
stream only when somebody searches or syncs, so there is no task in the background to own; how far
it lags is decided by the wall time of each change, not by when it was read.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.asynchronous.change_stream import AsyncCollectionChangeStream
from pymongo.asynchronous.database import AsyncDatabase

from .content import Content
from .messages import CODEC, Document

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)
# How long one read of the stream waits for news: just enough to be told that there is none.
_AWAIT_MS = 1
_SYNC_PAUSE_S = 0.005


@dataclass(frozen=True)
class _Change:
    at_ms: int
    key: bytes
    raw: bytes | None  # None: it was deleted


@dataclass
class Mirror:
    db: AsyncDatabase[Document]
    collection: str
    _documents: dict[bytes, bytes] = field(default_factory=dict)
    _contents: list[Content] = field(default_factory=list)
    _waiting: deque[_Change] = field(default_factory=deque)
    _stream: AsyncCollectionChangeStream[RawBSONDocument] | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def open(self) -> None:
        """The stream first, then the documents: a change in between is told twice, not missed."""
        collection = self.db.with_options(codec_options=_RAW)[self.collection]
        self._stream = await collection.watch(
            full_document="updateLookup", max_await_time_ms=_AWAIT_MS
        )
        async for document in collection.find({}):
            self._documents[_key(document["_id"])] = bytes(document.raw)

    async def close(self) -> None:
        if self._stream is not None:
            await self._stream.close()
            self._stream = None

    def attach(self, content: Content) -> None:
        """Fills an index version with what is visible now, and keeps it up to date."""
        for key, raw in self._documents.items():
            content.put(key, raw)
        self._contents.append(content)

    def detach(self, content: Content) -> None:
        self._contents = [kept for kept in self._contents if kept is not content]

    async def catch_up(self, lag_s: float) -> None:
        """Makes visible what happened at least `lag_s` ago."""
        async with self._lock:
            await self._drain()
            before_ms = (time.time() - lag_s) * 1000
            while self._waiting and self._waiting[0].at_ms <= before_ms:
                self._apply(self._waiting.popleft())

    async def sync(self, until: Timestamp) -> None:
        """Makes visible everything up to an operation time, however recent."""
        async with self._lock:
            while self._stream is not None and self._stream.alive:
                await self._drain()
                if self._position() >= (until.time, until.inc):
                    break
                # The stream shows a write once a majority has it, which may take a moment.
                await asyncio.sleep(_SYNC_PAUSE_S)
            while self._waiting:
                self._apply(self._waiting.popleft())

    async def _drain(self) -> None:
        stream = self._stream
        while stream is not None and stream.alive:
            event = await stream.try_next()
            if event is None:
                return
            kind = event["operationType"]
            if kind in ("insert", "update", "replace", "delete"):
                # Gone again before it was looked up: null, and as good as deleted.
                document = event.get("fullDocument")
                raw = bytes(document.raw) if isinstance(document, RawBSONDocument) else None
                at_ms = int(event["wallTime"])
                self._waiting.append(_Change(at_ms, _key(event["documentKey"]["_id"]), raw))

    def _position(self) -> tuple[int, int]:
        """How far the stream has read, which its resume token says even when nothing happened.

        A token is a sortable key in hexadecimal that begins with a timestamp: the byte 0x82, then
        seconds and increment, each as four bytes.
        """
        assert self._stream is not None
        token = self._stream.resume_token
        data = bytes.fromhex(token["_data"]) if token else b""
        if len(data) < 9 or data[0] != 0x82:
            return (0, 0)
        return (int.from_bytes(data[1:5], "big"), int.from_bytes(data[5:9], "big"))

    def _apply(self, change: _Change) -> None:
        if change.raw is None:
            self._documents.pop(change.key, None)
        else:
            self._documents[change.key] = change.raw
        for content in self._contents:
            if change.raw is None:
                content.remove(change.key)
            else:
                content.put(change.key, change.raw)


def _key(identity: Any) -> bytes:
    return bson.encode({"_id": identity}, codec_options=CODEC)
