"""What a user sets, and where it may come from: arguments, the environment, `.env`, a dict, a file.

The first source that names a value wins, in that order. Nothing here opens a connection.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from memorizz_async.address import SCHEMES, Address, parse_address
from memorizz_async.enums.collection_names import check_namespace, collection_names
from memorizz_async.errors import ConfigurationError, InvalidURIError
from memorizz_async.redaction import describe_id, option_name, redact_uri, shown
from memorizz_async.validation import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_mapping,
    checked_text,
    is_unicode,
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


class _DefaultInt(int):
    """A number that was not set: what the address says holds in its place."""


class _DefaultStr(str):
    """A text that was not set: what the address says holds in its place."""

    __slots__ = ()


_DEFAULTS: dict[str, _DefaultInt | _DefaultStr] = {
    "db_name": _DefaultStr("memorizz"),
    "timeout_ms": _DefaultInt(30_000),
    "server_selection_timeout_ms": _DefaultInt(5_000),
    "max_pool_size": _DefaultInt(100),
}
_OPTION_OF = {
    "timeout_ms": "timeoutMS",
    "server_selection_timeout_ms": "serverSelectionTimeoutMS",
    "max_pool_size": "maxPoolSize",
}
"""Settings that an option of the driver sets too."""
_SAME_AS = {"ssl": "tls", "read_preference": "readpreference"}
"""Options that PyMongo takes by two names."""
_UNLIMITED_POOL = 1_000_000
"""What `maxPoolSize=0` means."""
_NOT_FOR_USERS = frozenset(
    {
        "_connect", "connect", "datetime_conversion", "document_class", "driver", "fsync", "host",
        "io_loop", "port", "type_registry", "tz_aware", "tzinfo", "unicode_decode_error_handler",
    }
)  # fmt: skip
"""Options of the driver that this package sets itself, or whose results it could not read."""
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
            return _dotenv_values(file)
    return {}


def _dotenv_values(file: Path) -> Mapping[str, str | None]:
    """Raises ConfigurationError, which names the file, where it cannot be read as UTF-8."""
    from dotenv import dotenv_values  # noqa: PLC0415 - keeps the import of the package fast

    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read {file}",
            seen=error.strerror,
            fix="correct its permissions, or delete it",
        ) from error
    except UnicodeDecodeError:
        text = "\0"  # as UTF-16 without a byte order mark is read
    if "\0" in text:
        raise ConfigurationError(
            f"{file} is not text in UTF-8",
            seen="another encoding, such as the UTF-16 that PowerShell writes",
            fix="save it as UTF-8; in PowerShell: `Set-Content -Encoding utf8 .env ...`",
        )
    return dotenv_values(stream=StringIO(text))


@dataclass(frozen=True, kw_only=True)
class _Keywords:
    """The settings that are named, never positional."""

    driver: DriverName = "auto"
    timeout_ms: int = _DefaultInt(30_000)
    server_selection_timeout_ms: int = _DefaultInt(5_000)
    max_pool_size: int = _DefaultInt(100)
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
    client_options: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class _Positional:
    uri: str | None = None
    db_name: str = _DefaultStr("memorizz")


@dataclass(frozen=True)
class MongoDBConfig(_Keywords, _Positional):
    """Where the database is and how to talk to it.

    uri: `mongodb://…`, `mongodb+srv://…`, `local`, `local:///a/folder` or `memory://`. Left out, it
        is `MONGODB_URI` from the environment or `.env`, else `local`. Its options hold; an option
        and a setting of this class that differ are an error.
    db_name: the database. Left out, it is the one that the address names, else `memorizz`.
    driver: `auto` takes Motor where it is installed and PyMongo Async otherwise.
    timeout_ms: the deadline of one operation, in milliseconds, on the server too. Each method takes
        one of its own. Left out, it is `timeoutMS` of the address, else 30,000.
    server_selection_timeout_ms: how long to look for a server before the error. Left out, it is
        `serverSelectionTimeoutMS` of the address, else 5,000.
    max_pool_size: connections per client; a client serves one event loop. Left out, it is
        `maxPoolSize` of the address, else 100.
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
    collections: other collection names, as `{"LONG_TERM_MEMORY": "facts"}`. Each memory type needs
        a collection of its own, and none that this package keeps for itself.
    keep_local_server: for `local`: leave the mongod running after the last user closes.
    quantization: how the search indexes of Atlas keep vectors: `scalar` and `binary` (for which
        `dimensions` is a multiple of 8) take less memory there. `none` leaves a hand-made index as
        it is.
    filter_fields: more fields that a `filter` may name, dotted where nested: for every memory type,
        as `["metadata.topic"]`, or for some, as `{"LONG_TERM_MEMORY": ["metadata.topic"]}`.
    embedding_cache: keep what was embedded in the collection `embedding_cache`, too, so that a
        restart computes no text again; vectors by digests, never the texts.
    embedding_cache_ttl_s: how long a vector is kept there, in seconds.
    client_options: more options for the driver's client, by PyMongo's names: `server_api`,
        `event_listeners`, `auto_encryption_opts`, `tls`, …
    """

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            checked_choice(f"The setting {name!r}", getattr(self, name), allowed, error=_ERROR)
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if _is_default(value) or (value is None and name == "dimensions"):
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
                seen=shown(self.db_name),
                fix='leave out blanks and the characters / \\ . " $',
            )
        self._check_collections()
        self._check_client_options()
        for path in _paths(self.filter_fields):
            _check_path(path)
        if self.dimensions is not None:
            check_quantization(self.quantization, self.dimensions)
        self._take_from_address()

    def _check_collections(self) -> None:
        checked_mapping("collections", self.collections, error=_ERROR)
        for name in self.collections.values():
            checked_text("A name in collections", name, error=_ERROR)
        for collection in collection_names(self.collections).values():
            check_namespace(self.db_name, collection)

    def resolved_uri(self) -> str:
        """The address in force: the argument, else `MONGODB_URI`, else `local`."""
        return self.uri or setting("MONGODB_URI") or DEFAULT_URI

    def for_address(self, address: str) -> MongoDBConfig:
        """The configuration with what this address says where it was not set here.

        Raises:
            InvalidURIError: The address cannot be read.
            ConfigurationError: The address, this configuration and its `client_options` contradict
                each other; the message names both.
        """
        parsed = parse_address(address)
        self._check_agreement(parsed)
        chosen = copy.copy(self)
        object.__setattr__(chosen, "uri", address)
        chosen._take_from_address()
        chosen._check_pool()
        return chosen

    @property
    def database_in_address(self) -> str | None:
        """The database that the address in force names, if any."""
        address = _parsed(self.resolved_uri())
        return None if address is None else address.database

    def driver_option(self, name: str) -> Any:
        """The value of an option of the driver in the address or the `client_options`, else None.

        name: as PyMongo spells it, in any case. The value is a str where the address has it.
        """
        return _option_in(name, _parsed(self.uri), self.client_options)

    def _take_from_address(self) -> None:
        """Set what was not set: from the address, else from the driver's options, else as usual."""
        address = _parsed(self.uri)
        for name, usual in _DEFAULTS.items():
            if not _is_default(getattr(self, name)):
                continue
            value: Any = usual
            if name == "db_name":
                named = None if address is None else address.database
                value = usual if named is None else _DefaultStr(named)
            else:
                number = _whole(_option_in(_OPTION_OF[name], address, self.client_options))
                if number == 0 and name == "max_pool_size":
                    number = _UNLIMITED_POOL
                value = _DefaultInt(number) if number else usual
            object.__setattr__(self, name, value)

    def _check_agreement(self, address: Address) -> None:
        if address.database not in (None, self.db_name) and not _is_default(self.db_name):
            raise ConfigurationError(
                "The address names another database than db_name",
                seen=f"{describe_id(address.database)} in the address, "
                f"{describe_id(self.db_name)} in db_name",
                fix="name it once; where users are defined is said by ?authSource=…",
            )
        given: dict[str, Any] = {n.lower(): value for n, value in self.client_options.items()}
        usual = {_SAME_AS.get(name, name): value for name, value in given.items()}
        for name, value in address.options:
            same = _SAME_AS.get(name, name)
            if same in usual and _comparable(usual[same]) != _comparable(value):
                raise _conflict(name, "the address", "client_options")
        if address.credentials and {"username", "password"} & given.keys():
            raise ConfigurationError(
                "Both the address and client_options (username, password) say who the user is",
                fix="say it once",
            )
        for own, option in _OPTION_OF.items():
            self._check_number(own, option, address.option(option.lower()), "the address")
            self._check_number(own, option, given.get(option.lower()), "client_options")

    def _check_pool(self) -> None:
        least = _whole(self.driver_option("minPoolSize"))
        if least is not None and least > self.max_pool_size:
            raise ConfigurationError(
                "The option minPoolSize is greater than max_pool_size",
                seen=f"minPoolSize={least}, max_pool_size={self.max_pool_size}",
                fix="set max_pool_size, or the option maxPoolSize, to at least as much",
            )

    def _check_number(self, name: str, option: str, value: Any, where: str) -> None:
        if value is None:
            return
        number = _whole(value)
        if number == 0 and name == "max_pool_size":
            number = _UNLIMITED_POOL
        if not number:
            raise ConfigurationError(
                f"The option {option} of {where} must be a whole number of at least 1",
                fix=f"correct it, or leave it out and set {name}",
            )
        own = getattr(self, name)
        if not _is_default(own) and own != number:
            raise ConfigurationError(
                f"{name} and the option {option} of {where} differ",
                seen=f"{name}={own}, {option}={value}",
                fix="set it once",
            )

    def _check_client_options(self) -> None:
        options = self.client_options
        if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
            raise ConfigurationError(
                "client_options must map names of the driver's options to their values",
                seen=f"a {type(options).__name__}",
                fix='write client_options={"server_api": ServerApi("1")}',
            )
        taken = sorted(name for name in options if name.lower() in _NOT_FOR_USERS)
        if taken:
            raise ConfigurationError(
                "client_options has options that memorizz-async sets itself",
                seen=", ".join(taken),
                fix="leave them out",
            )
        lowered = [name.lower() for name in options]
        if len(set(lowered)) < len(lowered):
            raise ConfigurationError("client_options names an option twice, in different case")

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
        values, failure = None, ""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"Cannot read {file}", seen=str(error.strerror)) from error
        except UnicodeEncodeError as error:
            raise ConfigurationError("path is not valid Unicode") from error
        except (ValueError, RecursionError) as error:
            # It holds the whole text of the file, passwords included: no cause of ours.
            at = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            failure = f"{type(error).__name__}{at}"
        if failure:
            raise ConfigurationError(
                f"{file} is not JSON", seen=failure, fix="write one JSON object of settings"
            )
        if not isinstance(values, dict):
            raise ConfigurationError(f"{file} does not hold one JSON object of settings")
        return cls.from_dict(values)

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["uri"] = redact_uri(self.uri) if self.uri else None
        values["client_options"] = sorted(self.client_options)  # their values may be secrets
        inside = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"MongoDBConfig({inside})"


