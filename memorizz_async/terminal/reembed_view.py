"""The views of `reembed`: its progress while it runs, and its report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memorizz_async.memory_provider.mongodb.reembedding.report import (
    ReembedProgress,
    ReembedReport,
)

_PERCENT_PER_LINE = 5


class ProgressView(Protocol):
    """Shows how far each memory type is, while it is entered."""

    def __enter__(self) -> ProgressView: ...

    def __exit__(self, *raised: object) -> None: ...

    def update(self, progress: ReembedProgress) -> None:
        """Show the progress of one memory type."""


def progress_view(console: Console) -> ProgressView:
    """Return bars where the console is a terminal, and plain lines for a log elsewhere."""
    return ProgressBars(console) if console.is_terminal else ProgressLines(console)


class ProgressBars:
    """One bar per memory type."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bars.stop()

    def update(self, progress: ReembedProgress) -> None:
        """Move the bar of one memory type."""
        if progress.collection not in self._tasks:
            task = self._bars.add_task(progress.memory_type, total=progress.total)
            self._tasks[progress.collection] = task
        self._bars.update(
            self._tasks[progress.collection],
            description=f"{progress.memory_type}: {progress.step}",
            completed=progress.rows,
            total=progress.total,
        )


class ProgressLines:
    """One line per step and per five percent."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *raised: object) -> None:
        """Close nothing: each line is complete."""

    def update(self, progress: ReembedProgress) -> None:
        """Print a line if the memory type has moved by a step or by five percent."""
        percent = 100 * progress.rows // progress.total if progress.total else 100
        now = (progress.step, percent // _PERCENT_PER_LINE)
        if self._last.get(progress.collection) == now:
            return
        self._last[progress.collection] = now
        line = f"{progress.memory_type}: {progress.step}, {progress.rows} of {progress.total} rows"
        self._console.print(line, soft_wrap=True)


def report_table(report: ReembedReport) -> Table:
    """Return the report as a table with one row per memory type."""
    table = Table(
        title=f"embedded with {report.model}, {report.dimensions} numbers",
        caption=f"{report.rows:,} rows in {report.seconds:.1f} s, "
        f"{report.rows_per_second:.0f} rows/s",
        caption_justify="left",
    )
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
    return table


def report_as_json(report: ReembedReport) -> dict[str, Any]:
    """Return the report as mappings, with errors as text."""
    types = {
        name: {**asdict(one), "error": None if one.error is None else str(one.error)}
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
