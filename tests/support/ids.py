"""Ids of parametrized tests."""

from __future__ import annotations

import re


def stable_repr(value: object) -> str:
    """The ASCII repr without memory addresses, the same in each worker of pytest-xdist."""
    return re.sub(r" at 0x[0-9a-f]+", "", ascii(value))
