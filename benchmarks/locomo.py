"""Evidence recall on LoCoMo: of the turns that hold an answer, how many are among the top k?

    python benchmarks/locomo.py --data locomo10.json [--json figures.json]

Each conversation is a tenant; its turns are its conversation memory, stored twice: each turn alone
(`store_many_async`), and in context (`store_conversation_async`). Recall@k is the mean, over the
questions, of (evidence turns among the top k) / (evidence turns). Adversarial questions (category
5), and those whose evidence is missing or names no turn, are left out.

Last, what a hybrid recall costs: three memory types at once, with the question's embedding given,
in mode `hybrid` and in mode `vector`, in turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from _common import (
    Target,
    bar,
    console,
    database,
    locomo_options,
    machine,
    percentile,
    table,
    write_json,
)

from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async.config import FusionName, RecallMode
from memorizz_async.demo.locomo import (
    ADVERSARIAL,
    CATEGORIES,
    Conversation,
    Question,
)
from memorizz_async.demo.memories import memories_of

CUTOFFS = (5, 10, 20)


@dataclass(frozen=True)
class Mode:
    """A way of asking: a mode of recall, over turns stored in one of two ways."""

    recall: RecallMode
    in_context: bool = False
    fusion: FusionName = "zscore"


MODES = {
    "vector": Mode("vector"),
    "text": Mode("text"),
    "hybrid by ranks, turns alone": Mode("hybrid", fusion="rrf"),
    "hybrid, turns alone": Mode("hybrid"),
    "vector in context": Mode("vector", in_context=True),
    "text in context": Mode("text", in_context=True),
    "hybrid by ranks in context": Mode("hybrid", in_context=True, fusion="rrf"),
    "hybrid": Mode("hybrid", in_context=True),
}
"""Each idea by itself, then `hybrid`, which is all of them: what a user of the library gets."""

THREE_TYPES = (
    MemoryType.CONVERSATION_MEMORY,
    MemoryType.LONG_TERM_MEMORY,
    MemoryType.SUMMARIES,
)
COST = Target(3.0, at_most=True)


def tenant(talk: Conversation, in_context: bool) -> str:
    return f"{talk.name}, in context" if in_context else talk.name


@dataclass(frozen=True)
class Outcome:
    """One question: the share of its evidence in the top k, for each k, and the time it took."""

    talk: str
    category: int
    recall: dict[int, float]
    ms: float


async def outcome(
    provider: AsyncMongoDBProvider, mode: Mode, talk: Conversation, question: Question
) -> Outcome:
    started = time.perf_counter()
    hits = await provider.retrieve_memory_units_by_query_async(
        question.text,
        memory_id=tenant(talk, mode.in_context),
        memory_type=MemoryType.CONVERSATION_MEMORY,
        limit=max(CUTOFFS),
        mode=mode.recall,
    )
    ms = (time.perf_counter() - started) * 1000
    # A turn may be named twice in the evidence; it can be found only once.
    evidence = set(question.evidence)
    recall = {}
    for cutoff in CUTOFFS:
        found = {dia_id for hit in hits[:cutoff] for dia_id in hit["dia_ids"]}
        recall[cutoff] = len(evidence & found) / len(evidence)
    return Outcome(talk.name, question.category, recall, ms)


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
    talks = {
        talk: summary([one for one in outcomes if one.talk == talk])
        for talk in dict.fromkeys(one.talk for one in outcomes)
    }
    return {
        **summary(outcomes),
        "by_category": by_category,
        "by_conversation": talks,
        "latency_ms": latency,
    }


async def store(provider: AsyncMongoDBProvider, talk: Conversation) -> None:
    """The turns, both ways; the observations and summaries for the recall of three types."""
    memories = memories_of(talk)
    turns = memories.pop(MemoryType.CONVERSATION_MEMORY)
    kind = MemoryType.CONVERSATION_MEMORY
    await provider.store_many_async(turns, kind, memory_id=tenant(talk, False))
    await provider.store_conversation_async(turns, memory_id=tenant(talk, True))
    for kind, rows in memories.items():
        await provider.store_many_async(rows, kind, memory_id=tenant(talk, True))


async def cost(
    provider: AsyncMongoDBProvider, asked: Sequence[tuple[Conversation, Question]]
) -> dict[str, Any]:
    """A recall of three types with the embedding given, in milliseconds, in each mode, in turn."""
    unit = MemoryUnit(memory_provider=provider)
    modes: tuple[RecallMode, ...] = ("vector", "hybrid")
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    for number, (talk, question) in enumerate(asked):
        vector = await provider.embedder.encode_query_async(question.text)
        for mode in modes if number % 2 else reversed(modes):
            started = time.perf_counter()
            await unit.retrieve_all_memory_types_async(
                question.text,
                tenant(talk, True),
                dict.fromkeys(THREE_TYPES, 5),
                query_embedding=vector,
                mode=mode,
            )
            times[mode].append((time.perf_counter() - started) * 1000)
    p50, p95 = (
        {mode: round(percentile(values, percent), 3) for mode, values in times.items()}
        for percent in (50, 95)
    )
    ratio = round(p95["hybrid"] / p95["vector"], 3)
    return {"p50_ms": p50, "p95_ms": p95, "p95_ratio": ratio, "reached": COST.reached(ratio)}


async def measure(talks: Sequence[Conversation], address: str, name: str) -> dict[str, Any]:
    """The figures of every mode, the model, and what a hybrid recall costs."""
    fusions: tuple[FusionName, ...] = ("zscore", "rrf")
    async with AsyncEmbeddingProvider() as embedder, AsyncExitStack() as stack:
        providers = {
            fusion: await stack.enter_async_context(
                AsyncMongoDBProvider(
                    MongoDBConfig(address, name, fusion=fusion), embedding_provider=embedder
                )
            )
            for fusion in fusions
        }
        provider = providers["zscore"]
        await provider.ensure_indexes_async(THREE_TYPES)
        for talk in bar(talks, "Embedding and storing"):
            await store(provider, talk)
        asked = [(talk, question) for talk in talks for question in talk.answerable]
        modes = {}
        for label, mode in MODES.items():
            outcomes = [
                await outcome(providers[mode.fusion], mode, talk, question)
                for talk, question in bar(asked, f"Asking: {label}")
            ]
            modes[label] = figures_of(outcomes)
        costs = await cost(provider, asked)
        return {"modes": modes, "three_types": costs, "model": embedder.get_model_name()}


def show_summary(figures: dict[str, Any]) -> None:
    """Every mode in a line, with the spread of recall@10 over the conversations."""
    shown = table(
        "Evidence recall by mode; @10 in the worst and best conversation",
        "mode",
        *(f"@{k}" for k in CUTOFFS),
        "worst",
        "best",
        "p50 ms",
    )
    for label, part in figures["modes"].items():
        spread = [talk["recall@10"] for talk in part["by_conversation"].values()]
        shares = [*(part[f"recall@{k}"] for k in CUTOFFS), min(spread), max(spread)]
        shown.add_row(
            label,
            *(f"{share:.3f}" for share in shares),
            f"{part['latency_ms']['p50']:.1f}",
            style="bold" if label == "hybrid" else "",
        )
    console.print(shown)
    three = figures["three_types"]
    p95 = three["p95_ms"]
    console.print(
        f"three types at once, embedding given, p95: hybrid {p95['hybrid']:.1f} ms, "
        f"vector {p95['vector']:.1f} ms: {three['p95_ratio']:.2f} times ({COST})\n",
        soft_wrap=True,
    )


def show(mode: str, figures: dict[str, Any]) -> None:
    shown = table(f"{mode}: evidence recall", "category", "questions", *(f"@{k}" for k in CUTOFFS))
    for name, part in [*figures["by_category"].items(), ("all", figures)]:
        shares = (f"{part[f'recall@{k}']:.3f}" for k in CUTOFFS)
        shown.add_row(name, str(part["questions"]), *shares, style="bold" if name == "all" else "")
    console.print(shown)
    latency = ", ".join(f"{name} {ms:.1f} ms" for name, ms in figures["latency_ms"].items())
    console.print(f"one recall, with embedding the question: {latency}\n")


def main() -> None:
    options, talks = locomo_options(__doc__.splitlines()[0])
    questions = [question for talk in talks for question in talk.questions]
    adversarial = sum(question.category == ADVERSARIAL for question in questions)
    kept = sum(len(talk.answerable) for talk in talks)
    left_out = {"adversarial": adversarial, "evidence": len(questions) - adversarial - kept}
    with database() as (address, name):
        figures = asyncio.run(measure(talks, address, name))
    turns = sum(len(talk.turns) for talk in talks)
    console.print(
        f"{len(talks)} conversations, {turns} turns, {kept} questions, {figures['model']}",
        soft_wrap=True,
    )
    console.print(
        f"left out: {adversarial} adversarial questions, {left_out['evidence']} without evidence "
        "or with evidence that names no turn\n",
        soft_wrap=True,
    )
    show_summary(figures)
    for mode in ("vector", "hybrid"):
        show(mode, figures["modes"][mode])
    write_json(
        options.json,
        {
            **figures,
            "conversations": len(talks),
            "turns": turns,
            "questions": kept,
            "left_out": left_out,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
