"""`memorizz-async`: the demo, recall, store, indexes and the local server, from a terminal.

Nothing heavy is imported before a command needs it: `--help` and `--version` answer at once.
"""

# ruff: noqa: PLC0415, T201

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from memorizz_async import __version__
from memorizz_async.errors import MemorizzAsyncError, UnknownMemoryTypeError

if TYPE_CHECKING:
    from rich.console import Console

    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider
    from memorizz_async.memory_provider.mongodb.indexes import IndexReport
    from memorizz_async.memory_provider.mongodb.search_index import IndexProgress

T = TypeVar("T")

_INDEX_TIMEOUT_MS = 600_000
"""A large collection takes minutes."""
FAILED, INTERRUPTED = 1, 130  # argparse itself ends with 2 where the usage is wrong

_EXAMPLES = """\
examples:
  memorizz-async demo
  memorizz-async demo --locomo locomo10.json --questions 10
  memorizz-async store "I like my coffee black" --memory-id me
  memorizz-async recall "what do I drink?" --memory-id me
  memorizz-async recall "deploy" --memory-id me --type WORKFLOW_MEMORY --limit 3
  memorizz-async recall "tea" --memory-id me --explain
  memorizz-async local status

The database is --uri, else MONGODB_URI (also from .env), else `local`:
a real MongoDB server of your own, which starts when it is needed.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, 1 where it failed, 130 where it was interrupted.

    A wrong usage ends the program with 2, as argparse does.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode shows a question mark rather than a traceback.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    try:
        if options.debug:
            _log_everything()
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `memorizz-async recall … | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if options.debug:
            raise
        _print_error(error)
        return FAILED
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line: what can be said, and what each word means."""
    top = argparse.ArgumentParser(
        prog="memorizz-async",
        description="Async memory for AI agents on any MongoDB.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"memorizz-async {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--debug", action="store_true", help="log what happens, and show tracebacks"
    )
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--json", action="store_true", help="print JSON instead of tables")
    database = argparse.ArgumentParser(add_help=False)
    database.add_argument(
        "--uri", help="mongodb://…, mongodb+srv://…, local or local:///folder", metavar="URI"
    )
    tenant = argparse.ArgumentParser(add_help=False)
    tenant.add_argument("--db", default="memorizz", metavar="NAME", help="default: %(default)s")
    tenant.add_argument("--memory-id", metavar="ID", help="whose memories: this memory_id's")
    tenant.add_argument("--user-id", metavar="ID", help="… and, or, this user's")

    demo = commands.add_parser(
        "demo",
        parents=[database, machine, everywhere],
        help="ingest conversations, ask questions, show what was found and how fast",
        description="Ingests conversations into a MongoDB, asks questions over every memory type "
        "at once, and shows what was found and where the time went.",
    )
    demo.add_argument("--locomo", type=Path, metavar="FILE", help="conversations in LoCoMo's shape")
    demo.add_argument("--questions", type=int, metavar="N", help="how many to ask (default: 5)")
    demo.add_argument("--db", metavar="NAME", help="default: memorizz_demo")
    demo.set_defaults(run=_demo)

    recall = commands.add_parser(
        "recall",
        parents=[tenant, database, machine, everywhere],
        help="find memories, in several types at once",
        description="Finds the memories that are closest to a text, in several types at once.",
    )
    recall.add_argument("query", metavar="QUERY", help="the text to recall memories for")
    recall.add_argument(
        "--type",
        dest="types",
        action="append",
        type=_memory_type,
        metavar="TYPE",
        help="a memory type; may be given several times (default: those of a conversation)",
    )
    recall.add_argument(
        "--limit", type=int, default=5, metavar="N", help="hits a type (default: %(default)s)"
    )
    recall.add_argument(
        "--filter",
        type=_filter,
        metavar="JSON",
        help='only memories that match, as \'{"role": "user"}\'',
    )
    recall.add_argument(
        "--explain", action="store_true", help="show how each memory was found, and by what search"
    )
    recall.set_defaults(run=_recall, usage=recall)

    store = commands.add_parser(
        "store",
        parents=[tenant, database, machine, everywhere],
        help="write one memory",
        description="Writes one memory, embedded, and prints its id.",
    )
    store.add_argument("text", metavar="TEXT", help="the memory; - reads it from standard input")
    store.add_argument(
        "--type",
        dest="kind",
        type=_memory_type,
        default="LONG_TERM_MEMORY",
        metavar="TYPE",
        help="default: %(default)s",
    )
    store.set_defaults(run=_store, usage=store)

    indexes = commands.add_parser(
        "indexes",
        parents=[database, machine, everywhere],
        help="create the indexes that are missing",
        description="Creates every index that is missing, search indexes too where the server has "
        "vector search, and waits until they answer. Safe to run again.",
    )
    indexes.add_argument("--db", default="memorizz", metavar="NAME", help="default: %(default)s")
    indexes.set_defaults(run=_indexes)

    local = commands.add_parser(
        "local",
        parents=[machine, everywhere],
        help="the MongoDB server of this machine: status, start, stop",
        description="The MongoDB server that `local` means. It starts when a program needs it and "
        "stops with the last one; `start` lets it run until `stop`.",
    )
    local.add_argument("action", choices=("status", "start", "stop"))
    local.add_argument("--folder", type=Path, metavar="DIR", help="its data folder, if not yours")
    local.add_argument("--force", action="store_true", help="stop it even while it is in use")
    local.set_defaults(run=_local)
    return top


def _memory_type(name: str) -> str:
    from memorizz_async.enums import memory_type_of

    try:
        return memory_type_of(name).name
    except UnknownMemoryTypeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _filter(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON: {error}") from error


def _demo(options: argparse.Namespace) -> None:
    from memorizz_async.demo.run import DATABASE, QUESTIONS, DemoOptions, run_demo
    from memorizz_async.demo.screen import Screen

    chosen = DemoOptions(
        file=options.locomo,
        uri=options.uri,
        db_name=DATABASE if options.db is None else options.db,
        questions=QUESTIONS if options.questions is None else options.questions,
    )
    figures = asyncio.run(run_demo(chosen, Screen(_console(quiet=options.json))))
    if options.json:
        _print_json(figures)


def _recall(options: argparse.Namespace) -> None:
    from memorizz_async.demo.explained import explained_view
    from memorizz_async.demo.report import memories_table, times_line
    from memorizz_async.enums import ApplicationMode
    from memorizz_async.memory_unit import MemoryUnit

    tenant = _tenant(options)
    types = options.types or [kind.name for kind in ApplicationMode.CONVERSATIONAL.memory_types]
    results = _on_provider(
        options,
        lambda provider: MemoryUnit(memory_provider=provider).retrieve_all_memory_types_async(
            options.query,
            limits=dict.fromkeys(types, options.limit),
            filter=options.filter,
            explain=options.explain,
            **tenant,
        ),
    )
    for name, error in results.errors.items():
        _print_error(error, f"{name}: ")
    if options.json:
        shown = {"results": results, "timings": asdict(results.timings)}
        if options.explain:
            shown["explain"] = {key: asdict(told) for key, told in results.explain.items()}
        _print_json(shown)
        return
    console = _console()
    console.print(memories_table(results), times_line(results.timings))
    for name, told in results.explain.items():
        console.print(explained_view(name, told))


def _store(options: argparse.Namespace) -> None:
    tenant = _tenant(options)
    text = sys.stdin.read() if options.text == "-" else options.text
    row_id = _on_provider(
        options, lambda provider: provider.store_async(text, options.kind, **tenant)
    )
    if options.json:
        _print_json({"_id": row_id, "memory_type": options.kind})
    else:
        _console().print(f"stored {row_id} in {options.kind}")


def _indexes(options: argparse.Namespace) -> None:
    standing: dict[str, str] = {}

    def ensure(provider: AsyncMongoDBProvider) -> Awaitable[IndexReport]:
        return provider.ensure_indexes_async(progress=show, timeout_ms=_INDEX_TIMEOUT_MS)

    def show(told: IndexProgress) -> None:
        standing[told.collection] = told.status
        ready = sum(status == "READY" for status in standing.values())
        spinner.update(
            f"search indexes: {ready} of {len(standing)} ready; "
            f"{told.collection} is {told.status} after {told.waited_s:.0f} s …"
        )

    with _console(stderr=True).status("looking at the indexes …") as spinner:
        report = _on_provider(options, ensure, embeds=False, spins=False)
    if options.json:
        _print_json(asdict(report))
        return
    for collection, names in report.ordinary.items():
        search, text = report.search.get(collection), report.text.get(collection)
        print(f"{collection}: {', '.join(names)}, vector search {search}, text search {text}")
    if not report.search:
        print("No search indexes: this server has no vector search, and is searched exactly.")


def _local(options: argparse.Namespace) -> None:
    from memorizz_async.memory_provider.mongodb.local_server import LocalServer

    server = LocalServer(options.folder, keep_running=options.action == "start")
    if options.action == "start":
        server.acquire()
    elif options.action == "stop" and not server.stop(force=options.force):
        print("no server was running", file=sys.stderr)
    status = asdict(server.status())
    if options.json:
        _print_json(status)
        return
    for name, value in status.items():
        print(f"{name:9} {_plain(value)}")


def _on_provider(
    options: argparse.Namespace,
    call: Callable[[AsyncMongoDBProvider], Awaitable[T]],
    *,
    embeds: bool = True,
    spins: bool = True,
) -> T:
    """The result of a call on a provider of the options' database, which is closed afterwards.

    Meanwhile a spinner turns on standard error, where that is a terminal; `spins` is whether it is
    ours.
    """
    from memorizz_async.config import MongoDBConfig
    from memorizz_async.embeddings import AsyncEmbeddingProvider
    from memorizz_async.memory_provider.mongodb import AsyncMongoDBProvider

    async def run() -> T:
        embedder = AsyncEmbeddingProvider()
        config = MongoDBConfig(options.uri, options.db)
        try:
            async with AsyncMongoDBProvider(config, embedding_provider=embedder) as provider:
                if embeds:  # now, so that the timings of the call are those of a warm model
                    await embedder.load_async()
                return await call(provider)
        finally:
            await embedder.close_async()

    said = "starting the database and the model …"
    with _console(stderr=True).status(said) if spins else contextlib.nullcontext():
        return asyncio.run(run())


def _tenant(options: argparse.Namespace) -> dict[str, Any]:
    """The tenant that the options name; a usage error where they name none."""
    named = {"memory_id": options.memory_id, "user_id": options.user_id}
    tenant = {name: value for name, value in named.items() if value is not None}
    if not tenant:
        options.usage.error("say whose memories: --memory-id, --user-id, or both")
    return tenant


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, quiet=quiet, highlight=False, emoji=False)


def _print_error(error: BaseException, prefix: str = "") -> None:
    """The three parts of a message of ours, a line each; the name of any other error."""
    if isinstance(error, MemorizzAsyncError):
        lines = [f"error: {prefix}{error.what}"]
        lines += [f"  seen:  {error.seen}"] if error.seen else []
        lines += [f"  to do: {error.fix}"] if error.fix else []
    else:
        lines = [
            f"error: {prefix}{type(error).__name__}: {error}",
            "  to do: run it again with --debug, which shows where it comes from",
        ]
    lines += [f"  note:  {note}" for note in getattr(error, "__notes__", ())]
    print("\n".join(lines), file=sys.stderr)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _log_everything() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)6d ms %(name)s: %(message)s")
    logging.getLogger("memorizz_async").setLevel(logging.DEBUG)
