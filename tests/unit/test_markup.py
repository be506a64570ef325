"""Results in a notebook: readable, and nothing in a memory becomes HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async import (
    BatchResults,
    DatabaseError,
    Hits,
    MemoryType,
    RecallResults,
    StoredEmbeddingError,
)

OURS = {
    "div": {"class", "style", "role"}, "details": {"open"}, "summary": set(), "b": set(),
    "table": set(), "thead": set(), "tbody": set(), "tr": set(), "th": {"style"},
    "td": {"style"}, "p": {"style"}, "span": {"title"},
}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def shown(hits: dict[str, Any], errors: dict[str, Any] | None = None) -> Reader:
    types = dict.fromkeys(hits, MemoryType.SUMMARIES)
    batch = BatchResults(
        {name: Hits(rows) for name, rows in hits.items()},
        types=types,
        errors=errors,
        embedding_ms=1.5,
        queries_ms=dict.fromkeys(hits, 2.5),
    )
    html = RecallResults(batch, total_ms=4.25)._repr_html_()
    reader = Reader(html)
    for tag, attributes in reader.tags:
        assert set(attributes) <= OURS[tag], (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    return reader


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' onmouseover='alert(1)",
    "</td></table></div><iframe src='javascript:alert(1)'>",
    "<!-- --><svg/onload=alert(1)>",
    "&lt;b&gt;",
    "]]><style>*{display:none}</style>",
]


@pytest.mark.parametrize("attack", [*ATTACKS, *(attack + "x" * 300 for attack in ATTACKS)])
def test_what_a_memory_says_is_text(attack: str) -> None:
    """In content, ids, dates, keys and errors, long and short; it is read as it was written."""
    row = {"_id": attack, "content": attack, "score": 0.5, "timestamp": attack}
    reader = shown({attack: [row]}, {attack: DatabaseError(attack)})
    assert attack[:200] in reader.text


@given(
    st.dictionaries(
        st.text(max_size=20),
        st.lists(
            st.fixed_dictionaries(
                {"_id": st.text(max_size=8), "content": st.text(max_size=400)},
                optional={
                    "score": st.floats() | st.text(),
                    "memory_signal": st.floats(),
                    "timestamp": st.datetimes() | st.text() | st.integers(),
                    "created_at": st.none() | st.datetimes(timezones=st.just(UTC)),
                },
            ),
            max_size=3,
        ),
        max_size=3,
    )
)
def test_no_row_breaks_out_of_its_table(hits: dict[str, Any]) -> None:
    """Whatever fields it has: our tags only, all closed, our attributes only."""
    shown(hits)


def test_it_shows_what_one_asks_of_a_recall() -> None:
    """Ranks, scores, signals, dates, contents, ids, failures and times."""
    row = {
        "_id": "65f0",
        "content": "Ada keeps bees.",
        "score": 0.81234,
        "memory_signal": 0.7,
        "created_at": datetime(2024, 5, 3, tzinfo=UTC),
    }
    reader = shown({"SUMMARIES": [row], "TOOLBOX": []}, {"PERSONAS": DatabaseError("It broke")})
    for words in (
        "SUMMARIES", "(1)", "0.812", "0.700", "2024-05-03", "Ada keeps bees.", "65f0",
        "TOOLBOX", "No memories.", "PERSONAS", "It broke.", "embedding", "1.5 ms", "2.5 ms",
        "total", "4.2 ms",
    ):  # fmt: skip
        assert words in reader.text
    assert [tag for tag, attributes in reader.tags if attributes.get("role") == "alert"] == ["div"]


def test_long_things_are_cut() -> None:
    """A text after 240 characters, with more of it in the tooltip; a list after 20 rows."""
    long = {"_id": "1", "content": "a" * 10_000, "score": 1.0}
    reader = shown({"SUMMARIES": [long] * 23})
    assert "a" * 240 + "…" in reader.text
    assert "a" * 241 not in reader.text
    assert "… and 3 more" in reader.text
    titles = [attributes["title"] for tag, attributes in reader.tags if tag == "span"]
    assert [len(title or "") for title in titles] == [4_000] * 20


def test_dollar_signs_are_no_formula() -> None:
    """Notebooks are told not to typeset what is inside."""
    html = Hits([{"_id": "1", "content": "$x$", "score": 1.0}])._repr_html_()
    assert "mathjax_ignore" in html
    assert "tex2jax_ignore" in html


def test_hits_and_batches_show_themselves_too() -> None:
    """With how they were searched, and with what could not be."""
    report = StoredEmbeddingError("2 rows <cannot> be searched", rows={"a": "b"}, count=2)
    hits = Hits([{"_id": "1", "content": "c", "score": 1.0}], strategy="scan", unsearchable=report)
    reader = Reader(hits._repr_html_())
    assert "1 hits, searched by scan, mode vector; 2 rows <cannot> be searched" in reader.text
    assert "signal" not in reader.text
    batch = Reader(BatchResults({"mine": hits}, queries_ms={"mine": 3.0})._repr_html_())
    assert "mine" in batch.text
    assert "3.0 ms" in batch.text
    assert "total" not in batch.text
