"""Passwords never appear: the one place that takes them out of text."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<userinfo>[^/\s]*)@")
_SECRET_OPTION = re.compile(
    r"(?i)\b(?P<name>authmechanismproperties|tlscertificatekeyfilepassword|password|token)"
    r"=(?P<value>[^&\s]+)"
)


def redact_uri(text: str) -> str:
    """The text with the credentials of every URI in it masked, fit for a message, a log or a repr.

    Everything between the scheme and the last `@` before a slash counts as credentials, so that a
    password with an unescaped `@` or `:` does not get through in part.
    """
    masked = _USERINFO.sub(_mask_userinfo, text)
    return _SECRET_OPTION.sub(lambda m: f"{m['name']}=***", masked)


def _mask_userinfo(match: re.Match[str]) -> str:
    user = match["userinfo"].partition(":")[0]
    return f"{match['scheme']}{user}:***@"
