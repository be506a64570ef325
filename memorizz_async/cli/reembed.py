"""`memorizz-async reembed`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from memorizz_async.cli.arguments import Commands, Shared, memory_type
from memorizz_async.cli.output import console, print_json
from memorizz_async.cli.running import on_provider
from memorizz_async.errors import ReembedError

if TYPE_CHECKING:
    from memorizz_async.memory_provider.mongodb.reembedding.report import (
        ReembedProgress,
        ReembedReport,
    )

_PERCENT_A_LINE = 5


def add(commands: Commands, shared: Shared) -> None:
    """Register the `reembed` subcommand."""
    reembed = commands.add_parser(
        "reembed",
        parents=[shared.database, shared.machine, shared.everywhere],
        help="embed memories again, with another model, while recall goes on",
        description="Embeds memories again with another model. The old vectors answer until a type "
        "is switched over; interrupted or killed, the next run goes on where it was.",
    )
    reembed.add_argument(
        "--db", metavar="NAME", help="default: the database that the URI names, else memorizz"
    )
    reembed.add_argument(
        "--type",
        dest="types",
        action="append",
        type=memory_type,
        metavar="TYPE",
        help="a memory type; may be given several times (default: all that have memories)",
    )
    reembed.add_argument(
        "--model", metavar="NAME", help="the new model (default: EMB_MODEL, else all-MiniLM-L6-v2)"
    )
    reembed.add_argument(
        "--batch-size", type=int, metavar="N", help="memories at once (default: 256)"
    )
    reembed.add_argument(
        "--drop-vectors",
        action="store_true",
        help="memories that have a vector and no text lose it (default: their type is left alone)",
    )
    reembed.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from memorizz_async.memory_provider.mongodb.reembedding.run import BATCH_SIZE

    with _shown() as shown:
        try:
            report = on_provider(
                options,
                lambda provider: provider.reembed_async(
                    options.types,
                    batch_size=options.batch_size or BATCH_SIZE,
                    on_unembeddable="drop_vector" if options.drop_vectors else "raise",
                    progress=shown.tell,
                ),
                spins=False,
                model=options.model,
            )
        except ReembedError as error:
            if error.report is not None:
                _print(error.report, as_json=options.json)
            raise
    _print(report, as_json=options.json)


def _print(report: ReembedReport, *, as_json: bool) -> None:
    if as_json:
        print_json(_plain(report))
        return
    from rich.table import Table

    table = Table(title=f"embedded with {report.model}, {report.dimensions} numbers")
    for name in ("memory type", "before", "rows", "resumed", "skipped", "failed", "switched", "s"):
        table.add_column(name, justify="left" if name in ("memory type", "before") else "right")
    for one in report.types.values():
        table.add_row(
            one.memory_type,
            one.model_before or "unknown",
            f"{one.rows:,}",
            f"{one.resumed:,}",
            f"{one.skipped:,}",
            f"{one.failed_count:,}",
            "yes" if one.switched else "no",
            f"{one.seconds:.1f}",
        )
    screen = console()
    screen.print(table)
    screen.print(
        f"{report.rows:,} rows in {report.seconds:.1f} s, {report.rows_per_second:.0f} rows/s"
    )


def _plain(report: ReembedReport) -> dict[str, Any]:
    types = {
        name: {
            **asdict(one),
            "error": None if one.error is None else str(one.error),
        }
        for name, one in report.types.items()
    }
    return {
        "model": report.model,
        "dimensions": report.dimensions,
        "types": types,
        "rows": report.rows,
        "rows_per_second": round(report.rows_per_second, 2),
        "seconds": round(report.seconds, 3),
    }


class _View(Protocol):
    def __enter__(self) -> _View: ...

    def __exit__(self, *raised: object) -> None: ...

    def tell(self, told: ReembedProgress) -> None:
        """Show how far a type is."""


def _shown() -> _View:
    """A bar a type on a terminal; a line now and then elsewhere, for logs."""
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Bars:
    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console(stderr=True),
        )
        self._of: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()

    def tell(self, told: ReembedProgress) -> None:
        if told.collection not in self._of:
            self._of[told.collection] = self._bars.add_task(told.memory_type, total=told.total)
        self._bars.update(
            self._of[told.collection],
            description=f"{told.memory_type}: {told.step}",
            completed=told.rows,
            total=told.total,
        )


class _Lines:
    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing to close."""

    def tell(self, told: ReembedProgress) -> None:
        percent = 100 * told.rows // told.total if told.total else 100
        now = (told.step, percent // _PERCENT_A_LINE)
        if self._last.get(told.collection) == now:
            return
        self._last[told.collection] = now
        print(
            f"{told.memory_type}: {told.step}, {told.rows} of {told.total} rows",
            file=sys.stderr,
            flush=True,
        )
