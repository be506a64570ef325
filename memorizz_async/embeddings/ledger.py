"""Who waits for which text: single flight, the cache, the queue and the answers.

Plain bookkeeping, without threads or I/O. The engine calls every method here under its one lock,
and then wakes those that the method returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from memorizz_async.embeddings.cache import Key, VectorCache
from memorizz_async.embeddings.calls import Answer, Call, own_copy
from memorizz_async.embeddings.execution import Outcome
from memorizz_async.embeddings.protocol import Vector
from memorizz_async.embeddings.stats import Counters
from memorizz_async.embeddings.work_queue import Item, WorkQueue, estimate_tokens
from memorizz_async.errors import MemorizzAsyncError


class Ledger:
    """Every text that is in flight, once, with those who wait for it.

    A text is in `_flying` from its admission to its outcome; while it is there, whoever asks for it
    joins. It is in the queue as long as it has not been started. A call that has its answer is in
    no text any more.
    """

    def __init__(
        self, queue: WorkQueue, cache: VectorCache, counters: Counters, max_queue: int
    ) -> None:
        self.queue = queue
        self.cache = cache
        self.max_queue = max_queue
        self.max_tokens: int | None = None
        """Of one text, once the model is known."""
        self._counters = counters
        self._flying: dict[Key, Item] = {}
        self._room: list[asyncio.Future[None]] = []

    def unknown(self, keys: Iterable[Key]) -> list[Key]:
        """Those that are neither in the cache nor in flight, each once."""
        return [
            key for key in dict.fromkeys(keys) if key not in self.cache and key not in self._flying
        ]

    def place(
        self, call: Call, position: int, key: Key, text: str, known: Vector | None = None
    ) -> bool:
        """From the cache, or with a text in flight, or into the queue; False: there is no room.

        known: the vector, where a second tier had it.
        """
        if (vector := self.cache.get(key)) is not None:
            call.fill(position, vector)
            call.answered = not call.missing
        elif known is not None:
            self.cache.put(key, known)
            call.fill(position, known)
            call.answered = not call.missing
        elif (item := self._flying.get(key)) is not None:
            self.cache.misses -= 1  # neither a hit nor computed once more: `joined` counts it
            self._counters.joined += 1
            _attach(call, position, item)
            if call.kind == "query" and not item.started:
                self.queue.promote(item)
        elif len(self.queue) >= self.max_queue:
            self.cache.misses -= 1  # it is asked for again once there is room
            return False
        else:
            tokens = estimate_tokens(call.prompt, text, self.max_tokens)
            item = Item(key, text, call.prompt, call.kind, tokens)
            _attach(call, position, item)
            self._flying[key] = item
            self.queue.add(item)
        self._counters.texts += 1
        return True

    def wait_for_room(self, call: Call) -> asyncio.Future[None]:
        """A future of the call's loop, to be woken when there is room."""
        room: asyncio.Future[None] = call.loop.create_future()
        self._room.append(room)
        return room

    def forget_room(self, room: asyncio.Future[None]) -> None:
        if room in self._room:
            self._room.remove(room)

    def freed_room(self) -> list[asyncio.Future[None]]:
        """Those to wake because there is room now."""
        if len(self.queue) >= self.max_queue:
            return []
        room, self._room = self._room, []
        return room

    def take(self) -> list[Item]:
        """The next batch."""
        items = self.queue.take()
        if items:
            now = time.perf_counter()
            self._counters.waits.extend(now - item.since for item in items)
            self._counters.batch_started(len(items))
        return items

    def leave(self, call: Call) -> None:
        """A call is over: what only it wanted, and what has not been started, is dropped."""
        for item in call.items:
            if item.callers.pop(call, None) is None or item.callers or item.started:
                continue
            self.queue.discard(item)
            self._flying.pop(item.key, None)
        call.items = []

    def still_wanted(self, item: Item) -> bool:
        """Whether anybody waits for a text that was started; if not, it is dropped for good."""
        if item.callers:
            return True
        # In the same breath, so that nobody joins a text that is about to be dropped.
        self._land(item)
        return False

    def settle(self, outcomes: Iterable[Outcome]) -> list[Answer]:
        """Take in vectors and errors; the answers of the calls that are complete by them."""
        answers: list[Answer] = []
        for item, outcome in outcomes:
            self._land(item)
            self._counters.running -= 1
            if isinstance(outcome, MemorizzAsyncError):
                self._counters.failed += 1
                failed = decide(item.callers, outcome)
                for call, _ in failed:
                    self.leave(call)
                answers += failed
            else:
                self._counters.computed += 1
                self.cache.put(item.key, outcome)
                answers += _fill(item, outcome)
            item.callers = {}
        return answers

    def loops_of(self, items: Iterable[Item]) -> list[asyncio.AbstractEventLoop]:
        """The loops of those who wait for these texts, each once."""
        loops = (call.loop for item in items for call in item.callers if not call.answered)
        return [loop for loop in dict.fromkeys(loops) if not loop.is_closed()]

    def fail_all(
        self, error: MemorizzAsyncError
    ) -> tuple[list[Answer], list[asyncio.Future[None]]]:
        """Everybody gets the error, and nothing is left; also those to wake who wait for room."""
        calls = {call: None for item in self._flying.values() for call in item.callers}
        answers = decide(calls, error)
        for item in self._flying.values():
            item.callers = {}
        room = self._room
        self.reset()
        return answers, room

    def reset(self) -> None:
        """Forget every text and everybody who waits, and empty the cache."""
        self.queue.clear()
        self._flying.clear()
        self.cache.clear()
        self._room = []

    def _land(self, item: Item) -> None:
        if self._flying.get(item.key) is item:
            del self._flying[item.key]


def decide(calls: Iterable[Call], error: MemorizzAsyncError | None) -> list[Answer]:
    """The answer of every call that has none yet."""
    answers: list[Answer] = []
    for call in calls:
        if not call.answered:
            call.answered = True
            answers.append((call, own_copy(error) if error is not None else None))
    return answers


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
