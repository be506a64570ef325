"""Exact vector search of one user's rows, side by side: by hand, by scan, and in memory.

    python benchmarks/search.py [--json figures.json] [--quick]

The ways run in turn, in one process, so that a noisy machine is as noisy for all; each figure is
the median. Peak memory is measured in a process of its own, and the lag of another process's writes
with a writer in one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pymongo
from _common import (
    Target,
    add_json,
    bar,
    console,
    database,
    machine,
    percentile,
    table,
    write_json,
)

from memorizz_async import AsyncMongoDBProvider, MemoryType, MongoDBConfig
from memorizz_async.vectors import stored_vector, to_bson

KIND = MemoryType.LONG_TERM_MEMORY
ARRAYS = MemoryType.SUMMARIES.collection
"""The same rows with arrays of doubles, as memorizz writes them."""
DIMENSIONS, LIMIT = 384, 10
FILTER = {"role": "user", "importance": {"$gte": 0.5}}
"""Every eighth row passes."""
WAYS = ("arrays", "bindata", "scan", "resident", "bare", "filtered_scan", "filtered_resident")
TITLES = {
    "arrays": "fetch arrays, numpy",
    "bindata": "fetch BinData, numpy",
    "scan": "scan",
    "resident": "resident",
    "bare": "bare numpy in memory + one find",
    "filtered_scan": "filtered: scan",
    "filtered_resident": "filtered: resident",
}
TARGETS = {
    "arrays_over_resident": Target(200.0, at_most=False),
    "resident_over_bare": Target(2.0, at_most=True),
    "arrays_over_scan": Target(4.0, at_most=False),
    "filtered_scan_over_resident": Target(10.0, at_most=False),
    "filtered_over_unfiltered": Target(2.0, at_most=True),
    "scan_growth_mb": Target(60.0, at_most=True),
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rows: tuple[int, ...]
    asked: int
    """Of which number of rows the ratios are asked."""
    slow_rounds: int
    rounds: int
    writes: int


FULL = Size((1_000, 20_000, 100_000), 20_000, 5, 12, 500)
QUICK = Size((200, 1_000), 1_000, 2, 2, 20)
IN_A_ROW = 8
"""How often a fast way is asked in its turn. BLAS, by which bare numpy multiplies, leaves a thread
spinning for some milliseconds after its work: whoever is asked next would pay for it."""


def unit_vectors(count: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill(address: str, name: str, rows: int) -> None:
    """One user's rows, twice: as BinData and as arrays of doubles."""
    with pymongo.MongoClient(address) as client:
        for collection in (KIND.collection, ARRAYS):
            client[name][collection].create_index([("memory_id", 1), ("user_id", 1)])
        vectors, importance = unit_vectors(rows, 7), np.random.default_rng(8).random(rows)
        for start in bar(range(0, rows, 1_000), f"writing {rows:,} rows, twice …"):
            for collection, form in ((KIND.collection, to_bson), (ARRAYS, np.ndarray.tolist)):
                client[name][collection].insert_many(
                    {
                        "memory_id": f"user{rows}",
                        "user_id": None,
                        "content": f"Memory {start + number}: what was said and done that day.",
                        "role": "user" if number % 4 == 0 else "assistant",
                        "importance": float(importance[start + number]),
                        "embedding": form(vector),
                    }
                    for number, vector in enumerate(vectors[start : start + 1_000])
                )


class ByHand:
    """What people write against the driver: fetch the vectors, and ask numpy."""

    def __init__(self, address: str, name: str, rows: int, query: Any) -> None:
        self._client: Any = pymongo.AsyncMongoClient(address)
        self._database = self._client[name]
        self._scope = {"memory_id": f"user{rows}"}
        self._query = query
        self._ids: list[Any] = []
        self._matrix: Any = None

    async def fetch(self, collection: str, read: Callable[[Any], Any]) -> list[Any]:
        rows = await self._database[collection].find(self._scope, {"embedding": 1}).to_list(None)
        ids = [row["_id"] for row in rows]
        matrix = np.array([read(row["embedding"]) for row in rows], dtype=np.float32)
        return await self._hits(collection, ids, matrix)

    async def arrays(self) -> list[Any]:
        return await self.fetch(ARRAYS, lambda value: value)

    async def bindata(self) -> list[Any]:
        return await self.fetch(KIND.collection, stored_vector)

    async def load(self) -> None:
        rows = await (
            self._database[KIND.collection].find(self._scope, {"embedding": 1}).to_list(None)
        )
        self._ids = [row["_id"] for row in rows]
        self._matrix = np.stack([stored_vector(row["embedding"]) for row in rows])

    async def bare(self) -> list[Any]:
        return await self._hits(KIND.collection, self._ids, self._matrix)

    async def close(self) -> None:
        await self._client.close()

    async def _hits(self, collection: str, ids: list[Any], matrix: Any) -> list[Any]:
        scores = matrix @ self._query
        top = np.argpartition(scores, len(scores) - LIMIT)[-LIMIT:]
        top = top[np.argsort(-scores[top])]
        wanted = [ids[position] for position in top.tolist()]
        found = await (
            self._database[collection].find({"_id": {"$in": wanted}}, {"embedding": 0}).to_list()
        )
        by_id = {row["_id"]: row for row in found}
        return [by_id[row_id]["content"] for row_id in wanted]


