"""A sentence-transformers model on this machine.

Only one thread calls the model: its tokenizer and torch's modules are not thread-safe, and one
batch already uses every core. torch is imported in that thread, at the first use.
"""

from __future__ import annotations

import copy
import importlib
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from memorizz_async.embeddings.backends.prompts import check_prompts, choose_prompts
from memorizz_async.embeddings.backends.weights import Weights, canonical_name, find_weights
from memorizz_async.embeddings.protocol import (
    Batch,
    BatchTooLargeError,
    Matrix,
    ModelInfo,
    TokenCount,
    WholeBatchError,
)
from memorizz_async.errors import (
    ConfigurationError,
    DeviceUnavailableError,
    EmbeddingError,
    LifecycleError,
    MissingDependencyError,
    ModelLoadError,
)
from memorizz_async.fork import ProcessBound, inherits_models, keep_in_child, use_models_here
from memorizz_async.installing import how_to_install, how_to_install_package
from memorizz_async.validation import checked_choice, checked_flag, checked_text

logger = logging.getLogger("memorizz_async.embeddings")

Runtime = Literal["torch", "onnx", "openvino"]
Precision = Literal["float32", "float16", "bfloat16"]

# Texts and tokens of one batch. On a CPU 64 paragraphs at once take an eighth longer than two
# times 32 (measured on 2 cores, bare model and engine alike); a GPU needs larger batches.
_CPU_BATCH = (32, 8_192)
_GPU_BATCH = (256, 32_768)
_OOM_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
_DEVICE = re.compile(r"(?P<type>[a-z]+)(?::(?P<index>\d+))?")


