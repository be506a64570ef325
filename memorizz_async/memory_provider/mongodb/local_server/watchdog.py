"""A small process that stops a local server after its last user has ended, however that ended.

A program that is ended by SIGTERM, SIGKILL or `os._exit` runs no code of ours any more, so its
server would stay. The watchdog reads the leases of the folder twice a second. It ends with its
server, and does nothing for a server that is to keep running.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from memorizz_async.errors import DataFolderError, LocalServerError, MemorizzAsyncError
from memorizz_async.memory_provider.mongodb.local_server import process
from memorizz_async.memory_provider.mongodb.local_server.folder import DataFolder, RunningServer
from memorizz_async.memory_provider.mongodb.local_server.leases import ProcessMark, mark_of

logger = logging.getLogger(__name__)

_IMPORTED_FROM = str(Path(__file__).parents[4])
_POLL_S = 0.5
_STARTS_WITHIN_S = 300.0
"""Longer than any start."""
_SHOWS_WITHIN_S = 5.0
"""How long a mongod needs to write its id down, with much to spare."""
_ATTEMPTS = 20


def spawn(folder: DataFolder) -> ProcessMark | None:
    """Start the watchdog of a folder, detached from this process; None where that is impossible.

    It is no child of this process: a child that has ended would stay in the process table until
    this process reads its exit code.
    """
    if not sys.executable:
        logger.warning("No Python executable is known: a killed program leaves its local server")
        return None
    here = mark_of(os.getpid())
    assert here is not None, "this process runs"
    script = f"from {__name__} import main; main()"
    command = [sys.executable, "-c", script, str(folder.path), str(here.pid), here.birth]
    # It runs in another folder, from which a package in this program's folder is not found.
    paths = [_IMPORTED_FROM, os.environ.get("PYTHONPATH")]
    quiet: dict[str, Any] = {
        "cwd": folder.path.anchor,
        "env": {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    try:
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS
            started = process.DetachedProcess(
                command, stdout=subprocess.DEVNULL, creationflags=flags, **quiet
            )
            return mark_of(started.pid)
        shell = ["/bin/sh", "-c", '"$@" >/dev/null & echo $!', "sh", *command]
        done = subprocess.run(  # noqa: S603 - our own command, with the folder as its argument
            shell, stdout=subprocess.PIPE, check=True, start_new_session=True, **quiet
        )
        return mark_of(int(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.warning(
            "The watchdog of the local server in %s did not start (%s): a program that is killed "
            "leaves the server running",
            folder.path,
            type(error).__name__,
        )
        return None


def watch(folder: DataFolder, starter: ProcessMark) -> None:
    """Return once the server of the folder has ended; stop it once nobody uses it.

    Nothing is written into the folder before that: whoever released the server may be deleting it.

    Args:
        folder: The data folder.
        starter: The process that starts the server.
    """
    server = _started(folder, starter)
    users: list[ProcessMark] = []
    while server is not None and server.mark.is_alive() and not server.keep_running:
        if folder.path.is_dir():
            users = folder.leases.living()
        # Of a folder that was deleted or moved, the users last seen are the users.
        if not any(user.is_alive() for user in users) and _stopped(folder, server):
            return
        time.sleep(_POLL_S)
        server = _same(server, folder.running() if folder.path.is_dir() else server)


def _started(folder: DataFolder, starter: ProcessMark) -> RunningServer | None:
    """The server, once it is there; None where the start came to nothing."""
    end, lived = time.monotonic() + _STARTS_WITHIN_S, True
    while folder.path.is_dir() and time.monotonic() < end:
        server = folder.running()
        if server is not None:
            return server
        if lived and not starter.is_alive():
            # What it started at its last moment shows itself soon.
            end, lived = time.monotonic() + _SHOWS_WITHIN_S, False
        time.sleep(_POLL_S)
    return None


def _same(watched: RunningServer, found: RunningServer | None) -> RunningServer | None:
    """What is found, where it is the server that is watched: a new one has its own watchdog."""
    return found if found is not None and found.mark == watched.mark else None


def _stopped(folder: DataFolder, server: RunningServer) -> bool:
    """Stop the server, unless somebody has come, or is at it: who holds the lock may be a user that
    has not its lease yet, or the one who stops the server.
    """
    if not folder.path.is_dir():
        process.stop(server)
        return True
    try:
        with folder.locked(0):
            found = folder.running()
            if found is None or found.mark != server.mark:
                return True
            if found.keep_running or folder.leases.living(drop_dead=True):
                return False
            process.stop(found)
            folder.set_running(None)
    except DataFolderError:
        raise
    except LocalServerError:
        return False
    return True


def main() -> None:
    """Watch the folder that the command line names, for the process that it names."""
    path, pid, birth = sys.argv[1:4]
    folder, starter = DataFolder(Path(path)), ProcessMark(int(pid), birth)
    for _ in range(_ATTEMPTS):
        try:
            watch(folder, starter)
            break
        except (MemorizzAsyncError, OSError):
            time.sleep(_POLL_S)  # a file that was being written, a disk that was full: look again
