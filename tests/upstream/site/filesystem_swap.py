"""MemorizzProvider where memorizz's tests ask for FileSystemProvider.

A provider is made for a root path; here the path names a database, so that a second provider of the
same path finds what the first wrote, as it would on the disk.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from memorizz import embeddings, memory_provider
from memorizz.memory_provider import filesystem
from memorizz.memory_provider.filesystem import provider as filesystem_module

from memorizz_async import MongoDBConfig
from memorizz_async.integrations.memorizz import MemorizzProvider

URI = os.environ["MEMORIZZ_UPSTREAM_URI"]
SEARCHED_BY_WORDS = ("KNOWLEDGE_BASE", "CONVERSATION_MEMORY")


class SwappedProvider(MemorizzProvider):
    """Ours, made as FileSystemProvider is: from a FileSystemConfig."""

    def __init__(self, config: Any) -> None:
        def embed(texts: list[str]) -> list[list[float]]:
            manager = config.embedding_provider or embeddings.get_embedding_manager()
            return [manager.get_embedding(text) for text in texts]

        path = str(Path(config.root_path).resolve())
        name = f"upstream_{hashlib.sha256(path.encode()).hexdigest()[:20]}"
        super().__init__(MongoDBConfig(URI, name), embedding_provider=embed)
        # FileSystemProvider searches by words where vectors cannot be compared; so does ours, with
        # a text index.
        self.ensure_indexes(SEARCHED_BY_WORDS)


for module in (memory_provider, filesystem, filesystem_module):
    module.FileSystemProvider = SwappedProvider


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many there were of each kind, in a line that a program can find."""
    counts = {
        name: len(terminalreporter.stats.get(name, ()))
        for name in ("passed", "failed", "error", "skipped")
    }
    terminalreporter.ensure_newline()
    terminalreporter.write_line(f"UPSTREAM {counts}")
