"""Output of the command line: streams, consoles and JSON."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def prepare_streams() -> None:
    """Make both output streams safe to print to.

    A character that the terminal cannot show becomes a question mark instead of an error. A stream
    that was closed before the start is replaced, so that no file that is opened later takes its
    number and no error is printed on standard output.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        with contextlib.suppress(AttributeError):  # a test's stand-in
            getattr(sys, name).reconfigure(errors="replace")


def discard_output() -> None:
    """Send the rest of standard output to the null device: nobody reads it any more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a rich console without highlighting and emoji."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a value as JSON that every reader takes, with escapes if the output is not UTF-8."""
    unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    print(json.dumps(as_json(value), ensure_ascii=not unicode, indent=2, allow_nan=False))


def as_json(value: Any) -> Any:
    """Return a value in JSON's own types: null for NaN, a question mark for half a surrogate pair.

    Args:
        value: Anything that a row can hold, in whatever nesting.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {as_json(str(name)): as_json(one) for name, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, Iterable) else plain(value)


def plain(value: Any) -> str:
    """Return a value as one line of text."""
    if value is None:
        return "-"
    from bson.datetime_ms import DatetimeMS  # not at the top: errors and help are printed without

    from memorizz_async.timestamps import iso_text

    if isinstance(value, datetime | DatetimeMS):
        return iso_text(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def log_everything() -> None:
    """Log on standard error what the package does, from DEBUG on."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)6d ms %(name)s: %(message)s")
    logging.getLogger("memorizz_async").setLevel(logging.DEBUG)
