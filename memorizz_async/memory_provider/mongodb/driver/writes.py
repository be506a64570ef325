"""Writes of ours as the driver's operations, and what it says of them as an outcome of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pymongo
from bson import Timestamp
from pymongo.collation import Collation

from memorizz_async.memory_provider.mongodb.driver.translation import refusal_of
from memorizz_async.memory_provider.mongodb.protocol import (
    Delete,
    Insert,
    Replace,
    Update,
    Write,
    WriteOutcome,
)


def operation_of(write: Write, collation: Collation | None = None) -> Any:
    """The driver's word for a write. collation: how its query compares strings."""
    match write:
        case Insert(row):
            return pymongo.InsertOne(row)
        case Replace(query, row, upsert):
            return pymongo.ReplaceOne(query, row, upsert=upsert, collation=collation)
        case Update(query, update, True, upsert):
            return pymongo.UpdateMany(query, update, upsert=upsert, collation=collation)
        case Update(query, update, _, upsert):
            return pymongo.UpdateOne(query, update, upsert=upsert, collation=collation)
        case Delete(query, True):
            return pymongo.DeleteMany(query, collation=collation)
        case Delete(query, _):
            return pymongo.DeleteOne(query, collation=collation)


def outcome_of(reply: Mapping[str, Any], at: Timestamp | None) -> WriteOutcome:
    """What the driver's reply to a bulk says."""
    return WriteOutcome(
        matched=int(reply.get("nMatched", 0)),
        upserted=int(reply.get("nUpserted", 0)),
        inserted=int(reply.get("nInserted", 0)),
        deleted=int(reply.get("nRemoved", 0)),
        refused={entry["index"]: refusal_of(entry) for entry in reply.get("writeErrors", [])},
        at=at,
    )
