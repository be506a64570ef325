"""Passwords never appear: the one place that takes them out of text."""

from __future__ import annotations

import re

_SCHEME = r"(?P<scheme>[a-zA-Z][\w+.-]*://)"
_OPTION = r"(?i)\b(?P<name>\w*(?:authmechanismproperties|password|passphrase|token|secret))="
_STARTS_WITH_URI = re.compile(rf"\s*{_SCHEME}")
# One address: blanks are part of it. A URI inside a text ends at the first blank.
_ONE = (re.compile(rf"{_SCHEME}(?P<userinfo>.*)@", re.DOTALL), re.compile(rf"{_OPTION}[^&]+"))
_IN_TEXT = (re.compile(rf"{_SCHEME}(?P<userinfo>\S*)@"), re.compile(rf"{_OPTION}[^&\s]+"))


def redact_uri(text: str) -> str:
    """The text with the credentials of every URI in it masked, fit for a message, a log or a repr.

    A text that begins with a URI is taken as that URI alone. Everything between the scheme and the
    last `@` counts as credentials: a password may hold an unescaped `@`, `:`, `/`, `?` or blank
    that should have been percent-encoded, and must not get through in part for that. Rather a host
    is masked too (`mongodb://host/?appName=a@b`) than a secret shown.
    """
    credentials, option = _ONE if _STARTS_WITH_URI.match(text) else _IN_TEXT
    masked = credentials.sub(_mask_userinfo, text)
    return option.sub(lambda match: f"{match['name']}=***", masked)


def _mask_userinfo(match: re.Match[str]) -> str:
    user = match["userinfo"].partition(":")[0]
    if re.search(r"[/?#@\s]", user):  # no user name is written so: who knows what this is
        user = ""
    return f"{match['scheme']}{user}:***@"
