"""Memories chosen one by one, by relevance and by novelty, until the budget is full.

The order is maximal marginal relevance (Carbonell and Goldstein, "The use of MMR, diversity-based
reranking for reordering documents and producing summaries", SIGIR 1998): of the memories D that
are left and the memories S that are chosen, the next one is

    argmax over d in D of  λ · relevance(d) - (1 - λ) · max over s in S of similarity(d, s)

with similarity (1 + cosine) / 2, the scale of a score; before anything is chosen it is 0.

Tokens do not add up: a tokenizer may join what two lines have at their border, and a service may
count a few for every text. So lines are added up while choosing, and then what was written is
counted as a whole; the last choices go until it fits, and what had no room is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from memorizz_async.context.candidates import Candidate, Matrix, distinct
from memorizz_async.context.counting import TokenCounter
from memorizz_async.context.template import ContextMemory, ContextTemplate
from memorizz_async.context.window import KeptMemory, LeftOut, joined
from memorizz_async.errors import ConfigurationError
from memorizz_async.memory_provider.mongodb.vector_search.scoring import dot_products

Order = Literal["relevance", "time"]


@dataclass(frozen=True)
class Rules:
    """What a context may be. mmr_lambda is λ, from 0 (only novelty) to 1 (only relevance)."""

    budget: int
    limits: Mapping[str, int]
    max_memories: int | None
    mmr_lambda: float
    duplicate_cosine: float | None
    order: Order
    template: ContextTemplate


@dataclass(frozen=True)
class _Placed:
    """A candidate as it would stand in the context. tokens: of its line, added up, not as a whole;
    number: the how-manieth it was chosen.
    """

    candidate: Candidate
    memory: ContextMemory
    line: str
    tokens: int
    number: int = 0


@dataclass(frozen=True)
class Packed:
    """The context, its tokens together with the header, and the account of every candidate."""

    context: str
    tokens: int
    kept: tuple[KeptMemory, ...]
    left_out: tuple[LeftOut, ...]


class Packer:
    """Packs one context, blocking: in a worker thread.

    failed: the types that could not be searched; the context says so, where there is room.
    check: called now and then; it raises where nobody waits any more.
    """

    def __init__(
        self,
        rules: Rules,
        count: TokenCounter,
        header: str,
        failed: Sequence[str] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._rules = rules
        self._count = count
        self._header = header
        self._header_tokens = count(header) if header else 0
        self._frame = count("")
        self._failed = list(failed)
        self._check = check
        self._chosen: list[_Placed] = []
        self._no_room: list[_Placed] = []

    def pack(self, candidates: list[Candidate]) -> Packed:
        """Choose among candidates, the most relevant first."""
        rules = self._rules
        unique, vectors, left = distinct(candidates, rules.duplicate_cosine, self._check)
        self._choose(unique, vectors)
        tokens = self._cut_to_budget()
        tokens = self._fill_up(tokens)
        kept = {placed.candidate for placed in self._chosen}
        without_room = {placed.candidate: placed.tokens for placed in self._no_room}
        for candidate, reason in _why_not(unique, kept, rules).items():
            if candidate in without_room:
                detail = f"no room for its {without_room[candidate]} tokens"
                left.append(candidate.left_out("budget", detail))
            else:
                left.append(reason)
        written = [placed for group in self._groups().values() for placed in group]
        return Packed(
            self._written(),
            tokens,
            tuple(
                KeptMemory(p.candidate.group, p.candidate.id, p.candidate.relevance, p.tokens)
                for p in written
            ),
            tuple(left),
        )

    def _choose(self, unique: list[Candidate], vectors: Matrix) -> None:
        """MMR over what fits, by lines added up."""
        rules = self._rules
        share = rules.mmr_lambda
        relevance = np.array([candidate.relevance for candidate in unique], dtype=np.float64)
        nearest = np.zeros(len(unique))
        open_still = np.ones(len(unique), dtype=bool)
        room = dict(rules.limits)
        used = self._size(self._written())
        while open_still.any():
            self._check()
            if rules.max_memories is not None and len(self._chosen) >= rules.max_memories:
                return
            worth = np.where(open_still, share * relevance - (1 - share) * nearest, -np.inf)
            at = int(worth.argmax())  # of equals the first: the more relevant
            candidate = unique[at]
            open_still[at] = False
            if room[candidate.group] == 0:
                continue
            placed = self._placed(candidate)
            cost = placed.tokens + self._heading_cost(candidate.group)
            if used + cost > rules.budget:
                self._no_room.append(placed)
                continue
            used += cost
            room[candidate.group] -= 1
            self._chosen.append(replace(placed, number=len(self._chosen)))
            cosines = dot_products(vectors, vectors[at]) if vectors.size else 0.0
            nearest = np.maximum(nearest, (1.0 + cosines) / 2.0)

    def _cut_to_budget(self) -> int:
        """Take back the last choices until what is written fits; its tokens."""
        while (tokens := self._size(self._written())) > self._rules.budget:
            self._check()
            if self._chosen:
                self._no_room.append(self._chosen.pop())
            elif self._failed:
                self._failed.pop()
            else:
                # The header alone was counted before, and had room.
                raise ConfigurationError("count_tokens gives different numbers for one text")
        return tokens

    def _fill_up(self, tokens: int) -> int:
        """Try again what had no room, where lines added up to more than they are together."""
        for placed in list(self._no_room):
            if self._is_full(placed) or tokens + placed.tokens > self._rules.budget:
                continue
            self._check()
            self._chosen.append(replace(placed, number=len(self._chosen)))
            size = self._size(self._written())
            if size > self._rules.budget:
                self._chosen.pop()
            else:
                tokens = size
                self._no_room.remove(placed)
        return tokens

    def _is_full(self, placed: _Placed) -> bool:
        group, most = placed.candidate.group, self._rules.max_memories
        inside = sum(chosen.candidate.group == group for chosen in self._chosen)
        return inside >= self._rules.limits[group] or (
            most is not None and len(self._chosen) >= most
        )

    def _placed(self, candidate: Candidate) -> _Placed:
        memory = ContextMemory.of_hit(candidate.hit, candidate.group)
        line = self._rules.template.line_of(memory)
        return _Placed(candidate, memory, line, self._part(f"{line}\n"))

    def _heading_cost(self, group: str) -> int:
        """What the first memory of a type brings along."""
        if any(chosen.candidate.group == group for chosen in self._chosen):
            return 0
        heading, footer = self._rules.template.around(group)
        return self._part(f"\n\n{heading}\n") + (self._part(f"\n{footer}") if footer else 0)

    def _part(self, text: str) -> int:
        """What a text adds as a part of another: without what the counter adds to every text."""
        return max(0, self._count(text) - self._frame)

    def _groups(self) -> dict[str, list[_Placed]]:
        """What is chosen, by type, in the order of the limits."""
        groups: dict[str, list[_Placed]] = {name: [] for name in self._rules.limits}
        for placed in self._chosen:
            groups[placed.candidate.group].append(placed)
        if self._rules.order == "time":
            for group in groups.values():
                group.sort(key=lambda placed: (_when(placed.memory), placed.number))
        return groups

    def _written(self) -> str:
        lines = {name: [placed.line for placed in group] for name, group in self._groups().items()}
        for name in self._failed:
            lines[name] = list(filter(None, [self._rules.template.failure_of(name)]))
        return self._rules.template.written(lines)

    def _size(self, context: str) -> int:
        """The tokens of header and context, by whichever way of joining them takes the most."""
        header = self._header
        if not header or not context:
            return self._count(header or context) if header or context else 0
        return max(
            self._count(header + context),
            self._count(joined(header, context)),
            self._header_tokens + self._count(context),
        )


def _when(memory: ContextMemory) -> float:
    """For sorting by time; what has none comes first."""
    return memory.at.timestamp() if memory.at else float("-inf")


def _why_not(
    unique: list[Candidate], kept: set[Candidate], rules: Rules
) -> dict[Candidate, LeftOut]:
    """Of those that had room: whether relevance alone would have chosen them."""
    ranks: dict[str, int] = {}
    by_relevance: set[Candidate] = set()
    for candidate in unique:
        rank = ranks[candidate.group] = ranks.get(candidate.group, 0) + 1
        full = rules.max_memories is not None and len(by_relevance) >= rules.max_memories
        if rank <= rules.limits[candidate.group] and not full:
            by_relevance.add(candidate)
    return {
        candidate: candidate.left_out(
            "diversity", "as relevant as others, and nearer to what was chosen"
        )
        if candidate in by_relevance
        else candidate.left_out("limit", "its type, or the whole, was full")
        for candidate in unique
        if candidate not in kept
    }
