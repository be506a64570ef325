"""Runs the Python of a documentation page, block after block, as a reader would.

    python -m support.pages docs/guide.md --report blocks.json

Every fenced block of the language `python` runs, in order, in one namespace, with `await` allowed
at the top level. Only the address changes: `mongodb://localhost:27017` becomes `MONGODB_URI`. A
block that defines tests is given to pytest. A comment right above a block may say:

    <!-- raises: DeviceUnavailableError -->   it must fail, in just this way
    <!-- in a running loop -->                it runs inside a running event loop, as in a notebook
    <!-- .env -->                             a block of another language becomes the `.env` of the
                                              working folder; what it sets leaves the environment

The first block that does otherwise ends the run. A page has a process of its own: what its code
registers or patches is global, and stays with it.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from markdown_it import MarkdownIt

ADDRESS = "mongodb://localhost:27017"
"""What pages write where a reader has a server."""

_LANGUAGES = {("python",), ("{code-block}", "python")}
_COMMENT = re.compile(r"\s*<!--(.*?)-->\s*", re.DOTALL)
_RAISES = re.compile(r"raises: (\w+)")
_IN_LOOP = "in a running loop"
_PYTHON_FENCE = re.compile(r"^[\s>*+\-\d.]*?(?:`{3,}|~{3,})[^`\n]*py", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A block of a page. line: of its fence, counted from 1."""

    line: int
    code: str
    dotenv: bool = False
    raises: str | None = None
    in_loop: bool = False


class PageError(Exception):
    """A block did not do what the page says."""


def blocks_of(text: str) -> list[Block]:
    """The blocks of a page that are run, in order."""
    found = []
    above = ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "fence":
            assert token.map is not None
            line = token.map[0] + 1
            words = tuple(token.info.split())
            if words in _LANGUAGES:
                found.append(Block(line, token.content, **_expected(above, line)))
            elif (said := _COMMENT.fullmatch(above)) and said[1].strip() == ".env":
                found.append(Block(line, token.content, dotenv=True))
        above = token.content if token.type == "html_block" else ""
    return found


def python_fences(text: str) -> int:
    """How many fences of a page look like Python, found in another way than by parsing it."""
    return len(_PYTHON_FENCE.findall(text))


def _expected(comment: str, line: int) -> dict[str, Any]:
    """What the comment above a block says of it."""
    said = _COMMENT.fullmatch(comment)
    expected: dict[str, Any] = {}
    for part in said[1].split(";") if said else ():
        raises = _RAISES.fullmatch(part.strip())
        if raises is not None:
            expected["raises"] = raises[1]
        elif part.strip() == _IN_LOOP:
            expected["in_loop"] = True
        else:
            raise PageError(f"line {line}: the comment above the block means nothing: {part!r}")
    return expected


class Reader:
    """Runs the blocks of one page, in one namespace and on one loop."""

    def __init__(self, page: Path, address: str, runner: asyncio.Runner) -> None:
        self._page = page
        self._address = address
        self._runner = runner
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def read(self, block: Block) -> None:
        code = block.code.replace(ADDRESS, self._address)
        if block.dotenv:
            self._set(code)
            return
        try:
            self._run(code, block)
        except BaseException as error:
            if type(error).__name__ != block.raises:
                raise
        else:
            if block.raises is not None:
                raise PageError(f"line {block.line}: did not raise {block.raises}")

    def _run(self, code: str, block: Block) -> None:
        # Moved down, so that a traceback names the page's own lines.
        moved = "\n" * block.line + code
        tree = ast.parse(moved, str(self._page))
        if any(getattr(node, "name", "").startswith("test_") for node in tree.body):
            self._test(code, block)
            return
        compiled = compile(
            tree, str(self._page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )

        async def inside() -> None:
            awaitable = eval(compiled, self._names)
            if awaitable is not None:
                await awaitable

        if block.in_loop or compiled.co_flags & inspect.CO_COROUTINE:
            self._runner.run(inside())
        else:
            eval(compiled, self._names)

    def _test(self, code: str, block: Block) -> None:
        file = Path(f"test_line_{block.line}.py")
        file.write_text(code, encoding="utf-8")
        scope = "asyncio_default_fixture_loop_scope=function"  # else pytest-asyncio warns
        run = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-o", scope, str(file)]
        ended = subprocess.run(run, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise PageError(f"line {block.line}: pytest says\n{ended.stdout}{ended.stderr}")

    def _set(self, code: str) -> None:
        file = Path(".env")
        file.write_text(code, encoding="utf-8")
        for name in dotenv_values(file):
            os.environ.pop(name, None)


def read_page(page: Path, address: str) -> dict[str, Any]:
    """Run a page: which lines ran, and what went wrong if anything did."""
    report: dict[str, Any] = {"python": [], "dotenv": [], "failed": None}
    try:
        blocks = blocks_of(page.read_text(encoding="utf-8"))
        with asyncio.Runner() as runner:
            reader = Reader(page, address, runner)
            for block in blocks:
                print(f"-- {page.name}:{block.line}", flush=True)
                reader.read(block)
                report["dotenv" if block.dotenv else "python"].append(block.line)
    except BaseException:  # noqa: BLE001 - whatever a page raises is for the report
        report["failed"] = traceback.format_exc()
    return report


def read_in_own_process(
    page: Path, address: str, folder: Path, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run a page in a fresh Python, whose working folder and data folder are `folder`."""
    report = folder / "report.json"
    tests = str(Path(__file__).parents[1])
    paths = [tests, *filter(None, [os.environ.get("PYTHONPATH")])]
    ended = subprocess.run(
        [sys.executable, "-m", "support.pages", str(page), "--report", str(report)],
        env={
            **os.environ,
            "MONGODB_URI": address,
            "XDG_DATA_HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUTF8": "1",
            **(environment or {}),
        },
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert report.is_file(), f"reading {page} ended with {ended.returncode}:\n{ended.stderr}"
    return json.loads(report.read_text(encoding="utf-8")), ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    report = read_page(options.page, os.environ["MONGODB_URI"])
    options.report.write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
