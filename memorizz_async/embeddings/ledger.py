"""Which call waits for which text: single flight, cache, queue and answers.

Plain bookkeeping, without threads or I/O. The engine calls every method here under its one lock,
and then wakes the calls and futures that the method returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from memorizz_async.embeddings.batching import (
    Answer,
    Call,
    Item,
    WorkQueue,
    conclude,
    estimate_tokens,
)
from memorizz_async.embeddings.cache import Key, VectorCache
from memorizz_async.embeddings.execution import Outcome
from memorizz_async.embeddings.protocol import Vector
from memorizz_async.embeddings.stats import Counters
from memorizz_async.errors import MemorizzAsyncError


class Ledger:
    """Every text in flight, once, with the calls that wait for it.

    A text is in flight from its admission to its outcome; meanwhile, further calls for it join. It
    is in the queue until a batch with it starts. A call with its answer waits for no text.

    Args:
        queue: Texts that no batch has started with.
        cache: Vectors computed lately.
        counters: The sums behind `stats()`.
        max_queue: Texts that may wait in the queue.
    """

    def __init__(
        self, queue: WorkQueue, cache: VectorCache, counters: Counters, max_queue: int
    ) -> None:
        self.queue = queue
        self.cache = cache
        self.max_queue = max_queue
        self.max_tokens: int | None = None
        """Tokens that the model reads of one text, once it is loaded."""
        self._counters = counters
        self._in_flight: dict[Key, Item] = {}
        self._room_waiters: list[asyncio.Future[None]] = []

    def missing_keys(self, keys: Iterable[Key]) -> list[Key]:
        """Return the keys that are neither cached nor in flight, each once."""
        return [
            key
            for key in dict.fromkeys(keys)
            if key not in self.cache and key not in self._in_flight
        ]

    def admit(
        self, call: Call, position: int, key: Key, text: str, known: Vector | None = None
    ) -> bool:
        """Serve a text from the cache, join it in flight, or queue it.

        Args:
            call: The call that asks for the text.
            position: Where the vector belongs in the call.
            key: The text's key in the cache.
            text: The text, without prompt.
            known: Its vector, if a second cache tier had it.

        Returns:
            False if the queue is full; the text is then to be admitted again later.
        """
        if (vector := self.cache.get(key)) is not None:
            call.fill(position, vector)
            call.answered = not call.missing
        elif known is not None:
            self.cache.put(key, known)
            call.fill(position, known)
            call.answered = not call.missing
        elif (item := self._in_flight.get(key)) is not None:
            self.cache.misses -= 1  # neither a hit nor another computation: `joined` counts it
            self._counters.joined += 1
            _attach(call, position, item)
            if call.kind == "query" and not item.started:
                self.queue.promote(item)
        elif len(self.queue) >= self.max_queue:
            self.cache.misses -= 1  # looked up again once there is room
            return False
        else:
            tokens = estimate_tokens(call.prompt, text, self.max_tokens)
            item = Item(key, text, call.prompt, call.kind, tokens)
            _attach(call, position, item)
            self._in_flight[key] = item
            self.queue.add(item)
        self._counters.texts += 1
        return True

    def add_room_waiter(self, call: Call) -> asyncio.Future[None]:
        """Return a future of the call's loop, to be resolved when the queue has room."""
        future: asyncio.Future[None] = call.loop.create_future()
        self._room_waiters.append(future)
        return future

    def remove_room_waiter(self, future: asyncio.Future[None]) -> None:
        """Drop a future that no task waits for any more."""
        if future in self._room_waiters:
            self._room_waiters.remove(future)

    def pop_room_waiters(self) -> list[asyncio.Future[None]]:
        """Return the futures to resolve, if the queue has room now."""
        if len(self.queue) >= self.max_queue:
            return []
        waiters, self._room_waiters = self._room_waiters, []
        return waiters

    def take(self) -> list[Item]:
        """Remove and return the next batch."""
        items = self.queue.take()
        if items:
            now = time.perf_counter()
            self._counters.waits.extend(now - item.since for item in items)
            self._counters.batch_started(len(items))
        return items

    def abandon(self, call: Call) -> None:
        """Detach a finished or cancelled call; drops queued texts that only it waited for."""
        for item in call.items:
            if item.callers.pop(call, None) is None or item.callers or item.started:
                continue
            self.queue.discard(item)
            self._in_flight.pop(item.key, None)
        call.items = []

    def still_wanted(self, item: Item) -> bool:
        """Return whether a call waits for a started text; otherwise drops the text for good."""
        if item.callers:
            return True
        # In the same critical section, so that no call joins a text that is about to be dropped.
        self._complete(item)
        return False

    def settle(self, outcomes: Iterable[Outcome]) -> list[Answer]:
        """Record vectors and errors; returns the answers of the calls they complete."""
        answers: list[Answer] = []
        for item, outcome in outcomes:
            self._complete(item)
            self._counters.running -= 1
            if isinstance(outcome, MemorizzAsyncError):
                self._counters.failed += 1
                failed = conclude(item.callers, outcome)
                for call, _ in failed:
                    self.abandon(call)
                answers += failed
            else:
                self._counters.computed += 1
                self.cache.put(item.key, outcome)
                answers += _fill(item, outcome)
            item.callers = {}
        return answers

    def loops_of(self, items: Iterable[Item]) -> list[asyncio.AbstractEventLoop]:
        """Return the open loops of the calls that wait for these texts, each once."""
        loops = (call.loop for item in items for call in item.callers if not call.answered)
        return [loop for loop in dict.fromkeys(loops) if not loop.is_closed()]

    def fail_all(
        self, error: MemorizzAsyncError
    ) -> tuple[list[Answer], list[asyncio.Future[None]]]:
        """Fail every call and forget every text; returns answers and room waiters to wake."""
        calls = {call: None for item in self._in_flight.values() for call in item.callers}
        answers = conclude(calls, error)
        for item in self._in_flight.values():
            item.callers = {}
        waiters = self._room_waiters
        self.reset()
        return answers, waiters

    def reset(self) -> None:
        """Forget every text and every waiter, and empty the cache."""
        self.queue.clear()
        self._in_flight.clear()
        self.cache.clear()
        self._room_waiters = []

    def _complete(self, item: Item) -> None:
        if self._in_flight.get(item.key) is item:
            del self._in_flight[item.key]


def _attach(call: Call, position: int, item: Item) -> None:
    if call in item.callers:
        item.callers[call].append(position)
    else:
        item.callers[call] = [position]
        call.items.append(item)


def _fill(item: Item, vector: Vector) -> list[Answer]:
    answers: list[Answer] = []
    for call, positions in item.callers.items():
        if call.answered:
            continue
        for position in positions:
            call.fill(position, vector)
        if not call.missing:
            call.answered = True
            answers.append((call, None))
    return answers
