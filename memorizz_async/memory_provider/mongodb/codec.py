"""How values become BSON and back, as the address has it."""

from __future__ import annotations

from typing import Any

from bson import CodecOptions
from bson.binary import UuidRepresentation

from memorizz_async.config import MongoDBConfig

_REPRESENTATIONS = {
    "standard": UuidRepresentation.STANDARD,
    "pythonlegacy": UuidRepresentation.PYTHON_LEGACY,
    "javalegacy": UuidRepresentation.JAVA_LEGACY,
    "csharplegacy": UuidRepresentation.CSHARP_LEGACY,
}


def codec_options(config: MongoDBConfig) -> CodecOptions[dict[str, Any]]:
    """The options with which the driver encodes and decodes the rows of a configuration.

    Use them to check whether a value can be stored, and to encode a UUID of a filter: without
    `uuidRepresentation` in the address a UUID cannot be encoded, and is read as `bson.Binary`.
    """
    name = str(config.driver_option("uuidRepresentation") or "").lower()
    representation = _REPRESENTATIONS.get(name, UuidRepresentation.UNSPECIFIED)
    return CodecOptions(tz_aware=True, uuid_representation=representation)
