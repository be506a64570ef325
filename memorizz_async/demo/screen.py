"""The demo on a terminal: steps with a spinner, a progress bar; plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Screen:
    """Prints to a console; on one that is no terminal there are no spinners and no colours."""

    def __init__(self, console: Console) -> None:
        self.console = console
        unicode = console.encoding.lower().startswith("utf")
        self.tick, self.star, self.block = ("✓", "★", "█") if unicode else ("+", "*", "#")

    def title(self, text: str, below: str) -> None:
        self.console.print()
        self.console.print(f"[bold]{escape(text)}[/]  [dim]{escape(below)}[/]")
        self.console.print()

    def note(self, text: str) -> None:
        self.console.print(f"  {escape(text)}")

    @contextmanager
    def step(self, doing: str) -> Iterator[Callable[[str], None]]:
        """Show a spinner while a step runs; the function given receives its outcome."""
        outcome: list[str] = []
        started = time.perf_counter()
        with self.console.status(f"{escape(doing)} …"):
            yield outcome.append
        took = time.perf_counter() - started
        for text in outcome:
            self._done(text, took)

    @contextmanager
    def progress(self, doing: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar that is moved by the function given."""
        started = time.perf_counter()
        if self.console.is_terminal:
            columns = (
                TextColumn(f"  {escape(doing)}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
            )
            with Progress(*columns, console=self.console, transient=True, expand=True) as bar:
                task = bar.add_task("", total=total)
                yield lambda more: bar.advance(task, more)
        else:
            yield lambda more: None
        took = time.perf_counter() - started
        self._done(f"{doing}: {total:,} {unit}, {total / took:,.0f} a second", took)

    def _done(self, text: str, took: float) -> None:
        self.console.print(
            f"[green]{self.tick}[/] {escape(text)} [dim]({took:.1f} s)[/]", soft_wrap=True
        )
