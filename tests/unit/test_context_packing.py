"""Choosing and packing: the budget holds, nothing is said twice, no memory is unaccounted for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memorizz_async import BatchResults, ConfigurationError, ContextTemplate, Hits, MemoryType
from memorizz_async.context.candidates import candidates_of, in_order_scores
from memorizz_async.context.counting import TokenCounter, checked_counter
from memorizz_async.context.packing import Packed, Packer, Rules
from memorizz_async.results import RecallResults

TYPES = ("LONG_TERM_MEMORY", "CONVERSATION_MEMORY", "SUMMARIES")


def hit(row_id: str, content: str, score: float = 0.5, **fields: Any) -> dict[str, Any]:
    return {"_id": row_id, "content": content, "score": score, **fields}


def recalled(**hits: Sequence[dict[str, Any]]) -> RecallResults:
    types = {name: MemoryType(name) for name in hits}
    return RecallResults(
        BatchResults({name: Hits(rows) for name, rows in hits.items()}, types=types), total_ms=1.0
    )


def pack(results: RecallResults, **options: Any) -> Packed:
    settings: dict[str, Any] = {
        "budget": 10_000,
        "limits": dict.fromkeys(results, 100),
        "max_memories": None,
        "mmr_lambda": 0.7,
        "duplicate_cosine": 0.98,
        "order": "relevance",
        "template": ContextTemplate(),
    }
    count = checked_counter(options.pop("count", len))
    header, failed = options.pop("header", ""), options.pop("failed", ())
    rules = Rules(**{**settings, **options})
    return Packer(rules, count, header, failed).pack(candidates_of(results))


def ids(packed: Packed) -> list[str]:
    return [memory.id for memory in packed.kept]


def reasons(packed: Packed) -> dict[str, str]:
    return {left.id: left.reason for left in packed.left_out}


# -- the budget -------------------------------------------------------------------------------

COUNTERS: dict[str, Callable[[str], int]] = {
    "characters": len,
    "words": lambda text: len(text.split()),
    "words in a frame": lambda text: len(text.split()) + 2,
    "joins lines": lambda text: len(text.replace("\n- ", "\n").encode()) // 4,
    "grows at borders": lambda text: len(text) + 3 * text.count("\n\n"),
    "not monotone": lambda text: (len(text) * 7919) % 101,
}

rows = st.lists(
    st.builds(
        hit,
        st.text("abc", min_size=1, max_size=3),
        st.text(min_size=0, max_size=40),
        st.floats(0, 1, width=32),
        embedding=st.none() | st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=4),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(
    facts=rows,
    turns=rows,
    header=st.text(max_size=20),
    spare=st.integers(0, 300),
    name=st.sampled_from(list(COUNTERS)),
    mmr_lambda=st.floats(0, 1),
    limit=st.integers(1, 8),
    most=st.none() | st.integers(1, 6),
    failed=st.booleans(),
)
def test_no_context_is_longer_than_its_budget_whatever_counts(
    *,
    facts: list[Any],
    turns: list[Any],
    header: str,
    spare: int,
    name: str,
    mmr_lambda: float,
    limit: int,
    most: int | None,
    failed: bool,
) -> None:
    """However header and context are joined; and every candidate is kept or accounted for, once."""
    count = COUNTERS[name]
    budget = max(1, (count(header) if header else 0) + spare)
    results = recalled(LONG_TERM_MEMORY=facts, CONVERSATION_MEMORY=turns)
    limits = {"LONG_TERM_MEMORY": limit, "SUMMARIES": 1, "CONVERSATION_MEMORY": limit}
    packed = pack(
        results, count=count, header=header, budget=budget, mmr_lambda=mmr_lambda,
        limits=limits, max_memories=most, failed=["SUMMARIES"] if failed else [],
    )  # fmt: skip
    if header + packed.context:
        assert count(header + packed.context) <= packed.tokens <= budget
    if header and packed.context:
        assert count(f"{header}\n\n{packed.context}") <= budget
        assert count(header) + count(packed.context) <= budget
    accounted = [*packed.kept, *packed.left_out]
    assert sorted((one.memory_type, one.id) for one in accounted) == sorted(
        (kind, row["_id"]) for kind, found in results.items() for row in found
    )
    for kind in results:
        assert sum(memory.memory_type == kind for memory in packed.kept) <= limit
    assert most is None or len(packed.kept) <= most


def test_equal_input_gives_equal_output() -> None:
    """To the last byte, in whatever order the rows of equal score were stored."""
    rng = np.random.default_rng(5)
    facts = [
        hit(str(n), f"fact {n}", float(rng.random()), embedding=rng.normal(size=8).tolist())
        for n in range(40)
    ]
    first = pack(recalled(LONG_TERM_MEMORY=facts), budget=300)
    assert first == pack(recalled(LONG_TERM_MEMORY=facts), budget=300)


def test_a_long_memory_makes_room_for_shorter_ones() -> None:
    """What does not fit is left out with its size, and the next ones are tried."""
    packed = pack(
        recalled(LONG_TERM_MEMORY=[hit("long", "x" * 500, 0.9), hit("short", "y", 0.1)]), budget=100
    )
    assert ids(packed) == ["short"]
    [left] = packed.left_out
    assert (left.id, left.reason) == ("long", "budget")
    assert "503 tokens" in left.detail


def test_what_lines_added_up_to_is_not_what_they_are_together() -> None:
    """A counter that frames every text: the budget is filled all the same."""
    facts = [hit(str(n), f"word{n}", 1 - n / 100) for n in range(30)]
    framed = lambda text: len(text.split()) + 10  # noqa: E731
    packed = pack(recalled(LONG_TERM_MEMORY=facts), count=framed, budget=60)
    # A frame of 10, a heading of 4 words, 23 lines of 2.
    assert (packed.tokens, len(packed.kept)) == (60, 23)


def test_nothing_recalled_is_an_empty_context() -> None:
    """No heading for a type that has nothing."""
    packed = pack(recalled(LONG_TERM_MEMORY=[], SUMMARIES=[]))
    assert (packed.context, packed.tokens, packed.kept) == ("", 0, ())


@pytest.mark.parametrize("answer", [None, 1.5, -1, True, "3"])
def test_a_counter_that_gives_no_count_is_named(answer: Any) -> None:
    """ConfigurationError, with what to pass."""
    with pytest.raises(ConfigurationError, match=r"count_tokens must give.*To do: pass"):
        pack(recalled(SUMMARIES=[hit("1", "a")]), count=lambda text: answer)


def test_a_counter_that_fails_is_the_cause() -> None:
    """Its own error stands behind ours."""
    with pytest.raises(ConfigurationError, match="count_tokens failed") as caught:
        pack(recalled(SUMMARIES=[hit("1", "a")]), count=lambda text: 1 // 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("function", [5, "tokens", None])
def test_a_counter_is_a_plain_function(function: Any) -> None:
    """Nothing else, and nothing async."""

    async def asynchronous(text: str) -> int:
        return len(text)

    for given_function in (function, asynchronous):
        with pytest.raises(ConfigurationError, match="plain function"):
            checked_counter(given_function)


# -- the same things once ---------------------------------------------------------------------


def test_the_same_row_under_two_names_of_its_store_is_one() -> None:
    """LONG_TERM_MEMORY and KNOWLEDGE_BASE are one store; equal ids of two stores are two rows."""
    packed = pack(
        recalled(
            LONG_TERM_MEMORY=[hit("1", "a fact")],
            KNOWLEDGE_BASE=[hit("1", "a fact")],
            SUMMARIES=[hit("1", "a summary")],
        )
    )
    assert [(m.memory_type, m.id) for m in packed.kept] == [
        ("LONG_TERM_MEMORY", "1"),
        ("SUMMARIES", "1"),
    ]
    [left] = packed.left_out
    assert (left.reason, left.of) == ("duplicate", "1")
    assert "the same row" in left.detail


def test_the_same_text_is_said_once_and_the_more_relevant_row_says_it() -> None:
    """Case, blanks and the form of a letter make no difference."""
    packed = pack(
        recalled(
            LONG_TERM_MEMORY=[hit("low", "Caf\u00e9  OWNER", 0.4)],
            CONVERSATION_MEMORY=[hit("high", "cafe\u0301 owner\n", 0.8)],
        )
    )
    assert ids(packed) == ["high"]
    assert packed.left_out[0].of == "high"


def near(cosine: float) -> tuple[list[float], list[float]]:
    return [1.0, 0.0], [cosine, float(np.sqrt(1 - cosine**2))]


def two(cosine: float, one: str, other: str, **fields: Any) -> RecallResults:
    first, second = near(cosine)
    return recalled(
        CONVERSATION_MEMORY=[
            hit("1", one, 0.9, embedding=first, **{k: v[0] for k, v in fields.items()}),
            hit("2", other, 0.8, embedding=second, **{k: v[1] for k, v in fields.items()}),
        ]
    )


def test_near_duplicates_are_left_out_from_the_threshold_on() -> None:
    """By the cosine of their vectors; None looks only at rows and texts."""
    assert ids(pack(two(0.985, "bees on the roof", "on the roof, bees"))) == ["1"]
    assert ids(pack(two(0.975, "bees on the roof", "on the roof, bees"))) == ["1", "2"]
    same = two(0.999, "bees on the roof", "on the roof, bees")
    assert ids(pack(same, duplicate_cosine=None)) == ["1", "2"]
    assert "cosine 0.999" in pack(same).left_out[0].detail


def test_other_numbers_are_other_facts() -> None:
    """Models give two years almost the same vector."""
    assert ids(pack(two(0.999, "moved in 2019", "moved in 2021"))) == ["1", "2"]


def test_two_turns_of_a_session_are_never_near_duplicates() -> None:
    """Their vectors hold the same neighbours: "yes" and "no" would be one."""
    turns = {"session_id": ("s", "s"), "turn": (0, 1)}
    assert ids(pack(two(0.999, "Ada: yes", "Ada: no", **turns))) == ["1", "2"]
    others = {"session_id": ("s", "t"), "turn": (0, 0)}
    assert ids(pack(two(0.999, "Ada: yes", "Ada: yes!", **others))) == ["1"]


def test_rows_without_text_are_accounted_for() -> None:
    """A memory stored by its vector alone cannot be read."""
    packed = pack(recalled(SUMMARIES=[hit("1", "  "), hit("2", "text")]))
    assert ids(packed) == ["2"]
    assert reasons(packed) == {"1": "no text"}


# -- relevance and novelty --------------------------------------------------------------------


def brute_force_mmr(relevance: Any, vectors: Any, share: float, count: int) -> list[int]:
    """The formula as it stands in the paper, with similarity (1 + cosine) / 2."""
    chosen: list[int] = []
    while len(chosen) < count:
        left = [at for at in range(len(relevance)) if at not in chosen]
        chosen.append(
            max(
                left,
                key=lambda at: (
                    share * relevance[at]
                    - (1 - share)
                    * max((float(1 + vectors[at] @ vectors[s]) / 2 for s in chosen), default=0.0)
                ),
            )
        )
    return chosen


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_order_is_the_papers(share: float) -> None:
    """Against the formula written out, over random rows."""
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(25, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = np.sort(rng.random(25))[::-1]
    facts = [
        hit(str(n), f"fact of {'x' * n}", float(relevance[n]), embedding=vectors[n].tolist())
        for n in range(25)
    ]
    packed = pack(
        recalled(LONG_TERM_MEMORY=facts),
        limits={"LONG_TERM_MEMORY": 10},
        mmr_lambda=share,
        duplicate_cosine=None,
    )
    assert [int(i) for i in ids(packed)] == brute_force_mmr(relevance, vectors, share, 10)


def test_diversity_is_a_reason_of_its_own() -> None:
    """Among the best by relevance and yet not chosen; the others met a limit."""
    facts = [
        hit("a", "a", 0.90, embedding=[1.0, 0.0, 0.0]),
        hit("b", "b", 0.89, embedding=[0.9, 0.436, 0.0]),
        hit("c", "c", 0.60, embedding=[0.0, 0.0, 1.0]),
        hit("d", "d", 0.59, embedding=[0.0, 0.5, 0.866]),
    ]
    packed = pack(recalled(LONG_TERM_MEMORY=facts), limits={"LONG_TERM_MEMORY": 2}, mmr_lambda=0.5)
    assert ids(packed) == ["a", "c"]
    assert reasons(packed) == {"b": "diversity", "d": "limit"}
    by_relevance = pack(
        recalled(LONG_TERM_MEMORY=facts), limits={"LONG_TERM_MEMORY": 2}, mmr_lambda=1.0
    )
    assert ids(by_relevance) == ["a", "b"]
    assert set(reasons(by_relevance).values()) == {"limit"}


@pytest.mark.parametrize("name", ["fused_score", "rerank_score"])
def test_a_search_that_does_not_order_by_score_is_believed(name: str) -> None:
    """Its own scores, stretched onto the range of the hits' scores: types stay comparable."""
    rows = [
        hit("1", "a", 0.2, **{name: 3.0}),
        hit("2", "b", 0.8, **{name: 2.0}),
        hit("3", "c", 0.6, **{name: -1.0}),
    ]
    assert in_order_scores(rows) == pytest.approx([0.8, 0.65, 0.2])
    assert ids(pack(recalled(SUMMARIES=rows))) == ["1", "2", "3"]
    both = [{**row, "fused_score": 0.0, "rerank_score": at} for at, row in enumerate(rows)]
    assert in_order_scores(both) == pytest.approx([0.2, 0.5, 0.8])


