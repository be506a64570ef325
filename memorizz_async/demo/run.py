"""The demo, from an empty machine to the tables."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.demo.environment import Database, Model, database_of, model_of
from memorizz_async.demo.evaluation import Evaluation, chosen_questions, evaluate
from memorizz_async.demo.ingest import Import
from memorizz_async.demo.locomo import Conversation, Question, read_conversations
from memorizz_async.demo.report import (
    conclusion,
    figures,
    question_view,
    times_table,
    what_next,
)
from memorizz_async.demo.screen import Screen
from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.enums import MemoryType
from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
from memorizz_async.terminal.memory_table import label
from memorizz_async.validation import checked_limit

DATABASE = "memorizz_demo"
"""Not the database of the user's own memories."""
QUESTIONS = 5
_INDEX_TIMEOUT_MS = 600_000
"""Search indexes of a cluster take minutes."""

_LIMITS = {
    MemoryType.LONG_TERM_MEMORY: 3,
    MemoryType.CONVERSATION_MEMORY: 3,
    MemoryType.SUMMARIES: 1,
    MemoryType.WORKFLOW_MEMORY: 1,
}


@dataclass(frozen=True)
class DemoOptions:
    """What a run of the demo works on.

    Attributes:
        file: Conversations in LoCoMo format; None takes the one that the package ships.
        uri: The database, as in MongoDBConfig.
        db_name: None takes the database that the URI names, else DATABASE.
        questions: The number of questions.
    """

    file: Path | None = None
    uri: str | None = None
    db_name: str | None = None
    questions: int = QUESTIONS


async def run_demo(options: DemoOptions, screen: Screen) -> dict[str, Any]:
    """Start the server, import conversations, ask questions and show the results.

    Args:
        options: What to work on.
        screen: Where to show it.

    Returns:
        The figures of the run, without the text of any memory.
    """
    conversations = _conversations(options.file)
    chosen = chosen_questions(conversations, checked_limit(options.questions))
    imports = [Import.of(conversation) for conversation in conversations]
    stored = Counter[MemoryType]()
    for one in imports:
        stored.update({kind: len(rows) for kind, rows in one.memories.items()})
    async with AsyncExitStack() as stack:
        # Without a cache, so that each way of asking pays for the embeddings that it needs.
        embedder = AsyncEmbeddingProvider(cache_entries=0)
        stack.push_async_callback(embedder.close_async)
        address = MongoDBConfig(options.uri)
        name = options.db_name or address.database_in_address or DATABASE
        provider = AsyncMongoDBProvider(replace(address, db_name=name), embedding_provider=embedder)
        screen.title("memorizz-async", "one embedding, every memory type at once")
        database = await _open(provider, stack, screen)
        model = await _load(embedder, screen)
        await _index(provider, list(stored), screen)
        started = time.perf_counter()
        written = await _import(provider, imports, screen)
        ingest_s = time.perf_counter() - started
        evaluations = await _evaluate(provider, chosen, stored, screen)
    screen.console.print(times_table(evaluations, screen))
    screen.console.print(conclusion(evaluations, database, model))
    screen.console.print(
        what_next(evaluations, database, options.uri), soft_wrap=True, markup=False
    )
    return figures(
        evaluations,
        database=database,
        model=model,
        conversations=len(conversations),
        stored=stored,
        written=written,
        ingest_s=ingest_s,
    )


def _conversations(file: Path | None) -> list[Conversation]:
    if file is not None:
        return read_conversations(file)
    with as_file(files("memorizz_async.demo") / "conversation.json") as shipped:
        return read_conversations(shipped)


async def _open(provider: AsyncMongoDBProvider, stack: AsyncExitStack, screen: Screen) -> Database:
    is_local = provider.config.resolved_uri().startswith("local")
    with screen.step("Starting a MongoDB server" if is_local else "Connecting") as done:
        await stack.enter_async_context(provider)
        database = await database_of(provider)
        done(str(database))
    return database


async def _load(embedder: AsyncEmbeddingProvider, screen: Screen) -> Model:
    with screen.step(f"Loading {embedder.get_model_name()}") as done:
        await embedder.load_async()
        model = model_of(embedder)
        done(f"{model.name} on {model.device}, {model.dimensions} dimensions")
    return model


async def _index(
    provider: AsyncMongoDBProvider, kinds: Sequence[MemoryType], screen: Screen
) -> None:
    """Text indexes make recall hybrid; search indexes are waited for where there are any."""
    with screen.step("Creating the indexes") as done:
        report = await provider.ensure_indexes_async(kinds, timeout_ms=_INDEX_TIMEOUT_MS)
        vectors = "an index" if report.search else "an exact comparison"
        done(f"vectors are searched by {vectors}, words by {'an' if report.text else 'no'} index")


async def _import(provider: AsyncMongoDBProvider, imports: Sequence[Import], screen: Screen) -> int:
    with screen.step("Looking for what is stored already") as done:
        missing = [one for one in imports if not await one.is_stored(provider)]
        total, left = sum(one.count for one in imports), sum(one.count for one in missing)
        if left < total:
            done(f"{total - left:,} memories are stored already, from an earlier run")
    if missing:
        with screen.progress("Embedding and storing", left, "memories") as advance:
            for one in missing:
                await one.store(provider, advance)
    return left


async def _evaluate(
    provider: AsyncMongoDBProvider,
    chosen: Sequence[tuple[Conversation, Question]],
    stored: Mapping[MemoryType, int],
    screen: Screen,
) -> list[Evaluation]:
    parts = ", ".join(f"{count:,} {label(kind.name)}" for kind, count in stored.items())
    screen.note(f"In the database: {parts}.")
    screen.note(f"{screen.star} marks what comes from the turn that holds the answer.")
    screen.console.print()
    limits = {kind: limit for kind, limit in _LIMITS.items() if kind in stored}
    evaluations: list[Evaluation] = []
    for number, (conversation, question) in enumerate(chosen, 1):
        one = await evaluate(provider, conversation, question, limits)
        evaluations.append(one)
        screen.console.print(question_view(one, number, len(chosen), screen))
    return evaluations
