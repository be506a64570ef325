"""One description of each kind of argument, checked before anything is sent or embedded.

Every public method of the package checks its arguments with these functions, so that a value of a
wrong kind is an error of ours, and the same one everywhere. A message names the argument and the
kind of what came, never a text: it may be a user's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeGuard, TypeVar

from memorizz_async.errors import (
    InvalidInputError,
    InvalidLimitError,
    InvalidQueryError,
    MemorizzAsyncError,
)
from memorizz_async.redaction import shown

C = TypeVar("C", bound=str)

MAX_LIMIT = 10_000
"""The most rows that `$vectorSearch` returns; the other strategies keep to it."""
MAX_COUNT = 2**31 - 1
"""The largest number of rows, of milliseconds and of settings: 32 bits, as in MongoDB's wire
protocol. 24 days, in milliseconds."""
MAX_DEPTH = 90
"""How deep the value of a condition may be nested. The server takes 100 levels of a whole
command."""


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_limit(value: Any, name: str = "limit") -> int:
    """The limit, a whole number from 1 to 10,000. Raises InvalidLimitError."""
    return checked_count(name, value, most=MAX_LIMIT, error=InvalidLimitError)


def checked_query(value: Any, name: str = "query") -> str:
    """The query, a string with something in it. Raises InvalidQueryError."""
    if not isinstance(value, str):
        raise InvalidQueryError(f"The {name} must be a string", seen=shown(value))
    if not value or value.isspace():
        raise InvalidQueryError(f"The {name} is empty", fix="pass the text to recall memories for")
    if not is_unicode(value):
        raise InvalidQueryError(f"The {name} is not valid Unicode", seen="half of a surrogate pair")
    return str.__str__(value)  # not a subclass, which may have no hash, or another one


def checked_count(
    name: str,
    value: Any,
    *,
    least: int = 1,
    most: int = MAX_COUNT,
    error: type[MemorizzAsyncError] = InvalidInputError,
) -> int:
    """A whole number from `least` to `most`. A bool is none."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise error(f"{name} must be a whole number from {least} to {most}", seen=shown(value))


def checked_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    error: type[MemorizzAsyncError] = InvalidInputError,
) -> float:
    """A finite number from `least` to `most`. A bool is none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    bounds = "" if (least, most) == (-math.inf, math.inf) else f" from {least:g} to {most:g}"
    raise error(f"{name} must be a finite number{bounds}", seen=shown(value))


def checked_flag(
    name: str, value: Any, *, error: type[MemorizzAsyncError] = InvalidInputError
) -> bool:
    """True or False, and nothing that Python takes for one: `"no"` would be true."""
    if value is True or value is False:
        return value
    raise error(f"{name} must be True or False", seen=shown(value))


def checked_choice(
    name: str,
    value: Any,
    allowed: Sequence[C],
    *,
    error: type[MemorizzAsyncError] = InvalidInputError,
) -> C:
    """One of a few words."""
    if isinstance(value, str):
        for word in allowed:
            if value == word:
                return word
    words = (
        f"{allowed[0]!r} or {allowed[1]!r}" if len(allowed) == 2 else f"one of {', '.join(allowed)}"
    )
    raise error(f"{name} must be {words}", seen=shown(value, word=True))


def checked_text(
    name: str, value: Any, *, error: type[MemorizzAsyncError] = InvalidInputError
) -> str:
    """A string that is not empty and can be encoded."""
    if not isinstance(value, str) or not value:
        raise error(f"{name} must be a non-empty string", seen=shown(value))
    if not is_unicode(value):
        raise error(
            f"{name} is not valid Unicode",
            seen="half of a surrogate pair",
            fix="pass text that can be encoded as UTF-8",
        )
    return value


def checked_mapping(
    name: str, value: Any, *, error: type[MemorizzAsyncError] = InvalidInputError
) -> Mapping[Any, Any]:
    """A mapping, a dict as a rule."""
    if isinstance(value, Mapping):
        return value
    raise error(f"{name} must be a mapping", seen=shown(value))


def checked_list(
    name: str,
    value: Any,
    *,
    single: str = "write [item] for a single one",
    error: type[MemorizzAsyncError] = InvalidInputError,
) -> list[Any]:
    """The items of a list, a tuple, a set or a generator.

    A single string, bytes or a mapping is refused: its characters, numbers or keys are not what the
    caller means by items. single: what to do in place of it.
    """
    if isinstance(value, list | tuple):
        return list(value)
    one = isinstance(value, str | bytes | bytearray | memoryview | Mapping | type)
    if one or not _is_iterable(value):
        raise error(
            f"{name} must be a list",
            seen=shown(value),
            fix=single if one else None,
        )
    return list(value)


def _is_iterable(value: Any) -> TypeGuard[Iterable[Any]]:
    """Whether it has items. An array of no dimension has the method alone."""
    try:
        iter(value)
    except Exception:  # noqa: BLE001 - numpy and torch raise errors of their own
        return False
    return True


def checked_function(
    name: str, value: Any, *, error: type[MemorizzAsyncError] = InvalidInputError
) -> Callable[..., Any] | None:
    """A function, or None where the argument was left out."""
    if value is None or (callable(value) and not isinstance(value, type)):
        return value
    raise error(f"{name} must be a function", seen=shown(value))


def checked_moment(
    name: str, value: Any, *, error: type[MemorizzAsyncError] = InvalidInputError
) -> datetime:
    """A datetime that MongoDB can hold; one without an offset is taken for UTC."""
    if not isinstance(value, datetime):
        raise error(f"{name} must be a datetime", seen=shown(value))
    try:
        if (value if value.tzinfo is None else value.astimezone(UTC)).year:
            return value
    except (OverflowError, ValueError, TypeError, AttributeError):
        pass  # the edge of the years with an offset, or pandas' NaT
    raise error(f"{name} is out of range", seen="a date outside the years 1 to 9999 in UTC")


def iso_moment(text: str) -> datetime | None:
    """The moment that ISO 8601 text names, in UTC where it names no offset; None for other text."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def check_depth(
    name: str,
    value: Any,
    *,
    most: int = MAX_DEPTH,
    error: type[MemorizzAsyncError] = InvalidInputError,
) -> None:
    """Refuse what is nested more than `most` deep, or contains itself. Level by level, without
    recursion: Python's own limit must not decide.
    """
    level = _inside(value)
    depth = 0
    while level:
        depth += 1
        if depth > most:
            raise error(
                f"{name} is nested too deep",
                seen=f"more than {most} levels",
                fix="flatten it; a list or a mapping must not contain itself",
            )
        # Each container once a level: a list that holds itself twice would double with each.
        inner = {id(each): each for container in level for each in _items(container)}
        level = [each for each in inner.values() if isinstance(each, _CONTAINERS)]


_CONTAINERS = (Mapping, list, tuple, set, frozenset)


def _inside(value: Any) -> list[Any]:
    return [value] if isinstance(value, _CONTAINERS) else []


def _items(container: Any) -> Iterator[Any]:
    return iter(container.values() if isinstance(container, Mapping) else container)


def checked_seconds(
    name: str,
    value: Any,
    *,
    above: bool = False,
    error: type[MemorizzAsyncError] = InvalidInputError,
) -> float:
    """A number of seconds, from 0 (`above`: above 0) to 68 years."""
    seconds = checked_number(name, value, least=0, most=MAX_COUNT, error=error)
    if above and not seconds:
        raise error(f"{name} must be a number of seconds above 0", seen="0")
    return seconds
