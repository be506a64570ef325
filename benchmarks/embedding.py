"""What the embedding engine costs and gains, side by side with the bare model in one run.

    python benchmarks/embedding.py [--json FILE] [--device cuda] [--model NAME] [--quick]

Every figure is a ratio of two things measured in turns, because machines are noisy: bare and ours
alternate, and medians are compared. On a CUDA device the same table is printed for it, with batch
over sequential and CPU over GPU. `reach` is what the project aims at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memorizz_async.embeddings import AsyncEmbeddingProvider

CONCURRENT = 64
DOCUMENTS = 1_000
SAME = 1_000
BEAT_SECONDS = 0.005


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    reach: str
    met: bool
    detail: str


def queries(count: int, salt: object) -> list[str]:
    """Questions as an agent asks them, none of which was asked before."""
    topics = ("the trip to Lisbon", "her new job", "the budget", "machine learning", "the dog")
    return [f"What did Caroline say about {topics[i % 5]}, {salt}, {i}?" for i in range(count)]


def documents(count: int) -> list[str]:
    """Texts of mixed lengths, from a few words to a few sentences."""
    words = ("we", "talked", "about", "the", "plan", "for", "next", "week", "and", "the", "cost")
    return [
        f"note {i}: " + " ".join(words[(i + j) % len(words)] for j in range(4 + i * 37 % 24))
        for i in range(count)
    ]


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


async def timed_async(awaitable: Awaitable[object]) -> float:
    started = time.perf_counter()
    await awaitable
    return time.perf_counter() - started


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


class Bench:
    """The engine without its cache (unless a figure is about it), and the same model bare."""

    def __init__(self, provider: AsyncEmbeddingProvider, bare: Any, rounds: int) -> None:
        self.provider = provider
        self.bare = bare
        self.rounds = rounds

    def encode(self, texts: str | list[str], batch_size: int = 32) -> None:
        self.bare.encode(texts, batch_size=batch_size, show_progress_bar=False)

    async def concurrent(self) -> Figure:
        """64 queries at once through the engine, against the same number one after the other."""
        single, together = [], []
        for round_ in range(self.rounds):
            one_by_one = queries(CONCURRENT, f"a{round_}")
            single.append(
                await timed_async(
                    _in_turn([self.provider.encode_query_async(text) for text in one_by_one])
                )
            )
            at_once = queries(CONCURRENT, f"b{round_}")
            together.append(
                await timed_async(
                    asyncio.gather(*(self.provider.encode_query_async(text) for text in at_once))
                )
            )
        ratio = statistics.median(single) / statistics.median(together)
        return Figure(
            f"{CONCURRENT} concurrent queries over one by one", ratio, "x", ">= 2.5", ratio >= 2.5,
            f"{ms(statistics.median(together))} against {ms(statistics.median(single))}",
        )  # fmt: skip

    async def lone_query(self) -> Figure:
        """One query on an idle engine, against `encode` of the bare model."""
        bare, ours = [], []
        for i, text in enumerate(queries(self.rounds * 20, "lone")):
            # Alternating which goes first: the second of two finds warmer caches.
            first_bare = i % 2
            if first_bare:
                bare.append(timed(lambda text=text: self.encode(text)))  # type: ignore[misc]
            ours.append(await timed_async(self.provider.encode_query_async(text)))
            if not first_bare:
                bare.append(timed(lambda text=text: self.encode(text)))  # type: ignore[misc]
        ratio = statistics.median(ours) / statistics.median(bare)
        return Figure(
            "a lone query over a bare encode, p50", ratio, "x", "<= 1.1", ratio <= 1.1,
            f"{ms(statistics.median(ours))} against {ms(statistics.median(bare))}",
        )  # fmt: skip

    async def bulk(self) -> Figure:
        """1,000 texts in one call, against `encode(batch_size=32)`."""
        texts = documents(DOCUMENTS)
        bare, ours = [], []
        for round_ in range(self.rounds):
            if round_ % 2:
                bare.append(timed(lambda: self.encode(texts, 32)))
            ours.append(await timed_async(self.provider.encode_documents_async(texts)))
            if not round_ % 2:
                bare.append(timed(lambda: self.encode(texts, 32)))
        # Of neighbours in time: what else runs on the machine changes over such a measurement.
        ratio = statistics.median(b / o for b, o in zip(bare, ours, strict=True))
        return Figure(
            f"{DOCUMENTS} texts in one call, throughput over bare encode", ratio, "x",
            ">= 1.0", ratio >= 1.0,
            f"{DOCUMENTS / min(ours):.0f} against {DOCUMENTS / min(bare):.0f} texts/s at best",
        )  # fmt: skip

    async def heartbeat(self) -> Figure:
        """How late a 5 ms timer on the loop fires while 64 texts at a time are embedded."""
        late: list[float] = []
        done = asyncio.Event()

        async def beat() -> None:
            while not done.is_set():
                before = time.perf_counter()
                await asyncio.sleep(BEAT_SECONDS)
                late.append(time.perf_counter() - before - BEAT_SECONDS)

        beating = asyncio.create_task(beat())
        for round_ in range(self.rounds * 2):
            texts = queries(CONCURRENT, f"h{round_}")
            await asyncio.gather(*(self.provider.encode_query_async(text) for text in texts))
        done.set()
        await beating
        p99 = statistics.quantiles(late, n=100)[98] * 1000
        return Figure(
            "heartbeat of 5 ms is late by, p99", p99, "ms", "<= 20", p99 <= 20,
            f"{len(late)} beats, p50 {statistics.median(late) * 1000:.2f} ms, "
            f"max {max(late) * 1000:.2f} ms",
        )  # fmt: skip


async def cache_hit(cached: AsyncEmbeddingProvider, rounds: int) -> Figure:
    """A text that was embedded before, against one that was not."""
    texts = queries(rounds * 10, "cache")
    misses = [await timed_async(cached.encode_query_async(text)) for text in texts]
    hits = [await timed_async(cached.encode_query_async(text)) for text in texts]
    ratio = statistics.median(misses) / statistics.median(hits)
    return Figure(
        "cache hit over computing", ratio, "x", ">= 300", ratio >= 300,
        f"{statistics.median(hits) * 1e6:.1f} µs against {ms(statistics.median(misses))}",
    )  # fmt: skip


async def single_flight(cached: AsyncEmbeddingProvider) -> Figure:
    """How often one text is computed for 1,000 who ask for it at once."""
    before = cached.stats().computed
    await asyncio.gather(*(cached.encode_query_async("asked by everybody") for _ in range(SAME)))
    computed = cached.stats().computed - before
    return Figure(
        f"computations for {SAME} identical concurrent texts",
        computed,
        "",
        "= 1",
        computed == 1,
        "",
    )


async def batch_over_sequential(bench: Bench, device: str) -> Figure:
    """Texts per second in one call, over one text at a time: what a GPU is there for."""
    texts = queries(256, "sequential")
    one_by_one = await timed_async(
        _in_turn([bench.provider.encode_query_async(text) for text in texts])
    )
    together = await timed_async(bench.provider.encode_documents_async(queries(4_096, "batch")))
    ratio = (one_by_one / len(texts)) / (together / 4_096)
    return Figure(
        f"batch over sequential on {device}", ratio, "x", ">= 20", ratio >= 20,
        f"{4_096 / together:.0f} against {len(texts) / one_by_one:.0f} texts/s",
    )  # fmt: skip


async def cpu_over_gpu(model: str | None, gpu: Bench, device: str) -> Figure:
    """The same bulk call on the CPU and on the GPU."""
    texts = documents(2_000)
    on_gpu = await timed_async(gpu.provider.encode_documents_async(texts))
    async with AsyncEmbeddingProvider(model, "cpu", cache_entries=0) as cpu:
        on_cpu = await timed_async(cpu.encode_documents_async(texts))
    ratio = on_cpu / on_gpu
    return Figure(
        f"CPU time over {device} time",
        ratio,
        "x",
        "",
        met=True,
        detail=f"{ms(on_cpu)} against {ms(on_gpu)}",
    )


async def _in_turn(awaitables: list[Any]) -> None:
    for awaitable in awaitables:
        await awaitable


def bare_model(provider: AsyncEmbeddingProvider) -> Any:
    """A model of its own for the bare side, so that no thread shares one with the engine."""
    import sentence_transformers

    from memorizz_async.embeddings.backends.weights import find_weights

    found = find_weights(provider.get_model_name())
    return sentence_transformers.SentenceTransformer(
        found.location, device=provider.get_device(), local_files_only=found.local_only
    )


async def measure(model: str | None, device: str | None, rounds: int) -> tuple[list[Figure], str]:
    """Every figure, and the device they were measured on."""
    # A cached answer would flatter every figure but those about the cache.
    async with (
        AsyncEmbeddingProvider(model, device, cache_entries=0) as provider,
        AsyncEmbeddingProvider(model, device) as cached,
    ):
        bench = Bench(provider, bare_model(provider), rounds)
        for _ in range(3):
            bench.encode(queries(CONCURRENT, "warm"))
            await provider.encode_documents_async(queries(CONCURRENT, "warm"))
            await cached.encode_documents_async(queries(CONCURRENT, "warm"))
        figures = [
            await bench.concurrent(),
            await bench.lone_query(),
            await cache_hit(cached, rounds),
            await single_flight(cached),
            await bench.bulk(),
            await bench.heartbeat(),
        ]
        device_used = provider.get_device()
        if device_used.startswith("cuda"):
            figures += [
                await batch_over_sequential(bench, device_used),
                await cpu_over_gpu(model, bench, device_used),
            ]
    return figures, device_used


def show(figures: list[Figure], title: str) -> None:
    table = Table(title=title)
    for column in ("what", "measured", "reach", "met", "detail"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.value:,.2f} {figure.unit}".strip(),
            figure.reach,
            "[green]yes" if figure.met else "[red]no",
            figure.detail,
        )
    Console(width=None if Console().is_terminal else 140).print(table)


def machine(device: str) -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--model", help="a model's name or folder; left out, EMB_MODEL or MiniLM")
    parser.add_argument("--device", help="left out, EMB_DEVICE or the best that there is")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a smoke test")
    arguments = parser.parse_args()
    figures, device = asyncio.run(
        measure(arguments.model, arguments.device, 2 if arguments.quick else 8)
    )
    about = machine(device)
    show(figures, f"Embeddings on {about['device']}, {about['cpus']} CPU cores")
    if arguments.json:
        report = {"machine": about, "figures": [asdict(figure) for figure in figures]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
