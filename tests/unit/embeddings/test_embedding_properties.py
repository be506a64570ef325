"""In any order of events, every waiter is answered exactly once and nothing leaks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from unit.embeddings.embedding_fakes import GatedBackend, vector_of, vectors_of

from memorizz_async.embeddings import AsyncEmbeddingProvider
from memorizz_async.embeddings.batching import Answer, Call, Item, WorkQueue
from memorizz_async.embeddings.cache import VectorCache
from memorizz_async.embeddings.ledger import Ledger
from memorizz_async.embeddings.protocol import Batch, BatchTooLargeError, WholeBatchError
from memorizz_async.embeddings.stats import Counters
from memorizz_async.errors import ClosedError, EmbeddingError


def fails(_: Batch) -> Any:
    raise ZeroDivisionError


def fails_whole(_: Batch) -> Any:
    raise WholeBatchError from EmbeddingError("The service is down")


def no_room(_: Batch) -> Any:
    raise BatchTooLargeError("no room")


def too_few(batch: Batch) -> Any:
    return vectors_of(batch)[:-1]


def other_dimension(batch: Batch) -> Any:
    return np.ones((len(batch.texts), 3))


def nan_in_the_first(batch: Batch) -> Any:
    matrix = vectors_of(batch)
    matrix[0] = np.nan
    return matrix


ANSWERS: list[Callable[[Batch], Any]] = [
    vectors_of, vectors_of, fails, fails_whole, no_room, too_few, other_dimension, nan_in_the_first
]  # fmt: skip

texts = st.lists(st.sampled_from("abcdefgh"), min_size=0, max_size=6)
steps = st.one_of(
    st.tuples(st.just("documents"), texts, st.booleans()),
    st.tuples(st.just("query"), st.sampled_from("abcdefgh"), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("answer"), st.sampled_from(ANSWERS)),
    st.tuples(st.just("turns"), st.integers(1, 5)),
    st.tuples(st.just("breath")),
    st.tuples(st.just("close")),
)


async def play(script: list[tuple[Any, ...]], workers: int) -> None:  # noqa: PLR0912 - one case a step
    """Run a script of arrivals, cancellations, answers and closes against a real engine."""
    backend = GatedBackend(workers=workers)
    provider = AsyncEmbeddingProvider(
        backend=backend, max_batch_size=3, max_queue=4, cache_entries=2
    )
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
    calls: list[tuple[list[str], asyncio.Task[Any]]] = []
    cancelled: set[int] = set()
    closed = False
    for step in script:
        match step:
            case ("documents", wanted, wait):
                calls.append(
                    (
                        wanted,
                        asyncio.create_task(provider.encode_documents_async(wanted, wait=wait)),
                    )
                )
            case ("query", text, wait):
                calls.append(
                    ([text], asyncio.create_task(provider.encode_query_async(text, wait=wait)))
                )
            case ("cancel", index) if index < len(calls):
                calls[index][1].cancel()
                cancelled.add(index)
            case ("answer", answer):
                backend.go(answer)
            case ("turns", count):
                for _ in range(count):
                    await asyncio.sleep(0)
            case ("breath",):
                await asyncio.sleep(0.001)
            case ("close",):
                provider.shutdown()
                closed = True
    backend.free.set()
    async with asyncio.timeout(10):
        results = await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
    for index, ((wanted, _), result) in enumerate(zip(calls, results, strict=True)):
        if isinstance(result, BaseException):
            assert isinstance(result, EmbeddingError | ClosedError | asyncio.CancelledError)
            assert closed or not isinstance(result, ClosedError)
            assert index in cancelled or not isinstance(result, asyncio.CancelledError)
        else:
            expected = np.array([vector_of(text) for text in wanted]).reshape(-1, 4)
            np.testing.assert_array_equal(np.reshape(result, (-1, 4)), expected)
    if not closed:
        # The engine is as good as new.
        np.testing.assert_array_equal(await provider.encode_query_async("z"), vector_of("z"))
    stats = provider.stats()
    assert stats.queue_depth == 0
    await provider.close_async()
    stats = provider.stats()
    assert (stats.queue_depth, stats.running, stats.workers) == (0, 0, 0)
    ledger = provider._engine._ledger
    assert not ledger._in_flight
    assert not ledger._room_waiters
    assert backend.closed == (1 if backend.opened else 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not complaints, complaints


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=30), st.integers(1, 3))
def test_every_waiter_is_answered_and_nothing_leaks(
    script: list[tuple[Any, ...]], workers: int
) -> None:
    """With its own vectors or an error that fits what happened; no thread, task or text stays."""
    asyncio.run(play(script, workers))
    left = [t.name for t in threading.enumerate() if t.name.startswith("memorizz-embedding")]
    assert not left


class LedgerMachine(RuleBasedStateMachine):
    """The bookkeeping alone, step by step, against what must hold after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.calls: list[tuple[Call, list[str]]] = []
        self.gone: set[Call] = set()
        self.answers: list[Answer] = []
        self.running: list[list[Item]] = []

    @initialize(max_texts=st.integers(1, 4), entries=st.integers(0, 3))
    def start(self, max_texts: int, entries: int) -> None:
        self.ledger = Ledger(
            WorkQueue(max_texts, 1000), VectorCache(entries, 10**6), Counters(), max_queue=6
        )

    def teardown(self) -> None:
        self.loop.close()

    @rule(wanted=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), query=st.booleans())
    def arrive(self, wanted: list[str], query: bool) -> None:
        async def make() -> Call:
            return Call(len(wanted), "query" if query else "document")

        call = self.loop.run_until_complete(make())
        for position, text in enumerate(wanted):
            if not self.ledger.admit(call, position, text.encode(), text):
                call.answered = True
                self.ledger.abandon(call)
                self.gone.add(call)
                return
        if not call.missing:
            self.check(call, wanted)
            self.gone.add(call)
        else:
            self.calls.append((call, wanted))

    @precondition(lambda self: self.calls)
    @rule(index=st.integers(0, 100))
    def cancel(self, index: int) -> None:
        call, _ = self.calls.pop(index % len(self.calls))
        call.answered = True
        self.ledger.abandon(call)
        self.gone.add(call)

    @rule()
    def take(self) -> None:
        items = self.ledger.take()
        if items:
            self.running.append(items)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 100), bad=st.sets(st.sampled_from("abcdef")))
    def settle(self, index: int, bad: set[str]) -> None:
        items = self.running.pop(index % len(self.running))
        error = EmbeddingError("The embedding backend failed")
        self.take_in(
            self.ledger.settle(
                (item, error if item.text in bad else vector_of(item.text)) for item in items
            )
        )

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 100))
    def retry(self, index: int) -> None:
        """Texts that no call waits for are dropped; the others continue."""
        place = index % len(self.running)
        kept = [item for item in self.running[place] if self.ledger.still_wanted(item)]
        self.running[place : place + 1] = [kept] if kept else []

    @rule()
    def close(self) -> None:
        answers, _ = self.ledger.fail_all(ClosedError("The embedding provider is closed"))
        self.take_in(answers)
        assert not self.calls

    def take_in(self, answers: list[Answer]) -> None:
        for call, error in answers:
            assert call not in self.gone, "answered twice"
            self.gone.add(call)
            [wanted] = [w for c, w in self.calls if c is call]
            if error is None:
                self.check(call, wanted)
            self.ledger.abandon(call)
        self.calls = [(call, wanted) for call, wanted in self.calls if call not in self.gone]

    @staticmethod
    def check(call: Call, wanted: list[str]) -> None:
        assert np.array_equal(call.result(), [vector_of(text) for text in wanted])

    @invariant()
    def those_who_wait_are_waited_for(self) -> None:
        """A call without its answer has each missing text in flight; nothing else is in flight."""
        if not hasattr(self, "ledger"):
            return
        flying = self.ledger._in_flight
        for call, wanted in self.calls:
            missing = [i for i, row in enumerate(call.rows) if row is None]
            assert missing
            assert len(missing) == call.missing
            for position in missing:
                assert position in flying[wanted[position].encode()].callers[call]
        started = {id(item) for items in self.running for item in items}
        for item in flying.values():
            assert item.started == (id(item) in started)
            assert item.started or item.callers
        queued = sum(not item.started for item in flying.values())
        assert len(self.ledger.queue) == queued <= 6


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
