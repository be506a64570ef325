"""Makes a started mongod the primary of a replica set of one, and waits until it is.

Transactions and change streams need a replica set; one member is enough.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memorizz_async.errors import (
    DatabaseError,
    OperationTimeoutError,
    ServerUnavailableError,
)
from memorizz_async.memory_provider.mongodb.local_server.folder import RunningServer

logger = logging.getLogger(__name__)

_POLL_S = 0.01
_COMMAND_TIMEOUT_S = 10.0
_NOT_INITIATED = 94
# Not yet, or not any more, in the state for that command: it settles by itself.
_PASSING_CODES = frozenset(
    {
        23,  # AlreadyInitialized: the configuration is still being read
        _NOT_INITIATED,
        91,  # ShutdownInProgress
        109,  # ConfigurationInProgress
        189,  # PrimarySteppedDown
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
    }
)


class NotReadyError(Exception):
    """The server ended, or was not writable in time; in words what was seen last."""


def wait_writable(server: RunningServer, set_name: str, data: Path, *, deadline: float) -> None:
    """Wait until the server takes writes; make or mend its replica set where that is missing.

    `deadline` is a time of `time.monotonic`. Raises NotReadyError, or the DatabaseError of a
    command that the server refused for good.
    """
    ours = False
    seen = "no answer"
    while True:
        try:
            # Our port may be in other hands: of a mongod that was faster, say.
            ours = ours or _data_path(server, deadline) == str(data)
            if not ours:
                seen = "another mongod answers on its port"
            elif _advance(server, set_name, deadline):
                return
            else:
                seen = "it was not writable yet"
        except (ServerUnavailableError, OperationTimeoutError) as error:
            seen = error.seen or error.what
        except DatabaseError as error:
            if error.code not in _PASSING_CODES:
                raise
            seen = error.seen or error.what
        if not server.mark.is_alive():
            raise NotReadyError("it ended")
        if time.monotonic() > deadline:
            raise NotReadyError(seen)
        time.sleep(_POLL_S)


def _advance(server: RunningServer, set_name: str, deadline: float) -> bool:
    """True if the server is writable; otherwise take the next step towards that."""
    hello = _ask(server, {"hello": 1}, deadline)
    if hello.get("isWritablePrimary") and hello.get("setName") == set_name:
        return True
    if "setName" in hello:
        return False  # its election is under way
    here = f"127.0.0.1:{server.port}"
    try:
        config = _ask(server, {"replSetGetConfig": 1}, deadline)["config"]
    except DatabaseError as error:
        if error.code != _NOT_INITIATED:
            raise
        members = [{"_id": 0, "host": here}]
        _ask(server, {"replSetInitiate": {"_id": set_name, "members": members}}, deadline)
        return False
    member = config["members"][0]
    if member["host"] != here:
        # The server had to move to another port and does not find itself in its own set.
        logger.info("Local server moves from %s to %s", member["host"], here)
        config["version"] += 1
        member["host"] = here
        _ask(server, {"replSetReconfig": config, "force": True}, deadline)
    return False


def _data_path(server: RunningServer, deadline: float) -> str | None:
    options = _ask(server, {"getCmdLineOpts": 1}, deadline).get("parsed", {})
    path = options.get("storage", {}).get("dbPath")
    return None if path is None else str(path)


def _ask(server: RunningServer, command: Mapping[str, Any], deadline: float) -> dict[str, Any]:
    # Here, so that a look at the status of a server does not wait for a driver to be imported.
    from memorizz_async.memory_provider.mongodb.driver import blocking_command  # noqa: PLC0415

    timeout_s = min(_COMMAND_TIMEOUT_S, max(0.1, deadline - time.monotonic()))
    return blocking_command(server.direct_address, command, timeout_s=timeout_s)
