"""The text of a row: what is embedded, compared by a reranker, put into a prompt and shown.

`content` is text, or the parts of a chat message as OpenAI and Anthropic write them. A row of
memorizz may have no `content`: a workflow has a name and a description, an entity has attributes, a
persona has goals. Recalled, they should be readable all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS

from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.values import DEFAULT_CODEC, Codec, stored_values
from memorizz_async.timestamps import iso_text

_SIMPLE = (int, float, Decimal128, ObjectId)
PARTS = "content_parts"
"""The field that holds the parts of a message as they were given; its `content` is their text."""

_TOLD = ("name", "description", "goals", "background")

_TEXTS = ("text", "refusal", "thinking", "transcript", "title", "content", "output", "summary")
"""The fields of a part that may hold text; the last three may hold parts of their own."""
_PICTURED = {
    "image": "[image]", "image_url": "[image]", "input_image": "[image]",
    "audio": "[audio]", "input_audio": "[audio]", "video": "[video]", "video_url": "[video]",
    "file": "[file]", "input_file": "[file]", "document": "[document]",
}  # fmt: skip
"""What a message shows that has these parts and no text; data is never text."""
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use", "function_call"})
_DEEPEST = 20


def content_of(row: Mapping[str, Any]) -> Any:
    """The `content` of a row as a caller gets it: `""` where it is empty, the text of its parts
    where it is a message, what the row says elsewhere where it has none; else as it is stored.
    """
    if "content" not in row:
        return _told(row)
    content = row["content"]
    if isinstance(content, list) or (not content and row.get("tool_calls")):
        return message_text(content, row.get("tool_calls"))
    return content or ""


def text_of(content: Any) -> str:
    """A content as text, whatever another program stored there: never the `repr` of a value, and
    "" where it holds none, such as bytes or a pattern.
    """
    if isinstance(content, str):
        return content if type(content) is str else str(content)  # a Code is a str, too
    if isinstance(content, datetime | DatetimeMS):
        return iso_text(content)
    return str(content) if isinstance(content, _SIMPLE) else message_text(content)


def message_text(content: Any, tool_calls: Any = None) -> str:
    """The text of a message: of its parts, one a line, and of its tool calls.

    Images, audio and files have none. A message of nothing else says `[image]`, so that the turn
    can be stored, and a reader sees that there was one.
    """
    texts = [*_texts(content, 0), *_calls(tool_calls)]
    return "\n".join(texts or dict.fromkeys(_pictured(content, 0)))


def with_message_text(fields: Mapping[str, Any], codec: Codec = DEFAULT_CODEC) -> dict[str, Any]:
    """The fields of a memory, with text in `content` where they are those of a chat message.

    The parts stay as they were given, in `content_parts`. The text is made of them as they are
    stored, which takes only what a document can hold. Raises InvalidInputError.

    codec: how the database writes values.
    """
    given = dict(fields)
    content = given.get("content")
    if isinstance(content, list | tuple):
        if PARTS in fields or not all(isinstance(part, str | Mapping) for part in content):
            raise InvalidInputError(
                "content must be a string, or a list of the parts of a message",
                seen=f"a list, beside {PARTS}" if PARTS in fields else "a list of other values",
                fix='pass text, or parts such as {"type": "text", "text": "…"}',
            )
        given[PARTS] = list(content)
    elif given.get("tool_calls") is None or not (content is None or _is_empty_text(content)):
        return given
    message = {"content": content, "tool_calls": given.get("tool_calls")}
    stored = stored_values(message, codec)
    given["content"] = message_text(stored["content"], stored["tool_calls"])
    return given


def with_changed_text(
    changes: Mapping[str, Any], codec: Codec = DEFAULT_CODEC
) -> Mapping[str, Any]:
    """The same of fields to set on a stored row: a `content` that they do not name stays.

    Raises InvalidInputError, also for tool calls alone: the text of the row may be that of its old
    ones.
    """
    if "content" in changes:
        return with_message_text(changes, codec)
    if isinstance(calls := changes.get("tool_calls"), list | tuple) and calls:
        raise InvalidInputError(
            "A change of tool_calls does not say what becomes of the text of the message",
            fix="name content, too: the text, or None where the message is the calls alone",
        )
    return changes


def _is_empty_text(content: Any) -> bool:
    return isinstance(content, str) and not content


def _texts(content: Any, depth: int) -> Iterator[str]:
    if depth > _DEEPEST or content is None:
        return
    if isinstance(content, str):
        if content.strip():
            yield content
    elif isinstance(content, Mapping):
        yield from _of_part(content, depth + 1)
    elif isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        for part in content:
            yield from _texts(part, depth + 1)
    elif isinstance(content, int | float):
        yield str(content)


def _of_part(part: Mapping[str, Any], depth: int) -> Iterator[str]:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _CALLS:
        yield _call(part.get("name"), part.get("input", part.get("arguments")))
        return
    for name in _TEXTS:
        if name in part:
            yield from _texts(part[name], depth)
    source = part.get("source")  # of a document: plain text, parts, or data that is no text
    if isinstance(source, Mapping) and source.get("type") == "text":
        yield from _texts(source.get("data"), depth)
    elif isinstance(source, Mapping) and source.get("type") == "content":
        yield from _texts(source.get("content"), depth)
    if isinstance(audio := part.get("audio"), Mapping):
        yield from _texts(audio.get("transcript"), depth)
    if kind is None and not any(name in part for name in _TEXTS):  # of another program
        for name, value in part.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                yield f"{name}: {value}"


def _calls(tool_calls: Any) -> Iterator[str]:
    """OpenAI's tool calls: `search({"city": "Oslo"})`."""
    if not isinstance(tool_calls, list):
        return
    for call in tool_calls:
        if not isinstance(call, Mapping):
            continue
        function = call.get("function", call.get("custom", call))
        if isinstance(function, Mapping):
            arguments = function.get("arguments", function.get("input", function.get("args")))
            yield _call(function.get("name"), arguments)


def _call(name: Any, arguments: Any) -> str:
    if arguments is None or arguments == {}:
        text = ""
    elif isinstance(arguments, str):
        text = arguments
    else:
        text = json.dumps(arguments, ensure_ascii=False, default=lambda _: None)
    return f"{name if isinstance(name, str) else 'tool'}({text})"


def _pictured(content: Any, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(content, Mapping):
        kind = content.get("type")
        if isinstance(kind, str) and kind in _PICTURED:
            yield _PICTURED[kind]
        yield from _pictured(content.get("content"), depth + 1)
    elif isinstance(content, list):
        for part in content:
            yield from _pictured(part, depth + 1)


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
