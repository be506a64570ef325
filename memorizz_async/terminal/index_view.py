"""The views of `indexes`: a spinner while indexes are built, and the report."""

from __future__ import annotations

from rich.console import Console

from memorizz_async.memory_provider.mongodb.indexes import IndexReport
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress


class IndexSpinner:
    """Shows how many search indexes are ready, while it is entered."""

    def __init__(self, console: Console) -> None:
        self._status = console.status("looking at the indexes …")
        self._states: dict[str, str] = {}

    def __enter__(self) -> IndexSpinner:
        self._status.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._status.stop()

    def update(self, progress: IndexProgress) -> None:
        """Show the state of one search index."""
        self._states[progress.collection] = progress.status
        ready = sum(state == "READY" for state in self._states.values())
        self._status.update(
            f"search indexes: {ready} of {len(self._states)} ready; {progress.collection} is "
            f"{progress.status} after {progress.waited_s:.0f} s …"
        )


def report_lines(report: IndexReport) -> list[str]:
    """Return the report as lines of text."""
    lines = []
    for collection, names in report.ordinary.items():
        search, text = report.search.get(collection), report.text.get(collection)
        shown = ", ".join(names) or "no ordinary index"
        lines.append(f"{collection}: {shown}, vector search {search}, text search {text}")
        lines += [
            f"{collection}: index {name} was skipped: {reason}"
            for name, reason in report.skipped.get(collection, {}).items()
        ]
    if not report.search:
        lines.append("No search indexes: this server has no vector search; recall scans instead.")
    return lines
