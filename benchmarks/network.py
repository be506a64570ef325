"""What being async gains when the server is far away: the guide's promises, with a delay between.

    python benchmarks/network.py [--json figures.json] [--rows 1000] [--quick]

A proxy of ours stands between the driver and the server and adds 0, 1, 5 and 20 ms to each round
trip. All ways of doing a thing run in turn, in one process; each figure is the median.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from _bare import BareSyncRecall
from _common import Target, add_json, console, database, machine, table, write_json
from _delay_proxy import delayed
from _hot_path import LIMITS, QUICK, TENANT, TYPES, Place, Size, fill

from memorizz_async import AsyncEmbeddingProvider, AsyncMongoDBProvider, MemoryUnit
from memorizz_async.memory_provider.mongodb.driver import blocking_command

DELAYS_MS = (0, 1, 5, 20)
CROWD = 16
_COLLECTION = TYPES[0].collection

SINGLE, BATCH, CACHED = (Target(value, at_most=False) for value in (2.0, 5.0, 100.0))


@dataclass(frozen=True)
class Comparison:
    """How many times faster one way is than another, and what the guide promised of it."""

    what: str
    slow: str
    fast: str
    promised: Target | None = None


COMPARISONS = (
    Comparison(
        "3 types: one after another over batch, embedding given", "3 given", "batch given", BATCH
    ),
    Comparison("the same, each query embedded anew", "3 embedded", "batch embedded", BATCH),
    Comparison("the same, our cache embeds once", "3 cached", "batch embedded", BATCH),
    Comparison("1 query: sync PyMongo over ours, the scan", "sync scan", "our scan", SINGLE),
    Comparison("1 query: sync PyMongo over ours, in memory", "sync scan", "our query", SINGLE),
    Comparison(
        f"{CROWD} queries: sync, one after another, over ours, the scan", "sync crowd", "our scans"
    ),
    Comparison(
        f"{CROWD} queries: sync in {CROWD} threads over ours, the scan", "thread crowd", "our scans"
    ),
    Comparison(
        f"{CROWD} queries: sync in {CROWD} threads over ours, in memory",
        "thread crowd",
        "our queries",
    ),
    Comparison(
        "recall of 3 types: a new text over one in the cache", "batch embedded", "batch cached"
    ),
)

_numbers = count()  # one for the run: no question comes twice, and none is in a cache

Ways = Mapping[str, Callable[[], Awaitable[Any]]]


async def in_turn(rounds: int, ways: Ways) -> dict[str, float]:
    """The median milliseconds of each way, in turn, after a warm-up of all."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name in times if number % 2 else reversed(times):
            started = time.perf_counter()
            await ways[name]()
            if number >= 0:
                times[name].append((time.perf_counter() - started) * 1000)
    return {name: median(values) for name, values in times.items()}


