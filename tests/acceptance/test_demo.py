"""The commands as a user runs them, in processes of their own, against a real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

LIMIT_S = 300
COMMAND = (sys.executable, "-m", "memorizz_async")


def run(uri: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "MONGODB_URI": uri, "COLUMNS": "80", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=LIMIT_S,
    )


def test_the_demo_ends_with_its_tables_and_is_repeatable(mongod: Any, db_name: str) -> None:
    """Plain text where nobody watches; a second run writes nothing and gives figures."""
    first = run(mongod.uri, "demo", "--db", db_name, "--questions", "2")
    assert first.returncode == 0, first.stderr
    for words in (
        "MongoDB",
        "long-term",
        "conversation",
        "summaries",
        "workflow",
        "signal",
        "one after another",
        "times faster",
        "What next",
    ):
        assert words in first.stdout
    assert "\x1b" not in first.stdout
    assert first.stderr == ""

    second = run(mongod.uri, "demo", "--db", db_name, "--questions", "2", "--json")
    assert second.returncode == 0, second.stderr
    figures = json.loads(second.stdout)
    assert figures["written"] == 0
    assert figures["stored"]["CONVERSATION_MEMORY"] == 45
    assert figures["database"]["name"] == db_name
    assert len(figures["questions"]) == 2
    for question in figures["questions"]:
        assert set(question["found"]) == set(figures["stored"])
        assert all(question["found"].values())
        assert question["total_ms"] > question["embedding_ms"] > 0
        assert question["sequential_ms"] > 0


def test_what_was_stored_is_recalled(mongod: Any, db_name: str) -> None:
    """store, recall and indexes on one database."""
    place = ("--db", db_name, "--json")
    stored = run(mongod.uri, "store", "I like my coffee black", "--memory-id", "me", *place)
    assert stored.returncode == 0, stored.stderr
    row_id = json.loads(stored.stdout)["_id"]

    query = ("recall", "what do I drink?", "--type", "LONG_TERM_MEMORY", *place)
    mine = json.loads(run(mongod.uri, *query, "--memory-id", "me").stdout)
    assert [hit["_id"] for hit in mine["results"]["LONG_TERM_MEMORY"]] == [row_id]
    assert mine["timings"]["total_ms"] > 0

    indexes = run(mongod.uri, "indexes", *place)
    assert "knowledge_base" in json.loads(indexes.stdout)["ordinary"]


def test_no_server_is_three_lines(db_name: str) -> None:
    """The address is named without its password; there is no traceback."""
    address = "mongodb://ada:hunter2@127.0.0.1:9/"
    ended = run(address, "indexes", "--db", db_name)
    assert ended.returncode == 1
    assert "127.0.0.1:9" in ended.stderr
    assert "to do:" in ended.stderr
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_an_interrupt_ends_cleanly(mongod: Any, db_name: str) -> None:
    """Ctrl-C while the model loads: exit code 130, and no traceback."""
    demo = subprocess.Popen(
        [*COMMAND, "demo", "--db", db_name],
        env={**os.environ, "MONGODB_URI": mongod.uri, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A runner in the background of a shell ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "MongoDB" in line:
            break
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 130
    assert "Traceback" not in err