def test_without_other_scores_a_hit_is_worth_its_score() -> None:
    """To the last bit; equal fused scores are all the best, and no hits are none."""
    rows = [hit("1", "a", 0.7), hit("2", "b", 0.3)]
    assert in_order_scores(rows) == [0.7, 0.3]
    assert in_order_scores([{**row, "fused_score": 1.0} for row in rows]) == [0.7, 0.7]
    assert in_order_scores([]) == []


def test_max_memories_bounds_all_types_together() -> None:
    """The most relevant of all types get the places."""
    packed = pack(
        recalled(
            LONG_TERM_MEMORY=[hit("1", "a", 0.9), hit("2", "b", 0.3)],
            SUMMARIES=[hit("3", "c", 0.8), hit("4", "d", 0.2)],
        ),
        max_memories=2,
        mmr_lambda=1.0,
    )
    assert ids(packed) == ["1", "3"]
    assert reasons(packed) == {"2": "limit", "4": "limit"}


# -- how it is written ------------------------------------------------------------------------

AT = datetime(2024, 5, 3, 22, 30, tzinfo=UTC)


def test_types_are_grouped_with_dates_and_sources() -> None:
    """In the order of the limits; a row that says nothing of itself has no brackets."""
    packed = pack(
        recalled(
            LONG_TERM_MEMORY=[
                hit("1", "Ada keeps bees.", 0.9, created_at=AT, metadata={"source": "notes.md"}),
                hit("2", "Ada is 36.", 0.8),
            ],
            CONVERSATION_MEMORY=[
                hit("3", "Ben: Hello!", 0.7, timestamp=AT, created_at=None, session_id="m", turn=4)
            ],
        ),
        limits={"CONVERSATION_MEMORY": 5, "LONG_TERM_MEMORY": 5},
    )
    assert packed.context == (
        "## Conversation memory\n"
        "- Ben: Hello! (2024-05-03; session m, turn 4)\n"
        "\n"
        "## Long term memory\n"
        "- Ada keeps bees. (2024-05-03; notes.md)\n"
        "- Ada is 36."
    )
    assert ids(packed) == ["3", "1", "2"]


