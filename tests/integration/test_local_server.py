"""The mongod that we start: shared by processes, stopped by the last, and hard to kill for good.

Real servers and real processes throughout; a shell script plays mongod only where a real one
cannot be brought to fail in that way.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pymongo
import pytest

from memorizz_async.errors import (
    ConfigurationError,
    DataFolderError,
    LocalServerError,
    MongodNotFoundError,
)
from memorizz_async.memory_provider.mongodb.local_server import LocalServer
from memorizz_async.memory_provider.mongodb.local_server.binary import ENV_VARIABLE, find_mongod
from memorizz_async.memory_provider.mongodb.local_server.folder import DataFolder

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="sh scripts, signals, fork")

# A user in a process of its own: says its address, then does what it is told, line by line.
USER = """
import sys
from pathlib import Path
from memorizz_async.memory_provider.mongodb.local_server import LocalServer
server = LocalServer(Path(sys.argv[1]), keep_running="keep" in sys.argv)
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "acquire":
        print(server.acquire(), flush=True)
    elif line.strip() == "release":
        server.release()
        print("released", flush=True)
    elif line.strip() == "fork":
        import os
        child = os.fork()
        if not child:
            server.release()
            sys.exit(0)
        print(os.waitpid(child, 0)[1], flush=True)
"""


class User:
    def __init__(self, folder: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", USER, str(folder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.answer() == "ready"

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        self.tell(word)
        return self.answer()

    def leave(self) -> str:
        """End as a program does that forgets to release; what it wrote to stderr."""
        return self.process.communicate(timeout=WAIT_S)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with an odd name; whatever runs on it in the end is ended."""
    path = tmp_path / "gedächtnis & co"
    yield path
    for process in psutil.process_iter(["cmdline"]):
        if str(path / "data") in (process.info["cmdline"] or ()):
            process.kill()
            process.wait(WAIT_S)


@pytest.fixture
def user(folder: Path) -> Iterator[Callable[..., User]]:
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> User:
            one = User(folder, *options)
            stack.callback(one.kill)
            return one

        yield start


