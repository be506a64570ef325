"""A local server ends after its last user, however that user ended; what a damaged folder says.

Real servers, real processes, real signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from memorizz_async import AsyncMongoDBProvider, MongoDBConfig
from memorizz_async.config import DriverName
from memorizz_async.errors import DataFolderError, ServerUnavailableError
from memorizz_async.memory_provider.mongodb.local_server import LocalServer
from memorizz_async.memory_provider.mongodb.local_server.folder import DataFolder
from memorizz_async.memory_provider.mongodb.local_server.leases import ProcessMark, mark_of

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Uses the server of a folder, prints the pid of the mongod, then ends itself or waits to be ended.
# A shell that runs the suite in the background makes it, and its children, ignore some signals.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
from memorizz_async.memory_provider.mongodb.local_server import LocalServer
server = LocalServer(Path(sys.argv[1]), keep_running="keep" in sys.argv)
server.acquire()
print(server.status().pid, flush=True)
if "exit" in sys.argv:
    os._exit(3)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; a server that still runs on it afterwards is killed."""
    path = tmp_path / "mongod"
    yield path
    for process in servers_on(path):
        process.kill()


def servers_on(folder: Path) -> list[psutil.Process]:
    """The mongod processes with their data in the folder that have not ended."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder / "data") in process.cmdline():
                found.append(process)
    return found


def wait_for_end(process: psutil.Process | ProcessMark) -> None:
    """Wait until it has ended; a zombie has, whoever is to read its exit code."""
    mark = process if isinstance(process, ProcessMark) else mark_of(process.pid)
    end = time.monotonic() + WAIT_S
    while mark is not None and mark.is_alive():
        assert time.monotonic() < end, f"process {mark.pid} still runs"
        time.sleep(0.02)


@pytest.fixture
def program(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program that uses the folder's server; killed afterwards."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(folder), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def server_of(program: subprocess.Popen[str]) -> psutil.Process:
    """The mongod that the program uses."""
    assert program.stdout is not None
    return psutil.Process(int(program.stdout.readline()))


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL", "os._exit"])
def test_a_server_ends_with_a_program_that_runs_no_code_at_its_end(
    folder: Path, program: Callable[..., subprocess.Popen[str]], how: str
) -> None:
    """By a signal or by `os._exit`: no handler runs, and the server ends all the same."""
    if how == "os._exit":
        mongod = server_of(program("exit"))
    else:
        user = program()
        mongod = server_of(user)
        user.send_signal(getattr(signal, how))
    wait_for_end(mongod)
    assert not LocalServer(folder).status().running


def test_a_server_stays_while_a_second_user_lives(
    folder: Path, program: Callable[..., subprocess.Popen[str]]
) -> None:
    """The death of its starter does not take it from another user; that one's death ends it."""
    starter, second = program(), None
    mongod = server_of(starter)
    second = program()
    assert server_of(second) == mongod
    starter.kill()
    starter.wait()
    watchdog = DataFolder(folder).running().watchdog  # type: ignore[union-attr]
    assert watchdog is not None
    # Its next round drops the lease of the dead; after one more it would have stopped the server.
    with pytest.raises(psutil.TimeoutExpired):
        mongod.wait(1.2)
    assert LocalServer(folder).status().users == 1
    second.kill()
    wait_for_end(mongod)
    wait_for_end(watchdog)


def test_a_program_that_is_killed_while_it_starts_a_server_leaves_none(
    folder: Path, program: Callable[..., subprocess.Popen[str]]
) -> None:
    """From the first moment of mongod on, somebody ends it."""
    starter = program()
    end = time.monotonic() + WAIT_S
    while not (found := servers_on(folder)):
        assert time.monotonic() < end
    starter.kill()
    wait_for_end(found[0])


def test_a_watchdog_that_was_killed_is_replaced_by_the_next_user(folder: Path) -> None:
    """Each acquire checks that one runs."""
    server = LocalServer(folder)
    server.acquire()
    first = DataFolder(folder).running().watchdog  # type: ignore[union-attr]
    assert first is not None
    psutil.Process(first.pid).kill()
    wait_for_end(first)
    server.acquire()
    second = DataFolder(folder).running().watchdog  # type: ignore[union-attr]
    assert second is not None
    assert second != first
    assert second.is_alive()
    server.release()
    wait_for_end(second)


