"""The hot path in ratios: recall over the sequential way, over the bare driver, on each driver.

    python benchmarks/recall.py [--json figures.json] [--rows 1000] [--quick]

What is compared runs in turn, in one process, so that a noisy machine is as noisy for both; each
figure is the median.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from _common import (
    Target,
    add_json,
    console,
    database,
    machine,
    percentile,
    table,
    write_json,
)
from _hot_path import (
    LARGE_TENANT,
    QUICK,
    TYPES,
    Place,
    Size,
    against_bare,
    against_sequential,
    fill,
    in_turn,
)

from memorizz_async import AsyncEmbeddingProvider, AsyncMongoDBProvider

BEAT_S = 0.005

TARGETS = {
    "batch_over_sequential": Target(3.0, at_most=False),
    "batch_over_bare": Target(1.3, at_most=True),
    "heartbeat_p99_ms": Target(20.0, at_most=True),
    "import_over_pymongo": Target(1.5, at_most=True),
    "cache_hit": Target(300.0, at_most=False),
}


async def heartbeat(place: Place, size: Size, embedder: AsyncEmbeddingProvider) -> dict[str, float]:
    """How late a 5 ms heartbeat comes while the model embeds and a scan runs, in milliseconds."""
    texts = iter(range(1_000_000))
    vector = np.ones(384, dtype=np.float32)
    provider = AsyncMongoDBProvider(place.config(search="scan"), embedding_provider=embedder)

    async def work() -> None:
        batch = [f"Text {next(texts)} is embedded while the loop beats." for _ in range(size.texts)]
        await asyncio.gather(
            embedder.encode_documents_async(batch),
            provider.retrieve_memory_units_by_query_async(None, vector, LARGE_TENANT, TYPES[0]),
        )

    async def beat(until: Callable[[int], bool]) -> list[float]:
        late: list[float] = []
        while not until(len(late)):
            started = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            late.append((time.perf_counter() - started - BEAT_S) * 1000)
        return late

    async def keep_working() -> None:
        while True:
            await work()

    async with provider:
        await work()
        idle = await beat(lambda beats: beats >= size.beats)
        working = asyncio.create_task(keep_working())
        busy = await beat(lambda beats: beats >= size.beats)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return {
        "p99_ms": percentile(busy, 99),
        "p50_ms": percentile(busy, 50),
        "most_ms": max(busy),
        "idle_p99_ms": percentile(idle, 99),
    }


async def cache_hit(size: Size) -> dict[str, float]:
    """Embedding a text anew, against the cache."""
    questions = iter(range(1_000_000))
    async with AsyncEmbeddingProvider() as embedder:
        hot = "What does the cache remember?"

        async def compute() -> None:
            await embedder.encode_query_async(f"What does number {next(questions)} say?")

        async def hit() -> None:
            await embedder.encode_query_async(hot)

        computed, hits = await in_turn(size.model_rounds * 3, compute, hit)
    return {
        "computed_ms": median(computed),
        "hit_ms": median(hits),
        "ratio": median(computed) / median(hits),
    }


def imports(size: Size) -> dict[str, Any]:
    """How long imports take in fresh processes, the best of several, in milliseconds."""
    statements = {
        "pymongo": "import pymongo",
        "memorizz_async": "import memorizz_async",
        "names": "from memorizz_async import AsyncMongoDBProvider, MemoryUnit",
    }
    best = dict.fromkeys(statements, float("inf"))
    heavy: set[str] = set()
    for _ in range(size.imports):
        for name, statement in statements.items():
            code = (
                f"import time, sys; t = time.perf_counter(); {statement}\n"
                "print(time.perf_counter() - t, *({'torch', 'fastapi'} & set(sys.modules)))"
            )
            reply = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout.split()
            best[name] = min(best[name], float(reply[0]) * 1000)
            heavy.update(reply[1:])
    return {
        **{f"{name}_ms": ms for name, ms in best.items()},
        "ratio": best["memorizz_async"] / best["pymongo"],
        "names_ratio": best["names"] / best["pymongo"],
        "heavy": sorted(heavy),
    }


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    """The event loops that are installed: name -> factory."""
    found: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None}
    if importlib.util.find_spec("uvloop"):
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    return found


def drivers() -> list[str]:
    return ["pymongo", *(["motor"] if importlib.util.find_spec("motor") else [])]


def measure(place: Place, size: Size) -> dict[str, Any]:
    figures: dict[str, Any] = {"bare": {}}
    with console.status("filling the database …"):
        asyncio.run(fill(place, size, AsyncEmbeddingProvider().get_model_name()))
    for loop, factory in loops().items():
        for driver in drivers():
            with (
                console.status(f"against the bare {driver} on {loop} …"),
                asyncio.Runner(loop_factory=factory) as runner,
            ):
                one = runner.run(against_bare(place, size, driver))
            figures["bare"][f"{driver}, {loop}"] = one

    async def with_model() -> None:
        async with AsyncEmbeddingProvider(cache_entries=0) as embedder:
            figures["sequential"] = await against_sequential(place, size, embedder)
            figures["heartbeat"] = await heartbeat(place, size, embedder)

    with console.status("with the model …"):
        asyncio.run(with_model())
        figures["cache"] = asyncio.run(cache_hit(size))
    with console.status("imports …"):
        figures["imports"] = imports(size)
    return figures


def results_of(figures: dict[str, Any]) -> list[tuple[str, str, float, str]]:
    """(what, its target, the figure, what it is made of)."""
    sequential, beat = figures["sequential"], figures["heartbeat"]
    cache, fresh = figures["cache"], figures["imports"]
    return [
        (
            "sequential over batch recall, real model",
            "batch_over_sequential",
            sequential["ratio"],
            f"{sequential['sequential_ms']:.1f} / {sequential['batch_ms']:.1f} ms",
        ),
        *(
            (
                f"recall over the bare driver: {name}",
                "batch_over_bare",
                one["ratio"],
                f"{one['recall_ms']:.2f} / {one['bare_ms']:.2f} ms",
            )
            for name, one in figures["bare"].items()
        ),
        (
            "p99 of a 5 ms heartbeat, ms late",
            "heartbeat_p99_ms",
            beat["p99_ms"],
            f"median {beat['p50_ms']:.1f}, most {beat['most_ms']:.1f}, "
            f"idle p99 {beat['idle_p99_ms']:.1f}",
        ),
        (
            "import memorizz_async over pymongo",
            "import_over_pymongo",
            fresh["ratio"],
            f"{fresh['memorizz_async_ms']:.0f} / {fresh['pymongo_ms']:.0f} ms; "
            f"with its main names {fresh['names_ms']:.0f} ms",
        ),
        (
            "embedding over a cache hit",
            "cache_hit",
            cache["ratio"],
            f"{cache['computed_ms']:.1f} / {cache['hit_ms']:.3f} ms",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="of each type")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    add_json(parser)
    options = parser.parse_args()
    full = Size(
        rows=options.rows,
        large_rows=10_000,
        rounds=60,
        model_rounds=15,
        texts=64,
        imports=7,
        beats=400,
    )
    size = QUICK if options.quick else full
    with database() as (address, name):
        figures = measure(Place(address, name), size)
    results = results_of(figures)
    shown = table(f"3 memory types, {size.rows:,} rows each", "what", "target", "reached", "")
    for what, target, figure, parts in results:
        verdict = "yes" if TARGETS[target].reached(figure) else "no"
        style = "green" if verdict == "yes" else "red"
        shown.add_row(
            f"{what}\n[dim]{parts}[/]",
            str(TARGETS[target]),
            f"{figure:.2f}",
            f"[{style}]{verdict}[/]",
        )
    console.print(shown)
    heavy = figures["imports"]["heavy"]
    console.print(f"imported without being asked for: {', '.join(heavy) or 'nothing heavy'}")
    write_json(
        options.json,
        {
            "rows": size.rows,
            "ratios": [
                {
                    "what": what,
                    "figure": round(figure, 4),
                    "target": str(TARGETS[target]),
                    "reached": TARGETS[target].reached(figure),
                }
                for what, target, figure, _ in results
            ],
            **figures,
            "machine": machine(),
        },
    )


if __name__ == "__main__":
    main()
