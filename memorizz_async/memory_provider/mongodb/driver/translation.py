"""What a driver raises, as an error of ours: the one table of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bson
from pymongo import errors as driver_errors

from memorizz_async.deadline import Deadline
from memorizz_async.errors import (
    AuthenticationError,
    ClosedError,
    DatabaseError,
    DuplicateMemoryError,
    InvalidInputError,
    InvalidURIError,
    ServerUnavailableError,
    UnsupportedOperationError,
)
from memorizz_async.memory_provider.mongodb.protocol import DUPLICATE_KEY, Refusal
from memorizz_async.redaction import redact_uri

DRIVERS_OWN = (
    driver_errors.PyMongoError,
    bson.errors.BSONError,
    NotImplementedError,  # mongomock
    UnicodeError,  # what BSON cannot say
    OverflowError,
)
_AUTHENTICATION_CODES = frozenset({11, 13, 18, 8000})
_TIMEOUT_CODES = frozenset({50, 262})  # MaxTimeMSExpired, ExceededTimeLimit


def translate(  # noqa: PLR0911 - one return a kind of error is the table itself
    error: Exception,
    operation: str,
    address: str,
    selection_ms: int,
    deadline: Deadline | None,
) -> Exception:
    """The error of ours for one of the driver's. The most specific first."""
    seen = redact_uri(str(error))
    for technical in (", Timeout:", ", Topology Description", ", full error:"):
        seen = seen.partition(technical)[0]
    code = error.code if isinstance(error, driver_errors.OperationFailure) else None
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
        case UnicodeError() | OverflowError():
            return InvalidInputError(
                f"A value cannot be sent to MongoDB ({operation})", seen=type(error).__name__
            )
        case NotImplementedError():
            return memory_cannot(f"do this ({operation}: {error})")
        case _:
            return DatabaseError(
                f"The operation failed at {address} ({operation})", seen=seen, code=code
            )


def refusal_of(entry: Mapping[str, Any]) -> Refusal:
    code = int(entry.get("code", 0))
    # mongomock names no key: its only unique index is that of `_id`.
    same_id = code == DUPLICATE_KEY and entry.get("keyPattern", {"_id": 1}) == {"_id": 1}
    # The server quotes the row's values, which are none of a log's business.
    reason = "a row of this key is there already" if code == DUPLICATE_KEY else ""
    return Refusal(code, reason or redact_uri(str(entry.get("errmsg", ""))), same_id)


def bad_uri(address: str, error: Exception) -> InvalidURIError:
    return InvalidURIError(
        f"The address of the database cannot be read: {redact_uri(address)}",
        seen=_words_of(error, address),
        fix="use mongodb://host:port, mongodb+srv://host, local, local:///a/folder or memory://; "
        "percent-encode special characters of the user name and the password",
    )


def _words_of(error: Exception, address: str) -> str:
    """The driver's words about an address, unless it misread the credentials.

    It splits at the first reserved character, so that the rest of a password that should have been
    percent-encoded is a host or a database to it, which it quotes.
    """
    user, _, password = address.partition("://")[2].rpartition("@")[0].partition(":")
    if set("/?#@:[]") & set(user + password):
        return "a user name or password with a character that must be percent-encoded"
    return redact_uri(str(error))


def memory_cannot(what: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"memory:// cannot {what}",
        seen="a database that lives in this process, without a server",
        fix='use uri="local" or a MongoDB server',
    )