async def against_each_other(
    place: Place,
    rounds: int,
    driver: str,
    fresh: AsyncEmbeddingProvider,
    caching: AsyncEmbeddingProvider,
) -> dict[str, float]:
    """Every way by its name; `fresh` has no cache."""
    vector = np.random.default_rng(11).standard_normal(384, dtype=np.float32)
    vector /= np.linalg.norm(vector)
    provider = AsyncMongoDBProvider(place.config(driver), embedding_provider=fresh)
    cached = AsyncMongoDBProvider(place.config(driver), embedding_provider=caching)
    scanning = AsyncMongoDBProvider(place.config(driver, "scan"))
    unit = MemoryUnit()
    bare = BareSyncRecall(place.address, place.name)
    threads = ThreadPoolExecutor(CROWD)
    loop = asyncio.get_running_loop()

    def question() -> str:
        return f"What happened on day {next(_numbers)}?"

    async def query(of: AsyncMongoDBProvider, text: str | None, kind: Any = TYPES[0]) -> Any:
        given = vector if text is None else None
        return await of.retrieve_memory_units_by_query_async(
            text, given, TENANT, kind, mode="vector"
        )

    async def three(of: AsyncMongoDBProvider, text: str | None) -> None:
        for kind in TYPES:
            await query(of, text, kind)

    async def batch(of: AsyncMongoDBProvider, text: str, given: Any = None) -> None:
        await unit.retrieve_all_memory_types_async(
            text, TENANT, LIMITS, of, query_embedding=given, mode="vector"
        )

    def blocking() -> list[dict[str, Any]]:
        return bare.one(_COLLECTION, TENANT, vector, 5)

    async def in_one_thread(times: int) -> Any:
        """As a blocking program does it; in a thread, so that our own tasks are not held up."""
        return await loop.run_in_executor(threads, lambda: [blocking() for _ in range(times)])

    async def in_threads() -> None:
        await asyncio.gather(*(loop.run_in_executor(threads, blocking) for _ in range(CROWD)))

    async def crowd(of: AsyncMongoDBProvider) -> None:
        await asyncio.gather(*(query(of, None) for _ in range(CROWD)))

    async with provider, cached, scanning:
        [theirs] = await in_one_thread(1)
        for ours in (await query(scanning, None), await query(provider, None)):
            assert [hit["_id"] for hit in ours] == [str(hit["_id"]) for hit in theirs]
        strategy = (await query(provider, None)).strategy
        assert strategy == "resident", f"measured was the search {strategy}"
        figures = await in_turn(
            rounds,
            {
                "3 given": lambda: three(provider, None),
                "batch given": lambda: batch(provider, "given", vector),
                "3 embedded": lambda: three(provider, question()),
                "3 cached": lambda: three(cached, question()),
                "batch embedded": lambda: batch(provider, question()),
                "batch cached": lambda: batch(cached, "What does the cache remember?"),
                "sync scan": lambda: in_one_thread(1),
                "our scan": lambda: query(scanning, None),
                "our query": lambda: query(provider, None),
            },
        )
        figures |= await in_turn(
            max(2, rounds // 2),
            {
                "sync crowd": lambda: in_one_thread(CROWD),
                "thread crowd": in_threads,
                "our scans": lambda: crowd(scanning),
                "our queries": lambda: crowd(provider),
            },
        )
    threads.shutdown()
    bare.close()
    return figures


async def embedding(
    rounds: int, fresh: AsyncEmbeddingProvider, caching: AsyncEmbeddingProvider
) -> dict[str, float]:
    """A text embedded anew, and one from the cache."""
    figures = await in_turn(
        rounds,
        {
            "computed": lambda: fresh.encode_query_async(f"What does number {next(_numbers)} say?"),
            "hit": lambda: caching.encode_query_async("What does the cache remember?"),
        },
    )
    return {**figures, "ratio": figures["computed"] / figures["hit"]}


def through(address: str, port: int) -> str:
    """The same address with the proxy for its server, which is then not asked for its others."""
    parts = urlsplit(address)
    user, at, _ = parts.netloc.rpartition("@")
    options = [option for option in parts.query.split("&") if "replicaset" not in option.lower()]
    query = "&".join([*filter(None, options), "directConnection=true"])
    return urlunsplit((parts.scheme, f"{user}{at}127.0.0.1:{port}", parts.path or "/", query, ""))


def primary(address: str) -> tuple[str, int]:
    """Where the server is that takes writes."""
    if not address.startswith("mongodb://"):
        raise SystemExit("network.py needs MONGODB_URI=mongodb://host:port, one server without TLS")
    hello = blocking_command(address, {"hello": 1}, timeout_s=30)
    here = urlsplit(address).netloc.rpartition("@")[2].split(",")[0]
    host, _, port = str(hello.get("primary", here)).rpartition(":")
    return (host, int(port)) if host else (port, 27017)


def measure(place: Place, size: Size, driver: str) -> dict[str, Any]:
    """Milliseconds by delay, and those of embedding."""
    host, port = primary(place.address)
    figures: dict[str, Any] = {"ms": {}}
    with console.status("filling the database …"):
        asyncio.run(fill(place, size, AsyncEmbeddingProvider().get_model_name()))

    async def everything() -> None:
        async with AsyncEmbeddingProvider(cache_entries=0) as fresh, AsyncEmbeddingProvider() as c:
            figures["embedding"] = await embedding(size.rounds, fresh, c)
            for delay in DELAYS_MS:
                with (
                    console.status(f"{delay} ms away …"),
                    delayed(host, port, delay) as proxy,
                ):
                    there = Place(through(place.address, proxy), place.name)
                    figures["ms"][delay] = await against_each_other(
                        there, size.rounds, driver, fresh, c
                    )

    asyncio.run(everything())
    return figures


def ratios_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Every comparison at every delay, with the promise where there is one."""
    found = [
        {
            "what": one.what,
            "round_trip_ms": delay,
            "figure": round(ms[one.slow] / ms[one.fast], 3),
            "ms": [round(ms[one.slow], 2), round(ms[one.fast], 2)],
            **_promise(one.promised, ms[one.slow] / ms[one.fast]),
        }
        for one in COMPARISONS
        for delay, ms in figures["ms"].items()
    ]
    alone = figures["embedding"]
    return [
        *found,
        {
            "what": "embedding: computed over a cache hit",
            "round_trip_ms": None,
            "figure": round(alone["ratio"], 1),
            "ms": [round(alone["computed"], 2), round(alone["hit"], 4)],
            **_promise(CACHED, alone["ratio"]),
        },
    ]


def _promise(promised: Target | None, figure: float) -> dict[str, Any]:
    if promised is None:
        return {"promised": None, "reached": None}
    return {"promised": str(promised), "reached": promised.reached(figure)}


def show(ratios: list[dict[str, Any]], rows: int) -> None:
    """A line a comparison, a column a distance."""
    shown = table(
        f"times faster, by the round trip to the server; {rows:,} rows of each type",
        "",
        "promised",
        *(f"{delay} ms" for delay in DELAYS_MS),
    )
    for what in dict.fromkeys(ratio["what"] for ratio in ratios):
        cells = [ratio for ratio in ratios if ratio["what"] == what]
        shown.add_row(what, cells[0]["promised"] or "", *map(_cell, cells))
    console.print(shown)


def _cell(ratio: dict[str, Any]) -> str:
    style = {None: "default", True: "green", False: "red"}[ratio["reached"]]
    slow, fast = ratio["ms"]
    return f"[{style}]{ratio['figure']:.2f}[/]\n[dim]{slow:.1f}/{fast:.1f}[/]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000, metavar="N", help="of each type")
    parser.add_argument("--driver", choices=("auto", "motor", "pymongo"), default="auto")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    add_json(parser)
    options = parser.parse_args()
    full = Size(
        rows=options.rows, large_rows=1, rounds=21, model_rounds=0, texts=0, imports=0, beats=0
    )
    size = QUICK if options.quick else full
    with database() as (address, name):
        figures = measure(Place(address, name), size, options.driver)
    ratios = ratios_of(figures)
    show(ratios, size.rows)
    shape = {"rows": size.rows, "driver": options.driver}
    write_json(options.json, {**shape, "ratios": ratios, **figures, "machine": machine()})


if __name__ == "__main__":
    main()
