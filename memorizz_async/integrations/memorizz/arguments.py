"""The arguments of memorizz's methods: one description of each name, for every method that has it.

memorizz says in its annotations what an argument is, and checks nothing; its own rules then fail on
another value, or take its characters or its `repr`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar
from uuid import UUID

from bson import ObjectId

from memorizz_async.errors import InvalidInputError, ScopeError
from memorizz_async.integrations.memorizz.documents import storable
from memorizz_async.integrations.memorizz.framework import is_unset
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET
from memorizz_async.memory_provider.mongodb.rows import stored_id
from memorizz_async.redaction import shown
from memorizz_async.timestamps import datetime_of
from memorizz_async.validation import (
    MAX_COUNT,
    check_depth,
    checked_count,
    checked_flag,
    checked_list,
    checked_mapping,
    is_unicode,
)

C = TypeVar("C", bound=type)
Check = Callable[[str, Any], Any]
"""Takes the name of an argument and its value; returns the value to use, or raises an error."""

_INT64 = 2**63


def checked_arguments(kind: C) -> C:
    """Check the arguments of every public method of a class, its own and inherited ones.

    A class decorator.
    """
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(kind, name, _checked(method))
    return kind


def _checked(method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)
    checks = {name: _CHECKS[name] for name in signature.parameters.keys() & _CHECKS.keys()}
    if not checks:
        return method

    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options)
        for name in given.arguments.keys() & checks.keys():
            if given.arguments[name] is not None:  # everywhere "left out"
                given.arguments[name] = checks[name](name, given.arguments[name])
        return method(*given.args, **given.kwargs)

    return call


def _text(name: str, value: Any) -> Any:
    """A text, or an id that has one; memorizz's marks for "left out" are themselves."""
    if value is UNSET or value is EVERY_TENANT or is_unset(value):
        return value
    if isinstance(value, str) and is_unicode(value):
        return str.__str__(value)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT64
    if whole or isinstance(value, UUID | ObjectId):
        return str(value)
    raise InvalidInputError(f"{name} must be a string of valid Unicode", seen=shown(value))


def _user(name: str, value: Any) -> Any:
    if value is UNSET or value is EVERY_TENANT or is_unset(value):
        return value
    if isinstance(value, str) and is_unicode(value):
        return str.__str__(value)
    raise ScopeError(f"{name} must be a string of valid Unicode", seen=shown(value))


def _row_id(_: str, value: Any) -> Any:
    """An id of a row: memorizz's are texts, those of other programs' rows what they are."""
    if not (isinstance(value, str) and not value):
        stored_id(value)
    return value


def _texts(name: str, value: Any) -> list[Any]:
    return [
        _text(f"An item of {name}", one) for one in checked_list(name, value) if one is not None
    ]


def _limit(name: str, value: Any) -> int:
    return checked_count(name, value, least=-MAX_COUNT)


def _filters(name: str, value: Any) -> Any:
    check_depth(name, checked_mapping(name, value))
    return storable(value)


def _moment(name: str, value: Any) -> Any:
    """A date, ISO text, or seconds since the epoch, which become a date."""
    at = datetime_of(value)
    if at is None:
        raise InvalidInputError(
            f"{name} must be a datetime, ISO 8601 text or seconds since the epoch",
            seen=shown(value),
        )
    return value if isinstance(value, str | datetime) else at


def _moment_as_text(name: str, value: Any) -> str:
    """The same as ISO text, with which memorizz compares the times of traces."""
    at = _moment(name, value)
    return str.__str__(at) if isinstance(at, str) else str(datetime_of(at).isoformat())  # type: ignore[union-attr]


_CHECKS: Mapping[str, Check] = {
    **dict.fromkeys(
        (
            "agent_id", "application_id", "data_version", "fingerprint", "memory_id", "name",
            "namespace", "record_type", "session_id", "thread_id", "tool_name", "cursor",
        ),
        _text,
    ),
    **dict.fromkeys(("id", "record_id"), _row_id),
    **dict.fromkeys(
        (
            "agent_ids", "domains", "exclude_ids", "knowledge_base_ids", "memory_ids",
            "record_ids", "statuses", "tags",
        ),
        _texts,
    ),
    **dict.fromkeys(
        ("cascade", "include_embedding", "keep_traces", "reembed", "replace", "success"),
        checked_flag,
    ),
    "user_id": _user,
    "limit": _limit,
    "event_filters": _filters,
    "now": _moment,
    "start_time": _moment_as_text,
    "end_time": _moment_as_text,
}  # fmt: skip
