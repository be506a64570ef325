"""The options that several commands share, and the types of their values."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import InvalidInputError, MemorizzAsyncError
from memorizz_async.validation import checked_limit, checked_query, checked_text

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = (
    "Exit codes: 0 success, 1 the command failed, 2 an argument or a setting is invalid, "
    "130 interrupted."
)
TYPES_AND_EXIT_CODES = (
    f"Memory types: {', '.join(kind.name for kind in MemoryType)}.\n\n{EXIT_CODES}"
)
"""The epilog of commands that take `--type`."""


class Checked(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.5 alone
    """A value that one of the package's own checks accepts."""

    def __init__(self, name: str, check: Callable[[str], Any] = str) -> None:
        """Create a type.

        Args:
            name: What the help calls a value.
            check: Returns the value, or raises an error of this package.
        """
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a value. The name of an option in its place means that the value was forgotten."""
        if not isinstance(value, str):
            return value  # a default
        if isinstance(param, click.Option) and ctx is not None and value in _option_names(ctx):
            self.fail(f"expected a value, got the option {value}", param, ctx)
        try:
            return self._check(value)
        except MemorizzAsyncError as error:
            self.fail(str(error), param, ctx)


class MemoryTypeName(Checked):
    """The name of a memory type, in any case; completed by shells."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin like the incomplete one."""
        from click.shell_completion import CompletionItem

        start = incomplete.upper()
        return [CompletionItem(kind.name) for kind in MemoryType if kind.name.startswith(start)]


class FilePath(Checked):
    """The path of a file or a folder; completed by shells."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete paths."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir" if self.name == "folder" else "file")]


def _option_names(ctx: click.Context) -> set[str]:
    return {name for param in ctx.command.get_params(ctx) for name in param.opts} - {"-"}


def _memory_type(text: str) -> str:
    return memory_type_of(text).name


def _limit(text: str) -> int:
    try:
        number: Any = int(text)
    except ValueError:  # no number, or one with thousands of digits
        number = text
    return checked_limit(number, "value")


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise InvalidInputError("A path must not be empty or contain a NUL character")
    return Path(text)


def _json_filter(text: str) -> Any:
    """Read a filter in MongoDB's extended JSON: `$date`, `$oid` and `$uuid` have their meaning."""
    from bson.errors import BSONError
    from bson.json_util import JSONOptions, loads

    try:
        return loads(text, json_options=JSONOptions(tz_aware=True))
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"this is not JSON: {error}") from error
    except (BSONError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InvalidInputError(
            'this is not extended JSON: write a date as {"$date": "2026-01-31T00:00:00Z"}'
        ) from error


TEXT = Checked("text")
URI = Checked("uri", partial(checked_text, "The URI"))
QUERY = Checked("query", checked_query)
LIMIT = Checked("number", _limit)
JSON_FILTER = Checked("json", _json_filter)
MEMORY_TYPE = MemoryTypeName("type", _memory_type)
FILE = FilePath("file", _path)
FOLDER = FilePath("folder", _path)


def output_options(command: F) -> F:
    """Add the options that every command takes."""
    command = click.option("--debug", is_flag=True, expose_value=False, help=_DEBUG)(command)
    return click.option("--json", "as_json", is_flag=True, help=_JSON)(command)


_DEBUG = "Log every step and show tracebacks."
_JSON = "Print JSON instead of text, errors included."


def database_options(default: str = "memorizz") -> Callable[[F], F]:
    """Add the options that select the database.

    Args:
        default: The database where neither `--db` nor the URI names one.
    """

    def decorate(command: F) -> F:
        help_text = f"Database (default: the one in the URI, else {default})."
        command = click.option("--db", type=TEXT, metavar="NAME", help=help_text)(command)
        return click.option("--uri", type=URI, metavar="URI", help=_URI)(command)

    return decorate


_URI = "mongodb://..., mongodb+srv://..., local or local:///folder."


def types_option(default: str) -> Callable[[F], F]:
    """Add the option that selects memory types.

    Args:
        default: The memory types that are taken if none is given, as the help calls them.
    """
    return click.option(
        "--type",
        "types",
        type=MEMORY_TYPE,
        multiple=True,
        metavar="TYPE",
        help=f"Memory type; can be repeated (default: {default}).",
    )


def tenant_options(command: F) -> F:
    """Add the options that select the tenant; `tenant_of` reads them."""
    user = "Restrict to this user; can be combined with --memory-id."
    command = click.option("--user-id", type=TEXT, metavar="ID", help=user)(command)
    memory = "Restrict to this memory_id; can be combined with --user-id."
    return click.option("--memory-id", type=TEXT, metavar="ID", help=memory)(command)


def tenant_of(memory_id: str | None, user_id: str | None) -> dict[str, Any]:
    """Return the tenant as keyword arguments. Raises UsageError if neither option was given."""
    named = {"memory_id": memory_id, "user_id": user_id}
    tenant = {name: value for name, value in named.items() if value is not None}
    if not tenant:
        raise click.UsageError(
            "No tenant given: pass --memory-id, --user-id, or both.", click.get_current_context()
        )
    return tenant
