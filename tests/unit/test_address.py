"""What an address says: its parts, what they set, and what contradicts them."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from pymongo.read_preferences import ReadPreference

from memorizz_async import AsyncMongoDBProvider, ConfigurationError, InvalidURIError, MongoDBConfig
from memorizz_async.address import parse_address
from memorizz_async.memory_provider.mongodb.driver import open_driver

SETTINGS = {
    "timeout_ms": ("timeoutMS", 30_000),
    "server_selection_timeout_ms": ("serverSelectionTimeoutMS", 5_000),
    "max_pool_size": ("maxPoolSize", 100),
}


@pytest.mark.parametrize(
    ("uri", "hosts", "database"),
    [
        ("mongodb://h", "h", None),
        ("mongodb://h:1,[::1]:2/", "h:1,[::1]:2", None),
        ("mongodb://h/mydb", "h", "mydb"),
        ("mongodb+srv://u:p@c0.abc.net/my%2Ddb?w=majority", "c0.abc.net", "my-db"),
        ("mongodb://h?maxPoolSize=3", "h", None),
        ("mongodb://u:p@h/admin", "h", None),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/d", "%2Ftmp%2Fmongodb-27017.sock", "d"),
    ],
)  # fmt: skip
def test_the_parts_of_an_address(uri: str, hosts: str, database: str | None) -> None:
    """Hosts and database; a path of `admin` says where users are defined, and no more."""
    address = parse_address(uri)
    assert (address.hosts, address.database) == (hosts, database)


@pytest.mark.parametrize(
    "uri",
    [
        "root:pw@host", "mongodb:/u:pw@h", "mongodb//u:pw@h", "mongo://u:pw@h", "MONGODB://h", "",
        "mongodb://", "mongodb://u:p/w@h", "mongodb://u:p@w@h", "mongodb://u:p:w@h",
        "mongodb://u:p w@h", "mongodb://u:p\nw@h", "mongodb://u:pw", "mongodb://:pw@h",
        "mongodb://h/a.b", "mongodb://h:port", "mongodb://h,", "mongodb://h\n",
        "mongodb://h/?w=1&w=2",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_read_is_an_invalid_uri_error(uri: str) -> None:
    """Also where it could be read in two ways."""
    with pytest.raises(InvalidURIError):
        parse_address(uri)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_option_of_the_address_holds_where_the_setting_is_not_set(name: str) -> None:
    """The default is seen where neither says anything."""
    option, default = SETTINGS[name]
    assert getattr(MongoDBConfig("mongodb://h"), name) == default
    assert getattr(MongoDBConfig(f"mongodb://h/?{option}=7"), name) == 7
    assert getattr(MongoDBConfig(f"mongodb://h/?{option.lower()}=7"), name) == 7
    assert getattr(MongoDBConfig("local", client_options={option: 7}), name) == 7
    same = MongoDBConfig(f"mongodb://h/?{option}=7", **{name: 7})  # type: ignore[arg-type]
    assert getattr(same.for_address("mongodb://h"), name) == 7


def test_the_database_of_the_address_is_the_database() -> None:
    """Where db_name is not given; else they must be the same."""
    assert MongoDBConfig("mongodb://h/mydb").db_name == "mydb"
    assert MongoDBConfig("mongodb+srv://h/mydb?w=1").db_name == "mydb"
    assert MongoDBConfig("mongodb://h/").db_name == "memorizz"
    assert MongoDBConfig("mongodb://u:p@h/admin").db_name == "memorizz"
    assert MongoDBConfig("mongodb://u:p@h/admin", "other").db_name == "other"
    assert MongoDBConfig("mongodb://h/mydb", "mydb").db_name == "mydb"


def test_what_was_not_set_follows_the_address_of_a_copy() -> None:
    """`replace` does not make a setting of what an address said, nor does a copy or a pickle."""
    config = MongoDBConfig("mongodb://h/mydb?maxPoolSize=3")
    for copied in (config, deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert copied == config
        other = replace(copied, uri="mongodb://h/?timeoutMS=9")
        assert (other.db_name, other.max_pool_size, other.timeout_ms) == ("memorizz", 100, 9)


def test_the_address_of_the_environment_sets_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider without an address has that of `MONGODB_URI`, with what it says."""
    monkeypatch.setenv("MONGODB_URI", "mongodb://h/mydb?maxPoolSize=3")
    config = AsyncMongoDBProvider().config
    assert (config.db_name, config.max_pool_size) == ("mydb", 3)


async def opening(uri: str, **settings: Any) -> ConfigurationError:
    """The error of an address that is opened."""
    config = MongoDBConfig(uri, driver="pymongo", **settings)
    with pytest.raises(ConfigurationError) as caught:
        await open_driver(config, uri)
    return caught.value


@pytest.mark.parametrize("name", SETTINGS)
async def test_a_setting_and_an_option_that_differ_are_both_named(name: str) -> None:
    """In the address and in client_options alike."""
    option, default = SETTINGS[name]
    for error in (
        await opening(f"mongodb://h/?{option}=7", **{name: 8}),
        await opening(f"mongodb://h/?{option}=7", **{name: default}),
        await opening("mongodb://h", **{name: 8}, client_options={option: 7}),
    ):
        assert name in str(error)
        assert option in str(error)
    assert option in str(await opening(f"mongodb://h/?{option}=7", client_options={option: 8}))


