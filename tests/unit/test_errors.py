"""The error tree: as drawn, with messages of three parts, fit to cross a process border."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
from typing import Any

import pytest

import memorizz_async
from memorizz_async import errors
from memorizz_async.errors import MemorizzAsyncError

CLASSES: list[type[MemorizzAsyncError]] = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, MemorizzAsyncError)
]
EXTRA: dict[str, dict[str, Any]] = {
    "WriteError": {"failed": {1: "refused"}, "written_ids": {0: "a"}, "code": 121},
    "StoredEmbeddingError": {"rows": {"a": "3 numbers, not 384"}, "count": 7},
    "AuthenticationError": {"code": 18},
}
by_name = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def made(kind: type[MemorizzAsyncError]) -> MemorizzAsyncError:
    extra = EXTRA.get(kind.__name__, {})
    return kind("What went wrong", seen="this", fix="do that", **extra)


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Of the docstring: name -> (its parent in the drawing, the builtin in parentheses)."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    line_shape = re.compile(r"^(?P<indent>[\s│├└─]*)(?P<name>[A-Z]\w+Error)(?: \((?P<also>\w+)\))?")
    for line in errors.__doc__.splitlines():
        match = line_shape.match(line)
        if match is None or not line.startswith("    "):
            continue
        depth = len(match["indent"])
        while path and path[-1][0] >= depth:
            path.pop()
        tree[match["name"]] = (path[-1][1] if path else None, match["also"])
        path.append((depth, match["name"]))
    return tree


def test_the_drawing_is_the_tree() -> None:
    """Every class, under the parent that the docstring draws, with the builtin that it names."""
    real: dict[str, tuple[str | None, str | None]] = {}
    for kind in CLASSES:
        ours = [base.__name__ for base in kind.__bases__ if base in CLASSES]
        foreign = [base.__name__ for base in kind.__bases__ if base not in CLASSES]
        if kind is MemorizzAsyncError:
            assert foreign == ["Exception"]
            real[kind.__name__] = (None, None)
        else:
            assert len(ours) == 1
            real[kind.__name__] = (ours[0], foreign[0] if foreign else None)
    assert drawn_tree() == real


@by_name
def test_every_error_is_exported(kind: type[MemorizzAsyncError]) -> None:
    """From the package itself, under its own name."""
    assert kind.__name__ in memorizz_async.__all__
    assert getattr(memorizz_async, kind.__name__) is kind


@by_name
def test_no_error_hides_a_builtin(kind: type[MemorizzAsyncError]) -> None:
    """`from memorizz_async import *` changes no builtin; each says what it is."""
    assert not hasattr(builtins, kind.__name__)
    assert kind.__doc__


@by_name
def test_a_message_says_what_was_seen_and_what_to_do(kind: type[MemorizzAsyncError]) -> None:
    """Three parts, in the text and apart."""
    error = made(kind)
    assert str(error) == "What went wrong. Seen: this. To do: do that."
    assert (error.what, error.seen, error.fix) == ("What went wrong", "this", "do that")
    assert error.args == (str(error),)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({}, "It broke."),
        ({"seen": "x"}, "It broke. Seen: x."),
        ({"fix": "y."}, "It broke. To do: y."),
        ({"seen": "x.", "fix": "y"}, "It broke. Seen: x. To do: y."),
        ({"seen": "", "fix": ""}, "It broke."),
    ],
)
def test_parts_that_are_not_there_leave_no_trace(parts: dict[str, str], text: str) -> None:
    """And there is one full stop after each that is."""
    assert str(MemorizzAsyncError("It broke", **parts)) == text
    assert str(MemorizzAsyncError("It broke.", **parts)) == text


@by_name
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(kind: type[MemorizzAsyncError], protocol: int) -> None:
    """Type, text, parts, own attributes and notes: a worker process may raise them."""
    error = made(kind)
    error.add_note("in query 1")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert again.__notes__ == ["in query 1"]
    for name, value in EXTRA.get(kind.__name__, {}).items():
        assert getattr(again, name) == value


@by_name
def test_errors_can_be_copied(kind: type[MemorizzAsyncError]) -> None:
    """One failure is fanned out to every waiter of a batch."""
    for again in (copy.copy(made(kind)), copy.deepcopy(made(kind))):
        assert type(again) is kind
        assert str(again) == str(made(kind))


def test_callers_who_know_only_builtins_catch_them_too() -> None:
    """`except ValueError`, `TimeoutError`, `ConnectionError`, `ImportError`, `RuntimeError`."""
    assert issubclass(errors.InvalidLimitError, ValueError)
    assert issubclass(errors.InvalidURIError, ValueError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    assert issubclass(errors.OperationTimeoutError, TimeoutError)
    assert issubclass(errors.ServerUnavailableError, ConnectionError)
    assert issubclass(errors.ClosedError, RuntimeError)


def test_a_write_error_says_which_rows_are_where() -> None:
    """It keeps its own copies, so that the caller may change what was passed."""
    failed, written = {1: "refused"}, {0: "a"}
    error = errors.WriteError("x", failed=failed, written_ids=written)
    failed.clear()
    written.clear()
    assert (error.failed, error.written_ids, error.code) == ({1: "refused"}, {0: "a"}, None)
