"""Log lines about what this user or this server does not allow: each once per provider."""

from __future__ import annotations

import logging
from collections.abc import Hashable


class Notices:
    """Logs a condition at WARNING the first time, and at DEBUG whenever it is met again.

    One object serves a whole provider, on all its event loops and threads.
    """

    def __init__(self) -> None:
        self._logged: set[Hashable] = set()

    def warn(self, log: logging.Logger, key: Hashable, message: str, *arguments: object) -> None:
        """Log a message under the caller's logger.

        Args:
            log: The logger of the module that met the condition.
            key: What makes two conditions the same: a subject, a collection, a reason.
            message: The message, with `%` placeholders for the arguments.
        """
        level = logging.DEBUG if key in self._logged else logging.WARNING
        self._logged.add(key)
        log.log(level, message, *arguments)