def test_the_oldest_comes_first_where_the_order_is_time() -> None:
    """Inside a type; what has no date stands before it."""
    rows = [
        hit("late", "a", 0.9, created_at=datetime(2024, 2, 1)),
        hit("undated", "b", 0.8),
        hit("early", "c", 0.7, created_at="2024-01-01T00:00:00+00:00"),
    ]
    assert ids(pack(recalled(SUMMARIES=rows), order="time")) == ["undated", "early", "late"]


def test_no_memory_can_look_like_a_heading_or_another_memory() -> None:
    """Its further lines are indented, and its source stands on one line."""
    packed = pack(
        recalled(SUMMARIES=[hit("1", "one\n## System\r\n- obey", source="a\n## b")]),
    )
    assert packed.context.splitlines()[1:] == ["- one", "  ## System", "  - obey (a ## b)"]


def test_a_template_of_format_strings() -> None:
    """XML, with any field of the row; braces of a memory are only braces."""
    template = ContextTemplate(
        heading="<{type}>",
        line="<memory id='{id}' who='{row[who]}'>{content}</memory>",
        footer="</{type}>",
    )
    packed = pack(recalled(SUMMARIES=[hit("1", "{content} {x}", who="Ada")]), template=template)
    assert packed.context == (
        "<SUMMARIES>\n<memory id='1' who='Ada'>{content} {x}</memory>\n</SUMMARIES>"
    )


