"""What a driver raises, as an error of ours: the one table of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import bson
from pymongo import errors as driver_errors

from memorizz_async.address import HOW_TO_WRITE
from memorizz_async.deadline import Deadline
from memorizz_async.errors import (
    AuthenticationError,
    ClosedError,
    DatabaseError,
    DuplicateMemoryError,
    InvalidInputError,
    InvalidURIError,
    MemorizzAsyncError,
    ServerUnavailableError,
    UnsupportedOperationError,
)
from memorizz_async.memory_provider.mongodb.protocol import DUPLICATE_KEY, Refusal

DRIVERS_OWN = (
    driver_errors.PyMongoError,
    bson.errors.BSONError,
    NotImplementedError,  # mongomock
    UnicodeError,  # what BSON cannot say
    OverflowError,
)
_AUTHENTICATION_CODES = frozenset({11, 13, 18, 8000})
_TIMEOUT_CODES = frozenset({50, 262})  # MaxTimeMSExpired, ExceededTimeLimit

_CODES: dict[int, tuple[str, str]] = {
    1: ("InternalError", "the server failed inside"),
    2: ("BadValue", "a value that the server does not take there"),
    6: ("HostUnreachable", "the server cannot reach another one"),
    8: ("UnknownError", "the server does not say what failed"),
    9: ("FailedToParse", "the server cannot read the command"),
    11: ("UserNotFound", "there is no such user"),
    13: ("Unauthorized", "the user has not the right to do this"),
    14: ("TypeMismatch", "a value of another type than the server takes there"),
    18: ("AuthenticationFailed", "the user or the password is wrong"),
    20: ("IllegalOperation", "the server does not allow this here"),
    26: ("NamespaceNotFound", "there is no such collection"),
    27: ("IndexNotFound", "there is no such index"),
    28: ("PathNotViable", "a dotted name leads into a value that has no fields"),
    39: ("CommandFailed", "the command failed"),
    40: ("ConflictingUpdateOperators", "two changes concern the same field"),
    48: ("NamespaceExists", "there is such a collection already"),
    52: ("DollarPrefixedFieldName", "the name of a field begins with $"),
    53: ("InvalidIdField", "a value that cannot be an _id"),
    56: ("EmptyFieldName", "a field has no name"),
    57: ("DottedFieldName", "the name of a field has a dot in it"),
    59: ("CommandNotFound", "the server does not know the command"),
    64: ("WriteConcernTimeout", "too few members confirmed the write in time"),
    66: ("ImmutableField", "a field that never changes, such as _id, would change"),
    67: ("CannotCreateIndex", "the index cannot be created"),
    68: ("IndexAlreadyExists", "there is an index of this name already"),
    72: ("InvalidOptions", "the server does not take these options"),
    73: ("InvalidNamespace", "a name that no collection can have"),
    79: ("UnknownReplWriteConcern", "the replica set does not know this write concern"),
    85: ("IndexOptionsConflict", "there is an index on these fields with other options"),
    86: ("IndexKeySpecsConflict", "there is an index of this name on other fields"),
    91: ("ShutdownInProgress", "the server is shutting down"),
    100: ("UnsatisfiableWriteConcern", "the replica set has too few members for it"),
    112: ("WriteConflict", "another write changed the same rows at this moment"),
    115: ("CommandNotSupported", "this server does not support the command"),
    121: ("DocumentValidationFailure", "the validator of the collection does not take the row"),
    125: ("CommandFailed", "the command failed"),
    133: ("FailedToSatisfyReadPreference", "no member can be read from"),
    136: ("CappedPositionLost", "rows were overwritten while they were read"),
    166: ("CommandNotSupportedOnView", "the collection is a view, which cannot be changed"),
    167: (
        "OptionNotSupportedOnView",
        "the collection is a view with a collation, which could mix tenants: make it without one",
    ),
    171: ("CannotIndexParallelArrays", "an index cannot take a row with two lists"),
    189: ("PrimarySteppedDown", "another member becomes the primary"),
    241: ("ConversionFailure", "a value cannot be converted"),
    280: ("ChangeStreamFatalError", "the change stream cannot go on"),
    286: ("ChangeStreamHistoryLost", "the server has forgotten this place of the change stream"),
    292: ("QueryExceededMemoryLimitNoDiskUseAllowed", "the query needs too much memory"),
    391: ("ReauthenticationRequired", "the credentials have expired"),
    8000: ("AtlasError", "Atlas did not accept the credentials or the operation"),
    10107: ("NotWritablePrimary", "the server is not the primary"),
    10334: ("BSONObjectTooLarge", "a document is larger than MongoDB takes"),
    11000: ("DuplicateKey", "a row of this key is there already"),
    11600: ("InterruptedAtShutdown", "the server is shutting down"),
    11601: ("Interrupted", "the operation was ended on the server"),
    11602: ("InterruptedDueToReplStateChange", "another member becomes the primary"),
    13388: ("StaleConfig", "the shards have moved"),
    13435: ("NotPrimaryNoSecondaryOk", "the server is not the primary"),
    13436: ("NotPrimaryOrSecondary", "the server is recovering"),
    14031: ("OutOfDiskSpace", "the disk of the server is full"),
    16755: ("CannotExtractGeoKeys", "a geospatial index of the collection cannot take the row"),
    17261: ("BadLanguage", "the text index needs a text in the field language"),
    17262: ("BadLanguage", "the text index does not know what the field language of a row says"),
    17419: ("BSONObjectTooLarge", "the row would be larger than MongoDB takes"),
    31082: ("SearchNotEnabled", "this server has no search"),
}
"""The name of a code, and what it means. The server's own words quote rows, queries and keys."""

