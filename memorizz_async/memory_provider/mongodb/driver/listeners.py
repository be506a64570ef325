"""Event listeners of the user (`event_listeners`, `pymongo.monitoring`): what fails is logged.

PyMongo prints the traceback of a listener that fails on stderr.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from pymongo import monitoring

log = logging.getLogger(__name__)

_KINDS = (
    monitoring.CommandListener,
    monitoring.ConnectionPoolListener,
    monitoring.ServerHeartbeatListener,
    monitoring.ServerListener,
    monitoring.TopologyListener,
)


def log_failures(client: Any) -> None:
    """Log what the listeners of a new client of PyMongo raise.

    Those in its options, and those that `pymongo.monitoring.register` adds to every client: the
    driver offers no way to choose among these, so its own lists are changed.
    """
    for listeners in vars(client.options.pool_options._event_listeners).values():
        if isinstance(listeners, list):
            listeners[:] = map(logged_listener, listeners)


def logged_listener(listener: Any) -> Any:
    """A listener of the same kinds that passes every event on, and logs what that raises."""
    kinds = tuple(kind for kind in _KINDS if isinstance(listener, kind))
    events = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    methods = {event: staticmethod(_logging_failures(listener, event)) for event in events}
    return type("LoggedListener", kinds, methods)()


def _logging_failures(listener: Any, event: str) -> Callable[[Any], None]:
    """The method of one event; logs the type and the place of an error, since its message and the
    event may hold a user's text.
    """
    handle = getattr(listener, event)

    def call(published: Any) -> None:
        try:
            handle(published)
        except Exception as error:  # noqa: BLE001 - a listener must not fail what it listens to
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.warning(
                "The event listener %s failed in %r with %s (%s, line %s).",
                type(listener).__name__,
                event,
                type(error).__name__,
                place.filename,
                place.lineno,
            )

    return call
