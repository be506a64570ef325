"""Passwords never appear: not in a repr, not in a message, not in an error behind an error."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.errors import everything_shown

from memorizz_async import AsyncMongoDBProvider, ConfigurationError, InvalidURIError, MongoDBConfig
from memorizz_async.embeddings.backends.openai import OpenAIBackend
from memorizz_async.memory_provider.mongodb.driver import blocking_command, open_driver
from memorizz_async.redaction import redact_uri, shown

TOKENS = ("Zq1x", "Zq2ü", "Zq3漢", "Zq%34")
"""Parts of passwords that nothing else in a message looks like."""

SEPARATORS = [
    "@", ":", "/", "//", "://", "%", "%zz", "%40", "?", "#", "&", "=", "+", "$", "[", "]", "é",
    "😀", ";", ",", ".", "", " ", "\t", "\n",
]  # fmt: skip

piece = st.tuples(st.sampled_from(SEPARATORS), st.sampled_from(TOKENS))
passwords = st.tuples(st.lists(piece, min_size=1, max_size=4), st.sampled_from(SEPARATORS)).map(
    lambda parts: "".join(a + b for a, b in parts[0]) + parts[1]
)
"""Some of the TOKENS with odd characters before, between and after them."""

ADDRESSES = [
    "mongodb://user:{}@host:27017",
    "mongodb://user:{}@a,b:1/db?replicaSet=rs",
    "mongodb+srv://user:{}@host/?w=majority",
    "mongodb://user:{}@",
    "mongodb://:{}@host",
    "mongodb://+{}@host",
    "user:{}@host",
    "user:{}@host/db",
    "mongodb:/user:{}@host",
    "mongodb//user:{}@host",
    "mongodb:user:{}@host",
    "mongo://user:{}@host",
    "MONGODB://user:{}@host",
    " mongodb://user:{}@host",
    "local://user:{}@host",
    "local:///folder?password={}",
    "https://user:{}@host/v1",
    "mongodb://host/?authMechanismProperties=AWS_SESSION_TOKEN:{}",
    "mongodb://host/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:{}&w=1",
    "mongodb://host/?tlsCertificateKeyFilePassword={}",
    "mongodb://host/?tls=true;tlsCertificateKeyFilePassword={}",
    "mongodb://host/?password={}",
    "mongodb://host/?{}=1",
    "mongodb://host/?appName={}",
]
"""Right ones and wrong ones; `{}` is the password."""

addresses = st.builds(lambda form, word: form.format(word), st.sampled_from(ADDRESSES), passwords)


def shows_secret(text: str) -> bool:
    return any(token in text for token in TOKENS)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://user:pw@host:27017", "mongodb://user:***@host:27017"),
        ("mongodb://user@host", "mongodb://***@host"),
        ("mongodb+srv://u:p@a.b.net/db?w=majority", "mongodb+srv://u:***@a.b.net/db?w=majority"),
        ("mongodb://[::1]:9,b/?replicaset=rs", "mongodb://[::1]:9,b/?replicaSet=rs"),
        ("mongodb://h/?appName=x&foo=1&tls=true", "mongodb://h/?appName=***&***&tls=true"),
        ("mongodb://u:p/w@host", "mongodb://***"),
        ("mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:a@b", "mongodb://***"),
        ("u:pw@host", "***"),
        ("postgres://u:pw@host", "***"),
        ("local", "local"),
        ("local:///a/folder", "local:///a/folder"),
        ("local:///C:/data", "local:///C:/data"),
        ("local:///a@b", "***"),
        ("memory://name", "memory://name"),
    ],
)
def test_what_is_shown_of_an_address(uri: str, shown: str) -> None:
    """Scheme, user, hosts, database and harmless options, where all that can be told for sure."""
    assert redact_uri(uri) == shown


@given(addresses)
def test_no_part_of_a_password_is_shown_of_any_address(uri: str) -> None:
    """However wrong the address is, and whatever characters the password has."""
    assert not shows_secret(redact_uri(uri))
    config = MongoDBConfig(uri)
    for text in (repr(config), str(config), repr(AsyncMongoDBProvider(config))):
        assert not shows_secret(text)


@given(st.text())
def test_any_text_can_be_an_address_that_is_shown(text: str) -> None:
    """And what is masked once stays as it is."""
    assert redact_uri(redact_uri(text)) == redact_uri(text)


async def open_and_close(uri: str, driver: Any) -> Iterator[str]:
    """What an error shows where the address is refused; else what the driver shows of it."""
    try:
        opened = await open_driver(MongoDBConfig(uri, driver=driver), uri)
    except ConfigurationError as error:
        return everything_shown(error)
    await opened.close()
    return iter([opened.address])


@settings(max_examples=150, deadline=None)
@given(addresses.filter(lambda uri: not uri.startswith("mongodb+srv")))
def test_no_password_gets_through_the_real_driver(uri: str) -> None:
    """PyMongo quotes parts of a bad address, also in warnings; nothing of the password gets out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shown = [*asyncio.run(open_and_close(uri, "pymongo"))]
    assert not any(map(shows_secret, shown))
    assert not any(shows_secret(str(warning.message)) for warning in caught)


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
        "mongodb://user:Zq1x@host:99999",
        "mongodb://user:Zq1x@",
        "mongodb://:Zq1x@host",
        "mongodb://user:Zq1x@[::1",
        "mongodb://user:Zq1x@host/a b",
        "mongodb+srv://user:Zq1x@host:27017",
        "mongodb://user:27017/Zq1x Zq2ü@host",
        "user:Zq1x@host",
        "mongodb:/user:Zq1x@host",
        "mongodb//",
        "local://[user:Zq1x@host",
    ],
)
async def test_a_bad_address_is_named_without_its_password(uri: str, driver: Any) -> None:
    """InvalidURIError on first use, whose chain shows nothing either; no error before."""
    provider = AsyncMongoDBProvider(MongoDBConfig(uri, driver=driver))
    with pytest.raises(InvalidURIError) as caught:
        await provider.get_async("id", "SUMMARIES", memory_id="m")
    assert caught.value.fix
    assert not any(map(shows_secret, everything_shown(caught.value)))
    await provider.close_async()


