"""What the provider asks of a database, whichever driver is behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bson import Timestamp

from memorizz_async.deadline import Deadline

Document = dict[str, Any]
Sort = Sequence[tuple[str, int]]
"""Fields to order by, the first first: 1 the smallest first, -1 the largest."""

DUPLICATE_KEY = 11000
"""MongoDB's code for a row that a unique index does not take."""


REFUSED_BY_VALIDATOR = 121
"""MongoDB's code for a row that the collection's own validator does not take."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the server did not take a row. `same_id`: because a row of this `_id` is there."""

    code: int
    reason: str
    same_id: bool


@dataclass(frozen=True, slots=True)
class InsertOutcome:
    """What became of the rows of an insert: the refused ones by their position.

    at: the server's logical time after the write, which a change stream passes once it has brought
        all of it; None where the server has no such time.
    """

    refused: Mapping[int, Refusal]
    at: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """Write a row that is not there yet."""

    row: Document


@dataclass(frozen=True, slots=True)
class Replace:
    """Write a row in place of the one that the query finds; with `upsert` also where there is none.

    The row has no `_id`, or the one that is found.
    """

    query: Document
    row: Document
    upsert: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """Change one row that the query finds, or, with `many`, all of them."""

    query: Document
    update: Document
    many: bool = False
    upsert: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one row that the query finds, or, with `many`, all of them."""

    query: Document
    many: bool = False


Write = Insert | Replace | Update | Delete


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What became of some writes.

    matched: rows that were found to be replaced or changed, whether or not that altered them.
    refused: writes that the server did not carry out, by their position; at: as in InsertOutcome.
    """

    matched: int = 0
    upserted: int = 0
    inserted: int = 0
    deleted: int = 0
    refused: Mapping[int, Refusal] = field(default_factory=dict)
    at: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """What a change stream brought at once, perhaps nothing.

    token: where to go on after this batch.
    at: the logical time up to which the stream has told everything; None where the token does not
        tell it.
    more: whether there was more to tell than fits into a batch.
    now: the newest logical time that the server knew of when it answered. Where it stays ahead of
        `at`, the server has changes that the stream does not deliver, as without a majority.
    """

    events: Sequence[Document]
    token: Document | None
    at: Timestamp | None
    more: bool = False
    now: Timestamp | None = None


class Driver(Protocol):
    """What the provider asks of a database; every method maps its errors to ours."""

    name: str
    address: str
    """Fit for messages: without credentials."""
    on_wait: Callable[[], None] | None
    """Called now and then while a call waits for the server."""

    def knows_a_server(self) -> bool:
        """Whether a server is known now that could answer; does not look for one."""

    async def connect(self, *, deadline: Deadline) -> None:
        """Reach a server, or raise ServerUnavailableError within the selection timeout."""

    async def find(
        self,
        collection: str,
        query: Document,
        *,
        projection: Document | None = None,
        limit: int = 0,
        skip: int = 0,
        sort: Sort = (),
        deadline: Deadline,
    ) -> list[Document]: ...

    async def aggregate(
        self, collection: str, pipeline: Sequence[Document], *, deadline: Deadline
    ) -> list[Document]: ...

    def raw_batches(
        self,
        collection: str,
        query: Document,
        *,
        projection: Document,
        batch_size: int,
        deadline: Deadline,
        after: Timestamp | None = None,
    ) -> AsyncGenerator[bytes, None]: ...

    def watch(
        self, pipeline: Sequence[Document], *, resume_after: Document | None
    ) -> AsyncGenerator[ChangeBatch, None]: ...

    async def insert_many(
        self, collection: str, rows: Sequence[Document], *, deadline: Deadline
    ) -> InsertOutcome: ...

    async def write_many(
        self, collection: str, writes: Sequence[Write], *, ordered: bool = True, deadline: Deadline
    ) -> WriteOutcome: ...

    async def update_many(
        self,
        collection: str,
        query: Document,
        update: Document | list[Document],
        *,
        deadline: Deadline,
    ) -> int: ...

    async def find_and_update(
        self,
        collection: str,
        query: Document,
        update: Document,
        *,
        upsert: bool = False,
        deadline: Deadline,
    ) -> Document | None:
        """Change one row, in one step; the row as it is then, None where there was none."""

    async def delete_many(self, collection: str, query: Document, *, deadline: Deadline) -> int: ...

    async def create_index(
        self,
        collection: str,
        keys: Sequence[tuple[str, int | str]],
        *,
        deadline: Deadline,
        **options: Any,
    ) -> str: ...

    async def command(self, command: Document, *, deadline: Deadline) -> Document: ...

    async def close(self) -> None: ...

    def abandon(self) -> None:
        """Let everything go where the event loop is closed: nothing can be awaited."""
