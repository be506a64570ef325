"""Reading conversations in LoCoMo's shape."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from unit.demo.locomo_shape import TALK

from memorizz_async.demo.locomo import conversations_of, read_conversations
from memorizz_async.errors import InvalidInputError

SHIPPED = Path(__file__).parents[3] / "memorizz_async" / "demo" / "conversation.json"


def test_turns_keep_their_speaker_caption_and_moment() -> None:
    """A turn knows who said it, what was shown and when its session was."""
    [talk] = conversations_of([TALK])
    assert talk.name == "talk"
    assert talk.speakers == ("Ada", "Bo")
    assert [turn.dia_id for turn in talk.turns] == ["D1:1", "D1:2"]
    assert talk.turns[0].caption is None
    assert talk.turns[1].caption == "a photo of a red kite"
    assert talk.turns[0].at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def test_notes_know_their_evidence_session_and_speaker() -> None:
    """Evidence is one id or a list; both come out as a tuple."""
    [talk] = conversations_of([TALK])
    ada, bo = talk.observations
    assert (ada.evidence, ada.speaker, ada.session) == (("D1:1",), "Ada", 1)
    assert bo.evidence == ("D1:1", "D1:2")
    assert talk.summaries[0].at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


def test_answerable_leaves_out_adversarial_and_unknown_evidence() -> None:
    """Only questions whose whole evidence is in the file count."""
    [talk] = conversations_of([TALK])
    assert len(talk.questions) == 5
    assert [question.text for question in talk.answerable] == ["Where?", "When?"]
    assert talk.answerable[1].answer == "2023"


def test_sessions_are_in_the_order_of_their_numbers() -> None:
    """Session 10 comes after session 2, wherever it stands in the file."""
    talk = copy.deepcopy(TALK)
    for number in (10, 2):
        talk["conversation"][f"session_{number}_date_time"] = f"1:00 pm on {number} June, 2023"
        turn = {"speaker": "Bo", "dia_id": f"D{number}:1", "text": "…"}
        talk["conversation"][f"session_{number}"] = [turn]
    [read] = conversations_of([talk])
    assert [turn.session for turn in read.turns] == [1, 1, 2, 10]


def _without(*path: Any) -> Callable[[], list[Any]]:
    def make() -> list[Any]:
        data = [copy.deepcopy(TALK)]
        inner: Any = data
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        return data

    return make


def _with(value: Any, *path: Any) -> Callable[[], list[Any]]:
    def make() -> list[Any]:
        data = [copy.deepcopy(TALK)]
        inner: Any = data
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        return data

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"not": "a list"}, "a list of conversations"),
        (list, "no conversation"),
        (lambda: ["text"], "must be an object"),
        (_without(0, "conversation"), "has no 'conversation'"),
        (_without(0, "conversation", "speaker_b"), "has no 'speaker_b'"),
        (_without(0, "conversation", "session_1"), "no session with turns"),
        (_without(0, "conversation", "session_1_date_time"), "has no 'session_1_date_time'"),
        (_with("8 May 2023", 0, "conversation", "session_1_date_time"), "must be a date like"),
        (_without(0, "conversation", "session_1", 0, "dia_id"), r"session_1\[0\].*'dia_id'"),
        (_with(7, 0, "conversation", "session_1", 1, "text"), r"session_1\[1\]\.text"),
        (_with("x", 0, "observation", "session_one"), "session_N_observation"),
        (_with([["a"]], 0, "observation", "session_1_observation", "Ada"), r"\[text, evidence\]"),
        (_with("", 0, "session_summary", "session_1_summary"), "must not be empty"),
        (_without(0, "qa", 0, "category"), r"qa\[0\].*'category'"),
        (_with(3, 0, "qa", 0, "evidence"), r"qa\[0\]\.evidence"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(make: Callable[[], Any], words: str) -> None:
    """The message names where in the file the shape is wrong."""
    with pytest.raises(InvalidInputError, match=words):
        conversations_of(make())


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    """Each is an error of ours that names the file."""
    with pytest.raises(InvalidInputError, match="Cannot read"):
        read_conversations(tmp_path / "absent.json")
    for number, content in enumerate([b"{", b"\xff\xfe", b""]):
        file = tmp_path / f"{number}.json"
        file.write_bytes(content)
        with pytest.raises(InvalidInputError, match=f"{number}.json is not JSON"):
            read_conversations(file)


def test_a_file_is_read(tmp_path: Path) -> None:
    """A file gives the same as its parsed content."""
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([TALK]), encoding="utf-8")
    assert read_conversations(file) == conversations_of([TALK])


def test_the_shipped_conversation_fills_every_part() -> None:
    """Each of its questions has its answer in it, and each note names turns that exist."""
    [talk] = read_conversations(SHIPPED)
    known = {turn.dia_id for turn in talk.turns}
    assert len(talk.turns) >= 40
    assert talk.answerable == talk.questions
    assert talk.summaries
    for note in (*talk.observations, *talk.workflows):
        assert known.issuperset(note.evidence)
        assert note.at is not None
