"""The stand-in: a proxy before a real mongod that adds Atlas Vector Search, rules and all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from pymongo import AsyncMongoClient

from .content import Hit
from .errors import ENVELOPE, MongotError, ServerError, left_out
from .hosting import at_home
from .index_store import IndexStore, Namespace
from .lifecycle import Pace
from .messages import Document
from .modes import Mode, refused_command, refused_stage
from .parsing import Fields
from .pipeline import LIST_INDEXES, VECTOR_SEARCH, check_positions, stage_names, with_hits
from .stage import check_by_mongod, parse_stage, run_query
from .wire import Answer, Command, Forward, WireProxy

_INDEX_COMMANDS = ("createSearchIndexes", "updateSearchIndex", "dropSearchIndex")
_STAGES = (VECTOR_SEARCH, LIST_INDEXES)


class AtlasStandin(WireProxy):
    """Atlas Vector Search for tests, by the rules of shared/VECTOR_SEARCH.md.

    All of these may be set at any time:

    mode: "atlas", or a server without search as it was in that release, or "unreachable".
    lag_s: how long a write takes to be seen by searches; `math.inf`: until `sync()`.
    search_delay_s: how long a search takes; a `maxTimeMS` below it ends in 50 MaxTimeMSExpired.
    strict: refuse unknown keys in `$vectorSearch`. The real one ignores them.
    old_filters: refuse what mongod 6.0 and 7.0 refused in filters ($exists, $not, $nor).
    pace: how long building and dropping take. With `manual`, until `step_builds()`.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        *,
        mode: Mode = "atlas",
        lag_s: float = 0.1,
        pending_s: float = 0.05,
        building_s: float = 0.1,
        dropping_s: float = 0.05,
        manual_builds: bool = False,
        strict: bool = True,
        old_filters: bool = False,
        duplicates: Literal["different", "always"] = "different",
        max_indexes: int | None = None,
        search_delay_s: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(
            upstream_host, upstream_port, intercept=self._on_command, host=host, port=port
        )
        self.mode: Mode = mode
        self.lag_s = lag_s
        self.strict = strict
        self.old_filters = old_filters
        self.search_delay_s = search_delay_s
        self.pace = Pace(pending_s, building_s, dropping_s, manual_builds)
        self._duplicates = duplicates
        self._max_indexes = max_indexes
        self._client: AsyncMongoClient[Document] | None = None
        self._store: IndexStore | None = None

    # For tests --------------------------------------------------------------------------------

    @at_home
    async def sync(self) -> None:
        """After this, searches see everything that was written before it, whatever the lag."""
        await self.indexes.sync()

    @at_home
    async def step_builds(self, name: str | None = None) -> None:
        """PENDING to BUILDING, BUILDING to READY, DELETING to gone; one index or all."""
        for index in list(self.indexes.named(name)):
            index.settle()
            index.step()

    @at_home
    async def finish_builds(self, name: str | None = None) -> None:
        """Everything that is being built is ready, what is being dropped is gone."""
        for _ in range(2):
            await self.step_builds(name)

    @at_home
    async def fail_build(self, name: str, message: str = "the build failed") -> None:
        """The newest version of an index is FAILED; an older one goes on answering."""
        for index in self.indexes.named(name):
            index.settle()
            index.newest.failure = message

    @at_home
    async def show_status(self, name: str, status: str | None) -> None:
        """Has `$listSearchIndexes` say STALE, UPDATING or what you like; searches go on."""
        for index in self.indexes.named(name):
            index.shown_status = status

    @property
    def indexes(self) -> IndexStore:
        if self._store is None:
            raise RuntimeError("AtlasStandin is not open: use it in a `with` block")
        return self._store

    # Life -------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._client = AsyncMongoClient(
            self.upstream_host,
            self.upstream_port,
            directConnection=True,
            document_class=dict,
            serverSelectionTimeoutMS=10_000,
        )
        self._store = IndexStore(
            self._client,
            self.pace,
            duplicates=self._duplicates,
            max_indexes=self._max_indexes,
        )
        await super()._open()

    async def _close(self) -> None:
        await super()._close()
        if self._store is not None:
            await self._store.close()
            self._store = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    # Commands ---------------------------------------------------------------------------------

    async def _on_command(self, command: Command) -> Answer | Forward | None:
        try:
            if command.name in _INDEX_COMMANDS:
                return Answer(await self._index_command(command))
            if command.mentions(*(stage.encode() for stage in _STAGES)):
                if command.name == "aggregate":
                    return await self._aggregate(command.body)
                if command.name == "explain":
                    raise left_out("explain of search stages")
        except ServerError as error:
            return Answer(error.reply())
        return None

    async def _index_command(self, command: Command) -> Document:
        name = command.name
        if self.mode != "atlas":
            raise refused_command(self.mode, name)
        body = command.body
        where = (command.db, str(body[name]))
        try:
            if name == "createSearchIndexes":
                return await self.indexes.create(where, Fields(body, "userCommand"))
            if name == "updateSearchIndex":
                return await self.indexes.update(where, body)
            return await self.indexes.drop(where, body)
        except MongotError as error:
            raise error.in_index_command() from error

    async def _aggregate(self, body: Document) -> Forward | None:
        pipeline = body.get("pipeline")
        used = [name for name in stage_names(pipeline) if name in _STAGES]
        if not used or not isinstance(pipeline, list):
            return None  # the words stood in some value
        if self.mode != "atlas":
            raise refused_stage(self.mode, used[0])
        check_positions(pipeline)
        _check_command(body, used[0])
        db, collection = str(body["$db"]), body["aggregate"]
        if not isinstance(collection, str):
            text = f"{{aggregate: 1}} is not valid for '{used[0]}'; a collection is required."
            raise ServerError(73, text)
        if LIST_INDEXES in pipeline[0]:
            return await self._list_indexes(body, (db, collection))

        async def search(of: str, stage: Any) -> list[Hit]:
            return await self._search((db, of), stage, body)

        return Forward({**body, "pipeline": await with_hits(pipeline, collection, search)})

    async def _list_indexes(self, body: Document, where: Namespace) -> Forward:
        """As `$documents`, so that what follows in the pipeline is run by mongod itself."""
        first, *rest = body["pipeline"]
        wanted = first[LIST_INDEXES]
        if not isinstance(wanted, dict):
            raise ServerError(9, "$listSearchIndexes value must be an object")  # [?] the text
        listed = await self.indexes.list(where, wanted)
        literal: list[Mapping[str, Any]] = [{"$literal": document} for document in listed]
        return Forward({**body, "aggregate": 1, "pipeline": [{"$documents": literal}, *rest]})

    async def _search(self, where: Namespace, stage: Any, body: Document) -> list[Hit]:
        check_by_mongod(stage, old_server=self.old_filters)
        await self._take_time(body)
        try:
            query = parse_stage(stage, strict=self.strict)
            content = await self.indexes.content(where, query.index, self.lag_s)
            # No such index, or no such collection: nothing found, and no error. A misspelt name
            # looks exactly like an empty memory.
            return run_query(query, content) if content is not None else []
        except MongotError as error:
            raise error.in_aggregate() from error

    async def _take_time(self, body: Document) -> None:
        limit_ms = body.get("maxTimeMS", 0)
        if limit_ms and limit_ms < self.search_delay_s * 1000:
            await asyncio.sleep(limit_ms / 1000)
            raise ServerError(50, ENVELOPE + "operation exceeded time limit")  # [?] the text
        await asyncio.sleep(self.search_delay_s)


def _check_command(body: Document, stage: str) -> None:
    if body.get("autocommit") is False:
        text = f"Stage not supported inside of a multi-document transaction: {stage}"
        raise ServerError(263, text)
    if body.get("apiStrict"):
        # Measured on 6.0.27 with $indexStats.
        text = f"{stage} is not allowed with 'apiStrict: true' in API Version 1"
        raise ServerError(323, text)
    if body.get("explain"):
        raise left_out("explain of search stages")
