"""The command line: what it takes, how it fails, and what it costs to start."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from memorizz_async import (
    BatchResults,
    Explanation,
    FoundBy,
    HitExplanation,
    Hits,
    MemoryType,
    RecallResults,
    __version__,
    cli,
)
from memorizz_async.errors import ServerUnavailableError


def test_every_command_is_told_apart() -> None:
    """Each command has its own function."""
    lines = {
        "demo": ["demo", "--locomo", "x.json", "--questions", "3", "--json"],
        "recall": ["recall", "what?", "--memory-id", "me", "--type", "SUMMARIES", "--limit", "2"],
        "store": ["store", "a text", "--user-id", "u", "--type", "workflow_memory"],
        "indexes": ["indexes", "--uri", "mongodb://x"],
        "reembed": ["reembed", "--type", "SUMMARIES", "--model", "m", "--db", "d", "--json"],
        "local": ["local", "stop", "--folder", "data", "--force"],
    }
    runs = {cli.parser().parse_args(line).run for line in lines.values()}
    assert len(runs) == len(lines)


def test_types_take_any_spelling_and_repeat() -> None:
    """A type may be named in any case, and several may be."""
    options = cli.parser().parse_args(
        ["recall", "q", "--memory-id", "me", "--type", "summaries", "--type", "Workflow_Memory"]
    )
    assert options.types == ["SUMMARIES", "WORKFLOW_MEMORY"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["recall", "q", "--memory-id", "me", "--type", "dreams"], "LONG_TERM_MEMORY"),
        (["recall", "q", "--memory-id", "me", "--limit", "many"], "--limit"),
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
    with pytest.raises(SystemExit) as end:
        cli.main(line)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says the package's."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"memorizz-async {__version__}"


def test_an_error_of_ours_is_three_lines_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What, what was seen, what to do; exit code 1; nothing on standard output."""
    assert cli.main(["demo", "--locomo", str(tmp_path / "absent.json")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: Cannot read")
    assert "seen:" in err
    assert "to do:" in err
    assert "Traceback" not in err


def test_no_question_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo asks at least one."""
    assert cli.main(["demo", "--questions", "0"]) == 1
    assert "1 to 10000" in capsys.readouterr().err


def test_debug_shows_where_an_error_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --debug the error is raised as it is."""
    monkeypatch.setattr(cli, "log_everything", lambda: None)
    with pytest.raises(ValueError, match="Cannot read"):
        cli.main(["demo", "--debug", "--locomo", str(tmp_path / "absent.json")])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (ServerUnavailableError("No server", fix="start one"), 1, "to do: start one"),
        (KeyError("secret"), 1, "--debug"),
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

    def fail(options: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(cli.local, "run", fail)
    assert cli.main(["local", "status"]) == code
    assert words in capsys.readouterr().err


def test_the_command_line_starts_light() -> None:
    """Help is there before a driver, numpy, rich or a model library would be imported."""
    code = (
        "import sys; from memorizz_async import cli; cli.parser().format_help();"
        "print({'pymongo', 'numpy', 'rich', 'torch', 'motor'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.strip() == "set()"


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
    seen: list[argparse.Namespace] = []

    def answer(options: argparse.Namespace, call: object) -> RecallResults:
        seen.append(options)
        return results

    monkeypatch.setattr(cli.recall, "on_provider", answer)
    words = ["recall", "tea", "--memory-id", "me", "--filter", '{"role": "user"}', "--explain"]
    words += ["--mode", "text"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "no $vectorSearch here" in shown
    assert "scan: rank 1, 0.9000" in shown
    assert seen[0].filter == {"role": "user"}
    assert seen[0].mode == "text"
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["explain"]["SUMMARIES"]
    assert told["filter"] == {"role": {"$eq": "user"}}
    assert told["hits"][0]["found_by"] == [{"how": "scan", "rank": 1, "score": 0.9}]
    with pytest.raises(SystemExit):
        cli.main(["recall", "tea", "--memory-id", "me", "--filter", "{"])
    assert "not JSON" in capsys.readouterr().err


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
    """argparse would, where it stands in the wrong place."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "Zq7" not in capsys.readouterr().err
