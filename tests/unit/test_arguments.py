"""Every argument of every public method, given values of every kind, one at a time.

An address where nobody listens: what reaches the database is a ServerUnavailableError, and what
reaches the embedder is noted. So an error of ours for the argument says that nothing was sent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from support.odd_values import ODD_VALUES

import memorizz_async
from memorizz_async import (
    AsyncEmbeddingProvider,
    AsyncMongoDBProvider,
    ConfigurationError,
    ContextTemplate,
    ContextWindowManager,
    CrossEncoderReranker,
    InvalidInputError,
    MemorizzAsyncError,
    MemorySignal,
    MemoryUnit,
    MongoDBConfig,
    ServerUnavailableError,
    memory_signal,
)
from memorizz_async.embeddings import (
    as_embedder,
    get_async_embedding_provider,
    get_embedding_async,
    get_embeddings_batch_async,
    reset_async_embedding_provider,
)
from memorizz_async.embeddings.backends.function import FunctionBackend
from memorizz_async.embeddings.backends.openai import OpenAIBackend
from memorizz_async.embeddings.backends.sentence_transformer import SentenceTransformerBackend

FACTS = "LONG_TERM_MEMORY"
OURS = (InvalidInputError, ConfigurationError)

Accepts = Callable[[Any], bool]


def text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\ud800" not in value


def is_query(value: Any) -> bool:
    return text(value) and not value.isspace()


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def share(value: Any) -> bool:
    return number(value) and 0 <= value <= 1


def seconds(value: Any) -> bool:
    return number(value) and 0 <= value < 2**31


def is_one_of(value: Any, *labels: str) -> bool:
    return any(value is ODD_VALUES[label] for label in labels)


def none(value: Any) -> bool:
    return value is None


def function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def vector(value: Any) -> bool:
    return is_one_of(value, "array", "list of numbers")


def moment(value: Any) -> bool:
    return isinstance(value, datetime) and value is not ODD_VALUES["edge"]


def an_id(value: Any) -> bool:
    """Any value that MongoDB takes as `_id`."""
    return is_one_of(
        value, "5", "0", "-1", "1.5", "nan", "inf", "True", "blank", "text", "long text", "nul",
        "dollar", "bytes", "dict", "empty dict", "uuid", "ObjectId", "datetime", "Decimal128",
    )  # fmt: skip


def ids(value: Any) -> bool:
    several = is_one_of(value, "array", "texts as an array")
    return several or (isinstance(value, list | tuple | set) and all(map(an_id, value)))


def conditions(value: Any) -> bool:
    """Fields and values, or a list of such mappings."""
    return is_one_of(value, "dict", "empty dict", "empty list")


def texts(value: Any) -> bool:
    return is_one_of(value, "list", "empty list")


def contents(value: Any) -> bool:
    return is_one_of(value, "empty list", "list", "set", "texts as an array")


def prompt(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "\ud800")


def fields(value: Any) -> bool:
    return is_one_of(value, "dict", "empty dict")


def either(*kinds: Accepts) -> Accepts:
    return lambda value: any(kind(value) for kind in kinds)


def nothing(value: Any) -> bool:
    return False


KINDS: dict[str, Accepts] = {
    "memory_id": either(text, none),
    "user_id": either(text, none),
    "memory_type": nothing,
    "memory_types": either(none, lambda value: value is ODD_VALUES["empty list"]),
    "timeout_ms": either(count, none),
    "row_id": an_id,
    "ids": ids,
    "where": either(conditions, none),
    "expected": fields,
    "changes": fields,
    "row": fields,
    "key": fields,
    "where_new": either(fields, none),
    "rows": lambda value: isinstance(value, list) and value == [],
    "memories": contents,
    "turns": contents,
    "queries": lambda value: isinstance(value, list) and value == [],
    "memory": is_query,
    "content": is_query,
    "query": is_query,
    "user_text": is_query,
    "text": is_query,
    "texts": either(is_query, texts),
    "embedding": either(vector, none),
    "query_embedding": either(vector, none),
    "limit": lambda value: count(value) and value <= 10_000,
    "limits": either(none),
    "num_candidates": either(none, lambda value: count(value) and 5 <= value <= 10_000),
    "skip": either(count, lambda value: value is ODD_VALUES["0"]),
    "order_by": lambda value: isinstance(value, list) and value == [],
    "filter": either(none, lambda value: value is ODD_VALUES["empty dict"]),
    "mode": none,
    "consistency": nothing,
    "on_error": nothing,
    "on_unembeddable": nothing,
    "embedding_form": nothing,
    "session_id": text,
    "at": either(none, moment),
    "before": either(none, moment),
    "progress": either(none, function),
    "to": either(none, text, function),
    "batch_size": lambda value: count(value) and value <= 10_000,
    "budget": either(none, count),
    "async_memory_provider": none,
    **dict.fromkeys(
        ("include_embedding", "include_expired", "as_stored", "as_record", "exact", "explain",
         "embed", "replace", "search", "wait"),
        flag,
    ),
    "kind": nothing,
    "second_tier": none,
    "timeout": seconds,
}  # fmt: skip
"""By the name of an argument: which of the odd values it takes."""

MORE: dict[tuple[str, str], Accepts] = {
    ("list_async", "ids"): either(none, ids),
    ("delete_many_async", "ids"): either(none, ids),
    ("list_async", "limit"): either(none, count),
    ("history_async", "limit"): either(none, count),
    ("delete_async", "expected"): either(none, fields),
    ("store_async", "memory"): is_query,
    ("retrieve_memory_units_by_query_async", "query"): is_query,
    ("store_conversation_async", "session_id"): either(text, none),
    ("upsert_async", "key"): conditions,
    ("compare_and_swap_async", "expected"): conditions,
    ("get_embeddings_batch_async", "batch_size"): count,
    ("get_embeddings_batch_async", "texts"): lambda value: (
        value in ([], ["abc"]) if type(value) is list else False
    ),
    ("encode_documents_async", "texts"): lambda value: (
        value in ([], ["abc"]) if type(value) is list else False
    ),
    ("build_async", "on_error"): none,
}

CALLS: dict[str, dict[str, Any]] = {
    "store_async": {"memory": "bees"},
    "store_many_async": {"memories": ["bees"]},
    "store_conversation_async": {"turns": ["bees"], "session_id": "s"},
    "put_async": {"row": {"a": 1}, "memory_type": FACTS},
    "put_many_async": {"rows": [{"a": 1}], "memory_type": FACTS},
    "upsert_async": {"memory_type": FACTS, "key": {"a": 1}, "row": {"b": 1}},
    "get_async": {"row_id": "a", "memory_type": FACTS},
    "list_async": {"memory_type": FACTS},
    "history_async": {},
    "update_async": {"row_id": "a", "memory_type": FACTS, "changes": {"a": 1}},
    "compare_and_swap_async": {
        "row_id": "a", "memory_type": FACTS, "expected": {"a": 1}, "changes": {"a": 1},
    },
    "update_many_async": {"memory_type": FACTS, "changes": {"a": 1}},
    "touch_many_async": {"ids": ["a"], "memory_type": FACTS},
    "delete_async": {"row_id": "a", "memory_type": FACTS},
    "delete_many_async": {"memory_type": FACTS},
    "delete_expired_async": {"memory_type": FACTS},
    "retrieve_memory_units_by_query_async": {"query": "bees"},
    "batch_retrieve_async": {
        "queries": [{"key": "a", "query": "bees", "memory_type": FACTS, "memory_id": "ada"}]
    },
    "wait_until_searchable_async": {"ids": ["a"], "memory_type": FACTS},
    "ensure_indexes_async": {},
    "reembed_async": {},
}  # fmt: skip
"""A call of each method of a provider that is right, but for its tenant."""
NO_TENANT = {"ensure_indexes_async", "reembed_async", "batch_retrieve_async"}


def methods_of(kind: type) -> list[str]:
    found = inspect.getmembers(kind, inspect.iscoroutinefunction)
    return [name for name, _ in found if not name.startswith("_") and name != "close_async"]


def arguments_of(call: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(call).parameters if name != "self"]


embedded: list[str] = []


def embed(texts: list[str]) -> list[list[float]]:
    embedded.extend(texts)
    return [[1.0, 2.0] for _ in texts]


@pytest.fixture
def embedder() -> Iterator[Any]:
    """An embedder that notes what it is given."""
    embedded.clear()
    made = as_embedder(embed, model_name="stub/1")
    yield made
    made.shutdown()


def nowhere() -> MongoDBConfig:
    return MongoDBConfig("mongodb://127.0.0.1:9/", server_selection_timeout_ms=1, driver="pymongo")


@pytest.fixture
async def provider(embedder: Any) -> Any:
    """A provider of a server that is not there."""
    made = AsyncMongoDBProvider(nowhere(), embedding_provider=embedder)
    yield made
    await made.close_async()


async def refusals(
    call: Callable[..., Any],
    name: str,
    right: dict[str, Any],
    argument: str,
    accepts: Accepts,
) -> list[str]:
    """What is wrong with how the call takes the odd values for one of its arguments."""
    wrong = []
    for label, value in ODD_VALUES.items():
        if accepts(value):
            continue
        try:
            outcome = call(**{**right, argument: value})
            if inspect.isawaitable(outcome):
                await outcome
        except OURS as error:
            str(error)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            wrong.append(f"{name}({argument}={label}): {type(error).__name__}: {error!s:.80}")
        else:
            wrong.append(f"{name}({argument}={label}) was taken")
    return wrong


def accepted(method: str, argument: str) -> Accepts:
    return MORE.get((method, argument)) or KINDS[argument]


@pytest.mark.parametrize("method", methods_of(AsyncMongoDBProvider))
async def test_a_provider_refuses_values_of_a_wrong_kind(
    provider: AsyncMongoDBProvider, method: str
) -> None:
    """In any argument of any method, before anything is sent or embedded."""
    right = dict(CALLS[method])
    if method not in NO_TENANT:
        right["memory_id"] = "ada"
    call = getattr(provider, method)
    wrong = []
    for argument in arguments_of(call):
        wrong += await refusals(call, method, right, argument, accepted(method, argument))
    assert not wrong, "\n".join(wrong)
    assert not embedded
    with pytest.raises(ServerUnavailableError):  # a right one goes to the server
        await call(**right)


async def test_a_query_of_a_batch_is_checked_as_an_argument_is(
    provider: AsyncMongoDBProvider,
) -> None:
    """Every key of every query."""
    right = {"key": "a", "query": "bees", "memory_type": FACTS, "memory_id": "ada"}
    keys = {**KINDS, "key": text, "query": is_query}
    wrong = []
    for key in (*right, "user_id", "embedding", "limit", "include_embedding", "filter", "exact",
                "num_candidates", "explain", "mode", "consistency"):  # fmt: skip
        wrong += await refusals(
            lambda **query: provider.batch_retrieve_async([query]), "batch", right, key, keys[key]
        )
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("method", methods_of(MemoryUnit))
async def test_a_unit_refuses_values_of_a_wrong_kind(
    provider: AsyncMongoDBProvider, method: str
) -> None:
    """As its provider does."""
    unit = MemoryUnit(memory_provider=provider, memory_id="ada")
    right = {"generate_memory_unit_async": {"content": "bees"}}.get(method, {"query": "bees"})
    call = getattr(unit, method)
    wrong = []
    for argument in arguments_of(call):
        wrong += await refusals(call, method, right, argument, accepted(method, argument))
    assert not wrong, "\n".join(wrong)
    assert not embedded


async def test_limits_are_memory_types_and_counts(provider: AsyncMongoDBProvider) -> None:
    """Each key and each value of the mapping."""
    unit = MemoryUnit(memory_provider=provider, memory_id="ada")
    for label, value in ODD_VALUES.items():
        for limits in ([{FACTS: value}] if not KINDS["limit"](value) else []) + _as_key(value):
            with pytest.raises(OURS):
                await unit.retrieve_all_memory_types_async("bees", limits=limits)
            with pytest.raises(OURS):
                ContextWindowManager(provider, limits=limits)
        assert label


def _as_key(value: Any) -> list[Any]:
    try:
        return [{value: 5}]
    except (TypeError, RecursionError):
        return []


async def test_a_context_manager_refuses_values_of_a_wrong_kind(
    provider: AsyncMongoDBProvider,
) -> None:
    """When it is made, and when it is asked."""
    manager = ContextWindowManager(provider, memory_id="ada", count_tokens=len)
    wrong = []
    for argument in arguments_of(manager.build_async):
        wrong += await refusals(
            manager.build_async, "build_async", {"user_text": "bees"}, argument,
            accepted("build_async", argument),
        )  # fmt: skip
    settings: dict[str, Accepts] = {
        "memory": none,
        "memory_id": either(text, none),
        "user_id": either(text, none),
        "limits": none,
        "max_memories": either(none, KINDS["limit"]),
        "budget": count,
        "count_tokens": either(none, callable),
        "header": either(function, lambda value: isinstance(value, str) and value != "\ud800"),
        "template": none,
        "mmr_lambda": share,
        "duplicate_cosine": either(none, share),
        "candidates": KINDS["limit"],
        "order": nothing,
        "relevance": either(none, function),
        "on_error": nothing,
    }
    assert list(settings) == arguments_of(ContextWindowManager)
    for argument, accepts in settings.items():
        wrong += await refusals(
            ContextWindowManager, "ContextWindowManager", {"memory": provider}, argument, accepts
        )
    assert not wrong, "\n".join(wrong)


CONSTRUCTORS: dict[Callable[..., Any], tuple[dict[str, Any], dict[str, Accepts]]] = {
    MongoDBConfig: (
        {},
        {
            "uri": either(none, lambda value: isinstance(value, str) and value != "\ud800"),
            "db_name": lambda value: value is ODD_VALUES["text"],
            "driver": nothing,
            "similarity": nothing,
            "search_strategy": nothing,
            "quantization": nothing,
            "fusion": nothing,
            "dimensions": either(none, count),
            "collections": lambda value: value is ODD_VALUES["empty dict"],
            # The names of the options are checked by the driver that is opened.
            "client_options": lambda value: isinstance(value, dict) and all(
                isinstance(name, str) for name in value
            ),
            "filter_fields": lambda value: (
                isinstance(value, list | tuple) and value in ([], ["abc"])
            )
            or value is ODD_VALUES["empty dict"],
            "keep_local_server": flag,
            "embedding_cache": flag,
            "vector_index_name": text,
            "text_language": text,
            **dict.fromkeys(
                ("timeout_ms", "server_selection_timeout_ms", "max_pool_size",
                 "resident_memory_mb", "embedding_cache_ttl_s"),
                count,
            ),
        },
    ),
    MemoryUnit: (
        {},
        {
            "application_mode": nothing,
            "memory_provider": none,
            "memory_signal": none,
            "memory_id": either(text, none),
            "user_id": either(text, none),
        },
    ),
    AsyncMongoDBProvider: (
        {},
        {
            "config": none,
            "embedding_provider": either(none, text, function),
            "retiring_embedding_provider": either(none, text, function),
            "reranker": none,
        },
    ),
    AsyncEmbeddingProvider: (
        {"model_name": "a/model"},
        {
            "model_name": either(none, text),
            "device": either(none, text),
            "backend": none,
            "runtime": nothing,
            "dtype": nothing,
            "revision": either(none, text),
            "trust_remote_code": flag,
            "query_prompt": prompt,
            "document_prompt": prompt,
            "dimensions": either(none, count),
            "normalize": flag,
            "max_workers": either(none, count),
            "max_batch_size": either(none, count),
            "max_batch_tokens": either(none, count),
            "max_queue": count,
            "cache_entries": lambda value: count(value) or value is ODD_VALUES["0"],
            "cache_bytes": count,
            "cache_ttl": either(none, lambda value: seconds(value) and value > 0),
            "second_tier": none,
            "idle_seconds": either(none, lambda value: seconds(value) and value > 0),
        },
    ),
    as_embedder: (
        {"value": embed},
        {"value": either(text, function), "model_name": either(none, text)},
    ),
    FunctionBackend: (
        {"function": embed},
        {
            "function": function,
            "model_name": either(none, text),
            "dimensions": either(none, count),
            "workers": either(none, count),
            "query_prompt": prompt,
            "document_prompt": prompt,
        },
    ),
    OpenAIBackend: (
        {"model_name": "a"},
        {
            "model_name": text,
            "base_url": none,
            "api_key": either(none, text),
            "dimensions": either(none, count),
            "timeout": seconds,
            "max_retries": lambda value: count(value) or value is ODD_VALUES["0"],
            "workers": count,
            "query_prompt": prompt,
            "document_prompt": prompt,
        },
    ),
    SentenceTransformerBackend: (
        {"model_name": "a"},
        {
            "model_name": text,
            "device": either(none, text),
            "runtime": nothing,
            "dtype": nothing,
            "revision": either(none, text),
            "query_prompt": prompt,
            "document_prompt": prompt,
            "trust_remote_code": flag,
        },
    ),
    CrossEncoderReranker: (
        {"model": "a"},
        {"model": text, "batch_size": count},
    ),
    MemorySignal: (
        {},
        dict.fromkeys(
            ("relevance", "recency", "importance"),
            lambda value: number(value) and value >= 0 and value < 10**300,
        )
        | {"half_life_days": lambda value: number(value) and 0 < value < 10**300},
    ),
    memory_signal: (
        {"relevance": 1.0, "age_days": 1.0},
        {
            "relevance": number,
            "age_days": either(none, number),
            "importance": number,
            "weights": none,
        },
    ),
    ContextTemplate: (
        {},
        {
            "line": either(function, lambda value: isinstance(value, str)),
            "heading": either(function, lambda value: isinstance(value, str)),
            "footer": either(function, lambda value: isinstance(value, str)),
            "failure": either(function, lambda value: isinstance(value, str)),
        },
    ),
    MongoDBConfig.from_dict: ({}, {"values": lambda value: value is ODD_VALUES["empty dict"]}),
    MongoDBConfig.from_file: ({}, {"path": nothing}),
    reset_async_embedding_provider: ({}, {"timeout": seconds}),
}  # fmt: skip


@pytest.mark.parametrize("made", CONSTRUCTORS, ids=lambda made: made.__qualname__)
async def test_what_is_made_refuses_values_of_a_wrong_kind(made: Callable[..., Any]) -> None:
    """Each setting, when the object is made."""
    right, settings = CONSTRUCTORS[made]
    assert set(settings) == set(arguments_of(made))
    wrong = []
    for argument, accepts in settings.items():
        wrong += await refusals(made, made.__qualname__, right, argument, accepts)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "method", ["encode_async", "encode_query_async", "encode_documents_async", "close_async"]
)
async def test_an_embedder_refuses_values_of_a_wrong_kind(embedder: Any, method: str) -> None:
    """Before anything is embedded."""
    call = getattr(embedder, method)
    texts: dict[str, Any] = {
        "encode_async": {"texts": ["bees"]},
        "encode_query_async": {"text": "bees"},
        "encode_documents_async": {"texts": ["bees"]},
        "close_async": {},
    }
    wrong = []
    for argument in arguments_of(call):
        wrong += await refusals(call, method, texts[method], argument, accepted(method, argument))
    assert not wrong, "\n".join(wrong)
    assert not embedded


async def test_the_functions_of_the_guide_refuse_values_of_a_wrong_kind() -> None:
    """No model is loaded for it."""
    wrong = await refusals(get_embedding_async, "get_embedding_async", {}, "text", is_query)
    for argument in ("texts", "batch_size"):
        wrong += await refusals(
            get_embeddings_batch_async, "get_embeddings_batch_async", {"texts": ["bees"]}, argument,
            accepted("get_embeddings_batch_async", argument),
        )  # fmt: skip
    for argument in ("model_name", "device"):
        wrong += await refusals(
            get_async_embedding_provider, "get_async_embedding_provider", {}, argument,
            either(none, text),
        )  # fmt: skip
    reset_async_embedding_provider()
    assert not wrong, "\n".join(wrong)


def test_the_walk_knows_every_public_method() -> None:
    """A method that is added is walked over, too."""
    assert set(methods_of(AsyncMongoDBProvider)) == set(CALLS)
    assert set(methods_of(MemoryUnit)) == {
        "retrieve_all_memory_types_async", "generate_memory_unit_async",
    }  # fmt: skip
    assert methods_of(ContextWindowManager) == ["build_async"]
    named = [getattr(memorizz_async, name) for name in memorizz_async.__all__]
    data = {"ContextMemory", "ContextReport", "ContextWindow", "KeptMemory", "LeftOut", "FoundBy",
            "BatchResults", "Explanation", "HitExplanation", "Hits", "RecallResults", "Timings",
            "ReembedProgress", "ReembedReport", "Reranker", "MemoryType",
            "ApplicationMode"}  # fmt: skip
    walked = {
        *CONSTRUCTORS,
        ContextWindowManager,
        get_embedding_async,
        get_embeddings_batch_async,
        get_async_embedding_provider,
        memorizz_async.allow_nested_run,
    }
    left = [
        one.__name__
        for one in named
        if callable(one)
        and one not in walked
        and one.__name__ not in data
        and not (isinstance(one, type) and issubclass(one, MemorizzAsyncError))
    ]
    assert not left
