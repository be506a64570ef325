"""Whose tokens a budget is in."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from typing import Any

from memorizz_async.embeddings.protocol import TokenCount
from memorizz_async.errors import ConfigurationError, MemorizzAsyncError, MissingDependencyError
from memorizz_async.installing import how_to_install_package

_TIKTOKEN = "o200k_base"  # of GPT-4o and what came after it
_FIX = (
    "pass count_tokens=, a function of a text: for example "
    "`lambda text: len(tokenizer.encode(text))` with your model's tokenizer"
)


class TokenCounter:
    """Counts, and says by what. name: for the report."""

    def __init__(self, count: TokenCount, name: str) -> None:
        self._count = count
        self.name = name

    def __call__(self, text: str) -> int:
        """The tokens of a text, in a worker thread. Raises ConfigurationError where the function
        fails or gives no whole number.
        """
        try:
            tokens: Any = self._count(text)
        except MemorizzAsyncError:
            raise
        except Exception as error:
            raise ConfigurationError(
                "count_tokens failed",
                seen=type(error).__name__,
                fix="see the error that caused this",
            ) from error
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
            raise ConfigurationError(
                "count_tokens must give a whole number of at least 0",
                seen=f"a {type(tokens).__name__}",
                fix=_FIX,
            )
        return tokens


def checked_counter(function: Any) -> TokenCounter:
    """The user's function. Raises ConfigurationError for what cannot be called, or is async."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigurationError(
            "count_tokens must be a plain function of a text",
            seen=f"a {type(function).__name__}",
            fix=_FIX,
        )
    return TokenCounter(function, getattr(function, "__qualname__", "") or "count_tokens")


async def default_counter(embedder: Any) -> TokenCounter:
    """The embedder's own tokenizer, else tiktoken's.

    Raises ConfigurationError, which says what to pass, where there is neither.
    """
    ask = getattr(embedder, "token_counter_async", None)
    own = None if ask is None else await ask()
    if own is not None:
        return TokenCounter(own, embedder.get_model_name())
    return await asyncio.to_thread(_tiktoken, embedder.get_model_name())


def _tiktoken(model_name: str) -> TokenCounter:
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ImportError as error:
        raise MissingDependencyError(
            "There is nothing to count tokens with",
            seen=f"the embedder {model_name!r} has no tokenizer here, and tiktoken is not there",
            fix=f"{_FIX}, or {how_to_install_package('tiktoken')}",
        ) from error
    try:
        encoding = tiktoken.get_encoding(_TIKTOKEN)
    except Exception as error:  # whatever its download fails with
        raise ConfigurationError(
            "There is nothing to count tokens with",
            seen=f"the embedder {model_name!r} has no tokenizer here, and tiktoken could not "
            f"get its vocabulary {_TIKTOKEN}: {type(error).__name__}",
            fix=_FIX,
        ) from error
    # Ordinary: text that looks like a control token is text.
    return TokenCounter(lambda text: len(encoding.encode_ordinary(text)), f"tiktoken {_TIKTOKEN}")
