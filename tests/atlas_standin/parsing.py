"""Reading fields of a BSON document with mongot's texts for what is wrong with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .errors import MongotError

_INT32 = 2**31


class Fields:
    """A document and where it stands; a complaint reads `"<dotted.path>" <text>`."""

    def __init__(self, document: Mapping[str, Any], path: str = "") -> None:
        self.document = document
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, text: str) -> MongotError:
        return MongotError(f'"{self.at(key)}" {text}')

    def wrong_here(self, text: str) -> MongotError:
        """About the document itself; at the root there is no path to name."""
        return MongotError(f'"{self.path}" {text}' if self.path else text)

    def only(self, known: Collection[str]) -> None:
        for key in self.document:
            if key not in known:
                raise self.wrong_here(f'unrecognized field "{key}"')

    def has(self, key: str) -> bool:
        return key in self.document

    def _need(self, key: str) -> Any:
        if key not in self.document:
            raise self.wrong(key, "is required")
        return self.document[key]

    def text(self, key: str) -> str:
        value = self._need(key)
        if not isinstance(value, str):
            raise self.wrong(key, "must be a string")
        if not value:
            raise self.wrong(key, "cannot be empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.document.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "must be a boolean")
        return value

    def integer(self, key: str) -> int:
        """An int32, an int64 that fits, or a double without a fraction."""
        value = self._need(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "must be an integer")
        if isinstance(value, float) and not value.is_integer():
            raise self.wrong(key, "must be an integer")
        if not -_INT32 <= value < _INT32:
            raise self.wrong(key, "overflowed, must fit in a 32 bit integer")
        return int(value)

    def bounded(self, key: str, low: int, high: int) -> int:
        value = self.integer(key)
        if not low <= value <= high:
            # [?] How the range is written in the real text was not verified.
            raise self.wrong(key, f"must be within bounds [{low}, {high}]")
        return value

    def one_of(self, key: str, names: Collection[str], default: str | None = None) -> str:
        """A name, in any case of letters."""
        if default is not None and key not in self.document:
            return default
        value = self.text(key)
        for name in names:
            if name.lower() == value.lower():
                return name
        raise self.wrong(key, f"must be one of [{', '.join(names)}]")

    def documents(self, key: str) -> list[Fields]:
        value = self._need(key)
        if not isinstance(value, list):
            raise self.wrong(key, "must be an array")
        if not value:
            raise self.wrong(key, "cannot be empty")
        found = []
        for index, item in enumerate(value):
            path = f"{self.at(key)}[{index}]"
            if not isinstance(item, dict):
                raise MongotError(f'"{path}" must be a document')
            found.append(Fields(item, path))
        return found

    def nested(self, key: str) -> Fields:
        value = self._need(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "must be a document")
        return Fields(value, self.at(key))