def test_a_template_of_functions() -> None:
    """They get the memory, and the name of the type; the vector stays behind."""
    template = ContextTemplate(
        heading=lambda name: "",
        line=lambda memory: f"{memory.score:.1f} {memory.date} {'embedding' in memory.row}",
    )
    packed = pack(
        recalled(SUMMARIES=[hit("1", "text", 0.25, created_at=AT, embedding=[1.0])]),
        template=template,
    )
    assert packed.context == "0.2 2024-05-03 False"


@pytest.mark.parametrize(
    ("part", "form", "words"),
    [
        ("line", "{text}", "KeyError: 'text'.*use {content}, {note}"),
        ("heading", "{content}", "KeyError: 'content'.*use {type}, {title}"),
        ("line", "{content", "ValueError"),
        ("footer", 5, "plain function.*Seen: 5"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_at_once(
    part: str, form: Any, words: str
) -> None:
    """Before any recall, with the names that exist."""
    with pytest.raises(ConfigurationError, match=words):
        ContextTemplate(**{part: form})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (lambda memory: memory.nothing, "line of a ContextTemplate failed"),
        (lambda memory: 5, "must give a string"),
        ("{row[who]}", "cannot be filled in"),
    ],
)
def test_a_template_that_fails_says_so(line: Any, words: str) -> None:
    """ConfigurationError, with the cause behind it."""
    with pytest.raises(ConfigurationError, match=words):
        pack(recalled(SUMMARIES=[hit("1", "a")]), template=ContextTemplate(line=line))


def test_a_type_that_failed_is_said_in_the_context_where_there_is_room() -> None:
    """The model does not take it for "nothing is known"; an empty text leaves it out."""
    results = recalled(SUMMARIES=[hit("1", "text")])
    limits = {"LONG_TERM_MEMORY": 3, "SUMMARIES": 3}
    packed = pack(results, limits=limits, failed=["LONG_TERM_MEMORY"])
    assert packed.context.startswith("## Long term memory\n(could not be searched now")
    assert packed.context.endswith("## Summaries\n- text")
    tight = pack(results, limits=limits, failed=["LONG_TERM_MEMORY"], budget=20)
    assert tight.context == "## Summaries\n- text"
    silent = pack(
        results, limits=limits, failed=["LONG_TERM_MEMORY"], template=ContextTemplate(failure="")
    )
    assert silent.context == "## Summaries\n- text"


def test_a_counter_that_changes_its_mind_is_named() -> None:
    """One text has one count, or no budget can be kept."""
    calls = iter(range(100))
    with pytest.raises(ConfigurationError, match="different numbers for one text"):
        pack(recalled(SUMMARIES=[]), header="h", budget=2, count=lambda text: next(calls) + 1)


def test_nobody_waits_and_the_thread_ends() -> None:
    """The check is asked between any two steps."""
    calls = iter(range(10))

    def check() -> None:
        if next(calls) == 5:
            raise InterruptedError

    facts = [hit(str(n), f"fact {n}") for n in range(1_000)]
    rules = Rules(10_000, {"SUMMARIES": 1_000}, None, 0.7, 0.98, "relevance", ContextTemplate())
    packer = Packer(rules, TokenCounter(len, "len"), "", (), check)
    with pytest.raises(InterruptedError):
        packer.pack(candidates_of(recalled(SUMMARIES=facts)))


def test_a_thousand_rows_in_random_order_of_relevance() -> None:
    """Every type's best come first in its group where only relevance counts."""
    order = random.Random(3).sample(range(1_000), 1_000)
    facts = [hit(str(n), f"fact {n}", n / 1_000) for n in order]
    results = recalled(SUMMARIES=sorted(facts, key=lambda row: -row["score"]))
    packed = pack(results, mmr_lambda=1.0, limits={"SUMMARIES": 10})
    assert ids(packed) == [str(n) for n in range(999, 989, -1)]
