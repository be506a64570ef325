"""The table of commands, and the group that loads them.

To add a command, write `cli/NAME.py` with a Click command called `command`, and add a line here.
"""

from __future__ import annotations

import click

from memorizz_async import __version__
from memorizz_async.cli.group import Entry, LazyGroup

PROGRAM = "memorizz-async"
COMPLETE_VARIABLE = "_MEMORIZZ_ASYNC_COMPLETE"
"""The environment variable by which a shell asks for completions."""

COMMANDS = (
    Entry("recall", "Memory", "Find memories of several types at once."),
    Entry("store", "Memory", "Store one memory."),
    Entry("indexes", "Database", "Create the missing indexes."),
    Entry("reembed", "Database", "Change the embedding model while recall goes on."),
    Entry("local", "Database", "Show, start or stop the local MongoDB server."),
    Entry("demo", "Demo", "Import conversations, ask questions, show hits and times."),
    Entry("completion", "Shell", "Print the completion script of a shell."),
)

_EPILOG = """\
\b
Examples:
  memorizz-async demo
  memorizz-async demo --locomo locomo10.json --questions 10
  memorizz-async store "I like my coffee black" --memory-id me
  memorizz-async recall "what do I drink?" --memory-id me
  memorizz-async recall "deploy" --memory-id me --type WORKFLOW_MEMORY
  memorizz-async recall "tea" --memory-id me --explain
  memorizz-async reembed --model intfloat/e5-small-v2
  memorizz-async local status

The database is --uri, else MONGODB_URI (also from .env), else `local`: a real MongoDB server of
your own, which starts when it is needed.

Every command takes --json: standard output is then JSON, errors included.

\b
Exit codes:
  0    success
  1    the command failed
  2    an argument or a setting is invalid
  130  interrupted by Ctrl-C

Completion: run `memorizz-async completion --help`.
"""


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    package=__package__,
    invoke_without_command=True,
    epilog=_EPILOG,
    help="Async memory for AI agents on any MongoDB.",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def app(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
