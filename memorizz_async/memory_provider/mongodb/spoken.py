"""The text of a row: what is embedded, compared by a reranker, put into a prompt and shown.

`content` is text, or the parts of a chat message as OpenAI and Anthropic write them. A message may
also say what it says beside its `content`: in tool calls, a refusal, an item of the Responses API.
A row of memorizz may have no `content`: a workflow has a name and a description, an entity has
attributes, a persona has goals. Recalled, they should be readable all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS

from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.values import DEFAULT_CODEC, Codec, stored_values
from memorizz_async.timestamps import iso_text
from memorizz_async.validation import check_depth

_SIMPLE = (int, float, Decimal128, ObjectId)
PARTS = "content_parts"
"""The field that holds the parts of a message as they were given; its `content` is their text. None
where the content is the text of other fields of the message."""

BESIDE_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
"""The fields of a message that hold its text where its `content` holds none."""
_ITEM_FIELDS = (
    "type", "name", "input", "arguments", "output", "outputs", "summary", "action", "code",
    "queries", "results",
)  # fmt: skip
"""Those of an item of the Responses API, which has no `content` at all."""
MESSAGE_FIELDS = frozenset({*BESIDE_CONTENT, *_ITEM_FIELDS})
_ITEMS = frozenset(
    {
        "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output",
        "mcp_call", "web_search_call", "file_search_call", "code_interpreter_call",
        "image_generation_call", "computer_call", "computer_call_output", "local_shell_call",
        "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call",
        "apply_patch_call_output", "reasoning",
    }
)  # fmt: skip

_TOLD = ("name", "description", "goals", "background")

_TEXTS = (
    "text", "refusal", "thinking", "transcript", "title", "content", "output", "outputs", "summary",
    "results", "logs", "stdout", "stderr",
)  # fmt: skip
"""The fields of a part that may hold text, or parts of their own."""
_MARKS = {
    "image": "[image]", "image_url": "[image]", "input_image": "[image]",
    "computer_screenshot": "[image]",
    "audio": "[audio]", "input_audio": "[audio]", "video": "[video]", "video_url": "[video]",
    "file": "[file]", "input_file": "[file]", "container_upload": "[file]",
    "document": "[document]",
    "thinking": "[thinking]", "redacted_thinking": "[thinking]", "reasoning": "[thinking]",
}  # fmt: skip
"""What a message shows that has these parts and no text; data is never text."""
_RESULT = "[tool result]"
_NAMELESS = {
    "image": "[image]", "audio": "[audio]", "video": "[video]", "document": "[document]",
    "inline_data": "[file]", "inlineData": "[file]", "file_data": "[file]", "fileData": "[file]",
}  # fmt: skip
"""So for the fields of a part that names no type, as Gemini and Bedrock write them."""
_CALLS = frozenset(
    {"tool_use", "server_tool_use", "mcp_tool_use", "function_call", "custom_tool_call", "mcp_call"}
)
_CALL = "_call"  # ends the type of a call of a tool that is built in: `web_search_call`
_ARGUMENTS = ("input", "arguments", "args", "action", "code", "queries")
_DEEPEST = 20
_LONGEST_WORD = 200
_DATA = re.compile(
    r"data:([a-z]+)/[\w.+-]+(?:;[\w.+-]+=[\w.+-]*)*;base64,(?:[A-Za-z0-9+/=_-]|\\/)*", re.IGNORECASE
)
_PICTURES = frozenset({"image", "audio", "video"})


def content_of(row: Mapping[str, Any]) -> Any:
    """The `content` of a row as a caller gets it: `""` where it is empty, the text of its parts
    where it is a message, what the row says elsewhere where it has none; else as it is stored.
    """
    if "content" not in row:
        return _told(row)
    content = row["content"]
    if isinstance(content, list):
        return message_text(content) or _beside(row)
    return content or _beside(row)


def text_of(content: Any) -> str:
    """A content as text, whatever another program stored there: never the `repr` of a value, and
    "" where it holds none, such as bytes or a pattern. The data of an image in it is no text.
    """
    if isinstance(content, str):
        return without_data(content if type(content) is str else str(content))  # such as a Code
    if isinstance(content, datetime | DatetimeMS):
        return iso_text(content)
    return _written(content) if isinstance(content, _SIMPLE) else message_text(content)


def without_data(text: str) -> str:
    """The text, with `[image]` in the place of a data URL that holds one."""
    if ";base64," not in text:
        return text
    return _DATA.sub(_mark_of, text)


def _mark_of(found: re.Match[str]) -> str:
    kind = found[1].lower()
    return f"[{kind}]" if kind in _PICTURES else "[file]"


def message_text(content: Any) -> str:
    """The text of the content of a message: of its parts, one a line.

    Images, audio and files have none. A message of nothing else says `[image]`, so that the turn
    can be stored, and a reader sees that there was one.
    """
    return _joined(_texts(content, 0), _marks(content, 0))


def plain_message(memory: Any) -> Any:
    """The fields of a message that is an object of OpenAI's or Anthropic's package; anything else
    as it is. Raises InvalidInputError.
    """
    dump = getattr(memory, "model_dump", None)
    if isinstance(memory, type) or not callable(dump):
        return memory
    try:
        fields = dump()
    except Exception as error:
        raise InvalidInputError(
            "The model_dump method of a message failed",
            seen=f"{type(error).__name__} in a {type(memory).__name__}",
            fix="pass the message as a mapping",
        ) from error
    return dict(fields) if isinstance(fields, Mapping) else memory


def with_message_text(
    fields: Mapping[str, Any], codec: Codec = DEFAULT_CODEC, *, changes: bool = False
) -> dict[str, Any]:
    """The fields of a memory, with text in `content` where they are those of a chat message.

    The parts stay as they were given, in `content_parts`.

    codec: how the database writes values. changes: the fields are some of a stored memory, whose
    `content` stays unless they name it.

    Raises InvalidInputError, also for a value that a document cannot hold: no text is made of it.
    """
    given = dict(fields)
    is_item = isinstance(given.get("type"), str) and given["type"] in _ITEMS
    names = {"content", PARTS, *BESIDE_CONTENT, *(_ITEM_FIELDS if is_item else ())}
    for name in given.keys() & names:
        if not isinstance(given[name], str):
            check_depth("A message", given[name])
            given[name] = _plain(given[name], 0)
            stored_values({name: given[name]}, codec)
    content, parts = given.get("content"), given.get(PARTS)
    if not content and isinstance(parts, list | tuple) and _are_parts(parts):
        content = given.pop(PARTS)
    if isinstance(content, list | tuple):
        if PARTS in given or not _are_parts(content):
            raise InvalidInputError(
                "content must be a string, or a list of the parts of a message",
                seen=f"a list, beside {PARTS}" if PARTS in given else "a list of other values",
                fix='pass text, or parts such as {"type": "text", "text": "…"}',
            )
        given[PARTS] = list(content)
        given["content"] = message_text(given[PARTS])
        if not given["content"].strip():
            given["content"] = _beside(given)
    elif not content and ("content" in given or not changes) and (text := _of_message(given)):
        given["content"], given[PARTS] = text, None
    return given


def _are_parts(parts: Sequence[Any]) -> bool:
    return all(isinstance(part, str | Mapping) for part in parts)


def _plain(value: Any, depth: int) -> Any:
    """Parts, with the fields of those that are objects of OpenAI's or Anthropic's package."""
    value = plain_message(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {name: _plain(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(each, depth + 1) for each in value]
    return value


def _joined(texts: Iterator[str], marks: Iterator[str]) -> str:
    return without_data("\n".join(list(texts) or dict.fromkeys(marks)))


def _beside(row: Mapping[str, Any]) -> str:
    """What a message says beside its content."""
    if not any(row.get(name) for name in BESIDE_CONTENT):
        return ""

    def texts() -> Iterator[str]:
        yield from _texts(row.get("refusal"), 0)
        yield from _transcript(row.get("audio"))
        yield from _calls(row.get("tool_calls"))
        yield from _calls([row.get("function_call")])

    return _joined(texts(), iter(()))


def _of_message(fields: Mapping[str, Any]) -> str:
    """The same of a message on its way in: also an item of the Responses API, spoken words, and
    the result of a tool that returned nothing.
    """
    kind = fields.get("type")
    if isinstance(kind, str) and kind in _ITEMS:
        item = {name: fields[name] for name in _ITEM_FIELDS if name in fields}
        return _joined(_of_part(item, 0), _marks(item, 0))
    if text := _beside(fields):
        return text
    audio = fields.get("audio")
    if isinstance(audio, Mapping) and isinstance(audio.get("data"), str | bytes):
        return _MARKS["audio"]
    is_result = isinstance(fields.get("tool_call_id"), str) and fields.get("role") == "tool"
    return _RESULT if is_result else ""


def _transcript(audio: Any) -> Iterator[str]:
    if isinstance(audio, Mapping):
        yield from _texts(audio.get("transcript"), 0)


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
        yield _written(content)


def _of_part(part: Mapping[str, Any], depth: int) -> Iterator[str]:
    kind = part.get("type")
    if not isinstance(kind, str):
        kind = None
    elif kind in _CALLS or kind.endswith(_CALL):
        name = part.get("name") or kind.removesuffix(_CALL)
        yield _call(name, next((part[one] for one in _ARGUMENTS if one in part), None))
        for field in ("output", "outputs", "results"):
            yield from _texts(part.get(field), depth)
        return
    for name in _TEXTS:
        value = part.get(name)
        if isinstance(value, Mapping) and isinstance(value.get("value"), str):
            value = value["value"]  # with annotations beside it, as OpenAI's assistants write it
        yield from _texts(value, depth)
    source = part.get("source")  # of a document: plain text, parts, or data that is no text
    if isinstance(source, Mapping) and source.get("type") == "text":
        yield from _texts(source.get("data"), depth)
    elif isinstance(source, Mapping) and source.get("type") == "content":
        yield from _texts(source.get("content"), depth)
    yield from _transcript(part.get("audio"))
    if kind is None and not any(name in part for name in _TEXTS):  # of another program
        for name, value in part.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                text = _written(value)
                if name not in _NAMELESS and not _is_data(text):
                    yield f"{name}: {text}"


def _is_data(text: str) -> bool:
    """Whether it looks like bytes in base64: one long word of ASCII."""
    return len(text) > _LONGEST_WORD and text.isascii() and len(text.split(maxsplit=1)) == 1


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
        try:
            text = json.dumps(arguments, ensure_ascii=False, skipkeys=True, default=_json)
        except ValueError:  # such an integer inside it
            text = ""
    return f"{name if isinstance(name, str) else 'tool'}({text})"


def _json(value: Any) -> str | None:
    if isinstance(value, datetime | DatetimeMS):
        return iso_text(value)
    return _written(value) if isinstance(value, _SIMPLE) else None


def _written(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits, which MongoDB refuses
        return ""


def _marks(content: Any, depth: int) -> Iterator[str]:
    """What parts without text are: an image, a file, the empty result of a tool."""
    if depth > _DEEPEST:
        return
    if isinstance(content, Mapping):
        kind = content.get("type")
        inner = [
            mark for name in ("content", "output") for mark in _marks(content.get(name), depth + 1)
        ]
        if not isinstance(kind, str):
            yield from (mark for name, mark in _NAMELESS.items() if name in content)
        elif kind in _MARKS:
            yield _MARKS[kind]
        elif not inner and kind.endswith(("tool_result", "_output")):
            yield _RESULT
        yield from inner
    elif isinstance(content, list):
        for part in content:
            yield from _marks(part, depth + 1)


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
