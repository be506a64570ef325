"""ContextWindowManager: what an agent asks before it answers."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

from memorizz_async.config import Consistency, MongoDBConfig, RecallMode
from memorizz_async.context.candidates import Relevance, candidates_of
from memorizz_async.context.counting import TokenCounter, checked_counter, default_counter
from memorizz_async.context.packing import Order, Packed, Packer, Rules
from memorizz_async.context.template import ContextTemplate
from memorizz_async.context.window import ContextReport, ContextWindow
from memorizz_async.embeddings.protocol import TokenCount
from memorizz_async.enums.memory_type import memory_type_of, name_of
from memorizz_async.errors import ClosedError, ConfigurationError, InvalidInputError
from memorizz_async.fork import ProcessBound
from memorizz_async.markup import Summarized
from memorizz_async.memory_provider.mongodb.async_provider import AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.batch import OnError
from memorizz_async.memory_provider.mongodb.scope import UNSET, Scoped, check_tenant
from memorizz_async.memory_unit import DEFAULT_LIMIT, MemoryUnit
from memorizz_async.redaction import shown
from memorizz_async.results import RecallResults
from memorizz_async.validation import (
    MAX_LIMIT,
    checked_choice,
    checked_count,
    checked_function,
    checked_limit,
    checked_number,
    checked_query,
    checked_text,
)

Header = str | Callable[[], str | Awaitable[str]]


class ContextWindowManager(ProcessBound, Summarized):
    """Recalls memories of all types at once and packs them into a budget of tokens.

        async with ContextWindowManager(MongoDBConfig(), memory_id="ada", budget=1500) as manager:
            header, context = await manager.build_async("Which nuts must Ada avoid?")

    memory: a MemoryUnit or an AsyncMongoDBProvider, borrowed: whoever made it closes it. Or a
        MongoDBConfig (None: `MONGODB_URI`, else `local`): the manager makes a provider of its own,
        opens it on `async with` or at the first use, and closes it.
    memory_id, user_id: the tenant of calls that name none; else the unit's.
    limits: memory type -> the most memories in the context. None: the application mode's types, 5
        each. `candidates` times as many are recalled, so that repetitions cost no place; all of
        them count as recalled in `recall_count`.
    max_memories: of all types together; None for no bound.
    budget: the most tokens of header and context together.
    count_tokens: a plain function of a text, called in worker threads. None: the embedder's own
        tokenizer, else tiktoken's `o200k_base`. Pass that of the model that reads the context.
    header: the working memory: a string, or a function without arguments, async or not (then it is
        called on the event loop).
    template: the words around the memories.
    mmr_lambda: λ of maximal marginal relevance (Carbonell and Goldstein, 1998): 1 chooses by
        relevance alone, 0 by novelty alone.
    duplicate_cosine: of two memories whose vectors have at least this cosine, one is left out; None
        leaves out only equal rows and equal texts.
    order: inside a type, `relevance` (as chosen) or `time` (the oldest first).
    relevance: a function of a hit, in [0, 1], to choose by; `lambda hit: hit["memory_signal"]`
        weighs age and importance too. None: the hit's score (see `candidates_of`).
    on_error: `raise`, or `partial`: a context of the types that could be searched; it says which
        could not, and so does `report.errors`. Where none could be searched that raises, too.

    Equal memories, embeddings and arguments give equal strings. Raises ConfigurationError for a
    setting that cannot work.
    """

    def __init__(
        self,
        memory: MemoryUnit | AsyncMongoDBProvider | MongoDBConfig | None = None,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        limits: Mapping[Any, int] | None = None,
        max_memories: int | None = None,
        budget: int = 2000,
        count_tokens: TokenCount | None = None,
        header: Header = "",
        template: ContextTemplate | None = None,
        mmr_lambda: float = 0.7,
        duplicate_cosine: float | None = 0.98,
        candidates: int = 3,
        order: Order = "relevance",
        relevance: Relevance | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self._own_unit = None if isinstance(memory, MemoryUnit) else _unit_of(memory)
        self.memory_unit: MemoryUnit = self._own_unit or memory  # type: ignore[assignment]
        check_tenant("memory_id", memory_id)
        check_tenant("user_id", user_id)
        self.memory_id = memory_id
        self.user_id = user_id
        self.limits = _checked_limits(limits)
        self.max_memories = (
            None if max_memories is None else checked_limit(max_memories, "max_memories")
        )
        self.budget = checked_count("budget", budget)
        if not isinstance(header, str):
            checked_function("header", header, error=ConfigurationError)
        elif header:
            checked_text("header", header, error=ConfigurationError)
        if header is None:
            raise ConfigurationError("header must be a string or a function", seen="None")
        self.header = header
        if template is not None and not isinstance(template, ContextTemplate):
            raise ConfigurationError("template must be a ContextTemplate", seen=shown(template))
        self.template = template or ContextTemplate()
        self.mmr_lambda = _checked_share("mmr_lambda", mmr_lambda)
        self.duplicate_cosine = (
            None
            if duplicate_cosine is None
            else _checked_share("duplicate_cosine", duplicate_cosine)
        )
        self.candidates = checked_limit(candidates, "candidates")
        self.order: Order = checked_choice(
            "order", order, ("relevance", "time"), error=ConfigurationError
        )
        checked_function("relevance", relevance, error=ConfigurationError)
        self.relevance = relevance
        self.on_error = _checked_on_error(on_error)
        self._counter = None if count_tokens is None else checked_counter(count_tokens)
        self._closed = False

    def summary(self) -> Mapping[str, object]:
        """What contexts are made of, and how large."""
        return {
            "budget": self.budget,
            "order": self.order,
            "memory_types": ", ".join(map(name_of, self.limits or ())) or "of the application mode",
            "memory": repr(self.memory_unit),
        }

    async def __aenter__(self) -> Self:
        self._check_open()
        if self._own_unit is not None:
            await self._own_unit.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close_async()

    async def close_async(self) -> None:
        """Close the provider that the manager made; what it was lent stays open. Idempotent."""
        self._closed = True
        if self._own_unit is not None:
            await self._own_unit.close_async()

    async def build_async(
        self,
        user_text: str,
        *,
        memory_id: Scoped = UNSET,
        user_id: Scoped = UNSET,
        limits: Mapping[Any, int] | None = None,
        budget: int | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word that callers expect
        mode: RecallMode | None = None,
        consistency: Consistency = "session",
        on_error: OnError | None = None,
        timeout_ms: int | None = None,
    ) -> ContextWindow:
        """The header and the context for what a user said: a tuple of two, with a `.report`.

        What is left out here is the manager's. filter, mode, consistency, timeout_ms: of the
        recall; see MemoryUnit.retrieve_all_memory_types_async.

        `count_tokens(header + context)` is never above the budget. Raises InvalidInputError (a
        header alone above the budget, too: nothing is then recalled), ConfigurationError where
        `count_tokens`, the template or `relevance` fails, EmbeddingError, StoredEmbeddingError,
        DatabaseError, and ClosedError after close. Errors of the header's function pass through.
        """
        started = time.perf_counter()
        self._check_open()
        checked_query(user_text)
        wanted = _checked_limits(limits) or self.limits or self._default_limits()
        rules = self._rules(
            wanted, self.budget if budget is None else checked_count("budget", budget)
        )
        on_error = self.on_error if on_error is None else _checked_on_error(on_error)
        if timeout_ms is not None:
            checked_count("timeout_ms", timeout_ms)
        header = await self._header()
        header_ms = _ms_since(started)
        counter = await self._token_counter()
        header_tokens = await asyncio.to_thread(counter, header) if header else 0
        if header_tokens > rules.budget:
            raise InvalidInputError(
                "The header alone is longer than the budget",
                seen=f"{header_tokens} tokens of {rules.budget}, counted by {counter.name}",
                fix="shorten the header, or raise the budget",
            )
        results = await self.memory_unit.retrieve_all_memory_types_async(
            user_text,
            self.memory_id if memory_id is UNSET else memory_id,
            {kind: min(most * self.candidates, MAX_LIMIT) for kind, most in wanted.items()},
            user_id=self.user_id if user_id is UNSET else user_id,
            include_embedding=True,
            filter=filter,
            mode=mode,
            consistency=consistency,
            on_error=on_error,
            timeout_ms=timeout_ms,
        )
        if results.errors and not results:
            raise next(iter(results.errors.values()))  # nothing was searched: that is no part
        recalled = time.perf_counter()
        packed = await self._packed(rules, counter, header, results)
        return ContextWindow(
            header,
            packed.context,
            ContextReport(
                budget=rules.budget,
                tokens=packed.tokens,
                header_tokens=header_tokens,
                counted_by=counter.name,
                kept=packed.kept,
                left_out=packed.left_out,
                errors=results.errors,
                recall=results.timings,
                header_ms=header_ms,
                packing_ms=_ms_since(recalled),
                total_ms=_ms_since(started),
            ),
        )

    async def _packed(
        self, rules: Rules, counter: TokenCounter, header: str, results: RecallResults
    ) -> Packed:
        """Choosing, counting and writing, in a worker thread, which stops where nobody waits."""
        stopped = threading.Event()

        def check() -> None:
            if stopped.is_set():
                raise ClosedError("Nobody waits for this context any more")

        def work() -> Packed:
            failed = [name for name in rules.limits if name not in results]
            packer = Packer(rules, counter, header, failed, check)
            return packer.pack(candidates_of(results, self.relevance))

        try:
            return await asyncio.to_thread(work)
        finally:
            stopped.set()

    async def _header(self) -> str:
        given = self.header
        header: Any = given() if callable(given) else given
        if inspect.isawaitable(header):
            header = await header
        if not isinstance(header, str):
            raise InvalidInputError("The header must be a string", seen=shown(header))
        return header

    async def _token_counter(self) -> TokenCounter:
        """The user's, else the embedder's; asked for once."""
        if self._counter is None:
            self._counter = await default_counter(self.memory_unit.provider_for().embedder)
        return self._counter

    def _default_limits(self) -> Mapping[Any, int]:
        return dict.fromkeys(self.memory_unit.application_mode.memory_types, DEFAULT_LIMIT)

    def _rules(self, limits: Mapping[Any, int], budget: int) -> Rules:
        return Rules(
            budget=budget,
            limits={name_of(kind): most for kind, most in limits.items()},
            max_memories=self.max_memories,
            mmr_lambda=self.mmr_lambda,
            duplicate_cosine=self.duplicate_cosine,
            order=self.order,
            template=self.template,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("The context manager is closed", fix="make a new one")


def _unit_of(memory: Any) -> MemoryUnit:
    """A unit around a provider that is lent, or around one of its own."""
    if memory is None:
        memory = MongoDBConfig()
    is_provider = hasattr(memory, "batch_retrieve_async") and not isinstance(memory, type)
    if not isinstance(memory, MongoDBConfig) and not is_provider:
        raise ConfigurationError(
            "A ContextWindowManager needs somewhere to recall from",
            seen=shown(memory),
            fix="pass a MemoryUnit, an AsyncMongoDBProvider or a MongoDBConfig",
        )
    return MemoryUnit(memory_provider=memory)


def _checked_limits(limits: Any) -> Mapping[Any, int] | None:
    if limits is None:
        return None
    if not isinstance(limits, Mapping) or not limits:
        raise InvalidInputError(
            "limits must map memory types to numbers",
            seen=shown(limits),
            fix="write {MemoryType.LONG_TERM_MEMORY: 5}, or leave it out",
        )
    for kind in limits:
        memory_type_of(kind)
    return {kind: checked_limit(most) for kind, most in limits.items()}


def _checked_on_error(value: Any) -> OnError:
    return checked_choice("on_error", value, ("raise", "partial"))


def _checked_share(name: str, value: Any) -> float:
    return checked_number(name, value, least=0, most=1, error=ConfigurationError)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
