"""Hostile arguments, environments and streams: never a traceback, always the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memorizz_async import AsyncEmbeddingProvider, cli

RECALL = ["recall", "tea", "--memory-id", "me"]
STORE = ["store", "tea", "--memory-id", "me"]
DEEP = '{"role": ' * 200 + "1" + "}" * 200

INVALID: dict[str, list[str | bytes]] = {
    **{f"limit {text!r}": [*RECALL, "--limit", text] for text in (
        "0", "-1", str(2**63), "1e3", "nan", "inf", "", " ", "1.5", "9" * 5000, "--", "--json",
    )},
    "limit without a value": [*RECALL, "--limit"],
    "query of bytes": [b"recall", b"\xff\xfe", b"--memory-id", b"me"],
    "tenant of bytes": [b"recall", b"tea", b"--memory-id", b"\xff"],
    "tenant that is an option": ["recall", "tea", "--memory-id", "--json"],
    "empty tenant": ["recall", "tea", "--memory-id", ""],
    "stored bytes": [b"store", b"\xff", b"--memory-id", b"me"],
    "stored with a key of bytes": [*STORE, "--dedup-key", b"\xff"],
    "stored for a tenant of bytes": [b"store", b"tea", b"--user-id", b"\xff"],
    "stored without a text": ["store", "", "--memory-id", "me"],
    "command of bytes": [b"\xff"],
    "option of bytes": [*RECALL, b"--\xff"],
    "type of bytes": [*RECALL, "--type", b"\xff"],
    "empty type": [*RECALL, "--type", ""],
    "one of two types is wrong": [*RECALL, "--type", "summaries", "--type", "dreams"],
    "unknown mode": [*RECALL, "--mode", "fast"],
    "repeated argument": [*RECALL, "twice"],
    **{f"filter {text[:20]!r}": [*RECALL, "--filter", text] for text in (
        "", "{", "nul", "{'role': 1}", '{"role": NaN}', '{"role": 1,}', "[]", "1", '"role"',
        '{"$where": "1"}', '{"role": {"$date": 1e400}}', '{"role": {"$oid": "x"}}',
        '{"role": {"$numberLong": "x"}}', '{"role": "\\ud800"}', DEEP, "[" * 100_000,
    )},
    "filter of bytes": [*RECALL, "--filter", b'{"role": "\xff"}'],
    "empty address": [*RECALL, "--uri", ""],
    "address of spaces": [*RECALL, "--uri", "  "],
    "address of bytes": [*RECALL, "--uri", b"mongodb://\xff/"],
    "address without a host": [*RECALL, "--uri", "mongodb://"],
    "address with a bad port": [*RECALL, "--uri", "mongodb://h:99999999/"],
    "empty database": [*RECALL, "--db", ""],
    "database of bytes": [*RECALL, "--db", b"\xff"],
    "action": ["local", "restart"],
    "empty folder": ["local", "status", "--folder", ""],
    "no file": ["demo", "--locomo", ""],
    "folder as a file": ["demo", "--locomo", "/"],
    "file of bytes": ["demo", "--locomo", b"/\xff"],
    "questions": ["demo", "--questions", "-3"],
    "batch size": ["reembed", "--batch-size", "0"],
    "shell": ["completion", "tcsh"],
    "no shell": ["completion"],
    "dash": ["store", "-5 degrees", "--memory-id", "me"],
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_a_wrong_argument_is_exit_code_2_and_json(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a model is loaded or a server is started."""

    async def load(*words: object, **options: object) -> None:
        raise AssertionError("a model is loaded")

    for method in ("load_async", "encode_async", "encode_query_async", "encode_documents_async"):
        monkeypatch.setattr(AsyncEmbeddingProvider, method, load)
    if "address" not in case:
        monkeypatch.setenv("MONGODB_URI", "memory://")
    words = [os.fsdecode(word) for word in INVALID[case]]
    assert cli.main([words[0], "--json", *words[1:]]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert set(error) == {"type", "what", "seen", "to_do", "notes"}
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err) < 2_000


