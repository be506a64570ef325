"""Says why a mongod did not start, from its exit code and from what it logged meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import suppress

from memorizz_async.errors import DataFolderError, LocalServerError
from memorizz_async.memory_provider.mongodb.local_server.binary import MongodBinary
from memorizz_async.memory_provider.mongodb.local_server.folder import DataFolder

_EXIT_WRONG_VERSION = 62
_ROOM_TO_START = 2**20  # bytes
# Files cut short, pages whose checksum is wrong, metadata that is missing.
_SIGNS_OF_DAMAGE = ("WT_PANIC", "WT_ERROR", "WT_TRY_SALVAGE", "WiredTiger metadata corruption")


def failed_start(
    folder: DataFolder, binary: MongodBinary, code: int | None, log_start: int, seen: str
) -> LocalServerError:
    """The error for a start that failed, from mongod's exit code and what it logged meanwhile."""
    log = _log_since(folder, log_start)
    tail = _tail(log) or seen
    version = ".".join(map(str, binary.version))
    if code == _EXIT_WRONG_VERSION or "Wrong mongod version" in log:
        return DataFolderError(
            f"The data in {folder.data} does not fit mongod {version}: it was written by a newer "
            "server, or by one that is too old",
            seen=tail,
            fix="set MEMORIZZ_ASYNC_MONGOD to a mongod of the version that wrote it, or name "
            "another folder",
        )
    if "DBPathInUse" in log:
        return folder.in_use(tail)
    if "No space left on device" in log or _disk_is_full(folder):
        return DataFolderError(
            f"The disk of the data folder {folder.path} is full",
            seen=tail,
            fix="free some room, or name another folder",
        )
    if any(sign in log for sign in _SIGNS_OF_DAMAGE):
        return DataFolderError(
            f"The data in {folder.data} is damaged",
            seen=tail,
            fix=f"put it back from a backup, or try {binary.path} --dbpath {folder.data} --repair "
            "on a copy of it, or name another folder",
        )
    if code is None:
        return LocalServerError(
            "The local server did not become writable in time and was ended",
            seen=f"{seen}; its log: {tail}",
            fix=f"read {folder.log}; on a slow machine raise startup_timeout_s",
        )
    how = f"code {code}"
    if code < 0:
        with suppress(ValueError):
            how = signal.Signals(-code).name
    return LocalServerError(
        f"The local server (mongod {version}) ended with {how} while it started",
        seen=tail,
        fix=f"read {folder.log}, or name another folder",
    )


def _disk_is_full(folder: DataFolder) -> bool:
    """Whether mongod has no room to write: then it may end without a word in its log."""
    with suppress(OSError):
        return shutil.disk_usage(folder.path).free < _ROOM_TO_START
    return False


def _log_since(folder: DataFolder, start: int) -> str:
    """What mongod wrote since its log was `start` bytes long, and before it had opened it."""
    text = ""
    with suppress(FileNotFoundError), folder.log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - 2**20))
        text = file.read().decode(errors="replace")
    with suppress(FileNotFoundError):
        text += folder.out.read_text(errors="replace")[-(2**16) :]
    return text


def _tail(log: str) -> str:
    """The last errors of the log, or its last lines if there are none, on one line."""
    errors: list[str] = []
    lines: list[str] = []
    for line in log.splitlines():
        try:
            row = json.loads(line)
            text, about = str(row["msg"]), row.get("attr") or {}
            # WiredTiger's own message lies two levels down, among numbers that help nobody.
            inner = about.get("message")
            about = inner.get("msg", inner) if isinstance(inner, dict) else inner or about
            text = f"{text}: {about if isinstance(about, str) else json.dumps(about)}"
            if row.get("s") in ("E", "F"):
                errors.append(text[:300])
        except (ValueError, KeyError, TypeError, AttributeError):
            text = line.strip()
        if text:
            lines.append(text[:300])
    return " | ".join((errors or lines)[-3:])
