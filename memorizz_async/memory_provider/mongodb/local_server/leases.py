"""Who uses a local server: one small file a user, each with the process that it belongs to.

A process is named by its pid *and* by when it was born, so that a pid that the system has given
to someone else since is never mistaken for the old one. All writing happens under the folder's
lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process, for as long as it lives. `birth` is only good for comparing."""

    pid: int
    birth: str

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ProcessMark | None:
        """The mark that a file holds; None where the file was damaged."""
        pid, birth = row.get("pid"), row.get("birth")
        if type(pid) is int and pid > 0 and isinstance(birth, str):
            return cls(pid, birth)
        return None

    def is_alive(self) -> bool:
        """Whether that very process still runs; one that only waits for its parent does not."""
        return _look_up(self.pid) == (self.birth, False)

    def bury(self) -> None:
        """Take it off the process table if it was our child and has ended."""
        if _look_up(self.pid) == (self.birth, True):
            with contextlib.suppress(psutil.Error):
                psutil.Process(self.pid).wait(timeout=0)


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a process, else None."""
    found = _look_up(pid)
    return None if found is None else ProcessMark(pid, found[0])


def _look_up(pid: int) -> tuple[str, bool] | None:
    """When the process was born, and whether it is a zombie; None if there is none."""
    try:
        if sys.platform == "linux":
            # psutil's time is wall clock, which moves when the clock is set; ticks since boot do
            # not. The name in parentheses may hold anything, so count from its end.
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            fields = text.rpartition(")")[2].split()
            birth = f"{_boot_id()}:{fields[19]}"
            # While other threads are still ending, files are open and locked: not a zombie yet.
            zombie = fields[0] in "ZX" and int(fields[17]) <= 1
        else:
            process = psutil.Process(pid)
            birth = f"{process.create_time():.2f}"
            zombie = process.status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
        return None
    return birth, zombie


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


@dataclass(frozen=True, slots=True)
class Lease:
    """One user's claim on the server; only the process that took it may give it back."""

    path: Path
    holder: ProcessMark

    def is_held(self) -> bool:
        """False in a forked child, and where a forced stop has taken the lease away."""
        return self.holder.pid == os.getpid() and self.path.exists()


class Leases:
    """The leases of one folder. Every method but `living` wants the folder's lock held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self) -> Lease:
        """Write a lease for this process."""
        mark = mark_of(os.getpid())
        assert mark is not None, "this process runs"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.json"
        path.write_text(json.dumps({"pid": mark.pid, "birth": mark.birth}))
        return Lease(path, mark)

    def living(self, *, drop_dead: bool = False) -> list[ProcessMark]:
        """The processes that hold a lease and still run, one entry a lease.

        `drop_dead` also removes the leases of those that do not.
        """
        alive = []
        for path in sorted(self._folder.glob("*.json")):
            mark = ProcessMark.from_row(read_json(path))
            if mark is not None and mark.is_alive():
                alive.append(mark)
            elif drop_dead:
                path.unlink(missing_ok=True)
        return alive

    def clear(self) -> None:
        """Remove every lease."""
        for path in self._folder.glob("*.json"):
            path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds; empty if it is missing or was cut short by a crash."""
    try:
        row = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def write_json(path: Path, row: dict[str, Any]) -> None:
    """Write the file whole or not at all, also when the machine loses power meanwhile."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(row, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
