"""The commands on a real server with the real model, in this process."""

from __future__ import annotations

import json
from typing import Any

import pymongo
import pytest

from memorizz_async import cli

FACT = "Ada is allergic to hazelnuts."


@pytest.fixture
def run(mongod: Any, db_name: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the test's database: its exit code, its output and its errors."""

    def command(*words: str) -> tuple[int, str, str]:
        code = cli.main([*words, "--uri", mongod.uri, "--db", db_name])
        return code, *capsys.readouterr()

    return command


def test_what_is_stored_is_found_in_the_default_mode(run: Any, mongod: Any, db_name: str) -> None:
    """`store` creates the text index that makes recall hybrid, and a key stores nothing twice."""
    stored = [
        json.loads(run("store", FACT, "--memory-id", "ada", "--dedup-key", "nuts", "--json")[1])
        for _ in range(2)
    ]
    assert stored[0] == stored[1]
    with pymongo.MongoClient(mongod.uri) as client:
        rows = client[db_name]["knowledge_base"]
        assert rows.count_documents({}) == 1
        assert "memorizz_text" in rows.index_information()
    words = ("recall", "hazelnuts", "--memory-id", "ada", "--type", "LONG_TERM_MEMORY", "--json")
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert [hit["content"] for hit in told["results"]["LONG_TERM_MEMORY"]] == [FACT]
    assert "text_score" in told["results"]["LONG_TERM_MEMORY"][0]
    assert (told["errors"], told["tenant_known"]) == ({}, True)


def test_a_tenant_that_has_no_memory_is_reported(run: Any) -> None:
    """Rather than an empty table alone; a tenant without a match is none of those."""
    run("store", FACT, "--memory-id", "ada")
    code, out, err = run("recall", "nuts", "--memory-id", "adda", "--json")
    assert code == 0
    assert json.loads(out)["tenant_known"] is False
    assert "no memory of memory_id 'adda'" in err
    other = ("--type", "SUMMARIES", "--json")
    code, out, err = run("recall", "nuts", "--memory-id", "ada", *other)
    assert json.loads(out)["tenant_known"] is True
    assert err == ""
