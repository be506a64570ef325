"""Run memorizz's own tests of its provider contract on ours: `nox -s upstream`.

The tests come with memorizz's source distribution, which is downloaded for it; none of them is part
of this project (their licence is PolyForm Noncommercial). `site/` puts our provider in the place of
FileSystemProvider, in every process that the tests start. Each root path is a database of its own
on one real mongod.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from memorizz_async.memory_provider.mongodb.local_server import LocalServer

TESTS = (
    "tests/unit/test_user_id_tenant_isolation.py",
    "tests/unit/test_retrieval_scopes.py",
    "tests/unit/test_knowledge_base_user_id.py",
    "tests/unit/test_memory_archive.py",
    "tests/unit/test_multi_tenant_agent.py",
    "tests/unit/test_memory_scope_sharing.py",
    "tests/integration/test_shared_memory_atomic.py",
)
SITE = Path(__file__).parent / "site"


def unpacked(folder: Path) -> Path:
    """The one source distribution in a folder, unpacked beside it."""
    [archive] = folder.glob("memorizz-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def run(source: Path, uri: str, options: list[str]) -> tuple[int, dict[str, int]]:
    """Run the tests; pytest's exit code, and how many ended in which way."""
    environment = {
        **os.environ,
        "MEMORIZZ_UPSTREAM_URI": uri,
        "PYTHONPATH": os.pathsep.join(map(str, (source / "src", SITE))),
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        sys.executable, "-m", "pytest", "-p", "filesystem_swap", "-p", "no:cacheprovider",
        *TESTS, *options,
    ]  # fmt: skip
    counts: dict[str, int] = {}
    with subprocess.Popen(
        command, cwd=source, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if line.startswith("UPSTREAM "):
                counts = ast.literal_eval(line.removeprefix("UPSTREAM "))
    return process.returncode, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the source distribution lies")
    arguments, options = parser.parse_known_args()
    source = unpacked(arguments.folder)
    with tempfile.TemporaryDirectory() as data:
        server = LocalServer(Path(data))
        try:
            code, counts = run(source, server.acquire(), options)
        finally:
            server.release()
    total, passed = sum(counts.values()), counts.pop("passed", 0)
    others = ", ".join(f"{number} {name}" for name, number in counts.items())
    print(f"{source.name} on MemorizzProvider: {passed} of {total} tests passed ({others})")
    return code


if __name__ == "__main__":
    sys.exit(main())
