"""The command line: what it takes, how it fails, and what it costs to start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import DatetimeMS, Decimal128, ObjectId, Regex

from memorizz_async import (
    AsyncEmbeddingProvider,
    BatchResults,
    Explanation,
    FoundBy,
    HitExplanation,
    Hits,
    MemoryType,
    MemoryUnit,
    RecallResults,
    __version__,
    cli,
)
from memorizz_async.cli import local
from memorizz_async.cli.app import PROGRAM, app
from memorizz_async.cli.output import print_json
from memorizz_async.demo.report import command_name
from memorizz_async.errors import (
    InvalidQueryError,
    InvalidURIError,
    MissingDependencyError,
    ServerUnavailableError,
)
from memorizz_async.memory_provider.mongodb.filters import parse_filter

DAY = datetime(2026, 1, 31, tzinfo=UTC)


def parsed(line: list[str]) -> dict[str, Any]:
    """The values that a command would get."""
    with app.make_context(PROGRAM, line) as root:
        name, command, words = app.resolve_command(root, line)
        assert command is not None
        return command.make_context(name, words, parent=root).params


def test_types_take_any_spelling_and_repeat() -> None:
    """A type may be named in any case, and several may be."""
    options = parsed(
        ["recall", "q", "--memory-id", "me", "--type", "summaries", "--type", "Workflow_Memory"]
    )
    assert options["types"] == ("SUMMARIES", "WORKFLOW_MEMORY")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"created_at": {"$gte": {"$date": "2026-01-31T00:00:00Z"}}}', DAY),
        ('{"created_at": {"$gte": {"$date": {"$numberLong": "1769817600000"}}}}', DAY),
        ('{"created_at": {"$gte": "2026-01-31"}}', "2026-01-31"),
    ],
)
def test_a_filter_can_name_a_date(text: str, expected: object) -> None:
    """As MongoDB's extended JSON, or as ISO text, which the filter itself reads."""
    condition = parsed(["recall", "q", "--memory-id", "me", "--filter", text])["condition"]
    assert condition == {"created_at": {"$gte": expected}}
    parse_filter(condition, ("created_at",))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["recall", "q", "--memory-id", "me", "--limit", "0"], "1 to 10000"),
        (["recall", "q", "--memory-id", "me", "--filter", "{"], "not JSON"),
        (["recall", "q", "--memory-id", "me", "--filter", "[" * 5000], "JSON"),
        (
            ["recall", "q", "--memory-id", "me", "--filter", '{"a": {"$date": "yesterday"}}'],
            "extended JSON",
        ),
        (["dance"], "dance"),
        (["recall", "q", "--memory-id", "me", "--type", "dreams"], "LONG_TERM_MEMORY"),
        (["recall", "q", "--memory-id", "me", "--limit", "many"], "--limit"),
        (["recall", "q", "--memory-id", "me", "--limit", "0"], "--limit"),
        (["recall", "q", "--memory-id", "me", "--limit", "10001"], "--limit"),
        (["recall", " ", "--memory-id", "me"], "empty"),
        (["recall", "q"], "--memory-id"),
        (["store", "text"], "--memory-id"),
        (["local"], "status"),
        (["demo", "--questions", "none"], "--questions"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(
    line: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names what is missing or wrong."""
    assert cli.main(line) == 2
    assert words in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says the package's."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"memorizz-async {__version__}"


def test_an_error_of_ours_is_three_lines_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, what was seen, what to do; nothing on standard output."""
    assert cli.main(["demo", "--locomo", str(tmp_path / "absent.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: Cannot read")
    assert "seen:" in err
    assert "snap-research/locomo" in err.partition("to do:")[2], "where the file comes from"
    assert "Traceback" not in err


def test_no_question_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo asks at least one."""
    assert cli.main(["demo", "--questions", "0"]) == 2
    assert "1 to 10000" in capsys.readouterr().err


def test_debug_shows_where_an_error_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --debug there is a traceback besides; the exit code and the JSON stay."""
    monkeypatch.setattr(cli, "log_everything", lambda: None)
    line = ["demo", "--debug", "--json", "--locomo", str(tmp_path / "absent.json")]
    assert cli.main(line) == 2
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert "error: Cannot read" in err
    assert "Cannot read" in json.loads(out)["error"]["what"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (ServerUnavailableError("No server", fix="start one"), 1, "to do: start one"),
        (KeyError("secret"), 1, "--debug"),
        (InvalidQueryError("The query is empty"), 2, "empty"),
        (InvalidURIError("The address cannot be read"), 2, "address"),
        (MissingDependencyError("motor is not installed"), 1, "motor"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """130 for an interrupt, 1 for an error, and a word about each."""

    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(local.command, "callback", fail)
    assert cli.main(["local", "status"]) == code
    assert words in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    """`python -m memorizz_async` is the same command."""
    ended = subprocess.run(
        [sys.executable, "-m", "memorizz_async", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "memorizz-async demo" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_a_recall_can_be_filtered_and_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The filter is JSON and reaches the call; the explanation is shown, in JSON too."""
    hits = Hits(
        [{"_id": "1", "content": "tea", "score": 0.9, "memory_signal": 0.8}],
        strategy="scan",
        explain=Explanation(
            strategy="scan",
            why="no $vectorSearch here",
            index=None,
            exact=True,
            scope={"memory_id": "me"},
            filter={"role": {"$eq": "user"}},
            hits=[HitExplanation("1", 1, 0.9, (FoundBy("scan", 1, 0.9),))],
            steps_ms={"scan": 1.5},
        ),
    )
    types = {"SUMMARIES": MemoryType.SUMMARIES}
    results = RecallResults(BatchResults({"SUMMARIES": hits}, types=types), total_ms=2.0)
    seen: list[dict[str, Any]] = []

    async def retrieve(self: object, query: str, **options: Any) -> RecallResults:
        seen.append(options)
        return results

    async def load_async(self: object) -> None:
        """Load no model."""

    monkeypatch.setenv("MONGODB_URI", "memory://")
    monkeypatch.setattr(MemoryUnit, "retrieve_all_memory_types_async", retrieve)
    monkeypatch.setattr(AsyncEmbeddingProvider, "load_async", load_async)
    words = ["recall", "tea", "--memory-id", "me", "--filter", '{"role": "user"}', "--explain"]
    words += ["--mode", "text"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "no $vectorSearch here" in shown
    assert "scan: rank 1, 0.9000" in shown
    assert seen[0]["filter"] == {"role": "user"}
    assert seen[0]["mode"] == "text"
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["explain"]["SUMMARIES"]
    assert told["filter"] == {"role": {"$eq": "user"}}
    assert told["hits"][0]["found_by"] == [{"how": "scan", "rank": 1, "score": 0.9}]
    assert cli.main(["recall", "tea", "--memory-id", "me", "--filter", "{"]) == 2
    assert "not JSON" in capsys.readouterr().err


WRONG = {
    "a filter on a path that is not declared": ["--filter", '{"colour": "red"}'],
    "a filter that is a list": ["--filter", "[1]"],
    "an operator that does not exist": ["--filter", '{"role": {"$near": 1}}'],
    "a database that MongoDB does not take": ["--db", "a b"],
    "an address without a scheme": ["--uri", "localhost:27017"],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_argument_is_found_before_a_model_is_loaded(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; with --json, standard output has the error as JSON."""

    async def load_async(self: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(AsyncEmbeddingProvider, "load_async", load_async)
    assert cli.main(["recall", "tea", "--memory-id", "me", *WRONG[wrong], "--json"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    told = json.loads(out)["error"]
    assert set(told) == {"type", "what", "seen", "to_do", "notes"}
    assert told["what"] in err


def test_a_wrong_usage_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Where --json is asked for, a pipe gets JSON."""
    assert cli.main(["recall", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert set(error) == {"type", "what", "seen", "to_do", "notes"}
    assert "QUERY" in error["what"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (1.5, 1.5),
        (2**70, 2**70),
        (b"\x00\xff", "AP8="),
        (datetime(2026, 11, 25, tzinfo=UTC), "2026-11-25T00:00:00+00:00"),
        (ObjectId("0" * 24), "0" * 24),
        (Decimal128("NaN"), "NaN"),
        (DatetimeMS(2**60), "+36536598-01-28T21:54:06.976+00:00"),
        (Regex("a"), str(Regex("a"))),
        ({1: {"a": (float("nan"), {2})}}, {"1": {"a": [None, [2]]}}),
        ("\ud800", "?"),
    ],
)
def test_whatever_a_row_holds_is_printed_as_json(
    value: object, shown: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of JSON's own types, without NaN and Infinity, which are no JSON."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    print_json({"value": value})
    out = capsys.readouterr().out.encode(errors="replace").decode()
    assert json.loads(out, parse_constant=refuse) == {"value": shown}


def test_the_next_commands_can_be_run_by_the_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By name where it is on the PATH; inside nox, whose PATH is its own, by the script's path."""
    monkeypatch.delenv("NOX_CURRENT_SESSION", raising=False)
    script = Path(sys.executable).with_name("memorizz-async")
    monkeypatch.setenv("PATH", str(script.parent))
    assert command_name() == "memorizz-async"
    # Outside the environment's folder: inside it, the shorter relative path is printed.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_name() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    monkeypatch.setenv("NOX_CURRENT_SESSION", "demo")
    monkeypatch.chdir(script.parents[1])
    assert command_name() == "bin/memorizz-async"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a python"))
    assert command_name() == f"'{tmp_path}/a python' -m memorizz_async"


INTERRUPTED = """
import asyncio, signal, sys, threading, time
from memorizz_async import cli
from memorizz_async.embeddings import AsyncEmbeddingProvider

async def load_async(self):  # as a model does: in a thread that nothing interrupts
    print("loading", flush=True)
    await asyncio.to_thread(time.sleep, 60)

AsyncEmbeddingProvider.load_async = load_async
sys.exit(cli.main(["recall", "tea", "--memory-id", "me", "--uri", "memory://"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT of POSIX")
def test_an_interrupt_while_a_model_loads_ends_the_program_with_one_line() -> None:
    """Though the thread that loads it goes on."""
    started = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "loading\n"
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=10)
    assert started.returncode == 130
    assert err.strip() == "interrupted"


@pytest.mark.parametrize(
    "arguments",
    [
        ["recall", "q", "--memory-id", "m", "mongodb://root:Zq7@h"],
        ["recall", "q", "--memory-id", "m", "--limit", "root:Zq7@h"],
        ["recall", "q", "--memory-id", "m", "--type", "root:Zq7@h"],
        ["mongodb://root:Zq7@h"],
    ],
)
def test_a_usage_error_repeats_no_address(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Click would, where it stands in the wrong place."""
    assert cli.main(arguments) == 2
    assert "Zq7" not in capsys.readouterr().err
