"""MongoDB wire messages: reading them off a stream, looking inside, building new ones.

A message is a header of four little-endian int32 (length, request id, id answered, op code) and a
body. Nothing here re-encodes what it was not asked to change.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion

OP_REPLY = 1
OP_QUERY = 2004
OP_COMPRESSED = 2012
OP_MSG = 2013

CHECKSUM_PRESENT = 1 << 0
MORE_TO_COME = 1 << 1

HEADER = struct.Struct("<iiii")
INT32 = struct.Struct("<i")
FLAGS = struct.Struct("<I")

Document = dict[str, Any]

# Types survive a round trip: Int64 stays Int64, UUIDs and vectors stay Binary, and dates are
# DatetimeMS, which compare with each other and have no range that a date could fall out of.
CODEC: CodecOptions[Document] = CodecOptions(
    unicode_decode_error_handler="replace",
    document_class=dict,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
)

_ids = itertools.count(1)


@dataclass(frozen=True)
class Frame:
    """One whole message, as bytes."""

    raw: bytes

    @property
    def request_id(self) -> int:
        return int(INT32.unpack_from(self.raw, 4)[0])

    @property
    def response_to(self) -> int:
        return int(INT32.unpack_from(self.raw, 8)[0])

    @property
    def op_code(self) -> int:
        return int(INT32.unpack_from(self.raw, 12)[0])

    @property
    def flags(self) -> int:
        return int(FLAGS.unpack_from(self.raw, 16)[0]) if self.op_code == OP_MSG else 0

    @property
    def more_to_come(self) -> bool:
        """From a client: it expects no answer. From a server: another answer follows unasked."""
        return bool(self.flags & MORE_TO_COME)

    @cached_property
    def body(self) -> Document:
        """The document, with the document sequences of kind 1 put where they belong."""
        if self.op_code == OP_MSG:
            return self._msg_body()
        if self.op_code == OP_REPLY:
            return _decode(self.raw[36:])
        if self.op_code == OP_QUERY:
            return _decode(self.raw[self._query_at :])
        raise ValueError(f"no document can be read from a message of op code {self.op_code}")

    @property
    def first_key(self) -> str:
        """The first key of the command document, which names the command; nothing is decoded."""
        at = self._body_at
        if at is None or at + 5 >= len(self.raw):
            return ""
        return self.raw[at + 5 : self.raw.index(b"\0", at + 5)].decode()

    @property
    def _query_at(self) -> int:
        # After the flags comes the namespace as a C string, then two int32 (skip, return).
        return self.raw.index(b"\0", 20) + 1 + 8

    @property
    def _body_at(self) -> int | None:
        if self.op_code == OP_QUERY:
            return self._query_at
        if self.op_code != OP_MSG:
            return None
        at = 20
        end = self._sections_end
        while at < end:
            kind = self.raw[at]
            if kind == 0:
                return at + 1
            at += 1 + int(INT32.unpack_from(self.raw, at + 1)[0])
        return None

    @property
    def _sections_end(self) -> int:
        return len(self.raw) - (4 if self.flags & CHECKSUM_PRESENT else 0)

    def _msg_body(self) -> Document:
        body: Document = {}
        sequences: dict[str, list[Document]] = {}
        at = 20
        while at < self._sections_end:
            kind = self.raw[at]
            size = int(INT32.unpack_from(self.raw, at + 1)[0])
            section = self.raw[at + 1 : at + 1 + size]
            if kind == 0:
                body = _decode(section)
            elif kind == 1:
                name_end = section.index(b"\0", 4)
                name = section[4:name_end].decode()
                sequences[name] = bson.decode_all(section[name_end + 1 :], CODEC)
            else:
                raise ValueError(f"unknown OP_MSG section kind {kind}")
            at += 1 + size
        return {**body, **sequences}


def _decode(data: bytes) -> Document:
    size = int(INT32.unpack_from(data, 0)[0])
    return bson.decode(data[:size], CODEC)


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next message, or None where the other side has hung up between two messages."""
    try:
        header = await reader.readexactly(HEADER.size)
    except asyncio.IncompleteReadError:
        return None
    length = int(HEADER.unpack(header)[0])
    return Frame(header + await reader.readexactly(length - HEADER.size))


def op_msg(body: Mapping[str, Any], *, request_id: int, response_to: int, flags: int = 0) -> Frame:
    """A message with one section; the checksum is optional in the protocol and left out."""
    document = bson.encode(body, codec_options=CODEC)
    header = HEADER.pack(21 + len(document), request_id, response_to, OP_MSG)
    return Frame(header + FLAGS.pack(flags & ~CHECKSUM_PRESENT) + b"\0" + document)


def reply_to(request: Frame, body: Mapping[str, Any]) -> Frame:
    """Our own answer to a request, in the op code it was asked in."""
    if request.op_code != OP_QUERY:
        return op_msg(body, request_id=next(_ids), response_to=request.request_id)
    document = bson.encode(body, codec_options=CODEC)
    header = HEADER.pack(36 + len(document), next(_ids), request.request_id, OP_REPLY)
    return Frame(header + struct.pack("<iqii", 8, 0, 0, 1) + document)


def with_body(frame: Frame, body: Mapping[str, Any]) -> Frame:
    """The same message (ids, flags, op code) saying something else."""
    if frame.op_code == OP_MSG:
        return op_msg(
            body, request_id=frame.request_id, response_to=frame.response_to, flags=frame.flags
        )
    if frame.op_code != OP_REPLY:
        raise ValueError(f"a message of op code {frame.op_code} cannot be rewritten")
    document = bson.encode(body, codec_options=CODEC)
    header = HEADER.pack(36 + len(document), frame.request_id, frame.response_to, OP_REPLY)
    return Frame(header + frame.raw[16:36] + document)
