"""Errors on the command line: the exit code, the message and its JSON."""

from __future__ import annotations

import re
import sys
import traceback as tracebacks
from collections.abc import Sequence
from typing import Any

import click

from memorizz_async.cli.output import print_json
from memorizz_async.errors import (
    ConfigurationError,
    InvalidInputError,
    MemorizzAsyncError,
    MissingDependencyError,
)

FAILED, INVALID = 1, 2

_HIDDEN = "***"
_HARMLESS = re.compile(r"-{0,2}[A-Za-z][A-Za-z0-9_-]{0,31}|-?\d{1,9}")
_MIN_SECRET = 4
"""Shorter arguments are not hidden: they occur inside the words of every message."""


def exit_code_of(error: Exception) -> int:
    """Return 2 if only another argument or setting can help, else 1."""
    if isinstance(error, MissingDependencyError):
        return FAILED
    invalid = isinstance(error, click.UsageError | InvalidInputError | ConfigurationError)
    return INVALID if invalid else FAILED


def report_error(
    error: Exception, words: Sequence[str], *, as_json: bool, traceback: bool = False
) -> None:
    """Print an error on standard error and, for `--json`, as JSON on standard output.

    Args:
        error: The error.
        words: The arguments of the program, which a usage error may quote.
        as_json: Print JSON too.
        traceback: Print the traceback first, unless the error is about the usage.
    """
    if isinstance(error, click.ClickException):
        error = _usage_error(error, words)
    elif traceback:
        tracebacks.print_exception(error)
    print_error(error)
    if as_json:
        print_json({"error": error_as_json(error)})


def print_error(error: Exception, prefix: str = "") -> None:
    """Print the parts of an error on standard error, one per line."""
    parts = error_as_json(error)
    lines = [f"error: {prefix}{parts['what']}"]
    lines += [f"  seen:  {parts['seen']}"] if parts["seen"] else []
    lines += [f"  to do: {parts['to_do']}"] if parts["to_do"] else []
    lines += [f"  note:  {note}" for note in parts["notes"]]
    print("\n".join(lines), file=sys.stderr)


def error_as_json(error: Exception) -> dict[str, Any]:
    """Return the parts of an error.

    Of an error that is not ours only the type is shown: its message may quote a user's text.
    """
    name = type(error).__name__
    if isinstance(error, MemorizzAsyncError):
        parts = {"type": name, "what": error.what, "seen": error.seen, "to_do": error.fix}
    else:
        fix = "run it again with --debug, which shows where it comes from"
        parts = {"type": name, "what": name, "seen": None, "to_do": fix}
    return parts | {"notes": list(getattr(error, "__notes__", ()))}


class UsageError(MemorizzAsyncError):
    """The command line cannot be read."""


def _usage_error(error: click.ClickException, words: Sequence[str]) -> UsageError:
    """Return Click's error in our three parts, without arguments that may be secret."""
    message = error.format_message()
    values = {value for word in words for value in (word, word.partition("=")[2])}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _MIN_SECRET and not _HARMLESS.fullmatch(value):
            message = message.replace(repr(value), _HIDDEN).replace(value, _HIDDEN)
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return UsageError(message)
    usage = " ".join(context.get_usage().split())
    fix = f"see `{context.command_path} --help`. {usage}"
    if isinstance(error, click.NoSuchOption) and " " in error.option_name:
        fix = f"put -- before a text that begins with a dash. {usage}"
    return UsageError(message, fix=fix)
