"""The collection of each memory type: its default name, the user's, and names that are refused."""

from __future__ import annotations

from collections.abc import Mapping

from memorizz_async.enums.memory_type import MemoryType, memory_type_of
from memorizz_async.errors import ConfigurationError

RESERVED_COLLECTIONS = frozenset(
    {"embedding_models", "embedding_cache", "memory_jobs", "raw_transcripts", "session_locks"}
)
"""The collections that this package keeps for itself."""

_MOST_BYTES = 255
"""MongoDB's limit for the name of a database, a dot and the name of a collection."""


def collection_names(overrides: Mapping[str, str]) -> dict[MemoryType, str]:
    """The collection of every memory type.

    LONG_TERM_MEMORY and KNOWLEDGE_BASE are one store; every other type has a collection of its own.

    Args:
        overrides: Names of collections by memory type, as `MongoDBConfig(collections=…)` has them.

    Raises:
        UnknownMemoryTypeError: An override of a type that does not exist.
        ConfigurationError: Two types in one collection, a collection of this package's own, or a
            name that MongoDB does not take.
    """
    by_store: dict[MemoryType, str] = {}
    for name, collection in overrides.items():
        store = memory_type_of(name).store
        _check_name(store, collection)
        if by_store.setdefault(store, collection) != collection:
            raise ConfigurationError(
                f"{store.name} has two collections: LONG_TERM_MEMORY and KNOWLEDGE_BASE are one "
                "store",
                seen=f"{by_store[store]!r} and {collection!r}",
                fix="name it once",
            )
    names = {kind: by_store.get(kind.store, kind.collection) for kind in MemoryType}
    owners: dict[str, MemoryType] = {}
    for kind, collection in names.items():
        other = owners.setdefault(collection, kind.store)
        if other is not kind.store:
            raise ConfigurationError(
                "Two memory types share a collection",
                seen=f"{other.name} and {kind.store.name} are both in {collection!r}",
                fix="give each memory type a collection of its own",
            )
    return names


def check_namespace(db_name: str, collection: str) -> None:
    """Raise ConfigurationError where both names together are longer than MongoDB takes."""
    size = len(f"{db_name}.{collection}".encode("utf-8", "replace"))
    if size > _MOST_BYTES:
        raise ConfigurationError(
            "The names of the database and of a collection are too long together",
            seen=f"{size} bytes, not at most {_MOST_BYTES}",
            fix="choose a shorter name",
        )


def _check_name(store: MemoryType, collection: str) -> None:
    if collection in RESERVED_COLLECTIONS:
        raise ConfigurationError(
            f"The collection of {store.name} is one that memorizz-async keeps for itself",
            seen=repr(collection),
            fix=f"choose a name other than {', '.join(sorted(RESERVED_COLLECTIONS))}",
        )
    if _is_refused(collection):
        raise ConfigurationError(
            f"The collection of {store.name} has a name that MongoDB does not take",
            seen=repr(collection),
            fix="choose a name without '$' and NUL that does not begin with 'system.', and that "
            "neither begins nor ends with a dot, nor has two dots in a row",
        )


def _is_refused(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return True
    dots = name.startswith(".") or name.endswith(".") or ".." in name
    return not name or dots or name.startswith("system.") or bool({"$", "\0"} & set(name))
