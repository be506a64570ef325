"""What a terminal shows: tables, JSON, errors."""

from __future__ import annotations

import json
import sys
from datetime import datetime
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
            f"error: {prefix}{type(error).__name__}: {error}",
            "  to do: run it again with --debug, which shows where it comes from",
        ]
    lines += [f"  note:  {note}" for note in getattr(error, "__notes__", ())]
    print("\n".join(lines), file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=plain))


def plain(value: Any) -> str:
    if value is None:
        return "-"
    from bson.datetime_ms import DatetimeMS  # here: an error must be shown without it, at once

    from memorizz_async.timestamps import iso_text

    return iso_text(value) if isinstance(value, datetime | DatetimeMS) else str(value)


def log_everything() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)6d ms %(name)s: %(message)s")
    logging.getLogger("memorizz_async").setLevel(logging.DEBUG)
