"""A reranker decides the order, in its own thread, and may not give nonsense."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memorizz_async import (
    CrossEncoderReranker,
    EmbeddingError,
    MissingDependencyError,
    ModelLoadError,
    Reranker,
)
from memorizz_async.retrieval import reranking
from memorizz_async.retrieval.reranking import best_order


class Giving:
    """A reranker that gives what it is told to."""

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    async def rerank(self, query: str, texts: Sequence[str]) -> Any:
        return self.scores


async def test_the_best_come_first_and_equals_stay_in_order() -> None:
    """Positions with their scores; none for no texts, without asking."""
    order = await best_order(Giving([0.5, 2, 0.5, -1]), "q", ["a", "b", "c", "d"])
    assert order == [(1, 2.0), (0, 0.5), (2, 0.5), (3, -1.0)]
    assert await best_order(Giving(None), "q", []) == []


@pytest.mark.parametrize("scores", [[1.0], [[1.0], [2.0]], [1.0, float("nan")], ["a", "b"], None])
async def test_what_is_not_one_number_a_text_is_an_error(scores: Any) -> None:
    """Never an order made of nonsense."""
    with pytest.raises(EmbeddingError, match="reranker") as caught:
        await best_order(Giving(scores), "q", ["a", "b"])
    assert caught.value.__cause__ is caught.value.__context__ is None


class FakeModel:
    """As much of a CrossEncoder as is asked for."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def predict(self, pairs: list[tuple[str, str]], **options: Any) -> list[float]:
        self.threads.append(threading.current_thread().name)
        if not pairs[0][0]:
            raise RuntimeError("no query")
        return [float(len(text)) for _, text in pairs]


async def test_the_model_runs_outside_the_loop_and_its_failure_is_ours() -> None:
    """A worker thread computes; what the model raises is an EmbeddingError, without its words."""
    model = FakeModel()
    reranker = CrossEncoderReranker(model)
    assert isinstance(reranker, Reranker)
    assert await reranker.rerank("q", ["a", "bcd"]) == [1.0, 3.0]
    assert threading.current_thread().name not in model.threads
    with pytest.raises(EmbeddingError, match=r"Seen: \w+Error"):
        await reranker.rerank("", ["a"])


async def test_what_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such folder, and no library, are errors of ours on first use."""
    with pytest.raises(ModelLoadError, match="/nowhere"):
        await CrossEncoderReranker("/nowhere").rerank("q", ["a"])
    monkeypatch.setitem(reranking.__dict__["__builtins__"], "__import__", _without_library)
    with pytest.raises(MissingDependencyError, match="gpu"):
        await CrossEncoderReranker("any").rerank("q", ["a"])


def _without_library(name: str, *arguments: Any, **options: Any) -> Any:
    if name == "sentence_transformers":
        raise ImportError(name)
    return _import(name, *arguments, **options)


_import = __import__


async def test_a_real_cross_encoder_is_used_as_it_is(tmp_path: Path) -> None:
    """A tiny one with random weights, from a folder: one number a text, the same each time."""
    folder = await asyncio.to_thread(tiny_cross_encoder, tmp_path)
    reranker = CrossEncoderReranker(str(folder))
    texts = ["the cat sat", "a dog", "the dog and the cat"]
    first = await reranker.rerank("where is the cat", texts)
    assert len(first) == 3
    assert len(set(first)) > 1
    again = await reranker.rerank("where is the cat", texts[::-1])
    assert first == pytest.approx(again[::-1], abs=1e-5)


def tiny_cross_encoder(folder: Path) -> Path:
    """A BERT of one small layer, and a tokenizer of a few words."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "the", "a", "cat", "dog", "sat", "and", "where", "is"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(words),
        intermediate_size=16,
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=1.0,
        **sizes,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder
