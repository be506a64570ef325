"""What a row says that has no `content`, as text.

A workflow of memorizz has a name and a description, an entity has attributes, a persona has goals.
Recalled, they should be readable all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS

from memorizz_async.timestamps import iso_text

_SIMPLE = (int, float, Decimal128, ObjectId)
_TOLD = ("name", "description", "goals", "background")


def content_of(row: Mapping[str, Any]) -> Any:
    """The `content` of a row as it is stored, `""` where that is empty; else what it tells."""
    return row["content"] or "" if "content" in row else _told(row)


def text_of(content: Any) -> str:
    """A content as text, whatever another program stored there; "" where it holds none: bytes,
    documents, lists, patterns.
    """
    if isinstance(content, str):
        return content if type(content) is str else str(content)  # a Code is a str, too
    if isinstance(content, datetime | DatetimeMS):
        return iso_text(content)
    return str(content) if isinstance(content, _SIMPLE) else ""


def _told(row: Mapping[str, Any]) -> str:
    texts = [row[name] for name in _TOLD if isinstance(row.get(name), str) and row[name]]
    return ". ".join([*texts, *_attributes(row.get("attributes"))])


def _attributes(given: Any) -> Iterator[str]:
    """What is known of an entity: `allergy: hazelnuts`."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return
    for entry in given:
        if not isinstance(entry, Mapping):
            continue
        name, value = text_of(entry.get("name")), text_of(entry.get("value"))
        if name and value:
            yield f"{name}: {value}"
