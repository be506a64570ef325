"""The benchmarks run, and write the figures that others read."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "memorizz_async" / "demo" / "conversation.json"


def run(uri: str, file: Path, script: str, *arguments: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments, "--json", str(file)],
        env={**os.environ, "MONGODB_URI": uri, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return figures


def test_recall_gives_every_ratio(mongod: Any, tmp_path: Path) -> None:
    """Each driver and loop, the model, the heartbeat, the imports and the cache."""
    figures = run(mongod.uri, tmp_path / "recall.json", "recall.py", "--quick")
    assert {"pymongo, asyncio", "motor, asyncio"} <= set(figures["bare"])
    assert {"sequential", "heartbeat", "cache", "imports"} <= set(figures)
    assert figures["imports"]["heavy"] == []
    for ratio in figures["ratios"]:
        assert ratio["figure"] > 0
        assert isinstance(ratio["reached"], bool)


def test_network_gives_every_ratio_at_every_distance(mongod: Any, tmp_path: Path) -> None:
    """Each comparison with 0, 1, 5 and 20 ms between; a longer way takes longer."""
    figures = run(mongod.uri, tmp_path / "network.json", "network.py", "--quick")
    assert list(figures["ms"]) == ["0", "1", "5", "20"]
    assert all(ratio["figure"] > 0 for ratio in figures["ratios"])
    distances = [ratio["round_trip_ms"] for ratio in figures["ratios"]]
    assert distances == [*([0, 1, 5, 20] * 9), None]
    for far, ms in figures["ms"].items():
        assert min(ms[way] for way in ("3 given", "3 cached")) >= 3 * int(far)
        assert min(ms.values()) >= int(far)


def test_the_proxy_delays_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of all sizes arrive whole, in order, both ways, no sooner than said; the end too."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from _delay_proxy import delayed

    sent = [os.urandom(size) for size in (1, 3_000_000, 7, 500_000)]

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100_000):
            writer.write(piece)
        writer.close()
        await writer.wait_closed()

    async def through() -> tuple[bytes, float]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server:
            with delayed(host, port, 40) as proxy:
                reader, writer = await asyncio.open_connection(host, proxy)
                started = time.perf_counter()
                writer.write(sent[0])
                first = await reader.readexactly(1)
                took = time.perf_counter() - started
                for piece in sent[1:]:
                    writer.write(piece)
                writer.write_eof()
                received = first + await reader.read()
                writer.close()
                await writer.wait_closed()
                return received, took

    received, took = asyncio.run(through())
    assert received == b"".join(sent)
    assert took >= 0.04


def test_search_gives_every_way_side_by_side(mongod: Any, tmp_path: Path) -> None:
    """Each way at each size, the ratios, the memory of a scan, and the lag of others' writes."""
    figures = run(mongod.uri, tmp_path / "search.json", "search.py", "--quick")
    for size in figures["sizes"]:
        filtered = {"filtered_scan", "filtered_resident"}
        assert set(size["ms"]) == {"arrays", "bindata", "scan", "resident", "bare"} | filtered
        assert min(size["ms"].values()) > 0
    assert {ratio["what"] for ratio in figures["ratios"]} == {
        "arrays_over_resident",
        "resident_over_bare",
        "arrays_over_scan",
        "filtered_scan_over_resident",
        "filtered_over_unfiltered",
        "scan_growth_mb",
    }
    assert 0 <= figures["lag_ms"]["p50"] <= figures["lag_ms"]["p99"]


def test_locomo_gives_recall_by_mode(mongod: Any, tmp_path: Path) -> None:
    """Recall at each cutoff, overall and by category, and latency percentiles."""
    figures = run(
        mongod.uri,
        tmp_path / "locomo.json",
        "locomo.py",
        *("--data", str(SHIPPED), "--limit-conversations", "1"),
    )
    assert {"vector", "text", "hybrid"} <= set(figures["modes"])
    for mode in figures["modes"].values():
        assert 0 <= mode["recall@5"] <= mode["recall@10"] <= mode["recall@20"] <= 1
        assert mode["recall@20"] > 0
        assert set(mode["latency_ms"]) == {"p50", "p95", "p99"}
        assert len(mode["by_conversation"]) == 1
    assert figures["three_types"]["p95_ratio"] > 0
    vector = figures["modes"]["vector"]
    assert set(vector["by_category"]) == {"temporal", "open-domain", "single-hop"}
    assert figures["questions"] == 5
    assert figures["left_out"] == {"adversarial": 0, "evidence": 0}


def test_context_gives_the_share_of_evidence_by_budget(mongod: Any, tmp_path: Path) -> None:
    """Every way at every budget, no context above its budget, and how long packing took."""
    figures = run(
        mongod.uri,
        tmp_path / "context.json",
        "context.py",
        *("--data", str(SHIPPED), "--limit-conversations", "1"),
    )
    assert {"default", "mmr_lambda=1", "duplicate_cosine=None"} <= set(figures["ways"])
    for by_budget in figures["ways"].values():
        for budget, way in by_budget.items():
            assert 0 <= way["evidence"] <= 1
            assert 0 < way["tokens"] <= int(budget)
            assert 0 < way["packing_p50"] <= way["packing_p95"]
