"""The commands of the command line: help, suggestions, completion, and the cost of a start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from memorizz_async import MemoryType, cli
from memorizz_async.cli import demo, reembed
from memorizz_async.cli.app import COMMANDS, COMPLETE_VARIABLE, PROGRAM, app
from memorizz_async.demo.run import QUESTIONS
from memorizz_async.memory_provider.mongodb.reembedding.run import BATCH_SIZE

NAMES = [entry.name for entry in COMMANDS]
HEAVY = {
    *("pymongo", "bson", "motor", "numpy", "rich", "torch", "sentence_transformers"),
    *("asyncio", "importlib.metadata"),
}
START = "import sys; sys.argv = sys.argv[1:]; from memorizz_async.cli import main; code = main()"


def process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process; its last line on standard error lists heavy modules."""
    code = f"{START}; print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    return subprocess.run(
        [sys.executable, "-c", code, PROGRAM, *words],
        env={**os.environ, "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard output, as with --help; that is no error."""
    assert cli.main([]) == 0
    bare = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    for words in ("Usage: memorizz-async", "Memory commands", "Database commands", "Exit codes"):
        assert words in bare
    for name in NAMES:
        assert f"\n  {name} " in bare


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the exit codes, and the memory types if the command takes one."""
    assert cli.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "Exit codes: 0 success" in shown
    words = " ".join(shown.split())
    assert ("--type TYPE" in words) == ("Memory types: " in words)
    if "--type TYPE" in words:
        assert all(kind.name in words for kind in MemoryType)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], *([n, "--help"] for n in NAMES)])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    """Neither a driver nor numpy, rich, asyncio or a model library."""
    ended = process(*words)
    assert ended.returncode == 0
    assert ended.stderr == "\n"
    assert max(map(len, ended.stdout.splitlines())) <= 80
    assert ended.stdout.isascii()


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        (["recal"], "Did you mean recall"),
        (["idnexes"], "Did you mean indexes?"),
        (["quantum"], "Use recall, store,"),
        (["recall", "q", "--memory-idd", "me"], "--memory-id"),
        (["store", "text", "--dedup", "k"], "--dedup-key"),
        (["local", "status", "--jsn"], "--json"),
    ],
)
def test_a_misspelled_word_gets_a_suggestion(
    line: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands as well as options, and exit code 2."""
    assert cli.main(line) == 2
    out, err = capsys.readouterr()
    assert suggestion in err
    assert "--help" in err
    assert out == ""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("memorizz-async ", NAMES),
        ("memorizz-async re", ["recall", "reembed"]),
        ("memorizz-async recall q --type SU", ["SUMMARIES"]),
        ("memorizz-async recall q --type sh", ["SHORT_TERM_MEMORY", "SHARED_MEMORY"]),
        ("memorizz-async recall q --mode ", ["hybrid", "vector", "text"]),
        ("memorizz-async local ", ["status", "start", "stop"]),
        ("memorizz-async recall --ex", ["--explain"]),
        ("memorizz-async completion z", ["zsh"]),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_words(shell: str, typed: str, expected: list[str]) -> None:
    """Commands, options, memory types and choices; without a heavy import."""
    last = typed.rpartition(" ")[2]
    place = last if shell == "fish" else str(len(typed.split(" ")) - 1)
    request = {COMPLETE_VARIABLE: f"{shell}_complete", "COMP_WORDS": typed, "COMP_CWORD": place}
    ended = process(**request)
    lines = ended.stdout.splitlines()
    values = {
        "bash": [line.partition(",")[2] for line in lines],
        "zsh": lines[1::3],
        "fish": [line.partition(",")[2].partition("\t")[0] for line in lines],
    }
    assert values[shell] == expected
    assert ended.stderr == "\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same that Click's variable asks for, as text or as JSON."""
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert COMPLETE_VARIABLE in script
    assert f"{shell}_complete" in script
    assert cli.main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": shell, "script": script[:-1]}
    assert process(**{COMPLETE_VARIABLE: f"{shell}_source"}).stdout in (script, script[:-1])


def test_the_script_for_bash_works_in_bash(capsys: pytest.CaptureFixture[str]) -> None:
    """Bash reads it, and its function fills in the commands."""
    cli.main(["completion", "bash"])
    script = capsys.readouterr().out
    command = Path(sys.executable).with_name(PROGRAM)
    line = f"COMP_WORDS=({command} re); COMP_CWORD=1; _memorizz_async_completion {command}"
    ended = subprocess.run(
        ["bash", "-c", f'{script}\n{line}; echo "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.stdout.strip() == "recall reembed", ended.stderr


def test_each_line_of_the_table_has_its_module() -> None:
    """A command is one file and one line; a file without a line would never be found."""
    folder = Path(cli.__file__).parent
    commands = {
        path.stem.replace("_", "-")
        for path in folder.glob("*.py")
        if "@click.command" in path.read_text(encoding="utf-8")
    }
    assert commands == set(NAMES)
    context = click.Context(app)
    for name in NAMES:
        command = app.get_command(context, name)
        assert command is not None
        assert command.callback is not None


def test_the_defaults_in_the_help_are_those_of_the_calls() -> None:
    """They are repeated so that help imports nothing."""
    defaults = [
        {param.name: param.default for param in command.params}
        for command in (demo.command, reembed.command)
    ]
    assert (defaults[0]["questions"], defaults[1]["batch_size"]) == (QUESTIONS, BATCH_SIZE)


def test_no_file_of_the_package_uses_argparse_or_private_parts_of_click() -> None:
    """Click is used as it is documented."""
    package = Path(cli.__file__).parents[1]
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "argparse" not in text, path
        if "click" in text:
            assert "click._" not in text, path
            assert "ctx._" not in text, path
