"""Whose rows a call may touch: the one place where the tenant filter is made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from memorizz_async.enums import MemoryType
from memorizz_async.errors import ScopeError


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> Literal[False]:
        return False


UNSET: Final = _Unset.UNSET
"""An argument that was left out, which is not the same as None."""

Scoped = str | None | Literal[_Unset.UNSET]
"""A string: that tenant. None: rows that have none. UNSET: no condition on this field."""


def is_unicode(text: str) -> bool:
    """Whether BSON can hold the text: half of a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenant of a call: a `memory_id`, a `user_id`, or both.

    At least one must be given: a call that names neither would reach every tenant's rows.
    """

    memory_id: Scoped = UNSET
    user_id: Scoped = UNSET

    def __post_init__(self) -> None:
        for name in ("memory_id", "user_id"):
            value = getattr(self, name)
            if value is UNSET or value is None:
                continue
            # A dict here would be a query operator, and reach other tenants.
            if not isinstance(value, str) or not value:
                raise ScopeError(
                    f"{name} must be a non-empty string",
                    seen=f"a value of type {type(value).__name__}"
                    if not isinstance(value, str)
                    else "an empty string",
                )
            if not is_unicode(value):
                raise ScopeError(f"{name} is not valid Unicode", seen="half of a surrogate pair")
        if self.memory_id is UNSET and self.user_id is UNSET:
            raise ScopeError(
                "The call names no tenant",
                fix="pass memory_id, user_id or both; None means rows that have none",
            )

    def filter(self, memory_type: MemoryType) -> dict[str, Any]:
        """The filter of this scope, of operators that `$vectorSearch` accepts too.

        In the agent-wide stores a user also sees the rows of a `memory_id` that have no user, as in
        memorizz. Without a `memory_id` those would be every tenant's, so that it sees its own only.
        """
        conditions: dict[str, Any] = {}
        if self.memory_id is not UNSET:
            conditions["memory_id"] = self.memory_id
        is_shared = memory_type.is_agent_wide and self.memory_id is not UNSET
        if isinstance(self.user_id, str) and is_shared:
            conditions["$or"] = [{"user_id": self.user_id}, {"user_id": None}]
        elif self.user_id is not UNSET:
            conditions["user_id"] = self.user_id
        return conditions

    def fields(self) -> dict[str, str | None]:
        """What a new row of this scope carries; None is written out, so that search can find it."""
        return {
            "memory_id": None if self.memory_id is UNSET else self.memory_id,
            "user_id": None if self.user_id is UNSET else self.user_id,
        }
