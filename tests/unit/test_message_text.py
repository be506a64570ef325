"""The text of chat messages, as OpenAI and Anthropic write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.rows import draft, public_row
from memorizz_async.memory_provider.mongodb.spoken import content_of, text_of, with_message_text

DATA_URL = "data:image/png;base64,iVBORw0KGgo="
IMAGE = {"type": "image_url", "image_url": {"url": DATA_URL}}
BASE64 = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "search", "arguments": '{"city": "Oslo"}'},
}
HOLDS_ITSELF: dict[str, Any] = {}
HOLDS_ITSELF["again"] = HOLDS_ITSELF


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        (["one", {"type": "text", "text": "two"}], "one\ntwo"),
        ([{"type": "text", "text": "look"}, IMAGE], "look"),
        ([IMAGE, IMAGE], "[image]"),
        ([{"type": "image", "source": BASE64}], "[image]"),
        ([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}], "[audio]"),
        ([{"type": "refusal", "refusal": "I cannot"}], "I cannot"),
        ([{"type": "input_text", "text": "in"}, {"type": "output_text", "text": "out"}], "in\nout"),
        ([{"type": "thinking", "thinking": "hm", "signature": "c2ln"}], "hm"),
        ([{"type": "redacted_thinking", "data": "c2VjcmV0"}], "[thinking]"),
        (
            [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Göteborg"}}],
            'weather({"city": "Göteborg"})',
        ),
        ([{"type": "tool_use", "id": "t", "name": "now", "input": {}}], "now()"),
        ([{"type": "tool_result", "tool_use_id": "t", "content": "12 degrees"}], "12 degrees"),
        (
            [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [
                        {"type": "text", "text": "12"},
                        {"type": "image", "source": BASE64},
                    ],
                }
            ],
            "12",
        ),
        (
            [
                {
                    "type": "document",
                    "title": "Plan",
                    "source": {"type": "text", "media_type": "text/plain", "data": "go"},
                }
            ],
            "Plan\ngo",
        ),
        (
            [{"type": "document", "source": {**BASE64, "media_type": "application/pdf"}}],
            "[document]",
        ),
        ([{"text": "Gemini"}], "Gemini"),
        ([{"inline_data": {"mime_type": "image/png", "data": "AAAA"}}], "[file]"),
        ([{"image": DATA_URL}], "[image]"),
        ([{"type": "tool_result", "tool_use_id": "t"}], "[tool result]"),
        ([{"type": "tool_result", "tool_use_id": "t", "content": DATA_URL}], "[image]"),
        (
            [{"type": "tool_use", "name": "draw", "input": {"on": DATA_URL}}],
            'draw({"on": "[image]"})',
        ),
        ([{"type": "container_upload", "file_id": "f"}], "[file]"),
        (
            [
                {"type": "server_tool_use", "id": "s", "name": "find", "input": {"q": "nuts"}},
                {
                    "type": "web_search_tool_result",
                    "content": [
                        {"type": "web_search_result", "url": "https://x", "title": "Hazel"}
                    ],
                },
            ],
            'find({"q": "nuts"})\nHazel',
        ),
        (
            [
                {
                    "type": "code_execution_tool_result",
                    "content": {"type": "code_execution_result", "stdout": "12", "stderr": ""},
                }
            ],
            "12",
        ),
        (
            [{"type": "text", "text": {"value": "of an assistant", "annotations": []}}],
            "of an assistant",
        ),
        (f"look ![here]({DATA_URL}) and there", "look ![here]([image]) and there"),
        (None, ""),
        ([], ""),
        (b"bytes", ""),
        (7, "7"),
    ],
)
def test_a_message_is_its_text(content: Any, text: str) -> None:
    """Parts, a line each; data of images, audio and documents is no text."""
    assert text_of(content) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "assistant", "content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": "", "function_call": {"name": "look", "arguments": "{}"}}, "look({})"),
        (
            {
                "content": None,
                "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}],
            },
            "f(x)",
        ),
        ({"content": None, "audio": {"id": "a", "data": "AAAA", "transcript": "hm"}}, "hm"),
        ({"content": None, "audio": {"id": "a", "data": "AAAA", "transcript": ""}}, "[audio]"),
        ({"role": "tool", "tool_call_id": "c", "content": ""}, "[tool result]"),
        (
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": 1}'},
            'look({"at": 1})',
        ),
        ({"type": "function_call_output", "call_id": "c", "output": "12"}, "12"),
        (
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_image", "image_url": DATA_URL}],
            },
            "[image]",
        ),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}, "hm"),
        ({"type": "web_search_call", "action": {"query": "nuts"}}, 'web_search({"query": "nuts"})'),
    ],
)
def test_a_message_may_say_what_it_says_beside_its_content(
    message: dict[str, Any], text: str
) -> None:
    """In the shapes of OpenAI's chat completions and of its Responses API; nothing is lost."""
    fields = draft(dict(message))
    assert fields["content"] == text
    assert {name: fields[name] for name in message if name != "content"} == {
        name: value for name, value in message.items() if name != "content"
    }