def config(address: str, name: str, strategy: Any) -> MongoDBConfig:
    return MongoDBConfig(
        address, name, driver="pymongo", search_strategy=strategy, resident_memory_mb=512
    )


async def side_by_side(address: str, name: str, rows: int, size: Size) -> dict[str, Any]:
    """Milliseconds of each way over the rows of one user; all must find the same."""
    query = unit_vectors(1, 11)[0]
    by_hand = ByHand(address, name, rows, query)
    await by_hand.load()
    async with (
        AsyncMongoDBProvider(config(address, name, "scan")) as scanning,
        AsyncMongoDBProvider(config(address, name, "resident")) as resident,
    ):

        def asking(
            provider: AsyncMongoDBProvider, strategy: str, wanted: Any = None
        ) -> Callable[[], Awaitable[Any]]:
            async def ask() -> list[Any]:
                hits = await provider.retrieve_memory_units_by_query_async(
                    None, query, f"user{rows}", KIND, LIMIT, filter=wanted
                )
                assert hits.strategy == strategy
                return [hit["content"] for hit in hits]

            return ask

        ways: dict[str, Callable[[], Awaitable[Any]]] = {
            "arrays": by_hand.arrays,
            "bindata": by_hand.bindata,
            "scan": asking(scanning, "scan"),
            "resident": asking(resident, "resident"),
            "bare": by_hand.bare,
            "filtered_scan": asking(scanning, "scan", FILTER),
            "filtered_resident": asking(resident, "resident", FILTER),
        }
        load_ms = {}
        for way in ("resident", "filtered_resident"):  # the second reads the filter's fields, too
            started = time.perf_counter()
            await ways[way]()
            load_ms[way] = (time.perf_counter() - started) * 1000
        found = {way: await ask() for way, ask in ways.items()}
        for way, hits in found.items():
            same = found["filtered_scan" if way.startswith("filtered") else "scan"]
            assert hits == same, "the ways found different memories"
        times: dict[str, list[float]] = {way: [] for way in ways}
        slow = {"arrays", "bindata", "scan", "filtered_scan"}
        for number in bar(range(size.rounds), f"{rows:,} vectors …"):
            # Slow and fast ways in the same stretch of time, the slow ones less often.
            now = ways if number < size.slow_rounds else ways.keys() - slow
            for way in sorted(now, reverse=bool(number % 2)):
                for _ in range(1 if way in slow else IN_A_ROW):
                    started = time.perf_counter()
                    await ways[way]()
                    times[way].append((time.perf_counter() - started) * 1000)
    await by_hand.close()
    return {
        "rows": rows,
        "ms": {way: median(taken) for way, taken in times.items()},
        "first_search_ms": load_ms,
    }


MEMORY = """
import asyncio, json, sys, threading
import numpy as np, psutil
sys.path.insert(0, sys.argv[4])
from search import KIND, LIMIT, config, unit_vectors
from memorizz_async import AsyncMongoDBProvider

address, name, rows = sys.argv[1], sys.argv[2], sys.argv[3]
me, peak, done = psutil.Process(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, me.memory_info().rss)
        done.wait(0.001)

async def scan():
    query = unit_vectors(1, 11)[0]
    async with AsyncMongoDBProvider(config(address, name, "scan")) as provider:
        await provider.retrieve_memory_units_by_query_async(None, query, "nobody", KIND, LIMIT)
        before = me.memory_info().rss
        watcher = threading.Thread(target=watch)
        watcher.start()
        await provider.retrieve_memory_units_by_query_async(None, query, "user" + rows, KIND, LIMIT)
        done.set()
        watcher.join()
        print(json.dumps((peak - before) / 1e6))

asyncio.run(scan())
"""

WRITER = """
import sys, time, pymongo
from bson import ObjectId
from bson.binary import Binary
name, collection, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
with pymongo.MongoClient(sys.argv[1]) as client:
    rows = client[name][collection]
    for number in range(count):
        row = {"_id": ObjectId(), "memory_id": "lag", "user_id": None}
        row["embedding"] = Binary(bytes.fromhex("2700") + bytes(1535) + b"\\x3f", 9)
        rows.insert_one(row)
        print(row["_id"], time.time(), flush=True)
        time.sleep(0.005)
"""


