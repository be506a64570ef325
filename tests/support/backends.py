"""The back ends of the contract tests."""

from __future__ import annotations

BACKENDS = (
    "pymongo", "motor", "memory", "standalone", "atlas-pymongo", "atlas-motor",
    "pymongo-resident", "motor-resident",
)  # fmt: skip
"""Drivers, searching by scan; `atlas-`: by an index; `-resident`: in memory."""