def test_a_server_that_is_to_keep_running_has_no_watchdog(
    folder: Path, program: Callable[..., subprocess.Popen[str]]
) -> None:
    """It outlives a starter that was killed."""
    starter = program("keep")
    mongod = server_of(starter)
    assert DataFolder(folder).running().watchdog is None  # type: ignore[union-attr]
    starter.kill()
    starter.wait()
    assert mongod.is_running()
    assert LocalServer(folder).stop()


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_the_next_call_starts_a_server_that_died(folder: Path, driver: DriverName) -> None:
    """Long before its deadline."""
    async with using(folder, driver) as provider:
        [mongod] = servers_on(folder)
        mongod.kill()
        await asyncio.to_thread(wait_for_end, mongod)
        assert await contents(provider) == ["bees"]
        await provider.store_async("nuts", memory_id="ada", timeout_ms=15_000)
    assert not servers_on(folder)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_call_to_a_dying_server_goes_on_or_fails_and_the_next_one_works(
    folder: Path, driver: DriverName
) -> None:
    """It does not wait for its deadline either way."""
    async with using(folder, driver) as provider:
        servers_on(folder)[0].kill()
        with contextlib.suppress(ServerUnavailableError):
            assert await contents(provider) == ["bees"]
        assert await contents(provider) == ["bees"]


@contextlib.asynccontextmanager
async def using(folder: Path, driver: DriverName) -> AsyncIterator[AsyncMongoDBProvider]:
    """A provider of the folder's server, with one memory."""
    config = MongoDBConfig(f"local://{folder}", driver=driver)
    embed = lambda texts: [[1.0, 2.0] for _ in texts]  # noqa: E731
    async with AsyncMongoDBProvider(config, embedding_provider=embed) as provider:
        await provider.store_async("bees", memory_id="ada")
        yield provider


async def contents(provider: AsyncMongoDBProvider) -> list[str]:
    """What a recall finds, well before the deadline of an ordinary call."""
    hits = await provider.retrieve_memory_units_by_query_async(
        "bees", memory_id="ada", timeout_ms=15_000
    )
    return [hit["content"] for hit in hits]


DAMAGED = {
    "empty": b"",
    "cut short": b'{"format": 1, "set_na',
    "not text": b"\xff\xfe\x00\x01",
    "a list": b"[]",
    "nested too deep": b"[" * 100_000,
    "another name": b'{"set_name": "rs0"}',
    "a version of one number": b'{"set_name": "memorizz-0123456789ab", "version": [6]}',
    "a version in words": b'{"set_name": "memorizz-0123456789ab", "version": ["a", "b", "c"]}',
    "a port in words": b'{"set_name": "memorizz-0123456789ab", "port": "first"}',
    "a port that is none": b'{"set_name": "memorizz-0123456789ab", "port": 99999999}',
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("with_data", [True, False])
def test_a_damaged_marker_is_an_error_that_names_the_file(
    folder: Path, damage: str, with_data: bool
) -> None:
    """In every call that reads it, and nothing is written over it."""
    (folder / "data").mkdir(parents=True)
    if with_data:
        (folder / "data" / "WiredTiger").write_text("")
    marker = folder / "memorizz-async.json"
    marker.write_bytes(DAMAGED[damage])
    server = LocalServer(folder)
    for call in (server.acquire, server.status, server.stop):
        with pytest.raises(DataFolderError, match=r"memorizz-async\.json is damaged") as caught:
            call()
        assert caught.value.fix is not None
    assert marker.read_bytes() == DAMAGED[damage]


@pytest.mark.parametrize("books", DAMAGED.values(), ids=DAMAGED)
def test_damaged_notes_about_a_server_do_no_harm(folder: Path, books: bytes) -> None:
    """`server.json` and leases are written anew by each start."""
    folder.mkdir()
    DataFolder(folder).marker()
    (folder / "server.json").write_bytes(books)
    (folder / "users").mkdir()
    (folder / "users" / "one.json").write_bytes(books)
    status = LocalServer(folder).status()
    assert (status.running, status.users) == (False, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make a file system of a size; unmounted afterwards."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        path = tmp_path / f"disk-{size}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_at_the_first_start_is_an_error_that_says_so(
    small_disk: Callable[[str], Path],
) -> None:
    """Too small even for our own files."""
    with pytest.raises(DataFolderError, match=r"disk of the data folder .* is full"):
        LocalServer(small_disk("4k") / "mongod").acquire()


def test_a_disk_that_became_full_is_named_when_the_server_is_started_again(
    small_disk: Callable[[str], Path],
) -> None:
    """A mongod that cannot even write its log says nothing of the disk."""
    disk = small_disk("300M")
    server = LocalServer(disk / "mongod", startup_timeout_s=WAIT_S)
    server.acquire()
    [mongod] = servers_on(disk / "mongod")
    mongod.kill()
    wait_for_end(mongod)
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(2**16))
    with pytest.raises(DataFolderError, match=r"disk of the data folder .* is full"):
        server.acquire()
    (disk / "filler").unlink()
    server.acquire()
    server.release()