_PHRASES = (
    # Of mongot, which has one code for everything.
    "needs to be indexed as",
    "dimensions but queried with",
    "is not indexed as vector",
    "cannot query vector index",
    "not initialized",
    "Cannot execute $vectorSearch over search index",
    "Error connecting to",
    "zero vector",
    "maximum number of",
    "Duplicate Index",
    # Of the network, by way of the driver.
    "Connection refused",
    "Name or service not known",
    "nodename nor servname provided",
    "Temporary failure in name resolution",
    "No address associated with hostname",
    "No route to host",
    "Network is unreachable",
    "Connection reset by peer",
    "connection closed",
    "timed out",
    "certificate verify failed",
    "certificate has expired",
    "Hostname mismatch",
    "SSL handshake failed",
    "TLSV1_ALERT",
    "WRONG_VERSION_NUMBER",
    "No replica set members match selector",
    "No replica set members available",
    "No primary available for writes",
    "No servers found yet",
    "DNS query name does not exist",
    "No servers match selector",
    # Of the driver about an address.
    "must be installed to use mongodb+srv://",
    "must not include a port number",
    "must include one, and only one, hostname",
    "Port must be an integer between",
    "must be escaped according to",
    "Cannot specify multiple hosts with directConnection=true",
)
"""Constants that the words of a server or of a driver are searched for: these alone are shown."""
_CODE_NAME = re.compile(r"[A-Z][A-Za-z]{2,60}")


def translate(  # noqa: PLR0911 - one return a kind of error is the table itself
    error: Exception,
    operation: str,
    address: str,
    selection_ms: int,
    deadline: Deadline | None,
) -> MemorizzAsyncError:
    """The error of ours for one of the driver's. The most specific first.

    Raise it outside of the `except` that caught the driver's error: that one quotes rows, queries
    and commands, and must not be the cause or the context of the error that leaves.
    """
    code = error.code if isinstance(error, driver_errors.OperationFailure) else None
    seen = seen_of(error)
    match error:
        case driver_errors.ServerSelectionTimeoutError():
            within = min(selection_ms, deadline.budget_ms) if deadline else selection_ms
            return ServerUnavailableError(
                f"No MongoDB server answered at {address} within {within} ms",
                seen=seen,
                fix='start the server, correct the address, or use uri="local"',
            )
        case driver_errors.ConfigurationError() | driver_errors.InvalidURI():
            return bad_uri(address, error)
        case driver_errors.PyMongoError() if (error.timeout or code in _TIMEOUT_CODES) and deadline:
            return deadline.exceeded(operation, seen)
        case driver_errors.OperationFailure() if code in _AUTHENTICATION_CODES:
            return AuthenticationError(
                f"The server at {address} did not allow the operation ({operation})",
                seen=seen,
                fix="check the user, the password, authSource and the user's roles",
                code=code,
            )
        case driver_errors.DuplicateKeyError():
            return DuplicateMemoryError(f"The row exists already ({operation})", code=code)
        case driver_errors.ConnectionFailure():
            return ServerUnavailableError(
                f"The connection to {address} broke ({operation})",
                seen=seen,
                fix="try again; writes with a dedup_key or an _id can be repeated safely",
            )
        case driver_errors.InvalidOperation() if "after close" in str(error).lower():
            return ClosedError(f"The provider was closed during an operation ({operation})")
        case UnicodeError() | OverflowError() | bson.errors.InvalidDocument():
            return InvalidInputError(
                f"A value cannot be sent to MongoDB ({operation})", seen=type(error).__name__
            )
        case NotImplementedError():
            return memory_cannot(f"do this ({operation})")
        case _:
            return DatabaseError(
                f"The operation failed at {address} ({operation})", seen=seen, code=code
            )


def seen_of(error: Exception) -> str:
    """What may be shown of a driver's error: code, name, our words for it; never its own."""
    known = ", ".join(phrase for phrase in _PHRASES if phrase in str(error))
    if not isinstance(error, driver_errors.OperationFailure) or error.code is None:
        return known or type(error).__name__
    reason = reason_of(error.code, (error.details or {}).get("codeName"))
    return f"{reason}: {known}" if known else reason


def reason_of(code: int, name: Any = None) -> str:
    """An error code of the server, its name and what it means."""
    usual_name, words = _CODES.get(code, ("", ""))
    if not isinstance(name, str) or not _CODE_NAME.fullmatch(name):
        name = usual_name
    shown = f"code {code} ({name})" if name else f"code {code}"
    return f"{shown}, {words}" if words else shown


def refusal_of(entry: Mapping[str, Any]) -> Refusal:
    """What the server says of one write that it did not carry out."""
    code = int(entry.get("code", 0))
    # mongomock names no key: its only unique index is that of `_id`.
    same_id = code == DUPLICATE_KEY and entry.get("keyPattern", {"_id": 1}) == {"_id": 1}
    return Refusal(code, reason_of(code, entry.get("codeName")), same_id)


def bad_uri(address: str, error: Exception) -> InvalidURIError:
    """For an address that a driver does not take. address: as it may be shown."""
    return InvalidURIError(
        f"The address of the database cannot be read: {address}",
        seen=seen_of(error),
        fix=HOW_TO_WRITE,
    )


def memory_cannot(what: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"memory:// cannot {what}",
        seen="a database that lives in this process, without a server",
        fix='use uri="local" or a MongoDB server',
    )
