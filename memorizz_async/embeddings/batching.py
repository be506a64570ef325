"""Waiting calls, queued texts and the batches made of them: pure bookkeeping, no threads, no I/O.

Queries precede documents, because a chat turn waits for them while documents are written in bulk.
Documents do not starve: after a few batches of queries they get one. A batch holds texts of similar
length, since a model pads each to the longest, and always includes the oldest waiting text.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from memorizz_async.fork import running_loop

if TYPE_CHECKING:
    from memorizz_async.embeddings.cache import Key
    from memorizz_async.embeddings.protocol import Kind, Vector
    from memorizz_async.errors import MemorizzAsyncError

WINDOW = 1024
"""How many of the oldest texts a batch is chosen from: enough to find texts of one length, few
enough to sort in a fraction of a millisecond under the engine's lock."""
QUERY_BATCHES_IN_A_ROW = 4
"""After this many consecutive batches of queries, waiting documents get one."""
_BYTES_PER_TOKEN = 4
_MAX_TEXTS = 64
_MAX_TOKENS = 16_384


class Call:
    """One call of a user: its vectors so far, and the future that its task awaits.

    Everything except the future changes under the engine's lock. `answered` is set at the moment
    that decides the answer: a result, an error, a close, or the caller's own cancellation. An
    answered call is never changed again. Created on the caller's event loop.

    Args:
        size: Number of vectors to collect; 0 for a call that only waits for the model.
        kind: What the texts are.
        prompt: Prefix of each text.
    """

    __slots__ = ("answered", "future", "items", "kind", "loop", "missing", "prompt", "rows")

    def __init__(self, size: int = 0, kind: Kind = "document", prompt: str = "") -> None:
        self.loop = running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.kind: Kind = kind
        self.prompt = prompt
        self.rows: list[Vector | None] = [None] * size
        self.missing = size
        self.items: list[Item] = []
        self.answered = False

    def fill(self, position: int, vector: Vector) -> None:
        """Store one vector."""
        self.rows[position] = vector
        self.missing -= 1

    def result(self) -> list[Vector]:
        """Return the vectors, in the order of the texts."""
        return [row for row in self.rows if row is not None]

    def settle(self) -> None:
        """Resolve the future, so that asyncio logs nothing. On the call's own loop."""
        if not self.future.done():
            # A task that is destroyed after its loop was closed also comes here.
            if not self.loop.is_closed():
                self.future.cancel()
        elif not self.future.cancelled():
            self.future.exception()


Answer: TypeAlias = "tuple[Call, MemorizzAsyncError | None]"


def conclude(calls: Iterable[Call], error: MemorizzAsyncError | None) -> list[Answer]:
    """Mark every unanswered call as answered; returns the answers to deliver."""
    answers: list[Answer] = []
    for call in calls:
        if not call.answered:
            call.answered = True
            answers.append((call, _copy_for_waiter(error) if error is not None else None))
    return answers


def deliver(answers: Iterable[Answer]) -> int:
    """Give each call its answer, on its own loop. From any thread.

    Schedules one callback for each loop, however many of its calls are answered.

    Returns:
        The number of answers whose loop is closed.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer[0].loop, []).append(answer)
    lost = 0
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_results, group)
        except RuntimeError:  # the loop is closed, and its tasks are gone with it
            lost += len(group)
    return lost


def resolve_futures(futures: Iterable[asyncio.Future[None]]) -> None:
    """Resolve futures of any loops, from any thread."""
    for future in futures:
        try:
            future.get_loop().call_soon_threadsafe(_resolve, future)
        except RuntimeError:
            continue  # the loop is closed: no task waits


def _set_results(group: list[Answer]) -> None:
    for call, error in group:
        if call.future.done():
            continue
        if error is None:
            call.future.set_result(None)
        else:
            call.future.set_exception(error)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _copy_for_waiter(error: MemorizzAsyncError) -> MemorizzAsyncError:
    """Copy an error for one waiter: tasks that share an object would mix up their tracebacks."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


class Item:
    """One distinct text to embed, for one call or many.

    `callers` maps each waiting call to the positions of the text in it.
    """

    __slots__ = (
        "callers", "counted", "key", "kind", "prompt", "since", "started", "text", "tokens",
    )  # fmt: skip

    def __init__(self, key: Key, text: str, prompt: str, kind: Kind, tokens: int) -> None:
        self.key = key
        self.text = text
        self.prompt = prompt
        self.kind: Kind = kind
        self.tokens = tokens
        self.since = time.perf_counter()
        self.started = False
        self.counted = False
        """Whether `tokens` was counted by the tokenizer, not estimated."""
        self.callers: dict[Call, list[int]] = {}


