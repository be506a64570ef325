"""What a terminal shows: tables, JSON, errors."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from memorizz_async.errors import MemorizzAsyncError

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, highlight=False, emoji=False)


def print_error(error: BaseException, prefix: str = "") -> None:
    """The three parts of a message of ours, a line each; the name of any other error."""
    if isinstance(error, MemorizzAsyncError):
        lines = [f"error: {prefix}{error.what}"]
        lines += [f"  seen:  {error.seen}"] if error.seen else []
        lines += [f"  to do: {error.fix}"] if error.fix else []
    else:
        lines = [
            f"error: {prefix}{type(error).__name__}",  # its words may repeat a text
            "  to do: run it again with --debug, which shows where it comes from",
        ]
    lines += [f"  note:  {note}" for note in getattr(error, "__notes__", ())]
    print("\n".join(lines), file=sys.stderr)


def print_error_json(error: BaseException) -> None:
    """The error as JSON on standard output: who reads a pipe gets JSON in every case."""
    print_json({"error": error_as_json(error)})


def error_as_json(error: BaseException) -> dict[str, Any]:
    """The parts of a message; of an error that is not ours, its kind."""
    told: dict[str, Any] = {"type": type(error).__name__}
    if isinstance(error, MemorizzAsyncError):
        told |= {"what": error.what, "seen": error.seen, "to_do": error.fix}
    else:
        told |= {"what": str(error), "seen": None, "to_do": "run it again with --debug"}
    return told | {"notes": list(getattr(error, "__notes__", ()))}


def print_json(value: Any) -> None:
    """Print a value as JSON that every reader takes: null for what is no finite number."""
    text = json.dumps(as_json(value), ensure_ascii=False, indent=2, allow_nan=False)
    print(text.encode("utf-8", "replace").decode("utf-8"))  # half of a surrogate pair is no text


def as_json(value: Any) -> Any:
    """The value in JSON's own types; of a row, whatever BSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, Iterable) else plain(value)


def plain(value: Any) -> str:
    """A value in a line of text."""
    if value is None:
        return "-"
    from bson.datetime_ms import DatetimeMS  # here: an error must be shown without it, at once

    from memorizz_async.timestamps import iso_text

    if isinstance(value, datetime | DatetimeMS):
        return iso_text(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def log_everything() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)6d ms %(name)s: %(message)s")
    logging.getLogger("memorizz_async").setLevel(logging.DEBUG)