class SentenceTransformerBackend(ProcessBound):
    """Embeds texts with a sentence-transformers model.

    Requires the extra `[gpu]`, which works on a CPU too.

    Args:
        model_name: A name on the hub, such as `intfloat/e5-small-v2`, or a folder.
        device: `cuda`, `cuda:1`, `mps` or `cpu`. Default: the best available.
        runtime: `torch`, or sentence-transformers' `onnx` or `openvino`.
        dtype: Type of the weights: `float32`, or on a GPU `float16` or `bfloat16`. Vectors are
            always float32.
        revision: Revision of the model on the hub.
        query_prompt: Prefix of each query. Default: the model's own. `""` means none.
        document_prompt: Prefix of each document, likewise.
        trust_remote_code: Whether a model from the hub may run its own code on this machine.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    name = "sentence-transformers"
    workers = 1

    def __init__(
        self,
        model_name: str,
        *,
        device: str | None = None,
        runtime: Runtime = "torch",
        dtype: Precision = "float32",
        revision: str | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        checked_text("model_name", model_name, error=ConfigurationError)
        for name, text in {"device": device, "revision": revision}.items():
            if text is not None:
                checked_text(name, text, error=ConfigurationError)
        check_prompts(query_prompt, document_prompt)
        checked_flag("trust_remote_code", trust_remote_code, error=ConfigurationError)
        checked_choice("runtime", runtime, ("torch", "onnx", "openvino"), error=ConfigurationError)
        checked_choice("dtype", dtype, ("float32", "float16", "bfloat16"), error=ConfigurationError)
        if dtype != "float32" and runtime != "torch":
            raise ConfigurationError(
                f"dtype={dtype!r} is for runtime='torch'",
                seen=f"runtime={runtime!r}",
                fix="leave dtype out, or export the model in that type",
            )
        self.model_name = canonical_name(model_name)
        self._device = device
        self._runtime = runtime
        self._dtype = dtype
        self._revision = revision
        self._query_prompt = query_prompt
        self._document_prompt = document_prompt
        self._trust_remote_code = trust_remote_code
        self._model: Any = None
        self._torch: Any = None
        self._max_tokens: int | None = None
        self._truncated = 0
        self._tokenizing = threading.Lock()  # taken in worker threads only
        self._counter: TokenCount | None = None

    def open(self) -> ModelInfo:
        """Import torch, find the weights and load them on the device.

        Raises:
            MissingDependencyError: The extra `[gpu]`, or the package of a runtime, is missing.
            DeviceUnavailableError: The device does not exist; lists those that do.
            ModelLoadError: The model was not found or cannot be loaded.
            LifecycleError: The process was forked after a model had been used.
        """
        use_models_here()
        torch, sentence_transformers = _import("torch"), _import("sentence_transformers")
        device = choose_device(torch, self._device)
        weights = find_weights(self.model_name, self._revision)
        try:
            with _no_loading_bar() if weights.local_only else nullcontext():
                model = sentence_transformers.SentenceTransformer(
                    weights.location,
                    device=device,
                    backend=self._runtime,
                    revision=None if weights.local_only else self._revision,
                    local_files_only=weights.local_only,
                    trust_remote_code=self._trust_remote_code,
                )
            if self._dtype != "float32":
                model.to(getattr(torch, self._dtype))
        except ImportError as error:
            raise MissingDependencyError(
                f"The runtime {self._runtime!r} needs a package that is not installed",
                seen=str(error),
                fix=how_to_install_package(f"sentence-transformers[{self._runtime}]"),
            ) from error
        except Exception as error:
            raise self._load_error(weights, device, error) from error
        self._model, self._torch = model, torch
        limit = getattr(model, "max_seq_length", None)
        self._max_tokens = int(limit) if isinstance(limit, int) and limit > 0 else None
        logger.info("Loaded %s from %s on %s.", self.model_name, weights.source, device)
        batch_texts, batch_tokens = _CPU_BATCH if device == "cpu" else _GPU_BATCH
        return ModelInfo(
            batch_texts=batch_texts,
            batch_tokens=batch_tokens,
            model_name=self.model_name,
            device=device,
            dimensions=_dimensions(model),
            prompts=choose_prompts(
                self.model_name,
                getattr(model, "prompts", None) or {},
                self._query_prompt,
                self._document_prompt,
            ),
            max_tokens=self._max_tokens,
            source=weights.source,
        )

    def embed(self, batch: Batch) -> Matrix:
        """Compute a batch in one forward pass.

        Returns:
            Shape (texts, dimensions).

        Raises:
            BatchTooLargeError: The device is out of memory.
            WholeBatchError: The process was forked after a model had been used.
        """
        try:
            use_models_here()
        except LifecycleError as error:
            raise WholeBatchError from error
        with self._tokenizing:
            return self._vectors(list(batch.texts), batch)

    def _vectors(self, texts: list[str], batch: Batch) -> Matrix:
        self._count_truncated(texts, batch.prompt)
        try:
            vectors: Matrix = self._model.encode(
                texts,
                # Passed even if empty: otherwise the model's default prompt would be used.
                prompt=batch.prompt,
                batch_size=len(texts),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            # Release the memory of the failed pass before the halves are tried.
            error.__traceback__ = None
            self._free_device_memory()
            raise BatchTooLargeError(f"out of memory at {len(texts)} texts") from error
        return vectors

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Return how many tokens the model reads of each text; empty if its tokenizer is slow."""
        tokenizer: Any = None if inherits_models() else getattr(self._model, "tokenizer", None)
        if not getattr(tokenizer, "is_fast", False):
            return []
        counted = tokenizer(
            texts,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        limit = self._max_tokens
        counts = [len(ids) for ids in counted["input_ids"]]
        return counts if limit is None else [min(count, limit) for count in counts]

    def cancel(self) -> None:
        """Do nothing: a forward pass cannot be interrupted, and takes a fraction of a second."""

    def close(self) -> None:
        """Release the model and its memory on the device."""
        if inherits_models():
            keep_in_child(self._model)  # freeing it would call the device
            return
        self._model = None
        if self._torch is not None:
            self._free_device_memory()

    def counters(self) -> dict[str, int]:
        """Return `truncated`, the number of texts longer than the model reads."""
        return {"truncated": self._truncated}

    def token_counter(self) -> TokenCount | None:
        """Return a function that counts tokens with a copy of the model's tokenizer.

        Special tokens are not counted.

        Returns:
            The function; None if the model has no tokenizer of transformers.

        Raises:
            LifecycleError: The process was forked after a model had been used.
        """
        use_models_here()  # before the lock, which may have been held at the fork
        with self._tokenizing:
            if self._counter is None:
                self._counter = _counter_of(getattr(self._model, "tokenizer", None))
            return self._counter

    def _count_truncated(self, texts: list[str], prompt: str) -> None:
        limit, tokenizer = self._max_tokens, getattr(self._model, "tokenizer", None)
        if limit is None or tokenizer is None:
            return
        # A token is at least one character, so a text of fewer characters than the limit fits.
        long = [prompt + text for text in texts if len(prompt) + len(text) >= limit]
        if not long:
            return
        counted = tokenizer(
            long, truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        cut = sum(len(ids) > limit for ids in counted["input_ids"])
        if cut and not self._truncated:
            logger.warning(
                "Texts longer than %d tokens are cut by %s; only their beginning is embedded. "
                "stats().truncated counts them; this is logged once.",
                limit,
                self.model_name,
            )
        self._truncated += cut

    def _free_device_memory(self) -> None:
        if self._torch.cuda.is_available():
            self._torch.cuda.empty_cache()

    def _load_error(self, weights: Weights, device: str, error: Exception) -> EmbeddingError:
        return ModelLoadError(
            f"The embedding model {self.model_name!r} could not be loaded",
            seen=f"from {weights.source} on {device}: {type(error).__name__}: {error}",
            fix="check the name, or clear a broken download from the Hugging Face cache",
        )


def available_devices(torch: Any) -> list[str]:
    """Return the devices of this machine, best first: every CUDA device, MPS, the CPU."""
    found = []
    if torch.cuda.is_available():
        found += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(torch: Any, wanted: str | None) -> str:
    """Return the requested device, or by default the best: cuda, mps, cpu.

    Args:
        torch: The module.
        wanted: The requested device; None, `""` or `auto` for the best one.

    Raises:
        DeviceUnavailableError: The requested device does not exist; lists those that do. It is
            never replaced by another one.
    """
    available = available_devices(torch)
    if wanted is None or wanted.strip().lower() in ("", "auto"):
        best = available[0]
        return "cuda" if best.startswith("cuda") else best
    name = wanted.strip().lower()
    match = _DEVICE.fullmatch(name)
    if match is not None:
        kind, index = match["type"], match["index"]
        if kind in ("cpu", "mps") and kind in available and index in (None, "0"):
            return kind
        if kind == "cuda" and f"cuda:{index or 0}" in available:
            return name
    raise DeviceUnavailableError(
        "The device for embeddings is not available on this machine",
        seen=f"{wanted!r}, while this machine has {', '.join(available)}",
        fix="use one of those in device= or EMB_DEVICE, or leave it out to get the best one",
    )


def _counter_of(tokenizer: Any) -> TokenCount | None:
    """Return a counter on a copy: the model's own tokenizer is set to pad and truncate while it
    computes. None for other tokenizers than those of transformers.
    """
    if not isinstance(tokenizer, _import("transformers").PreTrainedTokenizerBase):
        return None
    own: Any = copy.deepcopy(tokenizer)
    one_at_a_time = threading.Lock()  # taken in worker threads only

    def count(text: str) -> int:
        use_models_here()
        with one_at_a_time:
            tokens = own(
                text,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            )
        return len(tokens["input_ids"])

    return count


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"AsyncEmbeddingProvider requires {name.replace('_', '-')} for a local model",
            seen=str(error),
            fix=f"{how_to_install('gpu')}, or pass a backend of your own",
        ) from error


def _dimensions(model: Any) -> int | None:
    # sentence-transformers 6 has a new name for it, and warns about the old one.
    get = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    value = get()
    return int(value) if value else None


def _is_out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error).lower() for words in _OOM_WORDS)
    )


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Hide transformers' progress bar while weights are read from the disk; then restore it."""
    bars = importlib.import_module("transformers.utils.logging")
    if not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()
