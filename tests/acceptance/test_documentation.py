"""Every Python block of the documentation runs, against a real mongod and the real model.

A page that is added to `docs/` is run from then on; see support/pages.py for what it can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pages import PageError, blocks_of, python_fences, read_in_own_process

from memorizz_async.memory_provider.mongodb.driver import blocking_command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVERS_OWN = {"admin", "config", "local"}


@pytest.fixture
def clean(mongod: Any) -> Iterator[Any]:
    """The server, without the databases that pages write to: before, and after."""
    drop_all(mongod.uri, {"memorizz", "test"})
    before = databases(mongod.uri)
    yield mongod
    drop_all(mongod.uri, databases(mongod.uri) - before)


def databases(uri: str) -> set[str]:
    reply = blocking_command(uri, {"listDatabases": 1, "nameOnly": True}, timeout_s=30)
    return {database["name"] for database in reply["databases"]} - SERVERS_OWN


def drop_all(uri: str, names: set[str]) -> None:
    for name in names:
        blocking_command(uri, {"dropDatabase": 1}, timeout_s=30, database=name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_runs(clean: Any, page: Path, tmp_path: Path) -> None:
    """As many blocks ran as there are in the file, and nothing was printed about an error."""
    text = page.read_text(encoding="utf-8")
    blocks = blocks_of(text)
    python = [block.line for block in blocks if not block.dotenv]
    assert len(python) == python_fences(text)
    if not blocks:  # a page of words needs no process
        return
    report, ended = read_in_own_process(page, clean.uri, tmp_path)
    shown = f"{report['failed']}\n{ended.stdout}\n{ended.stderr}"
    assert report["failed"] is None, shown
    assert report["python"] == python
    assert report["dotenv"] == [block.line for block in blocks if block.dotenv]
    assert ended.returncode == 0, shown
    assert "Traceback" not in ended.stderr, shown


def test_the_pages_with_code_are_found() -> None:
    """The README, the guide and the quickstart have blocks: the search for pages finds them."""
    with_code = {page.name for page in PAGES if blocks_of(page.read_text(encoding="utf-8"))}
    assert {"README.md", "guide.md", "quickstart.md", "recall.md"} <= with_code


# -- the runner itself ------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    report, _ = read_in_own_process(page, "mongodb://server:1", tmp_path)
    return report


def test_blocks_build_on_each_other(tmp_path: Path) -> None:
    """One namespace, one loop, await at the top level; asyncio.run between; the address; .env."""
    report = read(
        tmp_path,
        "```python\nimport asyncio, os\nevent = asyncio.Event()\n"
        "async def later(): event.set()\ntask = asyncio.create_task(later()); await event.wait()\n"
        "```\n\n- in a list:\n\n  ```python\n  assert event.is_set()\n  asyncio.run(later())\n"
        "  ```\n\n<!-- .env -->\n```ini\nMONGODB_URI=mongodb://localhost:27017/x\n```\n"
        "```python\nawait task\nassert 'MONGODB_URI' not in os.environ\n"
        "assert open('.env').read() == 'MONGODB_URI=mongodb://server:1/x\\n'\n```\n",
    )
    assert report["failed"] is None, report["failed"]
    assert report["python"] == [1, 10, 19]
    assert report["dotenv"] == [16]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n```python\nraise KeyError('gone')\n```\n", 'page.md", line 3'),
        ("```python\n1 +\n```\n", "SyntaxError"),
        ("<!-- raises: KeyError -->\n```python\n1\n```\n", "line 2: did not raise KeyError"),
        ("<!-- raises: KeyError -->\n```python\n[][0]\n```\n", "IndexError"),
        ("<!-- rises: KeyError -->\n```python\n1\n```\n", "means nothing"),
        ("```python\ndef test_it():\n    assert 1 == 2\n```\n", "1 failed"),
        ("```python\nraise SystemExit(0)\n```\n", "SystemExit"),
    ],
)
def test_what_a_page_does_not_say_fails(tmp_path: Path, text: str, words: str) -> None:
    """An error that was not announced, or was announced and did not come; a test that fails."""
    report = read(tmp_path, text)
    assert words in report["failed"]
    assert report["python"] == []


def test_what_a_page_says_is_so(tmp_path: Path) -> None:
    """An announced error, a running loop, and tests that pass."""
    report = read(
        tmp_path,
        "<!-- raises: RuntimeError; in a running loop -->\n\n"
        "```python\nimport asyncio\nasyncio.get_running_loop()\nraise RuntimeError\n```\n"
        "```python\ndef test_it():\n    assert 1 == 1\n```\n",
    )
    assert report["failed"] is None, report["failed"]
    assert report["python"] == [3, 8]


@pytest.mark.parametrize(
    "text",
    ["```pycon\n>>> 1\n```\n", "````{tab}\n```python\n1\n```\n````\n", "~~~ Python3\n1\n~~~\n"],
)
def test_python_that_would_not_run_is_seen(text: str) -> None:
    """A language or a nesting that the runner does not know makes the numbers differ."""
    assert python_fences(text) == 1
    assert blocks_of(text) == []


def test_a_misspelt_comment_is_an_error() -> None:
    """It names the line."""
    with pytest.raises(PageError, match="line 2"):
        blocks_of("<!-- skip -->\n```python\n1\n```\n")