def scan_growth_mb(address: str, name: str, rows: int) -> float:
    """By how much a process grows while it scans, at its highest, in megabytes."""
    folder = str(Path(__file__).parent)
    reply = subprocess.run(
        [sys.executable, "-c", MEMORY, address, name, str(rows), folder],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(reply.stdout))


async def lag_ms(address: str, name: str, writes: int) -> list[float]:
    """How long after another process's write has returned it is in memory here, in milliseconds."""
    async with AsyncMongoDBProvider(config(address, name, "resident")) as provider:
        vector = unit_vectors(1, 3)[0]
        await provider.store_async({"content": "first", "embedding": vector}, KIND, memory_id="lag")
        await provider.retrieve_memory_units_by_query_async(None, vector, "lag", KIND, 1)
        store = (await provider._connection.session()).residents
        seen: dict[str, float] = {}
        apply = store._apply

        def noted(event: Any) -> None:
            apply(event)
            seen[str(event["documentKey"]["_id"])] = time.time()

        store._apply = noted  # type: ignore[method-assign]
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, address, name, KIND.collection, str(writes)),
            stdout=subprocess.PIPE,
        )
        output, _ = await writer.communicate()
        from memorizz_async.deadline import Deadline

        await store.caught_up(Deadline.after(20_000))
    sent = dict(line.split() for line in output.decode().splitlines())
    return [max(0.0, (seen[row_id] - float(at)) * 1000) for row_id, at in sent.items()]


def measure(address: str, name: str, size: Size) -> dict[str, Any]:
    for rows in size.rows:
        fill(address, name, rows)
    figures: dict[str, Any] = {
        "sizes": [asyncio.run(side_by_side(address, name, rows, size)) for rows in size.rows]
    }
    with console.status("memory of a scan, lag of another's writes …"):
        figures["scan_growth_mb"] = scan_growth_mb(address, name, size.rows[-1])
        lags = asyncio.run(lag_ms(address, name, size.writes))
    figures["lag_ms"] = {"p50": percentile(lags, 50), "p99": percentile(lags, 99)}
    ms = next(each["ms"] for each in figures["sizes"] if each["rows"] == size.asked)
    figures["ratios"] = [
        {
            "what": what,
            "figure": round(figure, 4),
            "target": str(TARGETS[what]),
            "reached": TARGETS[what].reached(figure),
        }
        for what, figure in {
            "arrays_over_resident": ms["arrays"] / ms["resident"],
            "resident_over_bare": ms["resident"] / ms["bare"],
            "arrays_over_scan": ms["arrays"] / ms["scan"],
            "filtered_scan_over_resident": ms["filtered_scan"] / ms["filtered_resident"],
            "filtered_over_unfiltered": ms["filtered_resident"] / ms["resident"],
            "scan_growth_mb": figures["scan_growth_mb"],
        }.items()
    ]
    return figures


def show(figures: dict[str, Any], size: Size) -> None:
    sizes = figures["sizes"]
    times = table(
        f"One search of one user's vectors, {DIMENSIONS} dimensions, ms (median)",
        "way",
        *(f"{each['rows']:,}" for each in sizes),
    )
    for way in WAYS:
        times.add_row(TITLES[way], *(f"{each['ms'][way]:.2f}" for each in sizes))
    for way, which in (("resident", "search"), ("filtered_resident", "filter")):
        times.add_row(
            f"[dim]resident, the first {which}, which loads[/]",
            *(f"[dim]{each['first_search_ms'][way]:.0f}[/]" for each in sizes),
        )
    console.print(times)
    titles = {
        "arrays_over_resident": f"fetching arrays over resident, {size.asked:,}",
        "resident_over_bare": f"resident over bare numpy + one find, {size.asked:,}",
        "arrays_over_scan": f"fetching arrays over scan, {size.asked:,}",
        "filtered_scan_over_resident": f"filtered: scan over resident, {size.asked:,}",
        "filtered_over_unfiltered": f"resident: filtered over unfiltered, {size.asked:,}",
        "scan_growth_mb": f"peak memory growth of a scan of {size.rows[-1]:,}, MB",
    }
    ratios = table("Ratios", "what", "target", "reached", "")
    for ratio in figures["ratios"]:
        style = "green" if ratio["reached"] else "red"
        verdict = "yes" if ratio["reached"] else "no"
        ratios.add_row(
            titles[ratio["what"]],
            ratio["target"],
            f"{ratio['figure']:.2f}",
            f"[{style}]{verdict}[/]",
        )
    console.print(ratios)
    lag = figures["lag_ms"]
    console.print(
        f"another process's write is in memory after {lag['p50']:.1f} ms (p50), "
        f"{lag['p99']:.1f} ms (p99)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    add_json(parser)
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    with database() as (address, name):
        figures = measure(address, name, size)
    show(figures, size)
    write_json(options.json, {**figures, "dimensions": DIMENSIONS, "machine": machine()})


if __name__ == "__main__":
    main()
