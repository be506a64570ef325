"""Which texts are computed next: pure bookkeeping, without threads or I/O.

Queries go before documents, because somebody waits for them in a chat turn while documents are
written in bulk. Documents are not starved: after a few batches of queries it is their turn. A batch
holds texts of about one length, since a model pads each to the longest, and the text that waited
longest is always in it.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memorizz_async.embeddings.cache import Key
    from memorizz_async.embeddings.calls import Call
    from memorizz_async.embeddings.protocol import Kind

# So many of the oldest texts are looked at for a batch: enough to find texts of one length, few
# enough to sort in a fraction of a millisecond under the engine's lock.
WINDOW = 1024
# After so many batches of queries in a row, documents that wait get one.
QUERY_BATCHES_IN_A_ROW = 4
_BYTES_PER_TOKEN = 4
_MAX_TEXTS = 64
_MAX_TOKENS = 16_384


class Item:
    """One text that is wanted, by one caller or by many."""

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
        """Whether `tokens` was counted, not estimated."""
        self.callers: dict[Call, list[int]] = {}


def estimate_tokens(prompt: str, text: str, max_tokens: int | None) -> int:
    """About how many tokens a text is: exact enough to sort and to bound, free to compute."""
    # Scripts beyond ASCII have fewer characters to a token; len(bytes) would make a copy.
    per_token = _BYTES_PER_TOKEN if text.isascii() else 2
    tokens = (len(prompt) + len(text)) // per_token + 2
    return min(tokens, max_tokens) if max_tokens else tokens


class WorkQueue:
    """The texts that wait, in two lanes.

    max_texts, max_tokens: of one batch; a batch's tokens count the padding. Left out, they can be
    set by `suit` once the device is known.
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
        self._lane(item)[item.key] = item

    def discard(self, item: Item) -> None:
        """Forget a text that nobody wants any more."""
        self._lane(item).pop(item.key, None)

    def promote(self, item: Item) -> None:
        """A document that waits is now wanted as a query too: it moves to the front lane."""
        if self._documents.pop(item.key, None) is not None:
            item.kind = "query"
            self._queries[item.key] = item

    def clear(self) -> None:
        self._queries.clear()
        self._documents.clear()

    def suit(self, max_texts: int | None, max_tokens: int | None) -> None:
        """The bounds that suit a device, where the user has set none."""
        if max_texts and not self._texts_given:
            self.max_texts = max_texts
        if max_tokens and not self._tokens_given:
            self.max_tokens = max_tokens

    def shrink(self, tokens: int) -> None:
        """A batch of so many tokens did not fit on the device: half of it is the limit now."""
        self.max_tokens = max(1, min(self.max_tokens, tokens // 2))

    def uncounted(self, limit: int) -> list[Item]:
        """Texts to count before the next batch is cut: documents, where there are more than fit.

        How well a batch is filled depends on lengths alone. Estimates leave two fifths more padding
        in mixed prose (measured), and counting takes a sixtieth of the time of computing.
        """
        if self._queries_are_next() or len(self._documents) <= self.max_texts:
            return []
        window = islice(self._documents.values(), WINDOW)
        return list(islice((item for item in window if not item.counted), limit))

    def take(self) -> list[Item]:
        """The next batch, removed from the queue; empty where nothing waits."""
        if self._queries_are_next():
            lane = self._queries
            self._query_batches += 1
        else:
            lane = self._documents
            self._query_batches = 0
        batch = self._pick(lane)
        for item in batch:
            del lane[item.key]
            item.started = True
        return batch

    def _queries_are_next(self) -> bool:
        in_a_row = self._query_batches < QUERY_BATCHES_IN_A_ROW
        return bool(self._queries) and (in_a_row or not self._documents)

    def _lane(self, item: Item) -> dict[Key, Item]:
        return self._queries if item.kind == "query" else self._documents

    def _pick(self, lane: dict[Key, Item]) -> list[Item]:
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


def padded_tokens(items: list[Item]) -> int:
    """What a batch costs the model: every text is padded to the longest."""
    return len(items) * max(item.tokens for item in items)
