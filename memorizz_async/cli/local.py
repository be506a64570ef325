"""`memorizz-async local`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from memorizz_async.cli import options
from memorizz_async.cli.output import plain, print_json
from memorizz_async.cli.runtime import print_note


@click.command(epilog=options.EXIT_CODES)
@click.argument("action", type=click.Choice(("status", "start", "stop")))
@click.option(
    "--folder",
    type=options.FOLDER,
    metavar="DIR",
    help="Data directory (default: per-user).",
)
@click.option("--force", is_flag=True, help="Stop the server even if it is in use.")
@options.output_options
def command(action: str, folder: Path | None, force: bool, as_json: bool) -> None:
    """Show, start or stop the MongoDB server that the URI `local` means.

    It starts when a program needs it and stops with the last one; `start` keeps it running until
    `stop`.
    """
    from memorizz_async.memory_provider.mongodb.local_server import LocalServer

    server = LocalServer(folder, keep_running=action == "start")
    if action == "start":
        server.acquire()
    elif action == "stop" and not server.stop(force=force):
        print_note("no server was running")
    status = asdict(server.status())
    if as_json:
        print_json(status)
        return
    for name, value in status.items():
        print(f"{name:9} {plain(value)}")
