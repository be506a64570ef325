"""The fast reader of BSON batches against the slow one: decode every document."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import bson
import numpy as np
import pytest
from bson import Int64, ObjectId
from bson.binary import Binary, BinaryVectorDtype
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from memorizz_async.memory_provider.mongodb.vector_search.field_values import values_of
from memorizz_async.memory_provider.mongodb.vector_search.raw_vectors import (
    ReadBatch,
    read_vectors,
)
from memorizz_async.vectors import to_bson

Documents = list[dict[str, Any]]
MISSING = object()


def reference(documents: Documents) -> tuple[Counter[Any], Counter[Any]]:
    """(id, vector's bytes) of each readable row, and ids of the others, by decoding each."""
    readable: Counter[Any] = Counter()
    unreadable: Counter[Any] = Counter()
    for document in documents:
        decoded = bson.decode(bson.encode(document))
        value = decoded.get("embedding")
        vector: Any = None
        if isinstance(value, Binary) and value.subtype == 9:
            read = value.as_vector()
            vector = read.data if read.dtype is BinaryVectorDtype.FLOAT32 else None
        elif isinstance(value, list) and all(isinstance(n, int | float) for n in value):
            vector = value
        if vector:
            with np.errstate(over="ignore"):
                as_float32 = np.array([float(n) for n in vector]).astype(np.float32)
            readable[repr(decoded["_id"]), as_float32.tobytes()] += 1
        else:
            unreadable[repr(decoded["_id"])] += 1
    return readable, unreadable


def as_counters(read: ReadBatch) -> tuple[Counter[Any], Counter[Any]]:
    readable: Counter[Any] = Counter()
    for block in read.blocks:
        assert block.matrix.dtype == np.float32
        assert block.matrix.ndim == 2
        assert len(block.matrix) == len(block.rows) > 0
        for position, vector in enumerate(block.matrix):
            readable[repr(block.id_at(position)), vector.tobytes()] += 1
    assert all(row.reason for row in read.unreadable)
    return readable, Counter(repr(row.row_id) for row in read.unreadable)


def encoded(documents: Documents) -> bytes:
    return b"".join(map(bson.encode, documents))


floats = st.floats(width=32)
seeds = st.integers(0, 2**32)
ids = st.one_of(
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.text(max_size=6),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 99).map(str),
    st.just(None),
    st.dictionaries(st.sampled_from(["a", "embedding"]), st.integers(0, 9), max_size=2),
)


@st.composite
def embeddings(draw: st.DrawFn, dimension: int) -> Any:
    """A value that a row of somebody's may have under `embedding`, mostly of this dimension."""
    array = np.random.default_rng(draw(seeds)).normal(size=dimension).astype(np.float32)
    array[draw(st.integers(0, dimension - 1))] = draw(floats)
    numbers = array.tolist()
    return draw(
        st.sampled_from(
            [
                to_bson(array),
                to_bson(array),
                numbers,
                numbers,
                [float(number) * 1e30 for number in numbers],  # out of float32's range
                [1, *numbers],
                [*numbers, 2],
                [Int64(7)] * dimension,
                [*numbers, None],
                [*numbers, "x"],
                [numbers],
                [],
                None,
                "text",
                {str(index): number for index, number in enumerate(numbers)},
                Binary.from_vector([1] * dimension, BinaryVectorDtype.INT8),
                Binary(bytes(4 * dimension + 2), 0),
                to_bson(array[:-1]),
                MISSING,
            ]
        )
    )


@st.composite
def batches(draw: st.DrawFn) -> Documents:
    """Rows in random mixture: runs of rows that look alike, and others in between."""
    documents: Documents = []
    for _ in range(draw(st.integers(1, 4))):
        dimension = draw(st.sampled_from([1, 2, 3, 9, 10, 11, 101]))
        alike = draw(st.booleans())
        if alike:
            model = draw(embeddings(dimension))
            same_id_type = draw(st.booleans())
            for number in range(draw(st.integers(1, 20))):
                row_id = ObjectId() if same_id_type else draw(ids)
                embedding = model
                if isinstance(model, list) and model and isinstance(model[0], float):
                    embedding = [model[0] + number, *model[1:]]
                documents.append({"_id": row_id, "embedding": embedding})
        else:
            documents.append({"_id": draw(ids), "embedding": draw(embeddings(dimension))})
    for document in documents:
        if document["embedding"] is MISSING:
            del document["embedding"]
    return draw(st.permutations(documents))


