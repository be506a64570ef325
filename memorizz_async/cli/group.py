"""A Click group that imports the module of a command only when the command is used."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """A line of the table of commands.

    Attributes:
        name: The command; its module has the same name, with `_` for `-`.
        section: The heading under which the help lists it.
        summary: One line of help.
    """

    name: str
    section: str
    summary: str


class LazyGroup(click.Group):
    """Commands from a table. The help is made from the table alone."""

    def __init__(
        self, *args: Any, entries: Sequence[Entry] = (), package: str = "", **kwargs: Any
    ) -> None:
        """Create a group of the commands that a table lists.

        Args:
            args: As Click's group takes them.
            entries: The table.
            package: The package that has a module for each command.
            kwargs: As Click's group takes them.
        """
        super().__init__(*args, **kwargs)
        self._entries = {entry.name: entry for entry in entries}
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the order of the table."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; return None if there is no such command."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f"{self._package}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        command.short_help = entry.summary
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; suggest similar ones if there is none."""
        name = args[0]
        if name not in self._entries and not name.startswith("-") and not ctx.resilient_parsing:
            similar = " or ".join(get_close_matches(name, self._entries))
            hint = f"Did you mean {similar}?" if similar else f"Use {', '.join(self._entries)}."
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under the headings of their sections."""
        width = max(map(len, self._entries))
        sections: dict[str, list[tuple[str, str]]] = {}
        for entry in self._entries.values():
            row = (entry.name.ljust(width), entry.summary)
            sections.setdefault(entry.section, []).append(row)
        for section, rows in sections.items():
            with formatter.section(f"{section} commands"):
                formatter.write_dl(rows)
