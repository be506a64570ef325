"""What to run to install a part of this package that is missing: the one place that says it.

The package is installed from a checkout today. When it is on a package index, change it here; a
test finds every page and message that says otherwise.
"""

from __future__ import annotations


def install_command(*extras: str) -> str:
    """The command that installs the package with its extras, in a checkout."""
    return f'pip install -c constraints.txt ".[{",".join(extras)}]"'


def how_to_install(*extras: str) -> str:
    """The same as what a message says to do."""
    return f"in a checkout of memorizz-async, run {install_command(*extras)}"


def how_to_install_package(requirement: str) -> str:
    """What a message says to do to get another package."""
    return f'run pip install "{requirement}"'
