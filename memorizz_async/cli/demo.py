"""`memorizz-async demo`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from memorizz_async.cli.arguments import Commands, Shared
from memorizz_async.cli.output import console, print_json


def add(commands: Commands, shared: Shared) -> None:
    """Register the `demo` subcommand."""
    demo = commands.add_parser(
        "demo",
        parents=[shared.database, shared.machine, shared.everywhere],
        help="ingest conversations, ask questions, show what was found and how fast",
        description="Ingests conversations into a MongoDB, asks questions over every memory type "
        "at once, and shows what was found and where the time went.",
    )
    demo.add_argument("--locomo", type=Path, metavar="FILE", help="conversations in LoCoMo's shape")
    demo.add_argument("--questions", type=int, metavar="N", help="how many to ask (default: 5)")
    demo.add_argument(
        "--db", metavar="NAME", help="default: the database that the URI names, else memorizz_demo"
    )
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from memorizz_async.demo.run import QUESTIONS, DemoOptions, run_demo
    from memorizz_async.demo.screen import Screen

    chosen = DemoOptions(
        file=options.locomo,
        uri=options.uri,
        db_name=options.db,
        questions=QUESTIONS if options.questions is None else options.questions,
    )
    figures = asyncio.run(run_demo(chosen, Screen(console(quiet=options.json))))
    if options.json:
        print_json(figures)
