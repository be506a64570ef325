"""How the context is written: a line a memory, a heading a type. The user may replace each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from memorizz_async.errors import ConfigurationError
from memorizz_async.memory_provider.mongodb.spoken import text_of
from memorizz_async.results import Hit
from memorizz_async.retrieval.memory_signal import moment


@dataclass(frozen=True)
class ContextMemory:
    """A memory as a template sees it.

    content: its text, on one line or with the others indented, so that no memory can begin a line
        that looks like a heading or another memory.
    at: when it came about (`timestamp`, else `created_at`), None where the row does not say.
    source: where it is from: the row's `source`, else its metadata's, else its session and turn;
        empty where the row says none of these.
    row: the hit itself, with every field of the row but its vector.
    """

    id: str
    memory_type: str
    content: str
    at: datetime | None
    source: str
    score: float
    row: Mapping[str, Any] = field(repr=False)

    @property
    def date(self) -> str:
        """The day in UTC, as `2024-05-03`; empty where the row does not say."""
        return f"{self.at.astimezone(UTC):%Y-%m-%d}" if self.at else ""

    @property
    def note(self) -> str:
        """Date and source in brackets, after a blank; empty where there is neither."""
        parts = [part for part in (self.date, self.source) if part]
        return f" ({'; '.join(parts)})" if parts else ""

    @classmethod
    def of_hit(cls, hit: Hit, memory_type: str) -> ContextMemory:
        """The memory of a hit, under the name that its type was asked by."""
        return cls(
            id=str(hit["_id"]),
            memory_type=memory_type,
            content="\n  ".join(text_of(hit["content"]).strip().splitlines()),
            at=moment(hit.get("timestamp")) or moment(hit.get("created_at")),
            source=_source(hit),
            score=float(hit["score"]),
            row={name: value for name, value in hit.items() if name != "embedding"},
        )


Line: TypeAlias = str | Callable[[ContextMemory], str]
Heading: TypeAlias = str | Callable[[str], str]


@dataclass(frozen=True)
class ContextTemplate:
    """The words around the memories. Types follow each other with a blank line between.

    line: one memory. A format string of `{content} {note} {date} {source} {id} {type} {score}` and
        `{row[any_field]}`, or a function of a ContextMemory.
    heading, footer: before and after the memories of a type. A format string of `{title}` ("Long
        term memory") and `{type}` ("LONG_TERM_MEMORY"), or a function of the type's name. An empty
        one is left out.
    failure: in the place of the memories of a type that could not be searched, so that the model
        does not take a failure for "nothing is known"; as `heading`.

    `ContextTemplate(heading="<{type}>", line="<memory date='{date}'>{content}</memory>",
    footer="</{type}>")` writes XML. Raises ConfigurationError for a format string with a name that
    does not exist. Functions are called in a worker thread.
    """

    line: Line = "- {content}{note}"
    heading: Heading = "## {title}"
    footer: Heading = ""
    failure: Heading = "(could not be searched now; there may be memories)"

    def __post_init__(self) -> None:
        sample = ContextMemory("", "SUMMARIES", "", None, "", 0.0, _AnyField())
        for name in ("line", "heading", "footer", "failure"):
            if not isinstance(getattr(self, name), str) and not _can_be_called(getattr(self, name)):
                raise ConfigurationError(
                    f"{name} of a ContextTemplate must be a format string or a plain function",
                    seen=f"a {type(getattr(self, name)).__name__}",
                )
        for name in ("heading", "footer", "failure"):
            if isinstance(getattr(self, name), str):
                _formatted(name, getattr(self, name), _of_type("SUMMARIES"))
        if isinstance(self.line, str):
            _formatted("line", self.line, _of_memory(sample))

    def line_of(self, memory: ContextMemory) -> str:
        """The line of a memory."""
        if isinstance(self.line, str):
            return _formatted("line", self.line, _of_memory(memory))
        return _called("line", self.line, memory)

    def around(self, memory_type: str) -> tuple[str, str]:
        """Heading and footer of a type."""
        return self._of("heading", memory_type), self._of("footer", memory_type)

    def failure_of(self, memory_type: str) -> str:
        """What stands for a type that could not be searched."""
        return self._of("failure", memory_type)

    def written(self, groups: Mapping[str, Iterable[str]]) -> str:
        """The context: lines by memory type. A type without lines is left out."""
        blocks = []
        for memory_type, lines in groups.items():
            heading, footer = self.around(memory_type)
            inside = list(lines)
            if inside:
                blocks.append("\n".join(filter(None, [heading, *inside, footer])))
        return "\n\n".join(blocks)

    def _of(self, part: str, memory_type: str) -> str:
        form: Heading = getattr(self, part)
        if isinstance(form, str):
            return _formatted(part, form, _of_type(memory_type))
        return _called(part, form, memory_type)


class _AnyField(dict[str, Any]):
    """A row that has every field: what a format string is tried on."""

    def __missing__(self, name: str) -> str:
        return ""


def _source(hit: Hit) -> str:
    metadata = hit.get("metadata")
    candidates = [hit.get("source"), metadata.get("source") if isinstance(metadata, dict) else None]
    session, turn = hit.get("session_id"), hit.get("turn")
    if isinstance(session, str) and session:
        named = f"session {session}"
        candidates.append(f"{named}, turn {turn}" if isinstance(turn, int) else named)
    named_sources = (" ".join(one.split()) for one in candidates if isinstance(one, str))
    return next(filter(None, named_sources), "")


def _of_memory(memory: ContextMemory) -> dict[str, Any]:
    return {
        "content": memory.content,
        "note": memory.note,
        "date": memory.date,
        "source": memory.source,
        "id": memory.id,
        "type": memory.memory_type,
        "score": memory.score,
        "row": memory.row,
    }


def _of_type(memory_type: str) -> dict[str, Any]:
    return {"type": memory_type, "title": memory_type.replace("_", " ").capitalize()}


def _formatted(part: str, form: str, values: Mapping[str, Any]) -> str:
    try:
        return form.format_map(values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"The {part} of a ContextTemplate cannot be filled in",
            seen=f"{form!r}: {type(error).__name__}: {error}",
            fix=f"use {{{'}, {'.join(values)}}}; write a brace itself as two",
        ) from error


def _called(part: str, function: Callable[[Any], Any], value: Any) -> str:
    try:
        text = function(value)
    except Exception as error:
        raise ConfigurationError(
            f"The {part} of a ContextTemplate failed",
            seen=type(error).__name__,
            fix="see the error that caused this",
        ) from error
    if not isinstance(text, str):
        raise ConfigurationError(
            f"The {part} of a ContextTemplate must give a string", seen=f"a {type(text).__name__}"
        )
    return text


def _can_be_called(value: object) -> bool:
    return callable(value) and not inspect.iscoroutinefunction(value)
