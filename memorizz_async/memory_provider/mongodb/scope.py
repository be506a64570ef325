"""Whose rows a call may touch: the one place where the tenant filter is made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from memorizz_async.enums import MemoryType
from memorizz_async.errors import ScopeError
from memorizz_async.validation import checked_text


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET: Final = _Unset.UNSET
"""An argument that was left out, which is not the same as None."""


class _Every(Enum):
    TENANT = "every tenant"

    def __repr__(self) -> str:
        return "EVERY_TENANT"


EVERY_TENANT: Final = _Every.TENANT
"""Said in place of a `memory_id` or a `user_id`: rows of every tenant are meant. It is for whoever
runs the database: nothing stands for it, and no call means it by leaving an argument out."""

Scoped = str | None | Literal[_Unset.UNSET, _Every.TENANT]
"""A string: that tenant. None: rows that have none. UNSET: no condition on this field.
EVERY_TENANT: none either, and said aloud, so that the other field may be unset, too."""


def check_tenant(name: str, value: Any) -> None:
    """Raise ScopeError for what is neither a tenant's name nor one of the three marks."""
    if value is UNSET or value is EVERY_TENANT or value is None:
        return
    # A dict here would be a query operator, and reach other tenants.
    checked_text(name, value, error=ScopeError)


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenant of a call: a `memory_id`, a `user_id`, or both.

    At least one must be given: a call that names neither would reach every tenant's rows, which is
    meant only where it says EVERY_TENANT.
    """

    memory_id: Scoped = UNSET
    user_id: Scoped = UNSET

    def __post_init__(self) -> None:
        for name in ("memory_id", "user_id"):
            check_tenant(name, getattr(self, name))
        if self.memory_id is UNSET and self.user_id is UNSET:
            raise ScopeError(
                "The call names no tenant",
                fix="pass memory_id, user_id or both; None means rows that have none",
            )

    def filter(self, memory_type: MemoryType) -> dict[str, Any]:
        """The filter of this scope, of operators that `$vectorSearch` accepts too.

        In the agent-wide stores a user also sees the rows of a `memory_id` that have no user, as in
        memorizz. Without a `memory_id` those would be every tenant's, so that it sees its own only,
        unless the call says that every tenant's are meant.
        """
        conditions = self.owned()
        is_shared = memory_type.is_agent_wide and self.memory_id is not UNSET
        if isinstance(self.user_id, str) and is_shared:
            del conditions["user_id"]
            conditions["$or"] = [{"user_id": self.user_id}, {"user_id": None}]
        return conditions

    def owned(self) -> dict[str, Any]:
        """The filter of the rows that are this tenant's own: those that it may change.

        A row without a user serves every user of its `memory_id`, and is none of theirs to change.
        """
        whose = {"memory_id": self.memory_id, "user_id": self.user_id}
        return {
            name: value
            for name, value in whose.items()
            if value is not UNSET and value is not EVERY_TENANT
        }

    def fields(self) -> dict[str, str | None]:
        """What a new row of this scope carries; None is written out, so that search can find it.

        Raises ScopeError for EVERY_TENANT: a row has one.
        """
        if EVERY_TENANT in (self.memory_id, self.user_id):
            raise ScopeError(
                "A new memory belongs to one tenant",
                seen="EVERY_TENANT",
                fix="pass memory_id, user_id or both",
            )
        return {"memory_id": None, "user_id": None, **self.owned()}
