"""Ids of parametrized tests."""

from __future__ import annotations

import re


def stable_repr(value: object) -> str:
    """The ASCII repr without memory addresses: each worker of pytest-xdist must find the same ids."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))
