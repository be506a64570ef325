"""The real MongoDB server behind `uri="local"`: started on first use, shared, stopped by the last.

One folder has at most one server, whatever number of processes name it. Who uses it holds a
lease; who gives back the last lease stops the server. Processes that were killed lose their
leases, and a server that was killed is started again, with its data.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from memorizz_async.errors import (
    ConfigurationError,
    DatabaseError,
    DataFolderError,
    LocalServerError,
)
from memorizz_async.memory_provider.mongodb.local_server import process, watchdog
from memorizz_async.memory_provider.mongodb.local_server.binary import find_mongod
from memorizz_async.memory_provider.mongodb.local_server.folder import (
    DataFolder,
    Marker,
    RunningServer,
    folder_error,
)
from memorizz_async.memory_provider.mongodb.local_server.leases import Lease
from memorizz_async.memory_provider.mongodb.local_server.replica_set import (
    NotReadyError,
    wait_writable,
)
from memorizz_async.redaction import shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalServerStatus:
    """What is known of a folder's server; `users` counts the leases of processes that live."""

    folder: Path
    running: bool
    pid: int | None
    port: int | None
    version: str | None
    users: int
    log_path: Path


class LocalServer:
    """A user's hold on the local server of one folder. Every method blocks.

    On an event loop, call them in a worker thread (`asyncio.to_thread`): a start takes about half
    a second, a stop about one, and either may have to wait for another process that is at it.
    Any thread may call; a forked child neither keeps nor gives back what its parent has acquired.
    What is still held when the interpreter exits is released then.

    `folder` is made if it is missing (default: `mongod` in the user's data folder).
    `keep_running` asks that the server outlives its last user; once anyone has asked for that, it
    runs until `stop()`. `startup_timeout_s` bounds the wait for a server that starts, in seconds.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        keep_running: bool = False,
        startup_timeout_s: float = 60.0,
    ) -> None:
        if not startup_timeout_s > 0:
            raise ConfigurationError(
                "startup_timeout_s must be more than 0 seconds", seen=shown(startup_timeout_s)
            )
        if folder is None:
            folder = platformdirs.user_data_path("memorizz-async") / "mongod"
        self._path = folder.expanduser().absolute()
        self._keep_running = keep_running
        self._startup_timeout_s = startup_timeout_s
        self._lease: Lease | None = None
        self._used: RunningServer | None = None

    def acquire(self) -> str:
        """Use the server, starting it if none runs. The address of a writable replica set of one.

        Calling it again is fine: it starts the server again if that has died, and the lease stays
        one. Raises MongodNotFoundError, DataFolderError or another LocalServerError.
        """
        folder = self._folder()
        if self._used is not None:
            self._used.mark.bury()
        with folder.locked(self._lock_timeout_s):
            marker = folder.marker()
            server = self._attach(folder, marker) or self._start(folder, marker)
            try:
                if self._lease is None or not self._lease.is_held():
                    self._lease = folder.leases.take()
                    atexit.unregister(self.release)  # that of a parent process, if we were forked
                    atexit.register(self.release)
                if marker.port != server.port:
                    folder.remember(replace(folder.marker(), port=server.port))
            except BaseException:
                self._stop_if_unused(folder)
                raise
            folder.leases.living(drop_dead=True)
            self._used = server
        return f"mongodb://127.0.0.1:{server.port}/?replicaSet={marker.set_name}"

    def runs(self) -> bool:
        """Whether the server that was acquired last still runs. Does not block."""
        return self._used is not None and self._used.mark.is_alive()

    def release(self) -> None:
        """Give the server up; the last user out stops it, unless it is to keep running.

        Releasing what is not held does nothing. Raises LocalServerError if the server may not be
        stopped, or if another process holds the folder's lock for too long.
        """
        lease, self._lease = self._lease, None
        atexit.unregister(self.release)
        if lease is None or lease.holder.pid != os.getpid():
            return
        folder = self._folder()
        if not folder.path.is_dir():
            # Someone deleted the folder under the server, and its books with it.
            if self._used is not None:
                process.stop(self._used)
            return
        with folder.locked(self._lock_timeout_s):
            lease.path.unlink(missing_ok=True)
            self._stop_if_unused(folder)

    def stop(self, *, force: bool = False) -> bool:
        """Stop the server, also one that is to keep running; False if none runs.

        Raises LocalServerError while others use it; with `force` they lose it.
        """
        folder = self._folder()
        with folder.explained():
            if folder.read_marker() is None:
                return False
        with folder.locked(self._lock_timeout_s):
            server = folder.running()
            if server is None:
                return False
            users = [mark.pid for mark in folder.leases.living(drop_dead=True)]
            if self._lease is not None and self._lease.is_held():
                users.remove(self._lease.holder.pid)
            if users and not force:
                raise LocalServerError(
                    f"The local server in {folder.path} is in use",
                    seen="by process " + ", ".join(map(str, sorted(users)[:10])),
                    fix="end those first, or force it",
                )
            folder.leases.clear()
            self._lease = None
            atexit.unregister(self.release)
            process.stop(server)
            folder.set_running(None)
        return True

    def status(self) -> LocalServerStatus:
        """Look at the folder's server without starting, waiting for or changing anything."""
        folder = self._folder()
        with folder.explained():
            marker = folder.read_marker()
            server = None if marker is None else folder.running()
            users = len(folder.leases.living())
        version = None if marker is None or marker.version is None else _dotted(marker.version)
        return LocalServerStatus(
            folder=folder.path,
            running=server is not None,
            pid=server.mark.pid if server else None,
            port=server.port if server else None,
            version=version,
            users=users,
            log_path=folder.log,
        )

    @property
    def _lock_timeout_s(self) -> float:
        """Long enough for another process's whole start, or its stop."""
        return self._startup_timeout_s + process.KILL_AFTER_S

    def _folder(self) -> DataFolder:
        # Resolved, so that two names of one folder are one: mongod is known by its data's path.
        try:
            path = os.path.realpath(self._path)
            path.encode()  # mongod tells its path in UTF-8
        except ValueError as error:  # bytes that are not; a null byte
            raise folder_error(self._path, error) from error
        return DataFolder(Path(path))

    def _attach(self, folder: DataFolder, marker: Marker) -> RunningServer | None:
        """The server that runs already, once it takes writes; None if none runs."""
        server = folder.running()
        if server is None:
            return None
        deadline = time.monotonic() + self._startup_timeout_s
        try:
            wait_writable(server, marker.set_name, folder.data, deadline=deadline)
        except (NotReadyError, DatabaseError) as error:
            if not server.mark.is_alive():
                return None
            raise LocalServerError(
                f"The local server in {folder.path} runs (process {server.mark.pid}) but does not "
                "take writes",
                seen=str(error),
                fix=f"read {folder.log}; stop it by force, and try again",
            ) from error
        keep_running = server.keep_running or self._keep_running
        server = replace(server, keep_running=keep_running)
        if not keep_running and not (server.watchdog is not None and server.watchdog.is_alive()):
            server = replace(server, watchdog=watchdog.spawn(folder))
        folder.set_running(server)
        return server

    def _start(self, folder: DataFolder, marker: Marker) -> RunningServer:
        binary = find_mongod()
        if marker.version is not None and marker.version[:2] > binary.version[:2]:
            raise DataFolderError(
                f"The data in {folder.path} belongs to a newer server than the one at hand",
                seen=f"MongoDB {_dotted(marker.version)} wrote it, {binary.path} is "
                f"{_dotted(binary.version)}",
                fix="set MEMORIZZ_ASYNC_MONGOD to a mongod of that version, or name another folder",
            )
        begun = time.monotonic()
        # Before mongod: a program that is killed while it starts one leaves none behind, either.
        watcher = None if self._keep_running else watchdog.spawn(folder)
        server = process.start(
            folder,
            marker,
            binary,
            keep_running=self._keep_running,
            timeout_s=self._startup_timeout_s,
            watcher=watcher,
        )
        if marker.version != binary.version:
            folder.remember(replace(marker, version=binary.version, port=server.port))
        logger.info(
            "Local server: MongoDB %s in %s on port %d, process %d, started in %.2f s",
            _dotted(binary.version),
            folder.path,
            server.port,
            server.mark.pid,
            time.monotonic() - begun,
        )
        return server

    def _stop_if_unused(self, folder: DataFolder) -> None:
        server = folder.running()
        if server is None:
            folder.set_running(None)
        elif not server.keep_running and not folder.leases.living(drop_dead=True):
            process.stop(server)
            folder.set_running(None)


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
