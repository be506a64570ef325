"""Read the address of a MongoDB deployment: its parts, without a driver and without the network.

An address is often wrong where it holds a password with a character that should have been
percent-encoded. So nothing here guesses: what is ambiguous is refused, and no error shows any part
of the address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_plus

from memorizz_async.errors import InvalidURIError

SCHEMES = ("mongodb", "mongodb+srv")
HOW_TO_WRITE = (
    "use mongodb://host:port, mongodb+srv://host, local, local:///a/folder or memory://; "
    "percent-encode special characters of the user name and the password"
)
AUTHENTICATION_ONLY = "admin"
"""A path that names only where users are defined: no memories are kept among those."""

_HOST = re.compile(
    r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9]+)?\])(?::\d{1,5})?"
    r"|%2[Ff][A-Za-z0-9._%-]+\.sock"
)
_NOT_IN_A_DATABASE = frozenset('/\\. "$@\0')


@dataclass(frozen=True, repr=False)
class Address:
    """The parts of an address.

    user: the name where a password follows it, else empty: it may be a token. credentials: whether
    it has either. database: None where the path is empty or names only where
    users are defined. options: (name in lower case, value) in their order. written_options: the
    same, each value as it was written: PyMongo does not decode all of them.
    """

    scheme: str
    user: str
    credentials: bool
    hosts: str
    path: str
    written_options: tuple[tuple[str, str], ...]

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        """The options, decoded."""
        return tuple((name, unquote_plus(text)) for name, text in self.written_options)

    @property
    def database(self) -> str | None:
        """The database that the address names."""
        return self.path if self.path not in ("", AUTHENTICATION_ONLY) else None

    def option(self, name: str) -> str | None:
        """The value of an option, whose name is given in lower case."""
        return next((value for known, value in self.options if known == name), None)


def parse_address(uri: str) -> Address:
    """The parts of `mongodb://…` or `mongodb+srv://…`.

    Raises:
        InvalidURIError: The address cannot be read, or can be read in two ways.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in SCHEMES:
        raise _invalid("no scheme that is known")
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    if "@" in userinfo or ":" in password or "@" in path or _has_blank(before):
        raise _invalid("a character that must be percent-encoded")
    if at and not user:
        raise _invalid("no user name before the @")
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise _invalid("no host, or something that is not host:port in its place")
    database = unquote_plus(path)
    if _NOT_IN_A_DATABASE & set(database):
        raise _invalid("a path that is not the name of a database")
    return Address(
        scheme, user if password else "", bool(at), hosts, database, tuple(_options_of(query))
    )


def _options_of(query: str) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in re.split("[&;]", query) if pair]
    options = [(name.lower(), text) for name, _, text in pairs]
    seen: dict[str, str] = {}
    for name, text in options:
        value = unquote_plus(text)
        if name != "readpreferencetags" and seen.setdefault(name, value) != value:
            raise _invalid("an option that is given twice with different values")
    return options


def _has_blank(text: str) -> bool:
    return any(character.isspace() or character == "\0" for character in text)


def _invalid(seen: str) -> InvalidURIError:
    return InvalidURIError(
        "The address of the database cannot be read", seen=seen, fix=HOW_TO_WRITE
    )
