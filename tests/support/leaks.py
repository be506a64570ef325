"""Texts and secrets that no message may show, and the messages of one test.

`tests/conftest.py` records what the package logs (from DEBUG on) and every error that it makes, and
fails the test in which one of them shows a secret: the marker password, the marker text, or a
longer text that the test's embedder was given.
"""

from __future__ import annotations

import logging
from typing import Any

from memorizz_async import MemorizzAsyncError

USER, PASSWORD = "marker", "Zq7-marker-password"
"""A user of the test server; several fixtures have its password in their address."""
TEXT = "Xk9 marker text that a user wrote"
_SHORTEST_TEXT = 12


class Recorder(logging.Handler):
    """What the package says during one test."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(message)s"))
        self.messages: list[str] = []
        self.texts: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, its traceback included."""
        self.messages.append(self.format(record))

    def clear(self) -> None:
        """Forget everything, before a test."""
        self.messages.clear()
        self.texts.clear()

    def leaks(self) -> list[str]:
        """The messages that show what they must not."""
        secrets = {PASSWORD, TEXT, *self.texts}
        return [said for said in self.messages if any(secret in said for secret in secrets)]


RECORDER = Recorder()


def note_texts(texts: list[str]) -> None:
    """Texts that no message of this test may show; short ones are in too many messages."""
    RECORDER.texts.update(text for text in texts if len(text) >= _SHORTEST_TEXT)


def install() -> None:
    """Record from now on. Errors are taken as they are made: some are caught, some reach a user."""
    logger = logging.getLogger("memorizz_async")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(RECORDER)
    plain = MemorizzAsyncError.__init__

    def recording(self: MemorizzAsyncError, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        RECORDER.messages.append(str(self))

    MemorizzAsyncError.__init__ = recording  # type: ignore[method-assign]
