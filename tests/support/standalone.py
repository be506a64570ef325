"""A mongod that is no replica set: no change streams, no transactions, the plainest there is."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memorizz_async.errors import DatabaseError
from memorizz_async.memory_provider.mongodb.driver import blocking_command
from memorizz_async.memory_provider.mongodb.local_server.binary import find_mongod

_PORTS = range(32000, 32700)  # beside those of our own servers, below those that systems give out
_ATTEMPTS = 8
_STARTS_WITHIN_S = 60.0


@contextmanager
def standalone_mongod(folder: Path) -> Iterator[str]:
    """The address of a mongod without `--replSet`, which runs as long as the block."""
    binary = find_mongod()
    for port in random.sample(_PORTS, _ATTEMPTS):
        process = subprocess.Popen(
            [
                str(binary.path),
                *("--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"),
                *("--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            ],
            env={**os.environ, **binary.env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        uri = f"mongodb://127.0.0.1:{port}"
        try:
            # The driver looks for the server until it is there; a stranger on a port that was
            # taken is none of ours, whose process has ended.
            reply = _hello(uri, process)
            if reply is not None:
                assert "repl" not in reply
                yield uri
                return
        finally:
            process.terminate()
            process.wait()
    raise RuntimeError(f"none of {_ATTEMPTS} ports was free")


def _hello(uri: str, process: subprocess.Popen[bytes]) -> dict[str, object] | None:
    """What the server says of itself; None where this process did not get its port."""
    try:
        reply = blocking_command(uri, {"serverStatus": 1}, timeout_s=_STARTS_WITHIN_S)
    except DatabaseError:
        if process.poll() is None:
            raise
        return None
    return reply if reply["pid"] == process.pid else None
