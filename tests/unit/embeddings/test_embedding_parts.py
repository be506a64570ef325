"""The pure parts: cache, queue, prompts, vectors."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorizz_async.embeddings.backends.prompts import choose_prompts, known_prompts
from memorizz_async.embeddings.batching import Item, WorkQueue, estimate_tokens, padded_tokens
from memorizz_async.embeddings.cache import ENTRY_OVERHEAD, VectorCache, text_key
from memorizz_async.embeddings.protocol import Prompts
from memorizz_async.embeddings.validation import as_matrix, invalid_rows, truncate
from memorizz_async.errors import EmbeddingError


def vector(size: int = 4) -> np.ndarray:
    return np.ones(size, dtype=np.float32)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(1, 40)), max_size=80),
    st.integers(0, 5),
    st.integers(1, 3000),
)
def test_the_cache_is_an_lru_within_both_bounds(
    steps: list[tuple[bool, int, int]], entries: int, nbytes: int
) -> None:
    """Against a model of it: what is kept, in which order it leaves, and what is counted."""
    cache = VectorCache(entries, nbytes)
    model: OrderedDict[bytes, int] = OrderedDict()
    hits = misses = 0
    for is_put, number, size in steps:
        key = bytes([number])
        cost = size * 4 + ENTRY_OVERHEAD
        if not is_put:
            found = cache.get(key)
            assert (found is not None) == (key in model)
            if key in model:
                model.move_to_end(key)
                hits += 1
            else:
                misses += 1
            continue
        cache.put(key, vector(size))
        if entries and cost <= nbytes:
            model.pop(key, None)
            while model and sum(model.values()) + cost > nbytes:
                model.popitem(last=False)
            model[key] = cost
            while len(model) > entries:
                model.popitem(last=False)
        assert len(cache) == len(model) <= entries
        assert cache.nbytes == sum(model.values()) <= nbytes
    assert (cache.hits, cache.misses) == (hits, misses)


def test_keys_differ_in_every_part() -> None:
    """No two of model, prompt and text run into each other."""
    keys = {
        text_key(*parts)
        for parts in [("m", "p", "t"), ("mp", "", "t"), ("m", "pt", ""), ("m", "", "pt")]
    }
    assert len(keys) == 4
    assert text_key("m", "", "\ud800")  # half a surrogate pair is a legal str


def test_entries_older_than_the_ttl_are_not_returned() -> None:
    """Even when there is room."""
    cache = VectorCache(10, 10**6, ttl=1e-9)
    cache.put(b"k", vector())
    assert cache.get(b"k") is None


sizes = st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=60)


@given(sizes, st.integers(1, 7), st.integers(1, 2000))
def test_every_text_is_taken_once_within_the_bounds(
    wanted: list[tuple[bool, int]], max_texts: int, max_tokens: int
) -> None:
    """No batch is larger than it may be, kinds are not mixed, and the oldest is always in it."""
    queue = WorkQueue(max_texts, max_tokens)
    items = [
        Item(bytes([i]), f"{i}", "", "query" if is_query else "document", tokens)
        for i, (is_query, tokens) in enumerate(wanted)
    ]
    for item in items:
        queue.add(item)
    waiting = {kind: [i for i in items if i.kind == kind] for kind in ("query", "document")}
    taken: list[Item] = []
    while batch := queue.take():
        [kind] = {item.kind for item in batch}
        assert waiting[kind][0] in batch
        assert len(batch) <= max_texts
        assert len(batch) == 1 or padded_tokens(batch) <= max_tokens
        waiting[kind] = [item for item in waiting[kind] if item not in batch]
        taken += batch
    assert sorted(item.key for item in taken) == [item.key for item in items]
    assert len(queue) == 0


def test_tokens_are_estimated_by_script_and_bounded_by_the_model() -> None:
    """Four characters of English, two of other scripts; a model reads no more than its limit."""
    assert estimate_tokens("", "x" * 400, None) == 102
    assert estimate_tokens("", "文" * 400, None) == 202
    assert estimate_tokens("", "x" * 4000, 256) == 256


@pytest.mark.parametrize(
    ("model", "prompts"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", Prompts()),
        ("intfloat/e5-small-v2", Prompts("query: ", "passage: ")),
        ("intfloat/multilingual-e5-large", Prompts("query: ", "passage: ")),
        ("nomic-ai/nomic-embed-text-v1.5", Prompts("search_query: ", "search_document: ")),
        (
            "BAAI/bge-base-en-v1.5",
            Prompts("Represent this sentence for searching relevant passages: ", ""),
        ),
        ("BAAI/bge-m3", Prompts()),
        ("text-embedding-3-small", Prompts()),
    ],
)
def test_well_known_models_get_their_prompts(model: str, prompts: Prompts) -> None:
    """By name; an unknown model gets none."""
    assert known_prompts(model) == prompts


def test_prompts_precedence_is_argument_then_model_then_table() -> None:
    """An empty string that is given means none."""
    e5 = "intfloat/e5-small-v2"
    own = {"query": "Q: ", "passage": "P: "}
    assert choose_prompts(e5, {}, None, None) == Prompts("query: ", "passage: ")
    assert choose_prompts(e5, {"query": "", "document": ""}, None, None).query == "query: "
    assert choose_prompts(e5, own, None, None) == Prompts("Q: ", "P: ")
    assert choose_prompts(e5, own, "mine: ", "") == Prompts("mine: ", "")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1, 2]], "1 vectors for 2 texts"),
        ([1, 2], r"an array of shape \(2,\)"),
        ([[1, 2, 3], [1, 2, 3]], "3 instead of 2"),
        ([["a", "b"], ["c", "d"]], "ValueError"),
        ([[1, 2], [1]], "ValueError"),
        (None, "shape|TypeError"),
    ],
)
def test_the_return_value_of_a_backend_is_validated(values: object, reason: str) -> None:
    """Count, shape, dimension, numbers."""
    with pytest.raises(EmbeddingError, match=reason):
        as_matrix(values, 2, 2)


def test_invalid_rows_are_found() -> None:
    """NaN, infinity, zeros; and nothing else, however small or large."""
    rows = np.array(
        [[1, 0], [np.nan, 1], [np.inf, 1], [0, 0], [1e-20, 0], [3e38, 3e38]], dtype=np.float32
    )
    assert invalid_rows(rows).tolist() == [False, True, True, True, False, False]


def test_vectors_are_truncated_and_normalized() -> None:
    """Only on request, or if they had length 1 before they were truncated."""
    rows = np.array([[3, 4, 12], [1, 0, 0]], dtype=np.float32)
    assert truncate(rows, None, normalize=False) is rows
    assert truncate(rows, 2, normalize=False).tolist() == [[3, 4], [1, 0]]
    assert truncate(rows, 2, normalize=True).tolist() == pytest.approx(
        np.array([[0.6, 0.8], [1, 0]])
    )
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.linalg.norm(truncate(unit, 2, normalize=False), axis=1) == pytest.approx([1, 1])
