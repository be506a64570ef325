"""All search indexes, by the collection that they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bson.binary import Binary
from pymongo import AsyncMongoClient

from .content import Content
from .definitions import TYPES, Schema, parse_definition
from .errors import ServerError, left_out
from .lifecycle import Index, Pace, Version
from .messages import Document
from .mirror import Mirror
from .parsing import Fields

Namespace = tuple[str, str]


@dataclass
class _Held:
    """The indexes of one collection. They belong to its UUID: dropped and made anew, it has none.

    [?] After a rename Atlas' indexes may follow the collection; here they are gone.
    """

    uuid: Binary
    mirror: Mirror
    indexes: dict[str, Index] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wanted:
    name: str
    kind: str
    definition: Mapping[str, Any]
    schema: Schema


class IndexStore:
    def __init__(
        self,
        client: AsyncMongoClient[Document],
        pace: Pace,
        *,
        duplicates: Literal["different", "always"],
        max_indexes: int | None,
    ) -> None:
        self._client = client
        self._pace = pace
        self._duplicates = duplicates
        self._max_indexes = max_indexes
        self._held: dict[Namespace, _Held] = {}
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        for held in self._held.values():
            await held.mirror.close()
        self._held.clear()

    # The commands -----------------------------------------------------------------------------

    async def create(self, where: Namespace, indexes: Fields) -> Document:
        async with self._lock:
            uuid = await self._existing(where)
            wanted = [_parse_index(item) for item in indexes.documents("indexes")]
            held = await self._current(where, uuid)
            known = held.indexes if held is not None else {}
            fresh = [item for item in wanted if not self._is_there(known.get(item.name), item)]
            self._check_room(len(fresh))
            if held is None:
                held = _Held(uuid, Mirror(self._client[where[0]], where[1]))
                await held.mirror.open()
                self._held[where] = held
            for item in fresh:
                version = self._version(held, item.schema, item.definition, 0)
                held.indexes[item.name] = Index(item.name, item.kind, version, held.mirror.detach)
            created = [{"id": held.indexes[item.name].id, "name": item.name} for item in wanted]
            return {"ok": 1.0, "indexesCreated": created}

    def _is_there(self, existing: Index | None, wanted: _Wanted) -> bool:
        """Whether an equal index exists; raises where it is a conflict."""
        if existing is None:
            return False
        same = existing.newest.definition == wanted.definition and existing.kind == wanted.kind
        if self._duplicates == "always" or existing.deleting:
            # [?] Atlas is said to answer so for an equal definition too; and here also while the
            # old index of that name is still being deleted.
            raise ServerError(68, "Duplicate Index")
        if not same:
            text = (
                f"Index {wanted.name} already exists with a different definition. "
                "Drop it first if needed."
            )
            raise ServerError(68, text)
        return True

    def _check_room(self, more: int) -> None:
        if self._max_indexes is None:
            return
        used = sum(len(held.indexes) for held in self._held.values())
        if used + more > self._max_indexes:
            # [?] Neither the code nor the text at the limit is known.
            raise ServerError(125, "The maximum number of FTS indexes has been reached")

    async def update(self, where: Namespace, command: Mapping[str, Any]) -> Document:
        async with self._lock:
            held, index = await self._find(where, command)
            kind = command.get("type", index.kind)
            if kind != index.kind:
                raise ServerError(197, "An index's type cannot be changed")
            definition = Fields(command, "userCommand").nested("definition")
            schema = parse_definition(kind, definition)
            number = index.newest.number + 1
            index.update(self._version(held, schema, definition.document, number))
            return {"ok": 1.0}

    async def drop(self, where: Namespace, command: Mapping[str, Any]) -> Document:
        async with self._lock:
            _, index = await self._find(where, command)
            index.drop()
            return {"ok": 1.0}

    async def list(self, where: Namespace, wanted: Mapping[str, Any]) -> list[Document]:
        """The documents of `$listSearchIndexes`. [?] Empty for a collection that is not there."""
        if "name" in wanted and "id" in wanted:
            text = "Cannot set both 'name' and 'id' for $listSearchIndexes."
            raise ServerError(72, text)
        for key in wanted:
            if key not in ("name", "id"):
                text = f"BSON field '$listSearchIndexes.{key}' is an unknown field."
                raise ServerError(40415, text)
        async with self._lock:
            uuid = await self._uuid(where)
            held = await self._current(where, uuid) if uuid is not None else None
            if held is None:
                return []
            return [
                index.shown()
                for index in held.indexes.values()
                if wanted.get("name", index.name) == index.name
                and wanted.get("id", index.id) == index.id
            ]

    # Searching --------------------------------------------------------------------------------

    async def content(self, where: Namespace, name: str, lag_s: float) -> Content | None:
        """What an index holds now, or None where there is no such index, which is no error.

        [?] A dropped index: empty as well, or `Index <n> not initialized`.
        """
        async with self._lock:
            uuid = await self._uuid(where)
            held = await self._current(where, uuid) if uuid is not None else None
            index = held.indexes.get(name) if held is not None else None
            if held is None or index is None or index.deleting:
                return None
            content = index.searchable()
        await held.mirror.catch_up(lag_s)
        return content

    async def sync(self) -> None:
        reply = await self._client.admin.command("ping")
        for held in list(self._held.values()):
            await held.mirror.sync(reply["operationTime"])

    # For tests --------------------------------------------------------------------------------

    def named(self, name: str | None) -> Iterator[Index]:
        for held in self._held.values():
            for index in held.indexes.values():
                if name is None or index.name == name:
                    yield index

    # Inside -----------------------------------------------------------------------------------

    def _version(
        self, held: _Held, schema: Schema, definition: Mapping[str, Any], number: int
    ) -> Version:
        content = Content(schema)
        held.mirror.attach(content)
        return Version(number, definition, content, self._pace)

    async def _current(self, where: Namespace, uuid: Binary) -> _Held | None:
        """The indexes of a collection as time has left them."""
        held = self._held.get(where)
        if held is not None and held.uuid != uuid:
            del self._held[where]
            await held.mirror.close()
            return None
        if held is not None:
            for index in list(held.indexes.values()):
                index.settle()
                if index.gone:
                    for version in (index.main, index.staged):
                        if version is not None:
                            held.mirror.detach(version.content)
                    del held.indexes[index.name]
        return held

    async def _find(self, where: Namespace, command: Mapping[str, Any]) -> tuple[_Held, Index]:
        held = await self._current(where, await self._existing(where))
        if ("name" in command) == ("id" in command):
            # [?] The text.
            raise ServerError(2, "Exactly one of 'name' and 'id' must be given")
        key = "name" if "name" in command else "id"
        for index in held.indexes.values() if held is not None else ():
            if getattr(index, key) == command[key] and not index.deleting:
                assert held is not None
                return held, index
        space = ".".join(where)
        text = f"No index with {key} {command[key]} exists in namespace {space}"
        raise ServerError(27, text)

    async def _existing(self, where: Namespace) -> Binary:
        uuid = await self._uuid(where)
        if uuid is None:
            raise ServerError(26, f"Collection '{'.'.join(where)}' does not exist.")
        return uuid

    async def _uuid(self, where: Namespace) -> Binary | None:
        db, collection = where
        reply = await self._client[db].command("listCollections", filter={"name": collection})
        for found in reply["cursor"]["firstBatch"]:
            if found["type"] != "collection":
                raise left_out(f"search indexes of a {found['type']}")
            uuid: Binary = found["info"]["uuid"]
            return uuid
        return None


def _parse_index(item: Fields) -> _Wanted:
    """Without `type` it is a `search` index, without `name` it is called `default`."""
    item.only(("name", "type", "definition"))
    kind = item.one_of("type", TYPES, "search")
    definition = item.nested("definition")
    schema = parse_definition(kind, definition)
    name = item.text("name") if item.has("name") else "default"
    return _Wanted(name, kind, definition.document, schema)
