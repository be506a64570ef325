"""Every error of this package, in one tree.

    MemorizzAsyncError
    ├── ConfigurationError (ValueError)        a setting that cannot work
    │   ├── InvalidURIError                    the address of the database
    │   └── MissingDependencyError (ImportError)  an extra that is not installed
    ├── InvalidInputError (ValueError)         an argument that cannot work; nothing was sent
    │   ├── UnknownMemoryTypeError
    │   ├── InvalidLimitError
    │   ├── InvalidQueryError
    │   ├── InvalidEmbeddingError              wrong dimension, NaN, all zeros
    │   ├── InvalidFilterError                 a path that is not declared, an unknown operator
    │   └── ScopeError                         neither memory_id nor user_id, or not a string
    ├── LifecycleError (RuntimeError)          the right call at the wrong time
    │   └── ClosedError
    ├── DatabaseError                          the server, or the way to it
    │   ├── ServerUnavailableError (ConnectionError)
    │   ├── AuthenticationError
    │   ├── OperationTimeoutError (TimeoutError)
    │   ├── DuplicateMemoryError
    │   ├── WriteError                         some rows were not written; says which
    │   └── UnsupportedOperationError          this kind of server cannot do that
    ├── StoredEmbeddingError                   rows whose vectors cannot be searched with this query
    │   └── EmbeddingModelMismatchError        … because another model made them; says what migrates
    ├── ReembedError                           a change of model that did not end
    ├── LocalServerError                       the mongod that we start for `local`
    │   ├── MongodNotFoundError
    │   └── DataFolderError
    └── EmbeddingError                         the model, its device, or what it returned
        ├── ModelLoadError
        ├── DeviceUnavailableError
        └── OverloadedError

A message has three parts: what went wrong, what was seen, and what to do about it. No message
ever holds a password or the text of a memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MemorizzAsyncError(Exception):
    """The base of every error raised by this package.

    `what`, `seen` and `fix` are the three parts of the message, for programs that show them apart.
    """

    def __init__(self, what: str, *, seen: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.seen = seen
        self.fix = fix
        parts = [what.rstrip(".") + "."]
        if seen:
            parts.append(f"Seen: {seen.rstrip('.')}.")
        if fix:
            parts.append(f"To do: {fix.rstrip('.')}.")
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders; the keyword-only parts must survive it."""
        return (_rebuild, (type(self), self.__dict__, self.args))


def _rebuild(
    cls: type[MemorizzAsyncError], state: dict[str, Any], args: tuple[Any, ...]
) -> MemorizzAsyncError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(MemorizzAsyncError, ValueError):
    """A setting that cannot work."""


class InvalidURIError(ConfigurationError):
    """The address of the database cannot be read."""


class MissingDependencyError(ConfigurationError, ImportError):
    """A package that an optional feature needs is not installed; the message names the extra."""


class InvalidInputError(MemorizzAsyncError, ValueError):
    """An argument that cannot work. Nothing was sent and nothing was changed."""


class UnknownMemoryTypeError(InvalidInputError):
    """Not the name of a memory type; the message lists those that exist."""


class InvalidLimitError(InvalidInputError):
    """A limit that is not a whole number of at least 1."""


class InvalidQueryError(InvalidInputError):
    """A query that is not a non-empty string."""


class InvalidEmbeddingError(InvalidInputError):
    """A vector of the wrong dimension, with NaN or infinity, or all zeros."""


class InvalidFilterError(InvalidInputError):
    """A filter that not every server takes: an undeclared path, another operator or value."""


class ScopeError(InvalidInputError):
    """A call that names no tenant, or names it by something that is not a string."""


class LifecycleError(MemorizzAsyncError, RuntimeError):
    """The right call at the wrong time."""


class ClosedError(LifecycleError):
    """Used after close."""


class DatabaseError(MemorizzAsyncError):
    """The server refused or failed.

    `code` is MongoDB's error code where the server gave one.
    """

    def __init__(
        self,
        what: str,
        *,
        seen: str | None = None,
        fix: str | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(what, seen=seen, fix=fix)
        self.code = code


class ServerUnavailableError(DatabaseError, ConnectionError):
    """No server answered at the address within the selection timeout, or the connection broke."""


class AuthenticationError(DatabaseError):
    """The server did not accept the credentials, or they do not allow the operation."""


class OperationTimeoutError(DatabaseError, TimeoutError):
    """The operation did not end within its `timeout_ms`."""


class DuplicateMemoryError(DatabaseError):
    """A row with this `_id` or `dedup_key` exists already."""


class WriteError(DatabaseError):
    """Some rows of a write were not written.

    `failed` maps the position of each row in the caller's list to the code and what it means; every
    other row was written and its id stands in `written_ids` under its position.
    """

    def __init__(
        self,
        what: str,
        *,
        failed: Mapping[int, str],
        written_ids: Mapping[int, str],
        seen: str | None = None,
        fix: str | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(what, seen=seen, fix=fix, code=code)
        self.failed = dict(failed)
        self.written_ids = dict(written_ids)


class UnsupportedOperationError(DatabaseError):
    """This kind of server (`memory://`, a server without search) cannot do that."""


class StoredEmbeddingError(MemorizzAsyncError):
    """Rows in the scope have vectors that cannot be compared with the query's.

    `rows` maps the id of (at most the first 20 of) such rows to what is wrong with its vector;
    `count` is how many there are.
    """

    def __init__(
        self,
        what: str,
        *,
        rows: Mapping[str, str],
        count: int,
        seen: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, seen=seen, fix=fix)
        self.rows = dict(rows)
        self.count = count


class EmbeddingModelMismatchError(StoredEmbeddingError):
    """Vectors of two embedding models would be compared, or stored side by side.

    `stored_model`, `stored_dimensions`: of the collection's rows; None where that is not known.
    `model`, `dimensions`: of the query, or of what was to be written. The message names both, and
    the command that embeds the rows again. On a write, nothing was written.
    """

    def __init__(
        self,
        what: str,
        *,
        rows: Mapping[str, str] | None = None,
        count: int = 0,
        stored_model: str | None = None,
        stored_dimensions: int | None = None,
        model: str | None = None,
        dimensions: int | None = None,
        seen: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, rows=rows or {}, count=count, seen=seen, fix=fix)
        self.stored_model = stored_model
        self.stored_dimensions = stored_dimensions
        self.model = model
        self.dimensions = dimensions


class ReembedError(MemorizzAsyncError):
    """Rows could not be embedded again, or not all of them; nothing is lost, and it can be resumed.

    `report` is the ReembedReport of what was done, where anything was.
    """

    def __init__(
        self, what: str, *, report: Any = None, seen: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(what, seen=seen, fix=fix)
        self.report = report


class LocalServerError(MemorizzAsyncError):
    """The mongod that we start for `local` could not be started, reached or stopped."""


class MongodNotFoundError(LocalServerError):
    """No mongod binary runs on this machine; the message says what was tried."""


class DataFolderError(LocalServerError):
    """The data folder is not writable, is damaged, or belongs to a newer server."""


class EmbeddingError(MemorizzAsyncError):
    """The embedding model failed, or returned something that is not what was asked for."""


class ModelLoadError(EmbeddingError):
    """The model could not be loaded."""


class DeviceUnavailableError(EmbeddingError):
    """The device that was asked for is not on this machine; the message says which are."""


class OverloadedError(EmbeddingError):
    """The embedding queue is full; try again later, or wait for room."""
