"""The mongod process of one folder: starts it, says why it failed, stops it.

Blocking, and to be called with the folder's lock held.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import psutil

from memorizz_async.errors import DatabaseError, LocalServerError
from memorizz_async.memory_provider.mongodb.local_server.binary import MongodBinary
from memorizz_async.memory_provider.mongodb.local_server.failures import failed_start
from memorizz_async.memory_provider.mongodb.local_server.folder import (
    DataFolder,
    Marker,
    RunningServer,
)
from memorizz_async.memory_provider.mongodb.local_server.leases import ProcessMark, mark_of
from memorizz_async.memory_provider.mongodb.local_server.replica_set import (
    NotReadyError,
    wait_writable,
)

logger = logging.getLogger(__name__)

# A mongod with a lot to write out ends late. Killing it is safe (the journal has it all), but
# makes the next start slow.
KILL_AFTER_S = 60.0
_POLL_S = 0.01
_PORT_ATTEMPTS = 8
# A server on a new port first asks the one on its old port whether that is itself, and a program
# there that says nothing costs it this long.
_MOVE_S = 35.0
_EXIT_ADDRESS_IN_USE = 48


class DetachedProcess(subprocess.Popen[bytes]):
    """A process that is meant to outlive its handle, so that dropping the handle is no mistake."""

    def __del__(self) -> None:
        pass


def start(
    folder: DataFolder,
    marker: Marker,
    binary: MongodBinary,
    *,
    keep_running: bool,
    timeout_s: float,
    watcher: ProcessMark | None,
) -> RunningServer:
    """Start mongod and wait until it takes writes.

    The process is in the folder's books from its first moment on: should this process be killed
    here, `watcher`, the folder's watchdog, stops it, or the next user goes on with it. Raises
    LocalServerError or DataFolderError with what mongod logged; then none is left behind.
    """
    folder.data.mkdir(mode=0o700, exist_ok=True)
    folder.rotate_log()
    for port in _ports(marker.port):
        deadline = time.monotonic() + timeout_s
        if marker.port not in (None, port):
            deadline += _MOVE_S
        log_start = folder.log.stat().st_size if folder.log.exists() else 0
        process = _spawn(folder, marker, binary, port)
        try:
            server = _entered(folder, process, port, keep_running, watcher)
            _wait_listening(process, port, deadline)
            wait_writable(server, marker.set_name, folder.data, deadline=deadline)
        except (NotReadyError, DatabaseError) as error:
            code = _end(process)
            folder.set_running(None)
            if code != _EXIT_ADDRESS_IN_USE:
                raise failed_start(folder, binary, code, log_start, str(error)) from None
        except BaseException:
            _end(process)
            folder.set_running(None)
            raise
        else:
            return server
    raise LocalServerError(
        "No free port was found for the local server",
        seen=f"{_PORT_ATTEMPTS} ports on 127.0.0.1 were taken by others before mongod came",
        fix="try again",
    )


def _entered(
    folder: DataFolder,
    process: subprocess.Popen[bytes],
    port: int,
    keep_running: bool,
    watcher: ProcessMark | None,
) -> RunningServer:
    mark = mark_of(process.pid)
    if mark is None:
        raise NotReadyError("it ended")
    server = RunningServer(mark, port, keep_running, watcher)
    folder.set_running(server)
    return server


def stop(server: RunningServer) -> None:
    """Let the server end well, and wait until it has (usually 1 s); kill it after 60 s."""
    try:
        process = psutil.Process(server.mark.pid)
        if not server.mark.is_alive():
            return
        if sys.platform == "win32":
            _shut_down_by_command(server)
        else:
            # Unlike a command, a signal needs neither a connection nor a thread, and so it also
            # works while the interpreter exits.
            process.terminate()
        if not _ends(server, KILL_AFTER_S):
            logger.warning(
                "Local server %d did not end within %.0f s and is killed; its next start recovers",
                server.mark.pid,
                KILL_AFTER_S,
            )
            process.kill()
            _ends(server, KILL_AFTER_S)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise LocalServerError(
            f"The local server (process {server.mark.pid}) may not be stopped",
            seen=str(error),
            fix="stop it as the user who started it",
        ) from error


def _ends(server: RunningServer, timeout_s: float) -> bool:
    """Wait for the end. A zombie has ended: its parent may be another user, who has not noticed."""
    deadline = time.monotonic() + timeout_s
    while server.mark.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    server.mark.bury()
    return True


def _shut_down_by_command(server: RunningServer) -> None:
    """Windows has no signal that mongod could handle."""
    from memorizz_async.memory_provider.mongodb.driver import blocking_command  # noqa: PLC0415

    # The connection breaks while the server ends, which is the answer.
    with suppress(DatabaseError):
        try:
            command = {"shutdown": 1, "force": True}
            blocking_command(server.direct_address, command, timeout_s=10.0)
        except RuntimeError:  # no new thread for the driver: the interpreter exits
            psutil.Process(server.mark.pid).kill()


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """End a start that failed. The exit code of mongod, None if it had to be killed."""
    with suppress(subprocess.TimeoutExpired):
        # What took its port or its data makes it end by itself, a moment later.
        return process.wait(timeout=0.5)
    process.kill()
    process.wait()
    return None


def _ports(last: int | None) -> Iterator[int]:
    """The port of the last run first, so that addresses stay good; then random ones.

    These lie below the range from which systems give out ports of their own accord: there nobody
    takes ours while the server is down.
    """
    candidates = [] if last is None else [last]
    candidates += random.sample(range(20000, 32000), 400)
    return islice((port for port in candidates if _is_free(port)), _PORT_ATTEMPTS)


def _is_free(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        if sys.platform != "win32":
            # As mongod does: connections that have just been closed are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _spawn(
    folder: DataFolder, marker: Marker, binary: MongodBinary, port: int
) -> subprocess.Popen[bytes]:
    command = [
        str(binary.path),
        *("--dbpath", str(folder.data), "--port", str(port), "--bind_ip", "127.0.0.1"),
        *("--replSet", marker.set_name, "--oplogSize", "512"),
        *("--logpath", str(folder.log), "--logappend"),
        # Half a gigabyte instead of half of the machine's memory; and journal files of 32 MB that
        # are not laid out ahead: 34 MB on disk instead of 301 for an empty database, and half the
        # time to start.
        *("--wiredTigerCacheSizeGB", "0.5"),
        *("--wiredTigerEngineConfigString", "log=(file_max=32MB,prealloc=false)"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]
    # Away from the user's terminal: Ctrl-C there must not end a server that others use.
    away: dict[str, Any]
    if sys.platform == "win32":
        away = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        command.append("--nounixsocket")
        away = {"start_new_session": True}
    with folder.out.open("wb") as out:
        try:
            return DetachedProcess(
                command,
                cwd=folder.path,
                env={**os.environ, **binary.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                **away,
            )
        except OSError as error:
            raise LocalServerError(
                f"{binary.path} cannot be started",
                seen=str(error),
                fix="install it again, or set MEMORIZZ_ASYNC_MONGOD to another mongod",
            ) from error


def _wait_listening(process: subprocess.Popen[bytes], port: int, deadline: float) -> None:
    """Wait until someone takes connections on the port: far cheaper to ask than with a driver."""
    while True:
        if process.poll() is not None:
            raise NotReadyError("it ended")
        if time.monotonic() > deadline:
            raise NotReadyError("it did not listen on its port in time")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(_POLL_S)
        else:
            return
