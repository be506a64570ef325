"""Conversations in the shape of LoCoMo (Maharana et al., ACL 2024), read and checked.

A file is a JSON list of conversations. Each has sessions of turns, and where there are any:
observations (facts, with the turns that they come from), a summary of each session, and questions
with the turns that hold their answers. `workflows` (ways of doing things) are an addition of ours;
LoCoMo has none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from memorizz_async.errors import InvalidInputError
from memorizz_async.redaction import shown

T = TypeVar("T")

CATEGORIES = {
    1: "multi-hop",
    2: "temporal",
    3: "open-domain",
    4: "single-hop",
    5: "adversarial",
}
ADVERSARIAL = 5
"""Questions that the conversation does not answer."""

_FILE_WANTED = (
    "name a file in LoCoMo format; locomo10.json is in the folder `data` of the repository "
    "snap-research/locomo on GitHub (CC BY-NC 4.0). Without --locomo the demo uses a conversation "
    "of its own"
)
_DATE = "%I:%M %p on %d %B, %Y"
_SESSION = re.compile(r"session_(\d+)")


@dataclass(frozen=True)
class Turn:
    """What one speaker said in one go; `caption` describes the picture that came with it."""

    dia_id: str
    session: int
    speaker: str
    text: str
    caption: str | None
    at: datetime


@dataclass(frozen=True)
class Note:
    """What was learnt from turns: an observation, the summary of a session, or a workflow."""

    text: str
    evidence: tuple[str, ...] = ()
    session: int | None = None
    speaker: str | None = None
    at: datetime | None = None


@dataclass(frozen=True)
class Question:
    """A question, and the turns that hold its answer."""

    text: str
    answer: str
    evidence: tuple[str, ...]
    category: int


@dataclass(frozen=True)
class Conversation:
    """A conversation of two people over several sessions, in the order of time."""

    name: str
    speakers: tuple[str, str]
    turns: tuple[Turn, ...]
    observations: tuple[Note, ...]
    summaries: tuple[Note, ...]
    workflows: tuple[Note, ...]
    questions: tuple[Question, ...]

    @property
    def answerable(self) -> tuple[Question, ...]:
        """Questions whose evidence is known: not adversarial, and every turn is in the file."""
        known = {turn.dia_id for turn in self.turns}
        return tuple(
            question
            for question in self.questions
            if question.category != ADVERSARIAL
            and question.evidence
            and known.issuperset(question.evidence)
        )


def read_conversations(file: str | os.PathLike[str]) -> list[Conversation]:
    """The conversations of a file. Raises InvalidInputError, which says where the file is wrong."""
    path = Path(file)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(
            f"Cannot read {path}",
            seen=error.strerror,
            fix=_FILE_WANTED,
        ) from error
    except ValueError as error:  # also what is not UTF-8
        raise InvalidInputError(f"{path} is not JSON", seen=str(error), fix=_FILE_WANTED) from error
    return conversations_of(data, source=str(path))


def conversations_of(data: Any, *, source: str = "the data") -> list[Conversation]:
    """The conversations in parsed JSON. Raises InvalidInputError; `source` names it in there."""
    at = _Place(source, data)
    if not at.expect(list, "a list of conversations"):
        at.wrong("no conversation in it", "an empty list")
    return [_conversation(entry, number) for number, entry in enumerate(at.items(), 1)]


@dataclass(frozen=True)
class _Place:
    """A value inside the file, and the way to it, for messages that name what is wrong."""

    name: str
    value: Any

    def wrong(self, what: str, seen: str) -> NoReturn:
        raise InvalidInputError(
            f"Not in LoCoMo's shape: {self.name}: {what}",
            seen=seen,
            fix="compare it with memorizz_async/demo/conversation.json",
        )

    def expect(self, kind: type[T], words: str) -> T:
        if not isinstance(self.value, kind):
            self.wrong(f"must be {words}", f"a {type(self.value).__name__}")
        return self.value

    def text(self) -> str:
        if not self.expect(str, "a string").strip():
            self.wrong("must not be empty", "an empty string")
        return str(self.value)

    def key(self, name: str) -> _Place:
        mapping = self.expect(dict, "an object")
        if name not in mapping:
            self.wrong(f"has no {name!r}", f"the keys {', '.join(map(shown, mapping)) or 'none'}")
        return _Place(f"{self.name}.{name}", mapping[name])

    def optional(self, name: str, default: Any) -> _Place:
        mapping = self.expect(dict, "an object")
        return _Place(f"{self.name}.{name}", mapping.get(name, default))

    def items(self) -> Iterator[_Place]:
        for position, value in enumerate(self.expect(list, "a list")):
            yield _Place(f"{self.name}[{position}]", value)

    def entries(self) -> Iterator[_Place]:
        for name, value in self.expect(dict, "an object").items():
            yield _Place(f"{self.name}.{name}", value)


def _conversation(place: _Place, number: int) -> Conversation:
    talk = place.key("conversation")
    name = place.optional("sample_id", f"conversation-{number}").text()
    turns, moments = _turns(talk)
    of_turn = {turn.dia_id: turn for turn in turns}
    return Conversation(
        name=name,
        speakers=(talk.key("speaker_a").text(), talk.key("speaker_b").text()),
        turns=tuple(turns),
        observations=tuple(_observations(place.optional("observation", {}), moments)),
        summaries=tuple(_summaries(place.optional("session_summary", {}), moments)),
        workflows=tuple(
            _note(item, of_turn=of_turn) for item in place.optional("workflows", []).items()
        ),
        questions=tuple(map(_question, place.optional("qa", []).items())),
    )


def _turns(talk: _Place) -> tuple[list[Turn], dict[int, datetime]]:
    sessions = sorted(
        int(match[1])
        for key in talk.expect(dict, "an object")
        if (match := _SESSION.fullmatch(str(key)))
    )
    turns: list[Turn] = []
    moments: dict[int, datetime] = {}
    for session in sessions:
        moments[session] = _moment(talk.key(f"session_{session}_date_time"))
        for place in talk.key(f"session_{session}").items():
            caption = place.optional("blip_caption", None)
            turns.append(
                Turn(
                    dia_id=place.key("dia_id").text(),
                    session=session,
                    speaker=place.key("speaker").text(),
                    text=place.key("text").expect(str, "a string"),
                    caption=None if caption.value is None else caption.text(),
                    at=moments[session],
                )
            )
    if not turns:
        talk.wrong("has no session with turns", f"{len(sessions)} sessions")
    return turns, moments


def _moment(place: _Place) -> datetime:
    """`1:56 pm on 8 May, 2023`, which names no time zone: taken as UTC."""
    text = place.text()
    try:
        return datetime.strptime(text, _DATE).replace(tzinfo=UTC)
    except ValueError:
        place.wrong("must be a date like '1:56 pm on 8 May, 2023'", repr(text))


def _observations(place: _Place, moments: Mapping[int, datetime]) -> Iterator[Note]:
    for session_place in place.entries():
        session = _session_of(session_place, "observation")
        for speaker_place in session_place.entries():
            speaker = speaker_place.name.rpartition(".")[2]
            for item in speaker_place.items():
                yield _note(item, session=session, speaker=speaker, at=moments.get(session))


def _summaries(place: _Place, moments: Mapping[int, datetime]) -> Iterator[Note]:
    for item in place.entries():
        session = _session_of(item, "summary")
        yield Note(item.text(), session=session, at=moments.get(session))


def _session_of(place: _Place, suffix: str) -> int:
    key = place.name.rpartition(".")[2]
    match = re.fullmatch(rf"session_(\d+)_{suffix}", key)
    if match is None:
        place.wrong(f"must be called session_N_{suffix}", repr(key))
    return int(match[1])


def _note(
    place: _Place,
    *,
    session: int | None = None,
    speaker: str | None = None,
    at: datetime | None = None,
    of_turn: Mapping[str, Turn] | None = None,
) -> Note:
    """`[text, evidence]`, where the evidence is one turn's id or a list of them.

    Where no session is known, it is that of the first turn of the evidence.
    """
    pair = list(place.items())
    if len(pair) != 2:
        place.wrong("must be [text, evidence]", f"{len(pair)} values")
    evidence = _ids(pair[1])
    source = (
        next((of_turn[dia_id] for dia_id in evidence if dia_id in of_turn), None)
        if of_turn
        else None
    )
    if source is not None:
        session, at = source.session, source.at
    return Note(pair[0].text(), evidence, session, speaker, at)


def _question(place: _Place) -> Question:
    return Question(
        text=place.key("question").text(),
        # Answers are also numbers (a year); adversarial questions have none.
        answer=str(place.optional("answer", "").value),
        evidence=_ids(place.key("evidence")),
        category=place.key("category").expect(int, "a number from 1 to 5"),
    )


def _ids(place: _Place) -> tuple[str, ...]:
    if isinstance(place.value, str):
        return (place.text(),)
    return tuple(item.text() for item in place.items())
