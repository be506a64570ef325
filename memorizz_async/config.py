"""What a user sets, and where it may come from: arguments, the environment, `.env`, a dict, a file.

The first source that names a value wins, in that order. Nothing here opens a connection.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from memorizz_async.errors import ConfigurationError
from memorizz_async.redaction import redact_uri
from memorizz_async.validation import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_mapping,
    checked_text,
    is_unicode,
    shown,
)

DriverName = Literal["auto", "motor", "pymongo"]
Similarity = Literal["cosine", "dotProduct", "euclidean"]
SearchStrategy = Literal["auto", "atlas", "resident", "scan"]
Consistency = Literal["session", "strong"]
Quantization = Literal["none", "scalar", "binary"]
FilterFields = Sequence[str] | Mapping[str, Sequence[str]]
RecallMode = Literal["hybrid", "vector", "text"]
FusionName = Literal["zscore", "rrf"]

DEFAULT_URI = "local"
_CHOICES: dict[str, tuple[str, ...]] = {
    "driver": ("auto", "motor", "pymongo"),
    "similarity": ("cosine", "dotProduct", "euclidean"),
    "search_strategy": ("auto", "atlas", "resident", "scan"),
    "quantization": ("none", "scalar", "binary"),
    "fusion": ("zscore", "rrf"),
}
_ERROR = ConfigurationError
_NOT_IN_A_NAME = frozenset('/\\. "$\0')
_AT_LEAST_ONE = (
    "timeout_ms",
    "server_selection_timeout_ms",
    "max_pool_size",
    "dimensions",
    "resident_memory_mb",
    "embedding_cache_ttl_s",
)


def setting(name: str) -> str | None:
    """The value of an environment variable, else of the nearest `.env` file, else None.

    The `.env` file is looked for in the working folder and its parents. An empty value is no value.
    """
    return os.environ.get(name) or _dotenv().get(name) or None


def _dotenv() -> Mapping[str, str | None]:
    """Read anew each time: only constructors ask, and the file or the folder may have changed."""
    folder = Path.cwd()
    for candidate in (folder, *folder.parents):
        file = candidate / ".env"
        if file.is_file():
            from dotenv import dotenv_values  # noqa: PLC0415 - keeps the import of the package fast

            return dotenv_values(file)
    return {}


@dataclass(frozen=True, kw_only=True)
class _Keywords:
    """The settings that are named, never positional."""

    driver: DriverName = "auto"
    timeout_ms: int = 30_000
    server_selection_timeout_ms: int = 5_000
    max_pool_size: int = 100
    similarity: Similarity = "cosine"
    dimensions: int | None = None
    search_strategy: SearchStrategy = "auto"
    resident_memory_mb: int = 256
    vector_index_name: str = "vector_index"
    text_language: str = "english"
    fusion: FusionName = "zscore"
    collections: Mapping[str, str] = field(default_factory=dict, hash=False)
    keep_local_server: bool = False
    quantization: Quantization = "none"
    filter_fields: FilterFields = ()
    embedding_cache: bool = False
    embedding_cache_ttl_s: int = 30 * 24 * 3600


@dataclass(frozen=True)
class _Positional:
    uri: str | None = None
    db_name: str = "memorizz"


@dataclass(frozen=True)
class MongoDBConfig(_Keywords, _Positional):
    """Where the database is and how to talk to it.

    uri: `mongodb://…`, `mongodb+srv://…`, `local`, `local:///a/folder` or `memory://`. Left out, it
        is `MONGODB_URI` from the environment or `.env`, else `local`.
    db_name: the database.
    driver: `auto` takes Motor where it is installed and PyMongo Async otherwise.
    timeout_ms: the deadline of one operation, in milliseconds, on the server too. Each method takes
        one of its own.
    server_selection_timeout_ms: how long to look for a server before the error.
    max_pool_size: connections per client; a client serves one event loop.
    similarity: how vectors are compared: `cosine`, `dotProduct` or `euclidean`.
    dimensions: the length of every vector. Left out, it is the embedder's.
    search_strategy: `auto` asks the server; `atlas`, `resident` and `scan` say it outright.
        `resident` scans where the server has no change streams.
    resident_memory_mb: the most that `resident` keeps in memory, in megabytes, on each event loop;
        what was not searched for the longest time goes first.
    vector_index_name: the name of the search indexes on Atlas.
    text_language: the language of the text indexes that `ensure_indexes_async` creates: what is
        taken for a stop word and how words are stemmed. One that MongoDB knows, or `none`.
    fusion: how hybrid recall joins its two searches: `zscore` adds standard scores, `rrf`
        reciprocal ranks.
    collections: other collection names, as `{"LONG_TERM_MEMORY": "facts"}`.
    keep_local_server: for `local`: leave the mongod running after the last user closes.
    quantization: how the search indexes of Atlas keep vectors: `scalar` and `binary` (for which
        `dimensions` is a multiple of 8) take less memory there. `none` leaves a hand-made index as
        it is.
    filter_fields: more fields that a `filter` may name, dotted where nested: for every memory type,
        as `["metadata.topic"]`, or for some, as `{"LONG_TERM_MEMORY": ["metadata.topic"]}`.
    embedding_cache: keep what was embedded in the collection `embedding_cache`, too, so that a
        restart computes no text again; vectors by digests, never the texts.
    embedding_cache_ttl_s: how long a vector is kept there, in seconds.
    """

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            checked_choice(f"The setting {name!r}", getattr(self, name), allowed, error=_ERROR)
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is None and name == "dimensions":
                continue
            checked_count(f"The setting {name!r}", value, error=_ERROR)
        for name in ("keep_local_server", "embedding_cache"):
            checked_flag(f"The setting {name!r}", getattr(self, name), error=_ERROR)
        for name in ("vector_index_name", "text_language"):
            checked_text(f"The setting {name!r}", getattr(self, name), error=_ERROR)
        if self.uri is not None and not isinstance(self.uri, str):
            raise ConfigurationError("uri must be a string", seen=f"a {type(self.uri).__name__}")
        if self.uri is not None and not is_unicode(self.uri):
            raise ConfigurationError("uri is not valid Unicode", seen="half of a surrogate pair")
        checked_text("The name of the database", self.db_name, error=_ERROR)
        if _NOT_IN_A_NAME & set(self.db_name):
            raise ConfigurationError(
                "The database has a name that MongoDB does not take",
                seen=repr(self.db_name),
                fix='leave out blanks and the characters / \\ . " $',
            )
        checked_mapping("collections", self.collections, error=_ERROR)
        for name in self.collections.values():
            checked_text("A name in collections", name, error=_ERROR)
            if "$" in name or "\0" in name:
                raise ConfigurationError(
                    "A collection has a name that MongoDB does not take", fix="leave out $"
                )
        for path in _paths(self.filter_fields):
            _check_path(path)
        if self.dimensions is not None:
            check_quantization(self.quantization, self.dimensions)

    def resolved_uri(self) -> str:
        """The address in force: the argument, else `MONGODB_URI`, else `local`."""
        return self.uri or setting("MONGODB_URI") or DEFAULT_URI

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MongoDBConfig:
        """From a dict; a key that is no setting is an error that lists those that are."""
        known = {f.name for f in fields(cls)}
        checked_mapping("The settings", values, error=_ERROR)
        unknown = sorted(shown(name, word=True) for name in set(values) - known)
        if unknown:
            raise ConfigurationError(
                "Settings that do not exist",
                seen=", ".join(unknown),
                fix=f"use only {', '.join(sorted(known))}",
            )
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> MongoDBConfig:
        """From a JSON file that holds one object of settings."""
        if not isinstance(path, str | os.PathLike) or not str(path):
            raise ConfigurationError("path must name a file", seen=shown(path))
        file = Path(path)
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"Cannot read {file}", seen=str(error.strerror)) from error
        except UnicodeEncodeError as error:
            raise ConfigurationError("path is not valid Unicode") from error
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"{file} is not JSON", seen=str(error), fix="write one JSON object of settings"
            ) from error
        if not isinstance(values, dict):
            raise ConfigurationError(f"{file} does not hold one JSON object of settings")
        return cls.from_dict(values)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        shown["uri"] = redact_uri(self.uri) if self.uri else None
        inside = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"MongoDBConfig({inside})"


def check_quantization(quantization: str, dimensions: int) -> None:
    """Raise ConfigurationError where an index cannot keep such vectors in that way."""
    if quantization == "binary" and dimensions % 8:
        raise ConfigurationError(
            'quantization="binary" needs a dimension that is a multiple of 8',
            seen=f"{dimensions} dimensions",
            fix='use quantization="scalar", or another model',
        )


def _paths(declared: Any) -> Iterator[Any]:
    """Every path of `filter_fields`. Raises ConfigurationError for what is no list of them."""
    lists = list(declared.values()) if isinstance(declared, Mapping) else [declared]
    for paths in lists:
        if isinstance(paths, str | bytes | bytearray) or not isinstance(paths, Sequence):
            raise ConfigurationError(
                "filter_fields must be a list of paths, or map memory types to such lists",
                seen=shown(declared),
                fix='write ["metadata.topic"]',
            )
        yield from paths


def _check_path(path: Any) -> None:
    """What `find` and the search index both understand by a path, and alike."""
    parts = path.split(".") if isinstance(path, str) and is_unicode(path) else [""]
    if any(
        not part or part.isdigit() or part.startswith("$") or "\0" in part for part in parts
    ) or parts[0] in ("embedding", "content"):
        raise ConfigurationError(
            "filter_fields has a path that cannot be filtered by",
            seen=repr(path) if isinstance(path, str) else shown(path),
            fix="name a field, dotted where it is nested, without positions in lists; not the "
            "embedding nor the content",
        )
