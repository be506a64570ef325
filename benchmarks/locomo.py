"""Evidence recall on LoCoMo: of the turns that hold an answer, how many are among the top k?

    python benchmarks/locomo.py --data locomo10.json [--json figures.json]

Each conversation is a tenant; its turns are its conversation memory. Recall@k is the mean, over the
questions, of (evidence turns among the top k) / (evidence turns). Adversarial questions (category
5), and those whose evidence is missing or names no turn, are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from _common import add_json, bar, console, database, machine, percentile, table, write_json

from memorizz_async import AsyncEmbeddingProvider, AsyncMongoDBProvider, MemoryType, MongoDBConfig
from memorizz_async.demo.ingest import Import
from memorizz_async.demo.locomo import (
    ADVERSARIAL,
    CATEGORIES,
    Conversation,
    Question,
    read_conversations,
)
from memorizz_async.demo.memories import turn_memories

CUTOFFS = (5, 10, 20)

Search = Callable[[AsyncMongoDBProvider, str, str, int], Awaitable[list[dict[str, Any]]]]
"""(provider, question, memory_id, limit) -> hits, the best first."""


async def vector(
    provider: AsyncMongoDBProvider, question: str, memory_id: str, limit: int
) -> list[dict[str, Any]]:
    """The question's embedding against those of the turns."""
    return await provider.retrieve_memory_units_by_query_async(
        question, None, memory_id, MemoryType.CONVERSATION_MEMORY, limit
    )


MODES: dict[str, Search] = {"vector": vector}


@dataclass(frozen=True)
class Outcome:
    """One question: the share of its evidence in the top k, for each k, and the time it took."""

    category: int
    recall: dict[int, float]
    ms: float


async def outcome(
    search: Search, provider: AsyncMongoDBProvider, talk: Conversation, question: Question
) -> Outcome:
    started = time.perf_counter()
    hits = await search(provider, question.text, talk.name, max(CUTOFFS))
    ms = (time.perf_counter() - started) * 1000
    # A turn may be named twice in the evidence; it can be found only once.
    evidence = set(question.evidence)
    recall = {}
    for cutoff in CUTOFFS:
        found = {dia_id for hit in hits[:cutoff] for dia_id in hit["dia_ids"]}
        recall[cutoff] = len(evidence & found) / len(evidence)
    return Outcome(question.category, recall, ms)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`recall@k` over some outcomes, and how many they are."""
    means = {f"recall@{k}": round(fmean(one.recall[k] for one in outcomes), 4) for k in CUTOFFS}
    return {**means, "questions": len(outcomes)}


def figures_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    by_category = {
        CATEGORIES[category]: summary([one for one in outcomes if one.category == category])
        for category in sorted({one.category for one in outcomes})
    }
    times = [one.ms for one in outcomes]
    latency = {f"p{percent}": round(percentile(times, percent), 3) for percent in (50, 95, 99)}
    return {**summary(outcomes), "by_category": by_category, "latency_ms": latency}


async def measure(
    talks: Sequence[Conversation], address: str, name: str
) -> tuple[dict[str, Any], str]:
    """The figures of every mode, and the model."""
    async with AsyncEmbeddingProvider() as embedder:
        config = MongoDBConfig(address, name)
        async with AsyncMongoDBProvider(config, embedding_provider=embedder) as provider:
            await provider.ensure_indexes_async([MemoryType.CONVERSATION_MEMORY])
            for talk in bar(talks, "Embedding and storing"):
                turns = {MemoryType.CONVERSATION_MEMORY: turn_memories(talk)}
                await Import(talk, turns).store(provider)
            asked = [(talk, question) for talk in talks for question in talk.answerable]
            modes = {}
            for mode, search in MODES.items():
                await search(provider, "warming up", talks[0].name, 1)
                outcomes = [
                    await outcome(search, provider, talk, question)
                    for talk, question in bar(asked, f"Asking: {mode}")
                ]
                modes[mode] = figures_of(outcomes)
            return modes, embedder.get_model_name()


def show(mode: str, figures: dict[str, Any]) -> None:
    shown = table(f"{mode}: evidence recall", "category", "questions", *(f"@{k}" for k in CUTOFFS))
    for name, part in [*figures["by_category"].items(), ("all", figures)]:
        shares = (f"{part[f'recall@{k}']:.3f}" for k in CUTOFFS)
        shown.add_row(name, str(part["questions"]), *shares, style="bold" if name == "all" else "")
    console.print(shown)
    latency = ", ".join(f"{name} {ms:.1f} ms" for name, ms in figures["latency_ms"].items())
    console.print(f"one recall, with embedding the question: {latency}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a file in LoCoMo's shape")
    parser.add_argument(
        "--limit-conversations", type=int, metavar="N", help="read only the first N"
    )
    add_json(parser)
    options = parser.parse_args()
    talks = read_conversations(options.data)[: options.limit_conversations]
    questions = [question for talk in talks for question in talk.questions]
    adversarial = sum(question.category == ADVERSARIAL for question in questions)
    kept = sum(len(talk.answerable) for talk in talks)
    left_out = {"adversarial": adversarial, "evidence": len(questions) - adversarial - kept}
    with database() as (address, name):
        modes, model = asyncio.run(measure(talks, address, name))
    turns = sum(len(talk.turns) for talk in talks)
    console.print(
        f"{len(talks)} conversations, {turns} turns, {kept} questions, {model}", soft_wrap=True
    )
    console.print(
        f"left out: {adversarial} adversarial questions, {left_out['evidence']} without evidence "
        "or with evidence that names no turn\n",
        soft_wrap=True,
    )
    for mode, figures in modes.items():
        show(mode, figures)
    write_json(
        options.json,
        {
            "modes": modes,
            "model": model,
            "conversations": len(talks),
            "turns": turns,
            "questions": kept,
            "left_out": left_out,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
