"""Evaluate one question: recall in parallel and one type after another, in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from memorizz_async.demo.locomo import Conversation, Question
from memorizz_async.enums import MemoryType
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
from memorizz_async.memory_unit import MemoryUnit
from memorizz_async.results import RecallResults, Timings

_ROUNDS = 3


@dataclass(frozen=True)
class Evaluation:
    """A question, its recalled memories, and the time that both ways of asking took.

    Attributes:
        conversation: The conversation that the question is about.
        question: The question, with its answer and its evidence.
        results: The hits of the median recall.
        timings: The times of the median recall, in milliseconds.
        sequential_ms: The median time of embedding the question and querying, one type after
            another.
    """

    conversation: Conversation
    question: Question
    results: RecallResults
    timings: Timings
    sequential_ms: float

    def is_evidence(self, hit: Mapping[str, Any]) -> bool:
        """Whether a hit comes from a turn that holds the answer."""
        return not set(self.question.evidence).isdisjoint(hit.get("dia_ids", ()))

    @property
    def found(self) -> bool:
        """Whether any hit comes from a turn that holds the answer."""
        return any(self.is_evidence(hit) for hits in self.results.values() for hit in hits)


async def evaluate(
    provider: AsyncMongoDBProvider,
    conversation: Conversation,
    question: Question,
    limits: Mapping[MemoryType, int],
) -> Evaluation:
    """Run both ways of asking. The embedder must have no cache, or it would embed only once."""
    unit = MemoryUnit("conversational", provider)
    recalls: list[RecallResults] = []
    sequential: list[float] = []
    for _ in range(_ROUNDS):
        recalls.append(
            await unit.retrieve_all_memory_types_async(
                question.text, memory_id=conversation.name, limits=limits
            )
        )
        started = time.perf_counter()
        for kind, limit in limits.items():
            await provider.retrieve_memory_units_by_query_async(
                question.text, None, conversation.name, kind, limit
            )
        sequential.append((time.perf_counter() - started) * 1000)
    recalls.sort(key=lambda recall: recall.timings.total_ms)
    middle = recalls[len(recalls) // 2]
    return Evaluation(conversation, question, middle, middle.timings, median(sequential))


def chosen_questions(
    conversations: Sequence[Conversation], count: int
) -> list[tuple[Conversation, Question]]:
    """Questions with known evidence: as many from each conversation, spread over its length."""
    each, rest = divmod(count, len(conversations))
    return [
        (conversation, question)
        for number, conversation in enumerate(conversations)
        for question in _spread(conversation.answerable, each + (number < rest))
    ]


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    count = min(count, len(questions))
    return [questions[position * len(questions) // count] for position in range(count)]