@settings(deadline=None, max_examples=150)
@given(batches())
def test_it_reads_what_decoding_each_document_reads(documents: Documents) -> None:
    """Ids and vectors agree exactly, and the same rows are unreadable, in any mixture."""
    assert as_counters(read_vectors(encoded(documents))) == reference(documents)


@settings(deadline=None, max_examples=60)
@given(batches(), st.sampled_from(["embedding first", "more fields", "a field after"]))
def test_the_order_of_fields_and_other_fields_do_not_matter(documents: Documents, how: str) -> None:
    """A server gives `_id` first; what another source gives is read just as right."""
    reordered = []
    for number, document in enumerate(documents):
        if how == "embedding first":
            reordered.append(dict(reversed(document.items())))
        elif how == "more fields":
            reordered.append({"a": 1.5, **document, "b": [2.5]})
        else:
            reordered.append({**document, "0": float(number)})
    assert as_counters(read_vectors(encoded(reordered))) == reference(reordered)


@pytest.mark.parametrize("dimension", [1, 9, 10, 11, 99, 100, 101, 384, 1000, 1001])
@pytest.mark.parametrize("kind", ["float32", "doubles"])
def test_rows_that_look_alike_are_one_block_in_their_order(
    dimension: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast way: one matrix for all, none decoded, whatever the digits of an index."""
    rng = np.random.default_rng(dimension)
    matrix = rng.normal(size=(50, dimension)).astype(np.float32)
    documents: Documents = [
        {"_id": ObjectId(), "embedding": to_bson(row) if kind == "float32" else row.tolist()}
        for row in matrix
    ]
    batch = encoded(documents)
    with monkeypatch.context() as patched:
        patched.delattr(bson, "decode")
        read = read_vectors(batch)
    assert len(read.blocks) == 1
    assert not read.unreadable
    np.testing.assert_array_equal(read.blocks[0].matrix, matrix)
    assert [read.blocks[0].id_at(n) for n in range(50)] == [row["_id"] for row in documents]


def test_an_id_may_hold_the_bytes_of_a_vector() -> None:
    """The layout is read from the structure, never searched for in the bytes."""
    trap = "embedding\x00\x05\x09\x27"
    documents: Documents = [
        {"_id": trap + chr(65 + n), "embedding": to_bson(np.full(3, n + 1, np.float32))}
        for n in range(20)
    ]
    assert as_counters(read_vectors(encoded(documents))) == reference(documents)


def test_nothing_in_nothing_out() -> None:
    """An empty batch has no blocks."""
    read = read_vectors(b"")
    assert (read.blocks, read.unreadable) == ([], [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "NoneType"),
        ("text", "str"),
        ([], "shape"),
        ([[1.0]], "shape"),
        (Binary.from_vector([1, 2], BinaryVectorDtype.INT8), "not float32"),
        (Binary(b"abc", 0), "bytes"),
        (Binary(b"abc", 128), "subtype 128"),
    ],
)
def test_an_unreadable_row_says_why(value: Any, reason: str) -> None:
    """The reason that the search reports with the row's id."""
    [row] = read_vectors(encoded([{"_id": "r", "embedding": value}])).unreadable
    assert row.row_id == "r"
    assert reason in row.reason


def test_a_batch_of_odd_rows_costs_its_length_not_its_square() -> None:
    """Ten times the rows of a kind that must be decoded take about ten times as long."""

    def seconds(count: int) -> float:
        batch = encoded([{"_id": n, "embedding": [Int64(n), Int64(1)]} for n in range(count)])
        started = time.process_time()  # of this process alone: the machine may be busy
        read_vectors(batch)
        return time.process_time() - started

    few = min(seconds(4_000) for _ in range(3))
    assert min(seconds(40_000) for _ in range(2)) < 25 * few


def test_a_date_beyond_python_does_not_hide_the_id() -> None:
    """Such a row has an id as every other, also where it is no ObjectId."""
    far = DatetimeMS(400_000_000_000_000)
    row = bson.encode({"_id": "r", "created_at": far, "embedding": [1.0, 2.0]})
    (block,) = read_vectors(row, values_of(["created_at"])).blocks
    assert block.ids() == ["r"]
    assert block.values == [(("date", int(far)),)]
