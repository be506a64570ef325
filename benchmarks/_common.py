"""What the benchmarks share: the server, a database of their own, and how figures are shown."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from memorizz_async.config import setting
from memorizz_async.demo.locomo import Conversation, read_conversations
from memorizz_async.memory_provider.mongodb.driver import blocking_command
from memorizz_async.memory_provider.mongodb.local_server import LocalServer

T = TypeVar("T")

console = Console(highlight=False)


@dataclass(frozen=True)
class Target:
    """A ratio to reach, from above or from below."""

    value: float
    at_most: bool

    def reached(self, figure: float) -> bool:
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"


@contextmanager
def database() -> Iterator[tuple[str, str]]:
    """The address of a server and the name of a database that is dropped afterwards.

    The server is `MONGODB_URI`, else a `local` one with its data in a temporary folder.
    """
    name = f"memorizz_bench_{uuid.uuid4().hex[:12]}"
    given = setting("MONGODB_URI")
    with tempfile.TemporaryDirectory(prefix="memorizz-bench-") as folder:
        server = None if given else LocalServer(Path(folder))
        address = given or server.acquire()  # type: ignore[union-attr]
        try:
            yield address, name
        finally:
            blocking_command(address, {"dropDatabase": 1}, timeout_s=30, database=name)
            if server is not None:
                server.release()


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of the values, interpolated."""
    return float(np.percentile(np.asarray(values), percent))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    import pymongo

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "pymongo": pymongo.version,
    }


def table(title: str, *columns: str) -> Table:
    """A table whose first column is words and whose others are figures."""
    made = Table(title=title, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
    return made


def bar(items: Sequence[T], doing: str) -> Iterable[T]:
    """The items, with a progress bar where somebody watches."""
    return track(items, doing, console=console, transient=True, disable=not console.is_terminal)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")


def locomo_options(description: str) -> tuple[argparse.Namespace, list[Conversation]]:
    """What the command line of a benchmark on LoCoMo says, and the conversations that it names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="a file in LoCoMo's shape")
    parser.add_argument(
        "--limit-conversations", type=int, metavar="N", help="read only the first N"
    )
    add_json(parser)
    options = parser.parse_args()
    return options, read_conversations(options.data)[: options.limit_conversations]


def write_json(file: Path | None, figures: Mapping[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
