"""The folder of a local server: what lies where in it, and whether it may be used.

    folder/
      memorizz-async.json   what stays: name of the replica set, version that ran last, its port
      server.json           the mongod that runs now; gone when none does
      users/                one lease a user
      data/                 the files of mongod
      mongod.log            its log, with mongod.log.1 before it
      .lock                 held around every start and stop

Every error that the file system gives becomes a DataFolderError that says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import psutil

from memorizz_async.errors import DataFolderError, LocalServerError, MemorizzAsyncError
from memorizz_async.memory_provider.mongodb.local_server.leases import (
    Leases,
    ProcessMark,
    mark_of,
    read_json,
    write_json,
)

_MARKER = "memorizz-async.json"
_OURS = {_MARKER, f"{_MARKER}.part", "server.json", "server.json.part", "users", "data", ".lock"}
_OURS |= {"mongod.log", "mongod.log.1", "mongod.out"}
_LOG_LIMIT_BYTES = 16 * 2**20
_SET_NAME = re.compile(r"memorizz-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Marker:
    """What a folder remembers from one run to the next.

    Each folder's replica set has a name of its own: a client that comes back to a port where the
    server of another folder listens by now is refused by its driver, and writes nothing there.
    """

    set_name: str
    version: tuple[int, int, int] | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The mongod of a folder, alive when last looked at, and the process that watches over it."""

    mark: ProcessMark
    port: int
    keep_running: bool = False
    watchdog: ProcessMark | None = None

    @property
    def direct_address(self) -> str:
        """The address that works in every state of the replica set."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"


class DataFolder:
    """One folder, by its absolute path. Constructing does no I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path / "data"
        self.log = path / "mongod.log"
        # What mongod says before it has opened its log (a missing library, an unknown option).
        self.out = path / "mongod.out"
        self.leases = Leases(path / "users")

    @contextlib.contextmanager
    def locked(self, timeout_s: float) -> Iterator[None]:
        """Hold the folder's lock, in this process and against all others; makes the folder.

        Raises DataFolderError, or LocalServerError when another holds the lock for `timeout_s`.
        """
        with self.explained():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_foreign()
            # A lock object of its own for each use: then it also excludes other threads.
            lock = filelock.FileLock(self.path / ".lock", timeout=timeout_s)
            try:
                lock.acquire()
            except filelock.Timeout:
                raise LocalServerError(
                    f"The local server in {self.path} is being started or stopped by another "
                    "process, which does not come to an end",
                    seen=f"its lock was held for {timeout_s:.0f} s",
                    fix="look for a hanging process that uses this folder, or name another folder",
                ) from None
        try:
            with self.explained():
                yield
        finally:
            lock.release()

    def read_marker(self) -> Marker | None:
        """What the folder remembers; None if it has no marker.

        Raises DataFolderError for a marker that is damaged: the name of the replica set, without
        which the data cannot be used, stands nowhere else outside the database.
        """
        path = self.path / _MARKER
        row = read_json(path)
        name, version, port = row.get("set_name"), row.get("version"), row.get("port")
        if (
            isinstance(name, str)
            and _SET_NAME.fullmatch(name)
            and (version is None or _is_version(version))
            and (port is None or (type(port) is int and 0 < port < 65536))
        ):
            return Marker(name, None if version is None else tuple(version), port)
        if not path.exists():
            return None
        if self._has_data():
            raise self._unnamed(path, "is damaged")
        raise DataFolderError(
            f"The file {path} is damaged",
            seen=f"it holds {path.stat().st_size} bytes that are not the settings of this folder",
            fix="delete the file: the folder holds no data yet",
        )

    def _has_data(self) -> bool:
        return self.data.is_dir() and any(self.data.iterdir())

    def _unnamed(self, path: Path, seen: str) -> DataFolderError:
        return DataFolderError(
            f"The folder {self.path} holds a database, but not the file {_MARKER} that names "
            "its replica set",
            seen=f"{path} {seen}",
            fix="put the file back from a backup, or name another folder",
        )

    def marker(self) -> Marker:
        """The same; a new folder gets its marker here, before mongod writes anything.

        Raises DataFolderError for data without a marker.
        """
        marker = self.read_marker()
        if marker is not None:
            return marker
        if self._has_data():
            raise self._unnamed(self.path / _MARKER, "is missing")
        marker = Marker(f"memorizz-{secrets.token_hex(6)}")
        self.remember(marker)
        return marker

    def remember(self, marker: Marker) -> None:
        """Write the marker."""
        write_json(self.path / _MARKER, {"format": 1, **asdict(marker)})

    def running(self) -> RunningServer | None:
        """The mongod that runs on this folder's data, also one whose starter has died.

        Raises DataFolderError if a mongod that is not ours does.
        """
        row = read_json(self.path / "server.json")
        mark, port = ProcessMark.from_row(row), row.get("port")
        if mark is not None and type(port) is int:
            if mark.is_alive():
                watchdog = row.get("watchdog")
                return RunningServer(
                    mark,
                    port,
                    bool(row.get("keep_running")),
                    ProcessMark.from_row(watchdog) if isinstance(watchdog, dict) else None,
                )
            mark.bury()
        return self._orphan(keep_running=bool(row.get("keep_running")))

    def set_running(self, server: RunningServer | None) -> None:
        """Write down the mongod that runs; None when it has ended."""
        path = self.path / "server.json"
        if server is None:
            path.unlink(missing_ok=True)
        else:
            row = asdict(server)
            write_json(path, {**row.pop("mark"), **row})

    def rotate_log(self) -> None:
        """Keep the log small: one file back, no more. Only while mongod does not run."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > _LOG_LIMIT_BYTES:
                self.log.replace(self.log.with_name("mongod.log.1"))

    def _refuse_foreign(self) -> None:
        """Refuse a folder that someone uses for something else, before anything is written."""
        names = {entry.name for entry in self.path.iterdir()}
        foreign = sorted(names - _OURS)
        if _MARKER in names or not foreign:
            return
        seen = ", ".join(foreign[:5])
        if "WiredTiger" in names:
            raise DataFolderError(
                f"The folder {self.path} is the database of a mongod that is not ours",
                seen=seen,
                fix="start that server yourself and set MONGODB_URI to it, or name another folder",
            )
        raise DataFolderError(
            f"The folder {self.path} is not one of ours, and not empty",
            seen=seen,
            fix="name a new or an empty folder",
        )

    def _orphan(self, *, keep_running: bool) -> RunningServer | None:
        """The mongod that mongod.lock names: its starter was killed before it could write it down.

        mongod empties the file when it ends well, so this costs nothing on the usual path.
        """
        try:
            pid = int((self.data / "mongod.lock").read_text().strip() or 0)
        except (OSError, ValueError):  # not there, or (on Windows) held by the one who runs
            return None
        mark = mark_of(pid) if pid > 0 else None
        if mark is None or not mark.is_alive():
            return None
        try:
            command = psutil.Process(pid).cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        options = dict(itertools.pairwise(command))
        if options.get("--dbpath") != str(self.data):
            return None  # the pid belongs to someone else by now
        port = options.get("--port", "")
        if options.get("--replSet") == self.marker().set_name and port.isdigit():
            return RunningServer(mark, int(port), keep_running)
        raise self.in_use(f"process {pid} runs on it")

    def in_use(self, seen: str) -> DataFolderError:
        """The error for data that another mongod has open."""
        return DataFolderError(
            f"Another mongod, which is not ours, uses the data in {self.data}",
            seen=seen,
            fix="stop that server, or set MONGODB_URI to its address, or name another folder",
        )

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the file system says into an error that says what to do."""
        try:
            yield
        except MemorizzAsyncError:
            raise  # some of ours are an OSError or a ValueError too
        except (OSError, NotImplementedError) as error:
            # NotImplementedError: filelock, on a file system without locks.
            raise folder_error(self.path, error) from error


def _is_version(value: object) -> bool:
    """Whether it is three whole numbers, as the version of a server is written."""
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value)


def folder_error(path: Path, error: Exception) -> DataFolderError:
    """What to tell the user for what the file system said."""
    code = error.errno if isinstance(error, OSError) else None
    other = 'name another folder (uri="local:///a/folder")'
    match code:
        case errno.ENOTDIR | errno.EEXIST:
            what, fix = f"The data folder {path} is a file, or lies below one", other
        case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOENT:
            what, fix = f"The data folder {path} cannot be written", f"{other}, or its permissions"
        case errno.ENOSPC | errno.EDQUOT:
            what, fix = f"The disk of the data folder {path} is full", f"free some room, or {other}"
        case None | errno.ENAMETOOLONG | errno.EINVAL | errno.ELOOP:
            what, fix = f"The data folder {str(path)!r} cannot be used", other
        case _:
            what, fix = f"The data folder {path} fails", other
    return DataFolderError(what, seen=f"{type(error).__name__}: {error}", fix=fix)
