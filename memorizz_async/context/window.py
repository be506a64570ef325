"""What `build_async` gives back: the two strings, and the account of what is in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from memorizz_async.errors import MemorizzAsyncError
from memorizz_async.markup import Summarized
from memorizz_async.results import Timings

Reason = Literal["duplicate", "budget", "diversity", "limit", "no text"]


@dataclass(frozen=True)
class KeptMemory(Summarized):
    """A memory in the context. memory_type is the name that the caller asked by; tokens are those
    of its line alone; relevance is what it was chosen by.
    """

    memory_type: str
    id: str
    relevance: float
    tokens: int


@dataclass(frozen=True)
class LeftOut(Summarized):
    """A memory that was recalled and is not in the context.

    reason: `duplicate`: of the memory whose id is in `of`; `budget`: its line had no room left;
        `diversity`: it is among the most relevant of its type, and says what others say already;
        `limit`: its type, or the whole, was full; `no text`: the row has no content.
    detail: the reason in words. Never the text of a memory.
    """

    memory_type: str
    id: str
    reason: Reason
    detail: str
    of: str | None = None


@dataclass(frozen=True, repr=False)
class ContextReport(Summarized):
    """How a context came about.

    budget, tokens: allowed and used, header and context together, however they are joined.
    header_tokens: of the header alone. counted_by: whose tokens these are.
    kept: the memories in the context, in its order. left_out: the recalled ones that are not.
    errors: memory type -> why it, or some of its rows, could not be searched.
    recall: where the time of the recall went. header_ms, packing_ms, total_ms: of the header's
        getter, of choosing and counting, of everything.
    """

    budget: int
    tokens: int
    header_tokens: int
    counted_by: str
    kept: tuple[KeptMemory, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    errors: Mapping[str, MemorizzAsyncError] = field(default_factory=dict)
    recall: Timings = field(default_factory=Timings)
    header_ms: float = 0.0
    packing_ms: float = 0.0
    total_ms: float = 0.0

    def summary(self) -> Mapping[str, object]:
        """Tokens, counts and times."""
        return {
            "tokens": self.tokens,
            "budget": self.budget,
            "counted_by": self.counted_by,
            "kept": len(self.kept),
            "left_out": dict(sorted(Counter(left.reason for left in self.left_out).items())),
            "errors": ", ".join(self.errors) or None,
            "total_ms": self.total_ms,
        }

    def details(self) -> Sequence[Mapping[str, object]]:
        """The memories: those in the context, then those left out."""
        return [
            {
                "memory type": kept.memory_type,
                "_id": kept.id,
                "what became of it": f"kept, {kept.tokens} tokens",
            }
            for kept in self.kept
        ] + [
            {
                "memory type": left.memory_type,
                "_id": left.id,
                "what became of it": f"{left.reason}: {left.detail}",
            }
            for left in self.left_out
        ]

    def __str__(self) -> str:
        """A few lines to log: numbers and ids, no text of a memory."""
        reasons = Counter(left.reason for left in self.left_out)
        shown = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        lines = [
            f"{self.tokens} of {self.budget} tokens ({self.counted_by}), "
            f"{len(self.kept)} memories, {self.total_ms:.1f} ms",
            f"left out: {shown or 'none'}",
            *(f"  {left.memory_type} {left.id}: {left.detail}" for left in self.left_out),
            *(f"error in {name}: {error}" for name, error in self.errors.items()),
        ]
        return "\n".join(lines)


class ContextWindow(tuple[str, str]):
    """`header, context = await manager.build_async(…)`, and the report besides.

    header: the working memory, as the caller's getter gave it. context: the memories, by type.
    text: both, with a blank line between. The budget holds for any way of putting them together:
    one after the other, as `text`, or as two messages.
    """

    report: ContextReport

    def __new__(cls, header: str, context: str, report: ContextReport) -> ContextWindow:
        window = super().__new__(cls, (header, context))
        window.report = report
        return window

    def __repr__(self) -> str:
        report = self.report
        used = f"{report.tokens} of {report.budget} tokens"
        return f"<ContextWindow {used}, {len(report.kept)} memories>"

    def _repr_html_(self) -> str:
        """The report: the texts are in `text`."""
        return self.report._repr_html_()

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.header, self.context, self.report)

    @property
    def header(self) -> str:
        """The working memory."""
        return self[0]

    @property
    def context(self) -> str:
        """The memories."""
        return self[1]

    @property
    def text(self) -> str:
        """Header and context, with a blank line between."""
        return joined(*self)


def joined(header: str, context: str) -> str:
    """Both with a blank line between; one alone as it is."""
    return "\n\n".join(part for part in (header, context) if part)
