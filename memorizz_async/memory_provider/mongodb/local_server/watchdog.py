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

from memorizz_async.errors import MemorizzAsyncError
from memorizz_async.memory_provider.mongodb.local_server import process
from memorizz_async.memory_provider.mongodb.local_server.folder import DataFolder, RunningServer
from memorizz_async.memory_provider.mongodb.local_server.leases import ProcessMark, mark_of

logger = logging.getLogger(__name__)

_IMPORTED_FROM = str(Path(__file__).parents[4])
_POLL_S = 0.5
_LOCK_TIMEOUT_S = 300.0
"""Longer than any start or stop, each of which holds the lock."""
_ATTEMPTS = 20


def spawn(folder: DataFolder) -> ProcessMark | None:
    """Start the watchdog of a folder, detached from this process; None where that is impossible.

    It is no child of this process: a child that has ended would stay in the process table until
    this process reads its exit code.
    """
    if not sys.executable:
        logger.warning("No Python executable is known: a killed program leaves its local server")
        return None
    command = [sys.executable, "-c", f"from {__name__} import main; main()", str(folder.path)]
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
        script = '"$@" >/dev/null & echo $!'
        shell = ["/bin/sh", "-c", script, "sh", *command]
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


def watch(folder: DataFolder) -> None:
    """Return once the server of the folder has ended; stop it once nobody uses it."""
    if not folder.path.is_dir():  # deleted already; the lock would make it again
        return
    # The lock is free once the program that starts the server has taken its lease, or has ended.
    with folder.locked(_LOCK_TIMEOUT_S):
        server = folder.running()
        users = folder.leases.living()
    while server is not None and server.mark.is_alive() and not server.keep_running:
        if folder.path.is_dir():
            users = folder.leases.living()
        # Of a folder that was deleted or moved, the users last seen are the users.
        if not any(user.is_alive() for user in users) and _stopped(folder, server):
            return
        time.sleep(_POLL_S)
        server = _same(server, folder.running() if folder.path.is_dir() else server)


def _same(watched: RunningServer, found: RunningServer | None) -> RunningServer | None:
    """What is found, where it is the server that is watched: a new one has its own watchdog."""
    return found if found is not None and found.mark == watched.mark else None


def _stopped(folder: DataFolder, server: RunningServer) -> bool:
    """Stop the server, unless somebody has come meanwhile."""
    if not folder.path.is_dir():
        process.stop(server)
        return True
    with folder.locked(_LOCK_TIMEOUT_S):
        found = folder.running()
        if found is None or found.mark != server.mark:
            return True
        if found.keep_running or folder.leases.living(drop_dead=True):
            return False
        process.stop(found)
        folder.set_running(None)
    return True


def main() -> None:
    """Watch the folder that the command line names until its server has ended."""
    folder = DataFolder(Path(sys.argv[1]))
    for _ in range(_ATTEMPTS):
        try:
            watch(folder)
            break
        except (MemorizzAsyncError, OSError):
            time.sleep(_POLL_S)  # a file that was being written, a disk that was full: look again
