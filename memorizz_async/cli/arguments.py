"""What several commands take: the options they share, and how their words are read."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from memorizz_async.cli.output import print_json
from memorizz_async.errors import InvalidInputError, UnknownMemoryTypeError
from memorizz_async.redaction import HIDDEN
from memorizz_async.validation import checked_limit, checked_query

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any

_HARMLESS = re.compile(r"|-{0,2}[A-Za-z][A-Za-z0-9_-]{0,31}|-?\d{1,9}")


class Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no argument that may be a text of a user's or an address.

    With `--json` they are JSON on standard output, too.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What argparse does; the arguments are remembered for `error`."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with 2, and with a message that hides longer arguments."""
        parts = {part for given in self._given for part in (given, given.partition("=")[2])}
        for part in sorted(parts, key=len, reverse=True):
            if not _HARMLESS.fullmatch(part):
                message = message.replace(repr(part), HIDDEN).replace(part, HIDDEN)
        if "--json" in self._given:
            usage = " ".join(self.format_usage().split())
            print_json({"error": {"type": "UsageError", "what": message, "to_do": usage}})
        super().error(message)


@dataclass(frozen=True)
class Shared:
    """Parents for a command's parser.

    database: which server; machine: JSON; everywhere: what every command takes; tenant: whose
    memories, and in which database.
    """

    database: argparse.ArgumentParser
    machine: argparse.ArgumentParser
    everywhere: argparse.ArgumentParser
    tenant: argparse.ArgumentParser


def shared_options() -> Shared:
    """The options that several commands share."""
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--debug", action="store_true", help="log what happens, and show tracebacks"
    )
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--json", action="store_true", help="print JSON instead of tables")
    database = argparse.ArgumentParser(add_help=False)
    database.add_argument(
        "--uri", help="mongodb://…, mongodb+srv://…, local or local:///folder", metavar="URI"
    )
    tenant = argparse.ArgumentParser(add_help=False)
    tenant.add_argument(
        "--db", metavar="NAME", help="default: the database that the URI names, else memorizz"
    )
    tenant.add_argument("--memory-id", metavar="ID", help="whose memories: this memory_id's")
    tenant.add_argument("--user-id", metavar="ID", help="… and, or, this user's")
    return Shared(database, machine, everywhere, tenant)


def memory_type(name: str) -> str:
    from memorizz_async.enums import memory_type_of

    try:
        return memory_type_of(name).name
    except UnknownMemoryTypeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def query(text: str) -> str:
    """A query, checked as every method checks it."""
    try:
        return checked_query(text)
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def json_filter(text: str) -> Any:
    """A filter as JSON; `{"$date": "2026-01-31T00:00:00Z"}`, `$oid` and `$uuid` are MongoDB's
    extended JSON.
    """
    from bson.errors import BSONError
    from bson.json_util import JSONOptions, loads

    try:
        return loads(text, json_options=JSONOptions(tz_aware=True))
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON: {error}") from error
    except (BSONError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(
            'this is not extended JSON: write a date as {"$date": "2026-01-31T00:00:00Z"}'
        ) from error


def limit(text: str) -> int:
    """A limit, checked as every method checks it."""
    try:
        return checked_limit(int(text))
    except InvalidInputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def tenant_of(options: argparse.Namespace) -> dict[str, Any]:
    """The tenant that the options name; a usage error where they name none."""
    named = {"memory_id": options.memory_id, "user_id": options.user_id}
    tenant = {name: value for name, value in named.items() if value is not None}
    if not tenant:
        options.usage.error("say whose memories: --memory-id, --user-id, or both")
    return tenant
