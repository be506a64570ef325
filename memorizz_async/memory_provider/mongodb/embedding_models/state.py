"""The model of a collection's vectors, as one small document says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from bson import Timestamp

Phase = Literal["active", "migrating", "switching"]
"""`active`: all rows are of one model. `migrating`: they still are, while vectors of another one
are made beside them. `switching`: some rows are of the one, some of the other, for seconds."""


@dataclass(frozen=True)
class ModelState:
    """The model of the vectors in `collection`.

    model, dimensions: of the rows; the model is None where they do not say it (memorizz's do not).
    target_model, target_dimensions: what they are being changed to, outside `active`.
    switched_at: the server's logical time after the last change, where it has one.
    changed_at: when it last said something else.
    lease_token: how often anybody began to change it; lease_owner and lease_until: who does now.
    """

    collection: str
    model: str | None
    dimensions: int
    phase: Phase = "active"
    target_model: str | None = None
    target_dimensions: int | None = None
    switched_at: Timestamp | None = None
    changed_at: datetime | None = field(default=None, compare=False)
    lease_token: int = 0
    lease_owner: str | None = None
    lease_until: datetime | None = None

    @property
    def written_model(self) -> str | None:
        """The model of rows that are written now."""
        return self.target_model if self.phase == "switching" else self.model

    @property
    def written_dimensions(self) -> int:
        """The dimension of rows that are written now."""
        switching = self.phase == "switching" and self.target_dimensions is not None
        return self.target_dimensions if switching else self.dimensions  # type: ignore[return-value]


def state_of(document: Mapping[str, Any]) -> ModelState | None:
    """The state that a document of `embedding_models` says; None where it is none of ours."""
    target, lease = document.get("target") or {}, document.get("lease") or {}
    if not _is_state(document, target, lease):
        return None
    return ModelState(
        collection=document["_id"],
        model=document.get("model"),
        dimensions=document["dimensions"],
        phase=document.get("phase", "active"),
        target_model=target.get("model"),
        target_dimensions=target.get("dimensions"),
        switched_at=document.get("switched_at"),
        changed_at=document.get("changed_at"),
        lease_token=document.get("lease_token", 0),
        lease_owner=lease.get("owner"),
        lease_until=lease.get("expires_at"),
    )


def _is_state(document: Mapping[str, Any], target: Any, lease: Any) -> bool:
    """Whether the parts of a document are of the types that we write."""
    if not isinstance(target, Mapping) or not isinstance(lease, Mapping):
        return False
    texts = (document.get("model"), target.get("model"), lease.get("owner"))
    times = (document.get("changed_at"), lease.get("expires_at"))
    dimensions = (document.get("dimensions"), target.get("dimensions", 1))
    return (
        isinstance(document["_id"], str)
        and all(isinstance(text, str | None) for text in texts)
        and all(isinstance(time, datetime | None) for time in times)
        and all(isinstance(size, int) and size > 0 for size in dimensions)
        and isinstance(document.get("lease_token", 0), int)
        and isinstance(document.get("switched_at"), Timestamp | None)
        and document.get("phase", "active") in get_args(Phase)
    )