def test_a_blocking_command_reports_a_bad_address_too() -> None:
    """PyMongo raises ValueError for some."""
    for uri in ("mongodb://user:Zq1x@host:port", "mongodb://user:Zq1x/@host", "user:Zq1x@host:1"):
        with pytest.raises(InvalidURIError) as caught:
            blocking_command(uri, {"ping": 1}, timeout_s=1)
        assert not any(map(shows_secret, everything_shown(caught.value)))


@given(passwords, st.sampled_from(["db_name", "driver", "similarity", "text_language", "fusion"]))
def test_an_address_in_the_wrong_argument_is_not_shown(password: str, name: str) -> None:
    """The arguments of a configuration in the wrong order, for example."""
    with pytest.raises(ConfigurationError) as caught:
        MongoDBConfig("local", **{name: f"mongodb://user:{password}@host\0"})  # type: ignore[arg-type]
        raise ConfigurationError("text_language takes any word")
    assert not any(map(shows_secret, everything_shown(caught.value)))


@given(addresses)
def test_an_unknown_setting_is_not_shown_where_it_is_no_name(uri: str) -> None:
    """A dict with keys and values swapped, for example."""
    with pytest.raises(ConfigurationError) as caught:
        MongoDBConfig.from_dict({uri: "uri"})
    assert not any(map(shows_secret, everything_shown(caught.value)))


@given(passwords)
def test_the_api_key_and_the_address_of_a_service_are_not_shown(password: str) -> None:
    """In the repr of the backend, and in the error for what cannot be sent or read."""
    for arguments in (
        {"api_key": password, "base_url": "http://h/v1"},
        {"base_url": f"https://user:{password}@host/v1"},
    ):
        try:
            texts = [repr(OpenAIBackend("m", **arguments))]  # type: ignore[arg-type]
        except ConfigurationError as error:
            texts = [*everything_shown(error)]
        assert not any(map(shows_secret, texts))


@pytest.mark.parametrize(
    ("value", "as_word", "otherwise"),
    [
        (5, "5", "5"), (-1.5, "-1.5", "-1.5"), (True, "True", "True"), (None, "None", "None"),
        ("", "''", "''"), ("hybird", "'hybird'", "a text of 6 characters"),
        ("metadata.topic", "'metadata.topic'", "a text of 14 characters"),
        *((value, kind, kind) for value, kind in (
            ("4711", "a text of 4 characters"), ("her PIN", "a text of 7 characters"),
            ("x" * 40, "a text of 40 characters"), (2**100, "a number of more than 64 bits"),
            (["a"], "a list"), ({"a": 1}, "a dict"), (b"a", "a bytes"),
        )),
    ],
)  # fmt: skip
def test_what_is_shown_of_an_argument(value: Any, as_word: str, otherwise: str) -> None:
    """Numbers as they are, a short name where no user's text can be; of the rest the kind."""
    assert shown(value, word=True) == as_word
    assert shown(value) == otherwise


@pytest.mark.parametrize(
    ("options", "client_options"),
    [
        ("uuidRepresentation=Zq1x", {}),
        ("datetime_conversion=Zq1x", {}),
        ("authMechanismProperties=AWS_SESSION_TOKEN:a,Zq1x", {}),
        ("", {"readPreferenceTags": "Zq1x"}),
        ("", {"tls": ["Zq1x"]}),
        ("", {"mongodb://user:Zq1x@host": 1}),
    ],
)
async def test_a_bad_option_is_refused_without_its_value(
    options: str, client_options: dict[str, Any]
) -> None:
    """The driver's error, which quotes the value, is not the context of ours either."""
    config = MongoDBConfig(f"mongodb://host/?{options}", client_options=client_options)
    with pytest.raises(ConfigurationError) as caught:
        await open_driver(config, config.resolved_uri())
    assert not any(map(shows_secret, everything_shown(caught.value)))


def test_a_file_of_settings_that_is_not_json_is_not_shown(tmp_path: Path) -> None:
    """It usually holds an address with a password."""
    file = tmp_path / "settings.json"
    for text in (b'{"uri": "mongodb://user:Zq1x@host", x', b'{"uri": "mongodb://user:Zq1x\xff@h"}'):
        file.write_bytes(text)
        with pytest.raises(ConfigurationError) as caught:
            MongoDBConfig.from_file(file)
        assert not any(map(shows_secret, everything_shown(caught.value)))