def _is_default(value: Any) -> bool:
    return isinstance(value, _DefaultInt | _DefaultStr)


def _parsed(uri: str | None) -> Address | None:
    """None also where the address is wrong: that is said when it is opened."""
    if uri is None or uri.partition("://")[0] not in SCHEMES:
        return None
    try:
        return parse_address(uri)
    except InvalidURIError:
        return None


def _option_in(name: str, address: Address | None, client_options: Mapping[str, Any]) -> Any:
    name = name.lower()
    value = None if address is None else address.option(name)
    if value is not None:
        return value
    return next((given for own, given in client_options.items() if own.lower() == name), None)


def _whole(value: Any) -> int | None:
    """The number that an option holds; None where it is no whole number from 0 to 2^31."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if valid else None


def _comparable(value: Any) -> str:
    """An option as an address spells it: a list with commas, a read preference by its name."""
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return str(getattr(value, "mongos_mode", value)).lower()


def _conflict(option: str, first: str, second: str) -> ConfigurationError:
    return ConfigurationError(
        f"The option {option_name(option)} has different values in {first} and in {second}",
        fix="give it once",
    )


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
                seen=f"a {type(declared).__name__}",
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
            seen=shown(path, word=True),
            fix="name a field, dotted where it is nested, without positions in lists; not the "
            "embedding nor the content",
        )
