"""What another program may have stored: one row for each odd value in each field.

Python cannot hold a text that is not UTF-8: such rows are made as BSON, with `@@` for two bytes
that no text has.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import bson
import pymongo
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import BinaryVectorDtype
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError

from memorizz_async import MemoryType, MongoDBConfig

NOT_UTF8 = "bad @@ text"
FAR = DatetimeMS(260_000_000_000_000)  # in the year 10209
VALUES: tuple[Any, ...] = (
    FAR, DatetimeMS(2**63 - 1), Decimal128("NaN"), Decimal128("Infinity"), Decimal128("7.5"),
    math.inf, -math.inf, math.nan, Int64(2**63 - 1), -7, True, None, "", "a text", NOT_UTF8, b"a",
    Binary(b"abc", 4), Binary(b"\x27", 9), [], [1, "a", None], [[1]], {"a": 1},
    {"$ref": "rows", "$id": {"a": 1}}, {"$ref": 5, "$id": 1}, {NOT_UTF8: NOT_UTF8},
    ObjectId(), Regex("a+", "i"), Code("f()"), Code("f()", {"a": 1}), Timestamp(5, 6), MinKey(),
    MaxKey(),
)  # fmt: skip
FIELDS = (
    "content", "timestamp", "created_at", "updated_at", "importance", "turn", "session_id",
    "recall_count", "last_recalled_at", "expires_at", "metadata", "source", "context", "tags",
    "name", "attributes", "memory_type", "dedup_key", "score", "text_score", "fused_score",
    "rerank_score", "role", "embedding_next",
)  # fmt: skip
VECTORS: tuple[Any, ...] = (
    *VALUES,
    Binary.from_vector([1] * 8, BinaryVectorDtype.INT8),
    Binary.from_vector([255], BinaryVectorDtype.PACKED_BIT),
    Binary.from_vector([1.0] * 3, BinaryVectorDtype.FLOAT32),
    Binary.from_vector([math.nan] * 8, BinaryVectorDtype.FLOAT32),
    Binary.from_vector([math.inf] * 8, BinaryVectorDtype.FLOAT32),
    Binary.from_vector([0.0] * 8, BinaryVectorDtype.FLOAT32),
    [1.0] * 5, [math.nan] * 8, [1e300] * 8, ["1"] * 8, [1.0] * 7 + [None], [[1.0] * 8],
    [{"a": 1.0}] * 8, [Decimal128("1")] * 8, [True] * 8,
)  # fmt: skip
IDS: tuple[Any, ...] = (
    5, math.nan, True, b"a", Binary(b"0" * 16, 4), FAR, {"a": 1}, {"$ref": "rows", "$id": [1]},
    MinKey(), Decimal128("1"), Timestamp(1, 1), Code("f()"), NOT_UTF8, "\ufffd", "Ünï",
)  # fmt: skip


def bson_of(row: Mapping[str, Any]) -> RawBSONDocument:
    """The row as another program may write it."""
    return RawBSONDocument(bson.encode(row).replace(b"@@", b"\xff\xfe"))


def odd_rows(whose: Mapping[str, Any], embedding: Any) -> Iterator[dict[str, Any]]:
    """One row for each odd value of each field; all else is ordinary."""
    plain = {**whose, "content": "nuts", "session_id": "s", "embedding": embedding}
    for value in VALUES:
        for name in FIELDS:
            yield {"_id": ObjectId(), **plain, name: value}
    for value in VECTORS:
        yield {"_id": ObjectId(), **plain, "embedding": value}
    for value in IDS:
        yield {"_id": value, **plain}


async def write(config: MongoDBConfig, kind: MemoryType, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as another program does, past every check of ours."""

    def insert() -> None:
        with pymongo.MongoClient(config.uri) as client:
            target = client[config.db_name][kind.collection]
            try:
                target.insert_many(map(bson_of, rows), ordered=False)
            except BulkWriteError as error:  # a text index takes no text that is not UTF-8
                refused = (error.details or {})["writeErrors"]
                assert {entry["code"] for entry in refused} == {28755}

    await asyncio.to_thread(insert)
