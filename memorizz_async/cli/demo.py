"""`memorizz-async demo`."""

from __future__ import annotations

from pathlib import Path

import click

from memorizz_async.cli import options
from memorizz_async.cli.output import console, print_json


@click.command(epilog=options.EXIT_CODES)
@click.option(
    "--locomo",
    type=options.FILE,
    metavar="FILE",
    help="Conversations in LoCoMo format (default: one that comes with the package).",
)
@click.option(
    "--questions",
    type=options.LIMIT,
    default=5,
    show_default=True,
    metavar="N",
    help="Number of questions.",
)
@options.database_options(default="memorizz_demo")
@options.output_options
def command(
    locomo: Path | None, questions: int, uri: str | None, db: str | None, as_json: bool
) -> None:
    """Import conversations, ask questions over all memory types, show hits and times."""
    import asyncio

    from memorizz_async.demo.run import DemoOptions, run_demo
    from memorizz_async.demo.screen import Screen

    chosen = DemoOptions(file=locomo, uri=uri, db_name=db, questions=questions)
    figures = asyncio.run(run_demo(chosen, Screen(console(quiet=as_json))))
    if as_json:
        print_json(figures)
