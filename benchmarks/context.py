"""How much of what answers a question gets into a context of so many tokens, on LoCoMo.

    python benchmarks/context.py --data locomo10.json [--json figures.json]

Each conversation is a tenant, with its turns and the facts observed in them. For every question a
context is built inside a budget, 20 turns and 10 facts at most, in ways that differ in one thing
from the default. Evidence is the mean share of the evidence turns that some memory in the context
comes from. Tokens are those of all-MiniLM-L6-v2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from _common import bar, console, database, locomo_options, machine, percentile, table, write_json

from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    ContextTemplate,
    ContextWindowManager,
    MemoryType,
    MemoryUnit,
    MongoDBConfig,
)
from memorizz_async.demo.locomo import Conversation, Question
from memorizz_async.demo.memories import memories_of

BUDGETS = (250, 500, 1000)
LIMITS = {MemoryType.CONVERSATION_MEMORY: 20, MemoryType.LONG_TERM_MEMORY: 10}
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "mmr_lambda=1": {"mmr_lambda": 1.0},
    "mmr_lambda=0.9": {"mmr_lambda": 0.9},
    "mmr_lambda=0.5": {"mmr_lambda": 0.5},
    "duplicate_cosine=None": {"duplicate_cosine": None},
    "duplicate_cosine=0.9": {"duplicate_cosine": 0.9},
    "candidates=1": {"candidates": 1},
    "dates, no sources": {"template": ContextTemplate(line="- {content} ({date})")},
}


async def ask(
    manager: ContextWindowManager, talk: Conversation, question: Question, budget: int
) -> dict[str, float]:
    """What one context holds of the evidence, and how it was packed."""
    window = await manager.build_async(question.text, memory_id=talk.name, budget=budget)
    report = window.report
    assert report.tokens <= budget
    evidence = set(question.evidence)
    found = {dia_id for memory in report.kept for dia_id in IDS[talk.name, memory.id]}
    return {
        "evidence": len(evidence & found) / len(evidence),
        "memories": len(report.kept),
        "tokens": report.tokens,
        "duplicates": sum(left.reason == "duplicate" for left in report.left_out),
        "packing_ms": report.packing_ms,
        "total_ms": report.total_ms,
    }


IDS: dict[tuple[str, str], Sequence[str]] = {}
"""(conversation, id of a row) -> the turns that the row comes from."""


async def store(provider: AsyncMongoDBProvider, talk: Conversation) -> None:
    memories = memories_of(talk)
    for kind in LIMITS:
        rows = memories.get(kind, [])
        if kind is MemoryType.CONVERSATION_MEMORY:
            ids = await provider.store_conversation_async(rows, memory_id=talk.name)
        else:
            ids = await provider.store_many_async(rows, kind, memory_id=talk.name)
        IDS.update(
            {(talk.name, row_id): row["dia_ids"] for row_id, row in zip(ids, rows, strict=True)}
        )


async def measure(talks: Sequence[Conversation], address: str, name: str) -> dict[str, Any]:
    async with (
        AsyncEmbeddingProvider() as embedder,
        AsyncMongoDBProvider(MongoDBConfig(address, name), embedding_provider=embedder) as provider,
    ):
        await provider.ensure_indexes_async(list(LIMITS))
        for talk in bar(talks, "Embedding and storing"):
            await store(provider, talk)
        asked = [(talk, question) for talk in talks for question in talk.answerable]
        unit = MemoryUnit(memory_provider=provider)
        figures: dict[str, Any] = {}
        for way, options in WAYS.items():
            manager = ContextWindowManager(unit, limits=LIMITS, **options)
            figures[way] = {}
            for budget in BUDGETS:
                answers = [
                    await ask(manager, talk, question, budget)
                    for talk, question in bar(asked, f"Asking: {way}, {budget} tokens")
                ]
                means = {name: round(fmean(a[name] for a in answers), 4) for name in answers[0]}
                times = {
                    f"{name}_{rank}": round(percentile([a[f"{name}_ms"] for a in answers], p), 2)
                    for name in ("packing", "total")
                    for rank, p in (("p50", 50), ("p95", 95))
                }
                figures[way][str(budget)] = {**means, **times}
        return {"ways": figures, "model": embedder.get_model_name(), "questions": len(asked)}


def show(figures: dict[str, Any]) -> None:
    shown = table(
        "Share of the evidence in the context, by budget in tokens",
        "way",
        *map(str, BUDGETS),
        "rows",
        "twice",
        "ms p50",
        "p95",
    )
    for way, by_budget in figures["ways"].items():
        most = by_budget[str(BUDGETS[-1])]
        shown.add_row(
            way,
            *(f"{by_budget[str(budget)]['evidence']:.3f}" for budget in BUDGETS),
            f"{most['memories']:.1f}",
            f"{most['duplicates']:.2f}",
            f"{most['packing_p50']:.1f}",
            f"{most['packing_p95']:.1f}",
        )
    console.print(shown)
    console.print(
        f"at {BUDGETS[-1]} tokens: rows in the context, rows left out as duplicates, and the "
        "milliseconds of choosing, counting and writing",
        style="dim",
    )


def main() -> None:
    options, talks = locomo_options(__doc__.splitlines()[0])
    with database() as (address, name):
        figures = asyncio.run(measure(talks, address, name))
    turns = sum(len(talk.turns) for talk in talks)
    console.print(
        f"{len(talks)} conversations, {turns} turns, {figures['questions']} questions, "
        f"{figures['model']}\n",
        soft_wrap=True,
    )
    show(figures)
    write_json(options.json, {**figures, "conversations": len(talks), "machine": machine()})


if __name__ == "__main__":
    main()
