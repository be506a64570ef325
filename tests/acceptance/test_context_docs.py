"""The code of docs/context.md runs as it stands there, one block after another."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from memorizz_async import AsyncMongoDBProvider, ContextWindow, MemoryType, MongoDBConfig

PAGE = Path(__file__).parents[2] / "docs" / "context.md"


class Words:
    """A tokenizer, for the block that takes the reader's own."""

    def encode(self, text: str) -> list[str]:
        return text.split()


async def test_the_pages_code_runs(
    mongod: Any, db_name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """With its configuration from the environment, and top-level await as in a notebook."""
    monkeypatch.setenv("MONGODB_URI", f"{mongod.uri}")
    names: dict[str, Any] = {"tokenizer": Words()}
    async with AsyncMongoDBProvider(MongoDBConfig(db_name=db_name)) as provider:
        await provider.store_async("Ada is allergic to hazelnuts.", memory_id="ada")
        turn = "Ben: Hello!"
        await provider.store_async(turn, MemoryType.CONVERSATION_MEMORY, memory_id="ada")
    blocks = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 2
    for block in blocks:
        # The database of the test in the place of the default one.
        code = compile(
            block.replace("MongoDBConfig(),", f"MongoDBConfig(db_name={db_name!r}),"),
            str(PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )  # fmt: skip
        outcome = eval(code, names)
        if inspect.isawaitable(outcome):
            await outcome
    window = names["window"]
    assert isinstance(window, ContextWindow)
    assert window == (names["header"], names["context"])
    assert "- Ada is allergic to hazelnuts." in window.context
    assert "of 1500 tokens" in capsys.readouterr().out
    memory = next(iter(window.report.kept))
    assert memory.memory_type == "LONG_TERM_MEMORY"
    assert {"xml", "dated"} <= set(names)
