"""How results show themselves: one line as text, and tables as HTML for notebooks.

Everything in the HTML is escaped. The line never has the text of a memory: it ends up in logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from memorizz_async.timestamps import row_datetime

_MOST_ROWS = 20
_MOST_CHARACTERS = 240
# Notebooks run MathJax over what they show; a memory with dollar signs is no formula.
_OUTER = '<div class="memorizz-async tex2jax_ignore mathjax_ignore">'
_CELL = "text-align:left;vertical-align:top;padding:2px 8px"
_ERROR = "border-left:3px solid #c0392b;padding:2px 8px;margin:4px 0"


class Summarized:
    """Shows an object in one line, and as a table in notebooks.

    A class says in `summary` what it shows; a dataclass that has one is made with `repr=False`, and
    one that has none shows its fields.
    """

    def summary(self) -> Mapping[str, object]:
        """What the object comes to, by name: numbers and names, no text of a memory."""
        return {name: getattr(self, name) for name in getattr(self, "__dataclass_fields__", ())}

    def details(self) -> Sequence[Mapping[str, object]]:
        """The parts of the object, a row each, for the table of a notebook."""
        return ()

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={_plain(value)}" for name, value in self.summary().items())
        return f"<{type(self).__name__} {facts}>"

    def _repr_html_(self) -> str:
        facts = _table(["", ""], [[name, _plain(value)] for name, value in self.summary().items()])
        rows = self.details()
        shown = [[_plain(value) for value in row.values()] for row in rows[:_MOST_ROWS]]
        parts = _table(list(rows[0]), shown) if rows else ""
        left = len(rows) - len(shown)
        more = _paragraph(f"… and {left} more") if left > 0 else ""
        return f"{_OUTER}{_paragraph(type(self).__name__)}{facts}{parts}{more}</div>"


def hits_html(hits: Sequence[Mapping[str, Any]], about: str) -> str:
    """One search: what it was, and its hits."""
    return f"{_OUTER}{_paragraph(about)}{_hits(hits)}</div>"


def recall_html(
    hits: Mapping[str, Sequence[Mapping[str, Any]]],
    errors: Mapping[str, object],
    *,
    embedding_ms: float,
    queries_ms: Mapping[str, float],
    total_ms: float | None = None,
) -> str:
    """A recall: failures first, then the hits of each type, then where the time went."""
    failures = "".join(
        f'<div role="alert" style="{_ERROR}"><b>{_text(name)}</b>: {_text(error)}</div>'
        for name, error in errors.items()
    )
    types = "".join(
        f"<details open><summary><b>{_text(name)}</b> ({len(found)})</summary>"
        f"{_hits(found)}</details>"
        for name, found in hits.items()
    )
    times = [("embedding", embedding_ms), *queries_ms.items()]
    if total_ms is not None:
        times.append(("total", total_ms))
    return f"{_OUTER}{failures}{types}{_times(times)}</div>"


def _hits(hits: Sequence[Mapping[str, Any]]) -> str:
    if not hits:
        return _paragraph("No memories.")
    with_signal = any("memory_signal" in hit for hit in hits)
    names = ["", "score", *(["signal"] if with_signal else []), "date", "content", "_id"]
    rows = [
        [
            str(rank),
            _number(hit.get("score")),
            *([_number(hit.get("memory_signal"))] if with_signal else []),
            _date(hit),
            str(hit.get("content", "")),
            str(hit.get("_id", "")),
        ]
        for rank, hit in enumerate(hits[:_MOST_ROWS], 1)
    ]
    left = len(hits) - len(rows)
    more = _paragraph(f"… and {left} more") if left else ""
    return _table(names, rows) + more


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th style="{_CELL}">{_text(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _plain(value: object) -> str:
    """A value on one line: milliseconds and scores to three digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(one)}" for name, one in value.items()) + "}"
    return " ".join(str(value).split())


def _times(times: Sequence[tuple[str, float]]) -> str:
    """A bar each: they ran at the same time, but for the embedding, so that they do not add up."""
    longest = max((took for _, took in times), default=0.0) or 1.0
    rows = "".join(
        f'<tr><td style="{_CELL}">{_text(name)}</td><td style="{_CELL}">{took:.1f} ms</td>'
        f'<td style="{_CELL}"><div style="background:currentColor;opacity:.4;height:.7em;'
        f'width:{160 * took / longest:.0f}px"></div></td></tr>'
        for name, took in times
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _paragraph(text: str) -> str:
    return f'<p style="margin:4px 0;opacity:.8">{_text(text)}</p>'


def _cell(text: str) -> str:
    return f'<td style="{_CELL}">{_short(text)}</td>'


def _short(text: str) -> str:
    """Long text cut; the whole of it (up to a page) is in the tooltip."""
    if len(text) <= _MOST_CHARACTERS:
        return _text(text)
    return f'<span title="{_text(text[:4_000])}">{_text(text[:_MOST_CHARACTERS])}…</span>'


def _text(value: object) -> str:
    # The one way in which anything gets between tags, or between the quotes of an attribute.
    return escape(str(value), quote=True)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def _date(hit: Mapping[str, Any]) -> str:
    at = row_datetime(hit)
    return f"{at:%Y-%m-%d}" if at else ""
