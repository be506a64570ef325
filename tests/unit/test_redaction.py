"""Passwords never appear: not in a repr, not in a message, not in the traceback of an error."""

from __future__ import annotations

import asyncio
import traceback
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memorizz_async import AsyncMongoDBProvider, InvalidURIError, MongoDBConfig
from memorizz_async.memory_provider.mongodb.driver import open_driver
from memorizz_async.redaction import redact_uri

TOKENS = ("Zq1x", "Zq2ü", "Zq3漢")
"""Parts of passwords that nothing else in a message looks like."""

ODD = [
    "@",
    ":",
    "/",
    "%",
    "%zz",
    "%40",
    "?",
    "#",
    "&",
    "=",
    "+",
    "$",
    "[",
    "]",
    "é",
    "😀",
    "://",
    "",
]
BLANKS = [" ", "\t", "\n"]


def passwords(separators: list[str]) -> st.SearchStrategy[str]:
    """Passwords of some of the TOKENS with odd characters before, between and after them."""
    piece = st.tuples(st.sampled_from(separators), st.sampled_from(TOKENS))
    pieces = st.lists(piece, min_size=1, max_size=4)
    return st.tuples(pieces, st.sampled_from(separators)).map(
        lambda parts: "".join(a + b for a, b in parts[0]) + parts[1]
    )


schemes = st.sampled_from(["mongodb", "mongodb+srv", "MONGODB", "https"])
users = st.sampled_from(["user", "", "first.last", "AKIA%2B-1"])
places = st.sampled_from(["host", "host:27017", "a,b:1/db", "[::1]:9/?replicaSet=rs", "h/?x=y&z=1"])


def shows_secret(text: str) -> bool:
    return any(token in text for token in TOKENS)


@given(schemes, users, passwords(ODD + BLANKS), places)
def test_everything_between_user_and_host_is_masked_and_nothing_else(
    scheme: str, user: str, password: str, place: str
) -> None:
    """One address: the password goes, whatever is in it; scheme, user, hosts and options stay."""
    uri = f"{scheme}://{user}:{password}@{place}"
    assert redact_uri(uri) == f"{scheme}://{user}:***@{place}"


@given(st.lists(st.tuples(schemes, users, passwords(ODD), places), min_size=1, max_size=3))
def test_every_uri_of_a_text_is_masked(uris: list[tuple[str, str, str, str]]) -> None:
    """Several addresses in one text, between other words."""
    text = "".join(f"word: {s}://{u}:{p}@{at} " for s, u, p, at in uris)
    assert redact_uri(text) == "".join(f"word: {s}://{u}:***@{at} " for s, u, _, at in uris)


@given(schemes, places, st.sampled_from(["", "no server at ", "'"]))
def test_a_uri_without_credentials_is_not_harmed(scheme: str, place: str, before: str) -> None:
    """What holds no credentials stays as it is, also beside an `@` elsewhere in a text."""
    text = f"{before}{scheme}://{place}"
    assert redact_uri(text) == text
    assert redact_uri(f"(see {text} or me@example.org") == f"(see {text} or me@example.org"


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    """What is masked once is safe to mask again, as messages are quoted in messages."""
    once = redact_uri(text)
    assert redact_uri(once) == once


@pytest.mark.parametrize(
    "option",
    [
        "authMechanismProperties=AWS_SESSION_TOKEN:Zq1x",
        "tlsCertificateKeyFilePassword=Zq1x/Zq2ü+=",
        "proxyPassword=Zq1x",
        "sslPEMPassphrase=Zq1x",
        "token=Zq1x",
    ],
)
@pytest.mark.parametrize("before", ["mongodb://host/?appName=a&", "at mongodb://host/?"])
def test_secrets_among_the_options_are_masked(before: str, option: str) -> None:
    """Options that carry a secret lose their value; those beside them do not."""
    name = option.partition("=")[0]
    assert redact_uri(f"{before}{option}&w=1") == f"{before}{name}=***&w=1"


def test_an_address_that_has_no_user_name_shows_none() -> None:
    """What stands before the first colon is shown only where it can be a user name."""
    assert redact_uri("mongodb://Zq1x/Zq2ü@host") == "mongodb://:***@host"
    assert redact_uri("mongodb://user@host") == "mongodb://user:***@host"


@given(passwords(ODD + BLANKS))
def test_neither_config_nor_provider_shows_the_password(password: str) -> None:
    """The reprs that end up in logs."""
    config = MongoDBConfig(f"mongodb://user:{password}@host:27017")
    for shown in (repr(config), str(config), repr(AsyncMongoDBProvider(config))):
        assert not shows_secret(shown)
        assert "mongodb://user:***@host:27017" in shown


async def open_and_close(uri: str, driver: str) -> InvalidURIError | None:
    """Open the real driver; the error where there is one, with its causes as a log shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyMongo's, about options that it does not know
        try:
            opened = await open_driver(MongoDBConfig(uri, driver=driver), uri)
        except InvalidURIError as error:
            return error
        assert not shows_secret(opened.address)
        await opened.close()
        return None


@settings(max_examples=60, deadline=None)
@given(passwords([*ODD, " "]))
def test_no_password_gets_through_the_real_driver(password: str) -> None:
    """PyMongo quotes parts of a bad address in its words; no part of the password comes out."""
    error = asyncio.run(open_and_close(f"mongodb://user:{password}@host:27017", "pymongo"))
    if error is not None:
        assert not shows_secret("".join(traceback.format_exception(error)))


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:Zq1x@Zq2ü:w/Zq3漢@host",
        "mongodb://user:Zq1x/Zq2ü@host",
        "mongodb://user:Zq1x%zz@host",
        "mongodb://user:Zq1x:Zq2ü@host",
        "mongodb://user:Zq1x?Zq2ü=1@host",
        "mongodb://user:Zq1x@host:port",
        "mongodb://user:Zq1x@host:99999999",
        "mongodb://user:Zq1x@",
        "mongodb://:Zq1x@host",
        "mongodb://user:Zq1x@[::1",
        "mongodb://user:Zq1x@host/a b",
        "mongodb+srv://user:Zq1x@host:27017",
        "mongodb://user:27017/Zq1x Zq2ü@host",
    ],
)
async def test_a_bad_address_is_named_without_its_password(uri: str, driver: str) -> None:
    """InvalidURIError, with the address masked in it and in every error that it came from."""
    error = await open_and_close(uri, driver)
    assert error is not None
    assert ":***@" in str(error)
    assert "percent-encode" in str(error)
    assert not shows_secret(str(error))
    assert not shows_secret("".join(traceback.format_exception(error)))


async def test_a_provider_with_a_bad_address_says_so_on_first_use() -> None:
    """No I/O and no error in the constructor; then the clear one, without the password."""
    provider = AsyncMongoDBProvider(MongoDBConfig("mongodb://user:p@Zq1x:w/Zq2ü@host"))
    with pytest.raises(InvalidURIError, match=r"mongodb://user:\*\*\*@host") as caught:
        await provider.get_async("id", "SUMMARIES", memory_id="m")
    assert not shows_secret(str(caught.value))
    await provider.close_async()
