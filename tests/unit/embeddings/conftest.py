"""No test of the embeddings leaves a thread, a task or the shared provider behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from memorizz_async.embeddings import reset_async_embedding_provider


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())  # a test elsewhere may have left an idle one, for a minute
    yield
    reset_async_embedding_provider()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("memorizz-embedding"):
            thread.join(5)
            assert not thread.is_alive(), f"{thread.name} was left behind"


@pytest.fixture(autouse=True)
async def _no_complaint_of_the_loop() -> AsyncIterator[None]:
    """What asyncio only logs (an unretrieved exception, a failed callback) fails the test."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks were left behind: {left}"
    assert not complaints, complaints
