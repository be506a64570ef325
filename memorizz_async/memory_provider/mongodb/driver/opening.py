"""Opening a driver: which one, with which options."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import pymongo
from pymongo import errors as driver_errors
from pymongo.driver_info import DriverInfo

from memorizz_async.config import MongoDBConfig
from memorizz_async.errors import MissingDependencyError
from memorizz_async.memory_provider.mongodb.driver.listeners import with_logged_listeners
from memorizz_async.memory_provider.mongodb.driver.motor import MotorDriver
from memorizz_async.memory_provider.mongodb.driver.pool import pool_options
from memorizz_async.memory_provider.mongodb.driver.server import MongoDriver
from memorizz_async.memory_provider.mongodb.driver.translation import bad_uri, translate
from memorizz_async.memory_provider.mongodb.protocol import Document, Driver
from memorizz_async.redaction import redact_uri


def installed_driver(config: MongoDBConfig) -> str:
    """The driver that the configuration means on this machine. Raises MissingDependencyError."""
    has_motor = importlib.util.find_spec("motor") is not None
    if config.driver == "auto":
        return "motor" if has_motor else "pymongo"
    if config.driver == "motor" and not has_motor:
        raise MissingDependencyError(
            "The driver 'motor' is not installed",
            fix='run pip install "memorizz-async[async]", or use driver="pymongo"',
        )
    return config.driver


async def open_driver(config: MongoDBConfig, address: str) -> Driver:
    """A driver for the running loop, not yet connected: that happens on the first operation.

    Raises InvalidURIError and MissingDependencyError.
    """
    shown = redact_uri(address)
    options: dict[str, Any] = {
        "serverSelectionTimeoutMS": config.server_selection_timeout_ms,
        "connectTimeoutMS": config.server_selection_timeout_ms,
        "maxPoolSize": config.max_pool_size,
        "tz_aware": True,
        "appname": "memorizz-async",
    }
    options = with_logged_listeners(options)
    name = installed_driver(config)
    try:
        if name == "pymongo":
            info = DriverInfo("memorizz-async")  # Motor says its own
            client = pymongo.AsyncMongoClient(address, driver=info, **options, **pool_options())
            return MongoDriver(client, config, shown)
        from motor.motor_asyncio import AsyncIOMotorClient  # noqa: PLC0415 - an optional part

        # Motor's constructor resolves mongodb+srv:// names, and would block the loop meanwhile.
        opened = functools.partial(
            AsyncIOMotorClient, address, io_loop=asyncio.get_running_loop(), **options
        )
        return MotorDriver(await asyncio.to_thread(opened), config, shown)
    except (driver_errors.PyMongoError, ValueError, TypeError, OSError) as error:
        raise bad_uri(address, error) from None  # its words may hold a part of the password


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
        raise translate(error, name, redact_uri(address), milliseconds, None) from error
    finally:
        if client is not None:
            client.close()
