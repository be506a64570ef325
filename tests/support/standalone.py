"""Real mongods for tests: one that is no replica set, and any number with options of their own."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo

from memorizz_async.errors import DatabaseError
from memorizz_async.memory_provider.mongodb.driver import blocking_command
from memorizz_async.memory_provider.mongodb.local_server.binary import find_mongod

_PORTS = range(32000, 32700)  # beside those of our own servers, below those that systems give out
_ATTEMPTS = 8
_STARTS_WITHIN_S = 60.0
_SET = "tests"
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Let the system end this process with the tests, however they end."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class MongodProcess:
    """A mongod of a test."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        return f"mongodb://{self.host}"

    def kill(self) -> None:
        """End it at once, as a machine that loses its power."""
        self.process.kill()
        self.process.wait()


@contextmanager
def standalone_mongod(folder: Path) -> Iterator[str]:
    """The address of a mongod without `--replSet`, which runs as long as the block."""
    with running_mongod(folder) as mongod:
        yield mongod.uri


@contextmanager
def running_mongod(folder: Path, *options: str) -> Iterator[MongodProcess]:
    """A mongod with its data in a folder, which runs as long as the block."""
    binary = find_mongod()
    folder.mkdir(exist_ok=True)
    for port in filter(_is_free, random.sample(_PORTS, _ATTEMPTS)):
        process = subprocess.Popen(
            [
                str(binary.path),
                *("--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"),
                *("--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                *options,
            ],
            env={**os.environ, **binary.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # One call of the C library, no Python object is touched.
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
        mongod = MongodProcess(port, process)
        try:
            if _answers(mongod):
                yield mongod
                return
        finally:
            process.kill()  # a primary that is asked to end waits for its secondaries
            process.wait()
    raise RuntimeError(f"none of {_ATTEMPTS} ports was free")


def _answers(mongod: MongodProcess) -> bool:
    """Wait until the server answers; False where this process did not get its port."""
    try:
        uri = f"{mongod.uri}/?directConnection=true"
        blocking_command(uri, {"hello": 1}, timeout_s=_STARTS_WITHIN_S)
    except DatabaseError:
        if mongod.process.poll() is None:
            raise
        return False
    return mongod.process.poll() is None


def _is_free(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def replica_set(
    folder: Path, members: list[dict[str, Any]], *options: str
) -> Iterator[list[MongodProcess]]:
    """The members of a replica set that has elected the first of them its primary.

    members: what the configuration says of each, beside its `_id` and `host`.
    """
    with ExitStack() as stack:
        mongods = [
            stack.enter_context(running_mongod(folder / str(number), "--replSet", _SET, *options))
            for number in range(len(members))
        ]
        config = {
            "_id": _SET,
            "members": [
                {"_id": number, "host": mongod.host, **member}
                for number, (mongod, member) in enumerate(zip(mongods, members, strict=True))
            ],
            "settings": {"electionTimeoutMillis": 1000},
        }
        client = stack.enter_context(direct(mongods[0]))
        client.admin.command("replSetInitiate", config)
        with pymongo.MongoClient(mongods[0].uri, replicaSet=_SET) as whole:
            whole.admin.command({"ping": 1})  # which looks for the primary until it is there
        yield mongods


def direct(mongod: MongodProcess, **options: Any) -> pymongo.MongoClient[Any]:
    """A client of one server, whatever it is a member of."""
    return pymongo.MongoClient(mongod.uri, directConnection=True, tz_aware=True, **options)