async def test_two_databases_are_both_named() -> None:
    """Also where db_name is the default's name, but was given."""
    for name in ("other", "memorizz"):
        error = await opening("mongodb://h/mydb", db_name=name)
        assert name in str(error)
        assert "mydb" in str(error)
        assert "authSource" in str(error)


@pytest.mark.parametrize(
    ("uri", "settings", "names"),
    [
        ("mongodb://h/?minPoolSize=20", {"max_pool_size": 10}, ["minPoolSize", "max_pool_size"]),
        ("mongodb://h/?minPoolSize=200", {}, ["minPoolSize", "max_pool_size"]),
        ("mongodb://h/?ssl=false", {"client_options": {"tls": True}}, ["ssl", "client_options"]),
        ("mongodb://h/?tls=false", {"client_options": {"ssl": True}}, ["tls", "client_options"]),
        (
            "mongodb://h/?readPreference=secondary",
            {"client_options": {"read_preference": ReadPreference.NEAREST}},
            ["readPreference", "client_options"],
        ),
        (
            "mongodb://ada:pw@h",
            {"client_options": {"username": "eve", "password": "pw"}},
            ["address", "username"],
        ),
    ],
)
async def test_options_that_contradict_each_other_are_both_named(
    uri: str, settings: dict[str, Any], names: list[str]
) -> None:
    """Also where PyMongo has two names for one of them."""
    error = await opening(uri, **settings)
    assert type(error) is ConfigurationError
    assert all(name in str(error) for name in names)
    assert "eve" not in str(error)


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("mongodb://h/?compressors=zlib", {"compressors": ["zlib"]}),
        ("mongodb://h/?ssl=false", {"tls": False}),
        (
            "mongodb://h/?readPreference=secondary",
            {"read_preference": ReadPreference.SECONDARY},
        ),
    ],
)
async def test_what_is_said_twice_alike_is_no_conflict(uri: str, options: dict[str, Any]) -> None:
    """However it is written."""
    driver = await open_driver(MongoDBConfig(uri, client_options=options), uri)
    await driver.close()


@pytest.mark.parametrize("name", ["pymongo", "motor"])
@pytest.mark.parametrize(
    "options",
    [
        "readPreference=secondaryPreferred&readPreferenceTags=dc:a,rack:1&readPreferenceTags=",
        "readPreference=nearest&readPreferenceTags=dc:a",
        "authMechanismProperties=AWS_SESSION_TOKEN:Zq%2B7%40%3A%2F",
        "authMechanismProperties=SERVICE_NAME:other,CANONICALIZE_HOST_NAME:true",
    ],
)
async def test_options_of_several_parts_are_read_as_the_driver_reads_them(
    options: str, name: Any
) -> None:
    """Commas and colons separate their parts: these reach the driver as they were written."""
    uri = f"mongodb://h/?{options}"
    driver = await open_driver(MongoDBConfig(uri, driver=name), uri)
    await driver.close()


@pytest.mark.parametrize(
    ("uri", "settings"),
    [
        ("mongodb://h/?w=0", {}),
        ("mongodb://h/?datetime_conversion=auto", {}),
        ("mongodb://h", {"client_options": {"w": 0}}),
        ("mongodb://h/?waitQueueTimeoutMS=5", {}),
        ("mongodb://h/?timeoutMS=0", {}),
        ("mongodb://h/?serverSelectionTimeoutMS=0", {}),
        ("mongodb://h/?maxPoolSize=many", {}),
        ("mongodb://h/?retryWrites=perhaps", {}),
        ("mongodb://h/?readPreference=first", {}),
        ("mongodb://h/?noSuchOption=1", {}),
        ("mongodb://h/?tlsCAFile=/no/such/file", {}),
        ("mongodb://h/?readPreference=primary&maxStalenessSeconds=100", {}),
        ("mongodb://h", {"client_options": {"noSuchOption": 1}}),
        ("mongodb://h", {"client_options": {"server_api": "1"}}),
    ],
)
async def test_an_option_that_cannot_hold_is_refused(uri: str, settings: dict[str, Any]) -> None:
    """The driver would warn of some of them, and go on without."""
    assert isinstance(await opening(uri, **settings), ConfigurationError)


@pytest.mark.parametrize("name", ["tz_aware", "document_class", "io_loop", "TZ_AWARE", "connect"])
def test_options_that_the_package_sets_itself_are_refused_by_name(name: str) -> None:
    """When the configuration is made."""
    with pytest.raises(ConfigurationError, match=name):
        MongoDBConfig(client_options={name: None})


@pytest.mark.parametrize("options", [5, "w=1", ["w"], {1: 2}, {"w": 1, "W": 1}])
def test_client_options_are_a_mapping_of_names(options: Any) -> None:
    """Anything else is refused, and not shown."""
    with pytest.raises(ConfigurationError, match="client_options"):
        MongoDBConfig(client_options=options)


def test_client_options_are_shown_by_name_only() -> None:
    """Their values may be passwords."""
    assert "s3cret" not in repr(MongoDBConfig(client_options={"password": "s3cret", "tls": True}))


def test_an_unlimited_pool_is_no_pool_of_one() -> None:
    """`maxPoolSize=0` means without limit."""
    assert MongoDBConfig("mongodb://h/?maxPoolSize=0").max_pool_size > 1000
