"""What a row says that has no `content`, as text.

A workflow of memorizz has a name and a description, an entity has attributes, a persona has goals.
Recalled, they should be readable all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_TOLD = ("name", "description", "goals", "background")


def content_of(row: Mapping[str, Any]) -> Any:
    """The `content` of a row as it is stored, `""` where that is empty; else what it tells."""
    return row["content"] or "" if "content" in row else _told(row)


def _told(row: Mapping[str, Any]) -> str:
    texts = [row[name] for name in _TOLD if isinstance(row.get(name), str) and row[name]]
    return ". ".join([*texts, *_attributes(row.get("attributes"))])


def _attributes(given: Any) -> Iterator[str]:
    """What is known of an entity: `allergy: hazelnuts`."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return
    for entry in given:
        if isinstance(entry, Mapping) and entry.get("name") and entry.get("value") is not None:
            yield f"{entry['name']}: {entry['value']}"
