"""`memorizz-async`: memories, indexes and the local server, from a terminal. One file a command.

Nothing heavy is imported before a command needs it: `--help` and `--version` answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from memorizz_async import __version__
from memorizz_async.cli import demo, indexes, local, recall, reembed, store
from memorizz_async.cli.arguments import Parser, shared_options
from memorizz_async.cli.output import log_everything, print_error

FAILED, INTERRUPTED = 1, 130  # argparse itself ends with 2 where the usage is wrong

_EXAMPLES = """\
examples:
  memorizz-async demo
  memorizz-async demo --locomo locomo10.json --questions 10
  memorizz-async store "I like my coffee black" --memory-id me
  memorizz-async recall "what do I drink?" --memory-id me
  memorizz-async recall "deploy" --memory-id me --type WORKFLOW_MEMORY --limit 3
  memorizz-async recall "tea" --memory-id me --explain
  memorizz-async reembed --model intfloat/e5-small-v2
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
            log_everything()
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
        print_error(error)
        return FAILED
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line: what can be said, and what each word means."""
    top = Parser(
        prog="memorizz-async",
        description="Async memory for AI agents on any MongoDB.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"memorizz-async {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    shared = shared_options()
    for command in (demo, recall, store, indexes, reembed, local):
        command.add(commands, shared)
    return top
