"""The life of one search index: built for a while, updated while the old version answers, dropped.

States are mongot's (NOT_STARTED, INITIAL_SYNC, STEADY, FAILED); statuses are what
`$listSearchIndexes` calls them (PENDING, BUILDING, READY, FAILED, and DELETING).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bson.json_util import dumps
from bson.objectid import ObjectId

from .content import Content
from .errors import MongotError
from .messages import Document

_STATES = ("NOT_STARTED", "INITIAL_SYNC", "STEADY")
_STATUS = {
    "NOT_STARTED": "PENDING",
    "INITIAL_SYNC": "BUILDING",
    "STEADY": "READY",
    "FAILED": "FAILED",
}


@dataclass
class Pace:
    """How long things take. With `manual` they take until a test says so."""

    pending_s: float
    building_s: float
    dropping_s: float
    manual: bool


@dataclass
class Version:
    """One definition of an index, and what is indexed by it."""

    number: int
    definition: Mapping[str, Any]
    content: Content
    pace: Pace
    steps: int = 0
    failure: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _born: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> str:
        if self.failure is not None:
            return "FAILED"
        reached = self.steps
        if not self.pace.manual:
            age = time.monotonic() - self._born
            by_time = (age >= self.pace.pending_s) + (
                age >= self.pace.pending_s + self.pace.building_s
            )
            reached = max(reached, by_time)
        return _STATES[min(reached, 2)]

    def shown(self) -> Document:
        state = self.state
        told: Document = {
            "status": _STATUS[state],
            "queryable": state == "STEADY",
            "definitionVersion": {"version": self.number, "createdAt": self.created_at},
            "definition": dict(self.definition),
        }
        if self.failure is not None:
            told["message"] = self.failure
        return told


@dataclass
class Index:
    name: str
    kind: str
    main: Version
    forget: Callable[[Content], None]  # called with the content of a version that is replaced
    staged: Version | None = None
    id: str = field(default_factory=lambda: str(ObjectId()))
    shown_status: str | None = None
    drop_steps: int = 0
    _dropped: float | None = None

    def settle(self) -> None:
        """Puts a staged version in its place once it is built."""
        if self.staged is not None and self.staged.state == "STEADY":
            self.forget(self.main.content)
            self.main, self.staged = self.staged, None

    @property
    def newest(self) -> Version:
        return self.staged or self.main

    def update(self, version: Version) -> None:
        """The new definition is built beside the old one, which goes on answering."""
        if self.staged is not None:
            self.forget(self.staged.content)
        self.staged = version

    def drop(self) -> None:
        if self._dropped is None:
            self._dropped = time.monotonic()

    @property
    def deleting(self) -> bool:
        return self._dropped is not None

    @property
    def gone(self) -> bool:
        if self._dropped is None:
            return False
        pace = self.main.pace
        timed_out = not pace.manual and time.monotonic() - self._dropped >= pace.dropping_s
        return self.drop_steps > 0 or timed_out

    def step(self) -> None:
        """One step further: PENDING, BUILDING, READY; or DELETING, gone."""
        if self.deleting:
            self.drop_steps += 1
        self.newest.steps += 1

    def searchable(self) -> Content:
        if self.kind == "search":
            # Older versions allowed it.
            raise MongotError(f"Cannot execute $vectorSearch over search index '{self.name}'")
        state = self.main.state
        if state != "STEADY":
            # [?] How the definition is written in the text.
            shown = dumps({"name": self.name, **self.main.definition})
            raise MongotError(f"cannot query vector index {shown} while in state {state}")
        return self.main.content

    @property
    def status(self) -> str:
        """[?] langchain-mongodb's comments call the status after an update UPDATING on Atlas."""
        if self.deleting:
            return "DELETING"
        if self.shown_status is not None:
            return self.shown_status
        if self.staged is not None:
            return "FAILED" if self.staged.failure is not None else "BUILDING"
        return _STATUS[self.main.state]

    def shown(self) -> Document:
        """The document of `$listSearchIndexes`."""
        queryable = not self.deleting and self.main.state == "STEADY"
        host: Document = {
            "hostname": "atlas-standin",
            "status": self.status,
            "queryable": queryable,
            "mainIndex": self.main.shown(),
        }
        if self.staged is not None:
            host["stagedIndex"] = self.staged.shown()
        newest = self.newest
        return {
            "id": self.id,
            "name": self.name,
            "type": self.kind,  # Atlas has it; a self-managed mongot was seen without
            "status": self.status,
            "queryable": queryable,
            "latestDefinitionVersion": {"version": newest.number, "createdAt": newest.created_at},
            "latestDefinition": dict(newest.definition),
            "statusDetail": [host],
        }
