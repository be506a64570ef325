"""`memorizz-async local`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from memorizz_async.cli.arguments import Commands, Shared
from memorizz_async.cli.output import plain, print_json


def add(commands: Commands, shared: Shared) -> None:
    """Register the `local` subcommand."""
    local = commands.add_parser(
        "local",
        parents=[shared.machine, shared.everywhere],
        help="the MongoDB server of this machine: status, start, stop",
        description="The MongoDB server that `local` means. It starts when a program needs it and "
        "stops with the last one; `start` lets it run until `stop`.",
    )
    local.add_argument("action", choices=("status", "start", "stop"))
    local.add_argument("--folder", type=Path, metavar="DIR", help="its data folder, if not yours")
    local.add_argument("--force", action="store_true", help="stop it even while it is in use")
    local.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from memorizz_async.memory_provider.mongodb.local_server import LocalServer

    server = LocalServer(options.folder, keep_running=options.action == "start")
    if options.action == "start":
        server.acquire()
    elif options.action == "stop" and not server.stop(force=options.force):
        print("no server was running", file=sys.stderr)
    status = asdict(server.status())
    if options.json:
        print_json(status)
        return
    for name, value in status.items():
        print(f"{name:9} {plain(value)}")