@pytest.mark.parametrize(
    "line",
    [
        [*RECALL, "--db", "a\0b"],
        [*RECALL, "--uri", "mongodb://h\0/"],
        [*RECALL, "--filter", '{"ro\0le": 1}'],
        ["local", "status", "--folder", "a\0b"],
        ["demo", "--locomo", "a\0b"],
        ["rec\0all"],
    ],
)
def test_a_nul_is_refused_by_what_cannot_hold_it(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell passes none, a caller in the same process may."""
    assert cli.main([*line, "--json"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)


def test_a_text_that_begins_with_a_dash_needs_two(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says so, without the text."""
    assert cli.main(["store", "--my secret is out", "--memory-id", "me"]) == 2
    err = capsys.readouterr().err
    assert "put -- before" in err
    assert "secret" not in err


@pytest.mark.parametrize("uri", ["  ", "localhost", "mongodb://ada:Zq7@"])
def test_a_wrong_address_in_the_environment_is_exit_code_2(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message hides the password. (An empty variable is one that is not set.)"""
    monkeypatch.setenv("MONGODB_URI", uri)
    assert cli.main([*RECALL, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["type"] == "InvalidURIError"
    assert "Zq7" not in out + err


def command(
    *words: str, stdin: int | None = None, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m memorizz_async`, without colours that the tests' terminal may have."""
    return subprocess.run(
        [sys.executable, "-m", "memorizz_async", *words],
        env={**os.environ, **environment},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=120,
    )


SCREENS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "narrow": {"COLUMNS": "1"},
    "no width": {"COLUMNS": "0"},
    "width that is no number": {"COLUMNS": "wide"},
    "no colour": {"NO_COLOR": "1"},
    "dumb": {"TERM": "dumb"},
    "unknown": {"TERM": "nonsense"},
    "colour": {"FORCE_COLOR": "1"},
}


@pytest.mark.parametrize("screen", SCREENS)
def test_any_terminal_gets_help_and_errors(screen: str) -> None:
    """In characters that it has."""
    shown = command("recall", "--help", **SCREENS[screen])
    assert shown.returncode == 0
    assert "--memory-id" in shown.stdout
    assert shown.stderr == ""
    wrong = command("recall", "thé", "--limit", "é", "--json", **SCREENS[screen])
    assert wrong.returncode == 2
    assert "--limit" in json.loads(wrong.stdout)["error"]["what"]
    assert "Traceback" not in wrong.stderr
    assert "\x1b" not in shown.stdout + wrong.stdout + wrong.stderr


@pytest.mark.parametrize("screen", SCREENS)
def test_any_terminal_gets_a_result(screen: str, tmp_path: Path) -> None:
    """A result in text and in JSON, whose folder has a letter outside ASCII (where paths may)."""
    folder = tmp_path / ("d" if screen == "C locale" else "dé")
    text = command("local", "status", "--folder", str(folder), **SCREENS[screen])
    assert (text.returncode, text.stderr) == (0, "")
    assert "running   False" in text.stdout
    told = command("local", "status", "--folder", str(folder), "--json", **SCREENS[screen])
    assert json.loads(told.stdout)["running"] is False
    if screen == "ascii":
        assert json.loads(told.stdout)["folder"] == str(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("words", [["--help"], ["completion", "fish"], ["recall", "--json"]])
def test_a_closed_pipe_ends_with_1_and_silently(words: list[str]) -> None:
    """`| head`: the reader has had enough. A usage error still says what is wrong."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = command(*words, stdout=writer)
    os.close(writer)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("words", [["--help"], ["completion", "fish"], ["recall", "--json"]])
def test_a_full_disk_ends_with_1_and_says_so(words: list[str]) -> None:
    """An output that was cut off is no success."""
    with Path("/dev/full").open("w") as full:
        ended = command(*words, stdout=full)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    """Errors never land on standard output instead."""
    line = f'"{sys.executable}" -m memorizz_async recall --json {closed}'
    ended = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    if ended.stdout:
        json.loads(ended.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell")
@pytest.mark.parametrize("stream", [r"printf '\377' |", "printf '' |", "<&-"])
def test_standard_input_that_is_no_text_is_exit_code_2(stream: str) -> None:
    """Bytes that are not UTF-8, nothing, or no stream at all."""
    run = f'"{sys.executable}" -m memorizz_async store - --memory-id me --uri memory:// --json'
    line = f"{stream} {run}" if stream.endswith("|") else f"{run} {stream}"
    ended = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2, ended.stderr
    assert json.loads(ended.stdout)["error"]["type"] != "UsageError"
    assert "Traceback" not in ended.stderr
