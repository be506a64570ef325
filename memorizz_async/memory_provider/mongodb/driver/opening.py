"""Opening a driver: which one, with which options."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import pymongo
from pymongo import errors as driver_errors
from pymongo.common import validate
from pymongo.driver_info import DriverInfo
from pymongo.uri_parser import split_options

from memorizz_async.address import parse_address
from memorizz_async.config import MongoDBConfig
from memorizz_async.errors import ConfigurationError, InvalidURIError, MissingDependencyError
from memorizz_async.installing import how_to_install
from memorizz_async.memory_provider.mongodb.codec import READ_OPTIONS
from memorizz_async.memory_provider.mongodb.driver.listeners import log_failures
from memorizz_async.memory_provider.mongodb.driver.motor import MotorDriver
from memorizz_async.memory_provider.mongodb.driver.pool import pool_options
from memorizz_async.memory_provider.mongodb.driver.server import MongoDriver
from memorizz_async.memory_provider.mongodb.driver.translation import bad_uri, translate
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.redaction import option_name, redact_uri, shown


def installed_driver(config: MongoDBConfig) -> str:
    """The driver that the configuration means on this machine. Raises MissingDependencyError."""
    has_motor = importlib.util.find_spec("motor") is not None
    if config.driver == "auto":
        return "motor" if has_motor else "pymongo"
    if config.driver == "motor" and not has_motor:
        raise MissingDependencyError(
            "The driver 'motor' is not installed",
            fix=how_to_install("async") + ', or use driver="pymongo"',
        )
    return config.driver


async def open_driver(config: MongoDBConfig, address: str) -> Driver:
    """A driver for the running loop, not yet connected: that happens on the first operation.

    Raises:
        InvalidURIError: The address cannot be read.
        ConfigurationError: What it says cannot hold, or contradicts the configuration.
        MissingDependencyError: The driver, or what an option of it needs, is not installed.
    """
    effective = config.for_address(address)
    _check_options(effective)
    options = _client_options(effective)
    name = installed_driver(config)
    shown_address = redact_uri(address)
    try:
        if name == "pymongo":
            info = DriverInfo("memorizz-async")  # Motor says its own
            client: Any = pymongo.AsyncMongoClient(
                address, driver=info, **options, **pool_options()
            )
        else:
            from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - an optional part

            # Motor's constructor resolves mongodb+srv:// names, and would block the loop meanwhile.
            opened = functools.partial(
                AsyncIOMotorClient, address, io_loop=asyncio.get_running_loop(), **options
            )
            client = await asyncio.to_thread(opened)
    except (driver_errors.PyMongoError, ValueError, TypeError, OSError, ImportError) as error:
        failure = bad_uri(redact_uri(address), error)
    else:
        log_failures(client.delegate if name == "motor" else client)
        driver = MotorDriver if name == "motor" else MongoDriver
        return driver(client, effective, shown_address)
    try:  # here, so that the driver's words, which may hold a secret, are no context of it
        raise failure
    finally:
        del failure


def _client_options(config: MongoDBConfig) -> dict[str, Any]:
    """What the client is given beside the address; it wins over the address."""
    usual = {
        "connectTimeoutMS": config.server_selection_timeout_ms,
        "appname": "memorizz-async",
    }
    return {
        **{name: value for name, value in usual.items() if config.driver_option(name) is None},
        **config.client_options,
        "serverSelectionTimeoutMS": int(config.server_selection_timeout_ms),
        "maxPoolSize": int(config.max_pool_size),
        **READ_OPTIONS,
    }


def _check_options(config: MongoDBConfig) -> None:
    """Raise where the driver would ignore an option, or where its effect cannot be kept.

    The driver warns of a wrong option in an address and goes on without it.
    """
    address = parse_address(config.resolved_uri())
    for name, text in address.written_options:
        # Not all options at once: the first that is wrong is named.
        if not _takes(split_options, f"{name}={text}", validate=True, warn=False):
            raise InvalidURIError(
                f"The address of the database has an option that cannot be read: "
                f"{option_name(name)}",
                fix="correct its name or its value, or leave it out",
            )
    for name, value in config.client_options.items():
        if not _takes(validate, name, value):
            raise ConfigurationError(
                "client_options has an option that the driver does not take",
                seen=shown(name, word=True),
                fix="correct its name or its value: options are named as by PyMongo",
            )
    if config.driver_option("waitQueueTimeoutMS") is not None:
        raise ConfigurationError(
            "waitQueueTimeoutMS has no effect: timeout_ms bounds the wait for a connection, too",
            fix="leave it out",
        )
    if str(config.driver_option("w")) == "0":
        raise ConfigurationError(
            "Writes must be acknowledged: without it nothing tells whether a memory was stored",
            seen="w=0",
            fix="leave w out, or use w=1 or w=majority",
        )


def _takes(check: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a check of the driver's passes. Its error quotes the value, which may be a secret: it
    ends here, so that it is not the context of ours.
    """
    try:
        check(*args, **kwargs)
    except (driver_errors.PyMongoError, ValueError, TypeError, KeyError, OSError):
        return False
    return True


def blocking_command(
    address: str, command: Mapping[str, Any], *, timeout_s: float, database: str = "admin"
) -> dict[str, Any]:
    """Run one command and wait for the reply: for starting a server, in a worker thread, never on
    the loop.

    Raises ServerUnavailableError or another DatabaseError.
    """
    milliseconds = max(1, int(timeout_s * 1000))
    client: pymongo.MongoClient[Document] | None = None
    try:
        client = pymongo.MongoClient(
            address, serverSelectionTimeoutMS=milliseconds, timeoutMS=milliseconds
        )
        return dict(client[database].command(dict(command)))
    except driver_errors.PyMongoError as error:
        name = f"command {next(iter(command))!r}"
        failure = translate(error, name, redact_uri(address), milliseconds, None)
    except (ValueError, TypeError) as error:
        failure = bad_uri(redact_uri(address), error)
    finally:
        if client is not None:
            client.close()
    try:  # here, so that what the driver raised is no context of it
        raise failure
    finally:
        del failure
