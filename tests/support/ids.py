"""Ids of parametrized tests."""

from __future__ import annotations

import re


def stable_repr(value: object) -> str:
    """The repr without memory addresses: every worker of pytest-xdist must find the same ids."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
