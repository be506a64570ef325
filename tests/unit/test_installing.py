"""One place says how the package is installed, and every page says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from memorizz_async.installing import how_to_install, install_command

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs/quickstart.ipynb"]


def test_the_command_installs_a_checkout_with_its_constraints() -> None:
    """It works today: the package is on no index yet, and torch is pinned."""
    assert install_command("async", "gpu") == 'pip install -c constraints.txt ".[async,gpu]"'
    assert "in a checkout" in how_to_install("async")
    assert (ROOT / "constraints.txt").is_file()


def test_no_other_module_words_an_installation() -> None:
    """Messages take it from `installing`."""
    package = ROOT / "memorizz_async"
    others = [
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if "pip install" in file.read_text(encoding="utf-8") and file.name != "installing.py"
    ]
    assert others == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_install_by_the_same_command(page: Path) -> None:
    """Each `pip install` of the package in a page is the one command, with extras that exist."""
    text = page.read_text(encoding="utf-8").replace('\\"', '"')
    for line in re.findall(r"pip install[^\n`]*", text):
        if "nox" in line:  # the README's two commands
            continue
        found = re.match(r'pip install -c constraints\.txt "\.\[([a-z,]+)\]"', line)
        assert found is not None, line
        assert set(found[1].split(",")) <= set(EXTRAS)