def estimate_tokens(prompt: str, text: str, max_tokens: int | None) -> int:
    """Estimate the tokens of a text: exact enough to sort and to limit, free to compute."""
    # Scripts beyond ASCII have fewer characters to a token; len(bytes) would make a copy.
    per_token = _BYTES_PER_TOKEN if text.isascii() else 2
    tokens = (len(prompt) + len(text)) // per_token + 2
    return min(tokens, max_tokens) if max_tokens else tokens


def padded_tokens(items: list[Item]) -> int:
    """Return the tokens that a batch costs the model, which pads every text to the longest."""
    return len(items) * max(item.tokens for item in items)


class WorkQueue:
    """The waiting texts, in one lane for queries and one for documents.

    Args:
        max_texts: Texts of one batch.
        max_tokens: Tokens of one batch, padding included. Limits that are left out can be set by
            `configure_limits` once the device is known.
    """

    def __init__(self, max_texts: int | None = None, max_tokens: int | None = None) -> None:
        self._texts_given = max_texts is not None
        self._tokens_given = max_tokens is not None
        self.max_texts = max_texts or _MAX_TEXTS
        self.max_tokens = max_tokens or _MAX_TOKENS
        self._queries: dict[Key, Item] = {}
        self._documents: dict[Key, Item] = {}
        self._query_batches = 0

    def __len__(self) -> int:
        return len(self._queries) + len(self._documents)

    def add(self, item: Item) -> None:
        """Append a text to its lane."""
        self._lane(item)[item.key] = item

    def discard(self, item: Item) -> None:
        """Remove a text that no call waits for."""
        self._lane(item).pop(item.key, None)

    def promote(self, item: Item) -> None:
        """Move a waiting document to the lane of queries: a query now waits for it too."""
        if self._documents.pop(item.key, None) is not None:
            item.kind = "query"
            self._queries[item.key] = item

    def clear(self) -> None:
        """Remove every text."""
        self._queries.clear()
        self._documents.clear()

    def configure_limits(self, max_texts: int | None, max_tokens: int | None) -> None:
        """Set the limits that fit the device, where the user has set none."""
        if max_texts and not self._texts_given:
            self.max_texts = max_texts
        if max_tokens and not self._tokens_given:
            self.max_tokens = max_tokens

    def shrink(self, tokens: int) -> None:
        """Limit batches to half of `tokens`, which did not fit on the device."""
        self.max_tokens = max(1, min(self.max_tokens, tokens // 2))

    def uncounted(self, limit: int) -> list[Item]:
        """Return the texts to count before the next batch: documents, if more wait than fit.

        How well a batch is filled depends on lengths alone. Estimates leave two fifths more padding
        in mixed prose (measured), and counting takes a sixtieth of the time of computing.
        """
        if self._queries_are_next() or len(self._documents) <= self.max_texts:
            return []
        window = islice(self._documents.values(), WINDOW)
        return list(islice((item for item in window if not item.counted), limit))

    def take(self) -> list[Item]:
        """Remove and return the next batch; empty if nothing waits."""
        if self._queries_are_next():
            lane = self._queries
            self._query_batches += 1
        else:
            lane = self._documents
            self._query_batches = 0
        batch = self._choose(lane)
        for item in batch:
            del lane[item.key]
            item.started = True
        return batch

    def _queries_are_next(self) -> bool:
        in_a_row = self._query_batches < QUERY_BATCHES_IN_A_ROW
        return bool(self._queries) and (in_a_row or not self._documents)

    def _lane(self, item: Item) -> dict[Key, Item]:
        return self._queries if item.kind == "query" else self._documents

    def _choose(self, lane: dict[Key, Item]) -> list[Item]:
        window = list(islice(lane.values(), WINDOW))
        if not window:
            return []
        oldest = window[0]
        window.sort(key=lambda item: item.tokens, reverse=True)
        # Aligned slices leave no odd remainders when the same window is cut again and again.
        start = window.index(oldest) // self.max_texts * self.max_texts
        batch = window[start : start + self.max_texts]
        first, last = 0, len(batch)
        while last - first > 1 and (last - first) * batch[first].tokens > self.max_tokens:
            if batch[first] is oldest:
                last -= 1
            else:
                first += 1
        return batch[first:last]
