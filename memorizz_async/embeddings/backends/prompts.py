"""Prompts: the prefixes that well-known models expect before a text.

A prompt passed by the user takes precedence, then the model's own configuration, then this table,
for models published before such configurations. Any other model gets no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from memorizz_async.embeddings.protocol import Prompts
from memorizz_async.errors import ConfigurationError
from memorizz_async.validation import checked_text

_BGE = "Represent this sentence for searching relevant passages: "

# The first pattern found in the model's name decides. The prompts are those of the model cards.
_KNOWN: tuple[tuple[re.Pattern[str], Prompts], ...] = (
    (
        re.compile(r"(^|/)(multilingual-)?e5-(small|base|large)(-v2)?$"),
        Prompts("query: ", "passage: "),
    ),
    (re.compile(r"(^|/)bge-(small|base|large)-en(-v1\.5)?$"), Prompts(_BGE, "")),
    (
        re.compile(r"(^|/)bge-(small|base|large)-zh(-v1\.5)?$"),
        Prompts("为这个句子生成表示以用于检索相关文章：", ""),  # noqa: RUF001 - the card's own colon
    ),
    (
        re.compile(r"(^|/)nomic-embed-text-v(1|1\.5)$"),
        Prompts("search_query: ", "search_document: "),
    ),
    (re.compile(r"(^|/)mxbai-embed-(large|2d-large)-v1$"), Prompts(_BGE, "")),
    (re.compile(r"(^|/)snowflake-arctic-embed-(xs|s|m|m-long|l)$"), Prompts(_BGE, "")),
)


def known_prompts(model_name: str) -> Prompts:
    """Return the prompts of a model by its name; empty ones if it is not in the table."""
    name = model_name.lower()
    return next((prompts for pattern, prompts in _KNOWN if pattern.search(name)), Prompts())


def check_prompts(*prompts: object) -> None:
    """Check prompts; None and "" are allowed.

    Raises:
        ConfigurationError: A prompt is not a text.
    """
    for prompt in prompts:
        is_empty = isinstance(prompt, str) and not prompt
        if prompt is not None and not is_empty:
            checked_text("A prompt", prompt, error=ConfigurationError)


def choose_prompts(
    model_name: str, configured: Mapping[str, str], query: str | None, document: str | None
) -> Prompts:
    """Return the prompts to use.

    Args:
        model_name: Looked up in the table.
        configured: The prompts of the model's own configuration, by name.
        query: Passed by the user; None if not passed, `""` for no prompt.
        document: Likewise.
    """
    known = known_prompts(model_name)
    own = Prompts(
        configured.get("query") or "",
        configured.get("document") or configured.get("passage") or "",
    )
    base = own if own != Prompts() else known
    return Prompts(
        base.query if query is None else query,
        base.document if document is None else document,
    )
