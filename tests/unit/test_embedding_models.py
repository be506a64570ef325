"""Which embedder is asked for which collection, and what is said where none can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.models import Model

from memorizz_async import (
    ConfigurationError,
    EmbeddingModelMismatchError,
    ReembedProgress,
    ReembedReport,
)
from memorizz_async.cli import reembed
from memorizz_async.cli.output import console
from memorizz_async.enums.collection_names import collection_names
from memorizz_async.memory_provider.mongodb.embedding_models.embedders import Embedders
from memorizz_async.memory_provider.mongodb.embedding_models.mismatch import Words
from memorizz_async.memory_provider.mongodb.embedding_models.plan import plan_for, writer_for
from memorizz_async.memory_provider.mongodb.embedding_models.state import ModelState
from memorizz_async.memory_provider.mongodb.reembedding.report import TypeReport
from memorizz_async.terminal.reembed_view import ProgressBars, ProgressLines

WORDS = Words(collection_names({}), "memorizz")
OLD, NEW = Model("old"), Model("new")
BOTH, ONLY_OLD, ONLY_NEW = Embedders(NEW, OLD), Embedders(OLD, None), Embedders(NEW, None)


def state(model: str | None, phase: Any = "active", target: str | None = None) -> ModelState:
    return ModelState("knowledge_base", model, 8, phase, target, 8 if target else None)


@pytest.mark.parametrize(
    ("where", "embedders", "expected"),
    [
        (None, BOTH, ("new", None)),
        (state("old"), BOTH, ("old", None)),
        (state("new"), BOTH, ("new", None)),
        (state("old", "migrating", "new"), BOTH, ("old", None)),
        (state("old", "switching", "new"), BOTH, ("old", "new")),
        (state(None), BOTH, ("old", None)),
        (state(None), ONLY_NEW, ("new", None)),
        (state(None, "migrating", "new"), ONLY_NEW, ("new", None)),
        (state(None, "switching", "new"), BOTH, ("old", "new")),
        (state(None, "switching", "new"), ONLY_NEW, None),
        (state("old", "migrating", "new"), ONLY_OLD, ("old", None)),
        (state("old", "switching", "new"), ONLY_OLD, None),
        (state("old"), ONLY_NEW, None),
        (state("third"), BOTH, None),
        (state("old", "switching", "third"), BOTH, None),
    ],
)
def test_a_collection_is_asked_by_the_models_of_its_rows(
    where: ModelState | None, embedders: Embedders, expected: tuple[str, str | None] | None
) -> None:
    """Both only while rows change; where one is lacking, an error that names the models."""
    if expected is None:
        with pytest.raises(EmbeddingModelMismatchError, match="memorizz-async reembed"):
            plan_for(where, embedders, WORDS)
        return
    plan = plan_for(where, embedders, WORDS)
    assert (plan.model, plan.target) == expected
    assert plan.embedder.get_model_name() == plan.model
    assert (plan.target_embedder is None) == (plan.target is None)


@pytest.mark.parametrize(
    ("where", "model"),
    [
        (None, "new"),
        (state(None), "old"),
        (state("old"), "old"),
        (state("old", "migrating", "new"), "old"),
        (state("old", "switching", "new"), "new"),
        (state("new"), "new"),
        (state("third"), "new"),
    ],
)
def test_new_rows_are_of_the_active_model(where: ModelState | None, model: str) -> None:
    """Of the new one from the moment in which rows change; a third one's are refused later."""
    assert writer_for(where, BOTH).get_model_name() == model


def test_two_embedders_of_one_name_are_refused() -> None:
    """Nobody could tell their rows apart."""
    with pytest.raises(ConfigurationError, match="old"):
        _ = Embedders(Model("old"), OLD).retiring


def test_the_command_that_is_named_can_be_run() -> None:
    """With what a user has: the type, the model and the database, quoted for a shell."""
    words = Words(collection_names({"SUMMARIES": "mine"}), "other db")
    error = words.mismatch(ModelState("mine", "a", 3), "b c", 4)
    assert "--type SUMMARIES --model 'b c' --db 'other db'" in str(error)
    context = reembed.command.make_context(
        "reembed", ["--type", "SUMMARIES", "--model", "b c", "--db", "other db"]
    )
    assert context.params["types"] == ("SUMMARIES",)
    assert (context.params["model"], context.params["db"]) == ("b c", "other db")
    assert WORDS.type_of("knowledge_base") == "LONG_TERM_MEMORY"
    assert "--db" not in WORDS.command("knowledge_base", None)


def test_while_rows_change_the_error_says_what_to_give() -> None:
    """Both embedders; or to resume what nobody is doing any more."""
    error = WORDS.mismatch(state("old", "switching", "new"), "old", 8)
    for words in ("retiring_embedding_provider", "being changed to 'new'", "resume"):
        assert words in str(error)


def progress(step: Any, rows: int) -> ReembedProgress:
    return ReembedProgress("SUMMARIES", "summaries", step, rows, 1_000)


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Every five percent, and every step; not every batch."""
    lines = ProgressLines(console(stderr=True))
    for rows in range(0, 1_001, 10):
        lines.update(progress("embedding", rows))
    lines.update(progress("switching", 1_000))
    lines.update(progress("done", 1_000))
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 21 + 2
    assert shown[0] == "SUMMARIES: embedding, 0 of 1000 rows"
    assert shown[-1] == "SUMMARIES: done, 1000 of 1000 rows"


def test_a_terminal_gets_a_bar_a_type() -> None:
    """Moved by every update."""
    with ProgressBars(console(stderr=True)) as bars:
        bars.update(progress("embedding", 10))
        bars.update(progress("done", 1_000))
    [task] = bars._bars.tasks
    assert (task.completed, task.total, task.description) == (1_000, 1_000, "SUMMARIES: done")


def test_the_report_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same figures for people and for programs."""
    one = TypeReport("SUMMARIES", "summaries", "new", "old", 8, rows=1_234, switched=True)
    report = ReembedReport("new", 8, {"SUMMARIES": one}, 2.0)
    reembed._show(report, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["rows_per_second"]) == (1_234, 617.0)
    assert shown["types"]["SUMMARIES"]["model_before"] == "old"
    reembed._show(report, as_json=False)
    table = capsys.readouterr().out
    assert "SUMMARIES" in table
    assert "1,234 rows in 2.0 s, 617 rows/s" in table


def test_the_documentation_names_what_there_is() -> None:
    """The options of the command, and the arguments of the call."""
    text = (Path(__file__).parents[2] / "docs" / "reembedding.md").read_text(encoding="utf-8")
    for name in ("--drop-vectors", "on_unembeddable", "retiring_embedding_provider", "second_tier"):
        assert name in text