@pytest.fixture
def fake_mongod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the next mongod a script: it tells its version, and then does what it is told to."""

    def use(body: str) -> None:
        path = tmp_path / "mongod-script"
        version = 'if [ "$1" = --version ]; then echo "db version v6.0.27"; exit 0; fi'
        path.write_text(f"#!/bin/sh\n{version}\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv(ENV_VARIABLE, str(path))

    return use


@contextlib.contextmanager
def client(address: str) -> Iterator[pymongo.MongoClient[Any]]:
    with pymongo.MongoClient[Any](address, serverSelectionTimeoutMS=5000) as one:
        yield one


def note(address: str, text: str) -> None:
    with client(address) as one:
        one.db.notes.insert_one({"text": text})


def notes(address: str) -> list[str]:
    with client(address) as one:
        return [row["text"] for row in one.db.notes.find()]


def pid_of(folder: Path) -> int:
    pid = LocalServer(folder).status().pid
    assert pid is not None
    return pid


def kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(WAIT_S)


def test_a_server_for_one_user(folder: Path) -> None:
    """Transactions and change streams work, release stops it, the data and the address stay."""
    server = LocalServer(folder)
    address = server.acquire()
    assert server.acquire() == address
    assert server.status().users == 1
    with client(address) as one:
        collection = one.db.notes
        with collection.watch() as changes:
            with one.start_session() as session, session.start_transaction():
                collection.insert_one({"text": "kept"}, session=session)
            assert next(changes)["fullDocument"]["text"] == "kept"
        hosts = {host for host, _ in one.nodes}
    assert hosts == {"127.0.0.1"}
    status = server.status()
    assert (status.running, status.version) == (True, "6.0.27")
    assert f":{status.port}/" in address
    assert status.log_path.stat().st_size > 0

    server.release()
    server.release()
    after = server.status()
    assert (after.running, after.pid, after.users) == (False, None, 0)
    assert not psutil.pid_exists(status.pid or 0)

    again = server.acquire()
    assert again == address
    assert notes(again) == ["kept"]
    server.release()


def test_it_listens_on_the_loopback_alone_and_away_from_the_terminal(folder: Path) -> None:
    """No other machine reaches it, and Ctrl-C in a user's terminal does not."""
    server = LocalServer(folder)
    server.acquire()
    process = psutil.Process(pid_of(folder))
    listening = [c for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
    if sys.platform != "win32":
        assert os.getsid(process.pid) != os.getsid(0)
        assert folder.stat().st_mode & 0o077 == 0
    server.release()


def test_two_processes_at_once_start_one_server(folder: Path, user: Callable[..., User]) -> None:
    """Whoever comes first starts it, the other joins, and the last one out stops it."""
    first, second = user(), user()
    first.tell("acquire")
    second.tell("acquire")
    assert first.answer() == second.answer()
    pid = pid_of(folder)
    assert LocalServer(folder).status().users == 2
    assert first.ask("release") == "released"
    assert pid_of(folder) == pid
    assert second.ask("release") == "released"
    assert not LocalServer(folder).status().running
    assert first.leave() == second.leave() == ""


def test_several_objects_and_threads_in_one_process(folder: Path) -> None:
    """Objects that name one folder share its server, from whatever thread they are used."""
    servers = [LocalServer(folder) for _ in range(4)]
    addresses: list[str] = []
    threads = [
        threading.Thread(target=lambda one=one: addresses.append(one.acquire())) for one in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(addresses) == 4
    assert len(set(addresses)) == 1
    for left, server in zip((3, 2, 1, 0), servers, strict=True):
        server.release()
        assert (LocalServer(folder).status().users, server.status().running) == (left, left > 0)


def test_a_killed_server_comes_back_with_its_data(folder: Path) -> None:
    """After kill -9 of mongod, acquire starts it again: same address, and nothing is lost."""
    server = LocalServer(folder)
    address = server.acquire()
    note(address, "journaled")
    kill(pid_of(folder))
    assert not server.status().running
    assert server.acquire() == address
    assert notes(address) == ["journaled"]
    server.release()
    assert not server.status().running


def test_a_killed_user_does_not_keep_the_server_running(
    folder: Path, user: Callable[..., User]
) -> None:
    """The lease of a process that was killed counts no more: the last living one stops.

    The server is taken over, or, where its watchdog was faster, started again at its address.
    """
    doomed = user()
    address = doomed.ask("acquire")
    doomed.kill()
    server = LocalServer(folder)
    assert server.acquire() == address
    assert server.status().users == 1
    server.release()
    assert not server.status().running


def test_a_program_that_forgets_to_release_stops_it_at_its_end(
    folder: Path, user: Callable[..., User]
) -> None:
    """Leaving the interpreter releases, without a warning."""
    forgetful = user()
    forgetful.ask("acquire")
    assert forgetful.leave() == ""
    assert not LocalServer(folder).status().running


@posix_only
def test_a_forked_child_leaves_its_parents_server_alone(
    folder: Path, user: Callable[..., User]
) -> None:
    """Neither release nor the exit of a forked child gives up what the parent has acquired."""
    parent = user()
    parent.ask("acquire")
    assert parent.ask("fork") == "0"
    assert LocalServer(folder).status().users == 1
    assert LocalServer(folder).status().running
    parent.kill()


def test_a_server_that_is_to_keep_running(folder: Path, user: Callable[..., User]) -> None:
    """keep_running outlives its user and those after it; stop ends it, once nobody uses it."""
    starter = user("keep")
    address = starter.ask("acquire")
    assert starter.leave() == "", "no warning about the process that is left behind"
    passer_by = LocalServer(folder)
    assert passer_by.acquire() == address
    other = LocalServer(folder)
    with pytest.raises(LocalServerError, match=f"in use.*process {os.getpid()}"):
        other.stop()
    passer_by.release()
    assert passer_by.status().running
    assert other.stop()
    assert not other.stop()
    assert not passer_by.status().running


def test_a_forced_stop_takes_it_from_its_users(folder: Path) -> None:
    """stop(force=True) ends a server in use; its users may acquire it anew."""
    server = LocalServer(folder)
    address = server.acquire()
    assert LocalServer(folder).stop(force=True)
    assert server.status().users == 0
    assert server.acquire() == address
    assert server.status().users == 1
    server.release()
    assert not server.status().running


def test_a_server_in_nobodys_books_is_taken_over(folder: Path) -> None:
    """Killed between the start and the note of it: the next one finds the server that runs."""
    server = LocalServer(folder)
    address = server.acquire()
    pid = pid_of(folder)
    (folder / "server.json").write_text('{"pid": 1')
    assert LocalServer(folder).acquire() == address
    assert pid_of(folder) == pid
    assert server.stop(force=True)


def test_a_recycled_pid_is_not_taken_for_the_server(folder: Path) -> None:
    """Books that name a living process of another birth are stale: it is not touched."""
    server = LocalServer(folder)
    server.acquire()
    kill(pid_of(folder))
    books = DataFolder(folder)
    (folder / "server.json").write_text(f'{{"pid": {os.getpid()}, "birth": "x", "port": 1}}')
    (folder / "data" / "mongod.lock").write_text(f"{os.getpid()}\n")
    (folder / "users" / "stale.json").write_text(f'{{"pid": {os.getpid()}, "birth": "x"}}')
    assert books.running() is None
    server.acquire()
    assert pid_of(folder) != os.getpid()
    server.release()
    assert not server.status().running


@contextlib.contextmanager
def occupied(port: int) -> Iterator[None]:
    """Someone else's program on the port; it hangs up on whoever calls."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_S)


@posix_only
def test_a_taken_port_makes_it_move(folder: Path) -> None:
    """If the old port is in other hands at a restart, it moves, stays writable and keeps it all."""
    server = LocalServer(folder)
    address = server.acquire()
    note(address, "before")
    port = server.status().port
    assert port is not None
    kill(pid_of(folder))
    with occupied(port):
        moved = server.acquire()
        assert moved != address
        note(moved, "after")
        assert notes(moved) == ["before", "after"]
    kill(pid_of(folder))
    assert server.acquire() == moved, "from then on the new port is its port"
    server.release()


def test_nothing_is_written_before_acquire(folder: Path) -> None:
    """Constructing, looking, releasing and stopping leave no trace."""
    server = LocalServer(folder)
    assert not server.status().running
    server.release()
    assert not server.stop()
    assert not folder.exists()


def test_a_folder_deleted_under_its_server(folder: Path) -> None:
    """Who deletes the folder of a running server first still gets it stopped by release."""
    server = LocalServer(folder)
    server.acquire()
    pid = pid_of(folder)
    folder.rename(folder.with_name("gone"))
    server.release()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


def unwritable(tmp_path: Path) -> Path:
    if sys.platform == "linux" and os.geteuid() == 0:
        return Path("/sys/kernel/memorizz")  # not even root may make a folder there
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    return closed / "folder"


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "folder"


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


def not_empty(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.txt").write_text("")
    return tmp_path / "project"


def a_mongod_folder(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "WiredTiger").write_text("")
    return tmp_path / "db"


def without_marker(tmp_path: Path) -> Path:
    (tmp_path / "db" / "data").mkdir(parents=True)
    (tmp_path / "db" / "data" / "WiredTiger").write_text("")
    return tmp_path / "db"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (unwritable, "cannot be written"),
        (below_a_file, "is a file, or lies below one"),
        (a_file, "is a file, or lies below one"),
        (lambda tmp_path: tmp_path / "null\0byte", "cannot be used"),
        (lambda tmp_path: tmp_path / "not\udcff utf-8", "cannot be used"),
        (lambda tmp_path: tmp_path / ("x" * 300), "cannot be used"),
        (not_empty, r"not empty.*thesis\.txt"),
        (a_mongod_folder, "is the database of a mongod that is not ours"),
        (without_marker, "but not the file memorizz-async.json"),
    ],
)
def test_a_folder_that_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    """A clear error that names the folder, before anything is written into it."""
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataFolderError, match=words) as caught:
        LocalServer(path).acquire()
    assert path.name[:3] in str(caught.value)
    assert caught.value.fix is not None
    left = set(tmp_path.rglob("*")) - set(before)
    assert {entry.name for entry in left} <= {".lock"}


@posix_only
def test_data_of_a_newer_server_by_our_own_mark(
    folder: Path, fake_mongod: Callable[[str], None]
) -> None:
    """A folder that a newer MongoDB has written is refused before an older one touches it."""
    books = DataFolder(folder)
    folder.mkdir()
    marker = books.marker()
    row = (folder / "memorizz-async.json").read_text().replace("null", "[8, 0, 4]", 1)
    (folder / "memorizz-async.json").write_text(row)
    fake_mongod("exit 0")
    with pytest.raises(DataFolderError, match=r"newer server.*8\.0\.4 wrote it.*6\.0\.27"):
        LocalServer(folder).acquire()
    assert books.marker().set_name == marker.set_name
    assert not books.data.exists()


@posix_only
@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (
            'echo \'{"s":"F","msg":"Wrong mongod version"}\' >>"$LOG"; exit 62',
            DataFolderError,
            "does not fit mongod 6.0.27.*Wrong mongod version",
        ),
        (
            'echo \'{"s":"E","msg":"x","attr":{"e":"No space left on device"}}\' >>"$LOG"; exit 14',
            DataFolderError,
            "disk.*is full",
        ),
        ("echo no such option >&2; exit 2", LocalServerError, "code 2.*no such option"),
        ("kill -ABRT $$", LocalServerError, "ended with SIGABRT"),
    ],
)
def test_a_server_that_ends_while_it_starts(
    folder: Path,
    fake_mongod: Callable[[str], None],
    body: str,
    error: type[Exception],
    words: str,
) -> None:
    """What mongod said, on its log or before it, is in the error; the next start is free to try."""
    fake_mongod(f"LOG='{folder / 'mongod.log'}'\n{body}")
    server = LocalServer(folder)
    with pytest.raises(error, match=words):
        server.acquire()
    assert not server.status().running
    assert server.status().users == 0


@posix_only
def test_a_server_that_does_not_get_ready(
    folder: Path, fake_mongod: Callable[[str], None], tmp_path: Path
) -> None:
    """The wait for a start is bounded, and what was started is ended."""
    fake_mongod(f"echo $$ >'{tmp_path / 'pid'}'; exec sleep 60")
    with pytest.raises(LocalServerError, match=r"in time.*did not listen"):
        LocalServer(folder, startup_timeout_s=0.3).acquire()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_timeout_of_nothing_is_refused() -> None:
    """startup_timeout_s must be more than 0."""
    with pytest.raises(ConfigurationError, match="startup_timeout_s"):
        LocalServer(startup_timeout_s=0)


def test_no_binary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mongod that does not run is said to be that, and no server is noted down."""
    monkeypatch.setenv(ENV_VARIABLE, __file__)
    with pytest.raises(MongodNotFoundError, match=ENV_VARIABLE):
        LocalServer(folder).acquire()
    assert not LocalServer(folder).status().running


def test_damaged_data(folder: Path) -> None:
    """Data that mongod cannot read is a DataFolderError that shows what mongod said."""
    server = LocalServer(folder)
    server.acquire()
    kill(pid_of(folder))
    (folder / "data" / "WiredTiger.turtle").write_bytes(b"\x00garbage")
    with pytest.raises(DataFolderError, match="damaged"):
        server.acquire()
    assert not server.status().running


@posix_only
@pytest.mark.parametrize("hidden", [False, True])
def test_data_that_another_mongod_holds(folder: Path, hidden: bool) -> None:
    """A mongod that someone started by hand on our data is reported, not adopted or stopped."""
    server = LocalServer(folder)
    server.acquire()
    kill(pid_of(folder))
    binary = find_mongod()
    command = [binary.path, "--dbpath", folder / "data", "--nounixsocket"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stranger = subprocess.Popen(
        [*command, "--port", str(port), "--bind_ip", "127.0.0.1"],
        env={**os.environ, **binary.env},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert stranger.stdout is not None
        assert any("Waiting for connections" in line for line in stranger.stdout)
        if hidden:  # as in another container: we see that its file is locked, not who it is
            (folder / "data" / "mongod.lock").write_text("")
        with pytest.raises(DataFolderError, match="Another mongod, which is not ours"):
            server.acquire()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()
