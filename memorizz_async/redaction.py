"""What may be shown of an address, of an argument and of a foreign error.

Only what is known to be harmless is shown: a list of what must be hidden is never complete.
"""

from __future__ import annotations

import re
import traceback
from enum import Enum
from typing import Any

from memorizz_async.address import SCHEMES, Address, parse_address
from memorizz_async.errors import InvalidURIError

HIDDEN = "***"

_NUMBER, _FLAG = r"\d{1,9}", r"(?i:true|false)"
_NEVER = r"(?!)"
_OPTIONS = {
    name.lower(): (name, re.compile(pattern))
    for name, pattern in {
        "appName": _NEVER,
        "authMechanism": r"DEFAULT|GSSAPI|MONGODB-(?:AWS|OIDC|X509)|PLAIN|SCRAM-SHA-(?:1|256)",
        "authMechanismProperties": _NEVER,
        "authSource": _NEVER,
        "compressors": r"(?:snappy|zlib|zstd)(?:,(?:snappy|zlib|zstd))*",
        "connectTimeoutMS": _NUMBER,
        "directConnection": _FLAG,
        "heartbeatFrequencyMS": _NUMBER,
        "journal": _FLAG,
        "loadBalanced": _FLAG,
        "localThresholdMS": _NUMBER,
        "maxConnecting": _NUMBER,
        "maxIdleTimeMS": _NUMBER,
        "maxPoolSize": _NUMBER,
        "maxStalenessSeconds": _NUMBER,
        "minPoolSize": _NUMBER,
        "readConcernLevel": r"local|available|majority|linearizable|snapshot",
        "readPreference": r"primary|primaryPreferred|secondary|secondaryPreferred|nearest",
        "readPreferenceTags": _NEVER,
        "replicaSet": r"[A-Za-z0-9._-]{1,32}",
        "retryReads": _FLAG,
        "retryWrites": _FLAG,
        "serverMonitoringMode": r"auto|poll|stream",
        "serverSelectionTimeoutMS": _NUMBER,
        "socketTimeoutMS": _NUMBER,
        "srvMaxHosts": _NUMBER,
        "srvServiceName": _NEVER,
        "ssl": _FLAG,
        "timeoutMS": _NUMBER,
        "tls": _FLAG,
        "tlsAllowInvalidCertificates": _FLAG,
        "tlsAllowInvalidHostnames": _FLAG,
        "tlsCAFile": _NEVER,
        "tlsCertificateKeyFile": _NEVER,
        "tlsCertificateKeyFilePassword": _NEVER,
        "tlsCRLFile": _NEVER,
        "tlsDisableOCSPEndpointCheck": _FLAG,
        "tlsInsecure": _FLAG,
        "uuidRepresentation": r"unspecified|standard|pythonLegacy|javaLegacy|csharpLegacy",
        "w": r"\d{1,2}|majority",
        "waitQueueTimeoutMS": _NUMBER,
        "wTimeoutMS": _NUMBER,
        "zlibCompressionLevel": r"-?\d",
    }.items()
}
"""Options that are shown by name, and the values that are shown of them."""

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.-]{0,31}|\d{1,3}|")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_USER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DATABASE = re.compile(r"[A-Za-z0-9_-]{1,63}")
_LONGEST_NUMBER = 64
"""Bits: Python refuses to write a very long one."""


def redact_uri(uri: str) -> str:
    """The address, fit for a message, a log or a repr: only what is known to hold no secret.

    An address that cannot be read, or can be read in two ways, shows its scheme at most: a password
    that is not percent-encoded may stand anywhere in it.
    """
    scheme, separator, rest = uri.partition("://")
    if uri == "local" or (scheme in ("local", "memory") and separator and _is_path(rest)):
        return uri
    if not separator or scheme not in SCHEMES:
        return HIDDEN
    try:
        address = parse_address(uri)
    except InvalidURIError:
        return f"{scheme}://{HIDDEN}"
    if "@" in rest.partition("?")[2]:  # of an option, or of a password with a ? in it
        return f"{scheme}://{HIDDEN}"
    return _shown_address(address, rest)


def _shown_address(address: Address, rest: str) -> str:
    user = f"{address.user}:" if _USER.fullmatch(address.user) else ""
    who = f"{user}{HIDDEN}@" if address.credentials else ""
    before, question, _ = rest.partition("?")
    slash = "/" if "/" in before else ""
    path = address.path if _DATABASE.fullmatch(address.path) else HIDDEN if address.path else ""
    options = "&".join(_shown_option(name, value) for name, value in address.options)
    return f"{address.scheme}://{who}{address.hosts}{slash}{path}{question}{options}"


def _shown_option(name: str, value: str) -> str:
    if name not in _OPTIONS:
        return HIDDEN
    shown_name, pattern = _OPTIONS[name]
    return f"{shown_name}={value if pattern.fullmatch(value) else HIDDEN}"


def option_name(name: str) -> str:
    """The name of an option in the usual spelling; not shown where it is none that is known."""
    return _OPTIONS[name.lower()][0] if name.lower() in _OPTIONS else HIDDEN


def _is_path(text: str) -> bool:
    """A folder or a name, and no credentials: at most the colon of a Windows drive."""
    return not re.search(r"[@?#]", text) and ":" not in re.sub(r"^/?[A-Za-z]:[\\/]", "", text)


def shown(value: Any, *, word: bool = False) -> str:
    """A value for a message: a number as it is, else only its kind.

    word: whether a short name may be shown, too: of a setting, a mode, a field, an operator. Never
        where it may be a text of a user's, or a secret.
    """
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        few = value.bit_length() <= _LONGEST_NUMBER
        return repr(value) if few else f"a number of more than {_LONGEST_NUMBER} bits"
    if isinstance(value, str):
        if not value or (word and _NAME.fullmatch(value)):
            return repr(str(value))
        return f"a text of {len(value)} characters"
    return f"a {type(value).__name__}"


def describe_id(row_id: Any) -> str:
    """The id of a row, fit for a message: as it is, unless it looks like a text."""
    text = str(row_id)
    return text if _ID.fullmatch(text) else f"a {type(row_id).__name__}"


def outline(error: BaseException) -> str:
    """A foreign error for a log: its type and where it was raised, never its words."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