class _Dumped:
    """As OpenAI's and Anthropic's packages return messages and parts."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


def test_messages_and_parts_of_the_packages_are_taken_as_they_are() -> None:
    """Objects whose fields `model_dump` returns."""
    part = {"type": "text", "text": "look", "citations": None}
    assert draft(_Dumped(role="assistant", content="look")) == {  # type: ignore[arg-type]
        "role": "assistant",
        "content": "look",
    }
    assert draft({"role": "assistant", "content": [_Dumped(**part)]}) == {
        "role": "assistant",
        "content": "look",
        "content_parts": [part],
    }


def test_a_message_object_that_cannot_be_read_is_an_error_of_ours() -> None:
    """It does not quote what the object says."""

    class Broken:
        def model_dump(self) -> dict[str, Any]:
            raise ValueError("my PIN is 4711")

    with pytest.raises(InvalidInputError) as caught:
        draft(Broken())  # type: ignore[arg-type]
    assert "4711" not in str(caught.value)


def test_a_change_beside_the_content_leaves_it() -> None:
    """Only a change that names the content gives it another text."""
    assert "content" not in with_message_text({"tool_calls": [CALL]}, changes=True)
    changed = with_message_text({"content": None, "tool_calls": [CALL]}, changes=True)
    assert changed["content"] == 'search({"city": "Oslo"})'


def test_tool_calls_are_text_where_a_message_has_no_other() -> None:
    """OpenAI's have a null as content."""
    row = {"content": None, "tool_calls": [CALL]}
    assert content_of(row) == 'search({"city": "Oslo"})'
    assert draft({"role": "assistant", **row})["content"] == 'search({"city": "Oslo"})'


def test_the_parts_of_a_message_are_kept_as_they_were_given() -> None:
    """Beside their text, which is the content."""
    parts = [{"type": "text", "text": "look"}, IMAGE]
    fields = draft({"role": "user", "content": parts})
    assert fields == {"role": "user", "content": "look", "content_parts": parts}


def test_a_message_that_another_program_wrote_looks_the_same() -> None:
    """Its text is the content; its parts are beside it."""
    parts = [{"type": "text", "text": "look"}, IMAGE]
    shown = public_row({"_id": "x", "content": parts}, "CONVERSATION_MEMORY")
    assert (shown["content"], shown["content_parts"]) == ("look", parts)


@pytest.mark.parametrize(
    "memory",
    [
        {"content": [7]},
        {"content": [["nested"]]},
        {"content": [{"type": "text", "text": "a"}], "content_parts": []},
        {"content": []},
        {"content": [{"type": "text", "text": " "}]},
        {"content": None, "tool_calls": []},
        {"content": [{"text": 10**5000}]},
        {"content": [{"type": "text", "text": "a", "size": 10**5000}]},
        {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": 10**5000}}]},
        {"content": [{"type": "tool_use", "name": "f", "input": HOLDS_ITSELF}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {(1, 2): 3}}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {"a": 10**5000}}]},
        {"content": None, "tool_calls": [{"name": "f", "args": HOLDS_ITSELF}]},
    ],
)
def test_what_is_no_message_or_has_no_text_is_refused(memory: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidInputError):
        draft(memory)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "text", "content", "source", "name", "input", "audio", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json, json)
def test_whatever_is_stored_has_a_text(content: Any, calls: Any) -> None:
    """Of rows of other programs: never an error, and never the repr of a mapping."""
    text = content_of({"content": content, "tool_calls": calls})
    assert isinstance(text_of(text), str)


def test_deep_nesting_ends() -> None:
    """A message that holds itself many times over is cut."""
    content: Any = "deep"
    for _ in range(90):
        content = [{"type": "tool_result", "content": content}]
    assert text_of(content) == "[tool result]"
