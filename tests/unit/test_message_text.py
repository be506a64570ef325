"""The text of chat messages, as OpenAI and Anthropic write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.errors import InvalidInputError
from memorizz_async.memory_provider.mongodb.rows import draft, public_row
from memorizz_async.memory_provider.mongodb.spoken import (
    content_of,
    message_text,
    text_of,
    with_changed_text,
)

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
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
        ([{"type": "redacted_thinking", "data": "c2VjcmV0"}], ""),
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
        (None, ""),
        ([], ""),
        (b"bytes", ""),
        (7, "7"),
    ],
)
def test_a_message_is_its_text(content: Any, text: str) -> None:
    """Parts, a line each; data of images, audio and documents is no text."""
    assert message_text(content) == text


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
        {"content": [{"type": "tool_use", "name": "f", "input": HOLDS_ITSELF}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {(1, 2): 3}}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {"a": 10**5000}}]},
        {"content": [{"text": 10**5000}]},
        {"content": None, "tool_calls": [{"name": "f", "args": HOLDS_ITSELF}]},
    ],
)
def test_what_is_no_message_or_has_no_text_is_refused(memory: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(InvalidInputError):
        draft(memory)


def test_changed_tool_calls_say_what_becomes_of_the_text() -> None:
    """A change of them alone would put their text in the place of what the message says."""
    with pytest.raises(InvalidInputError, match="name content"):
        with_changed_text({"tool_calls": [CALL]})
    assert with_changed_text({"tool_calls": 3}) == {"tool_calls": 3}
    assert with_changed_text({"content": "hi", "tool_calls": [CALL]})["content"] == "hi"
    changed = with_changed_text({"content": None, "tool_calls": [CALL]})
    assert changed["content"] == 'search({"city": "Oslo"})'


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
    assert text_of(content) == ""
