"""What well-known models want put before a text.

A prompt that is given to the provider wins; then what the model's own configuration says; then this
table, for models that were published before such configurations. A model that nobody names here
gets no prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from memorizz_async.embeddings.protocol import Prompts
from memorizz_async.errors import ConfigurationError
from memorizz_async.validation import checked_text

_BGE = "Represent this sentence for searching relevant passages: "

# The first pattern that is found in the model's name. Each is what the model's own card says.
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
    """The prompts of a model by its name; empty ones where it is not in the table."""
    name = model_name.lower()
    return next((prompts for pattern, prompts in _KNOWN if pattern.search(name)), Prompts())


def check_prompts(*prompts: object) -> None:
    """Raise ConfigurationError for a prompt that is no text; None and "" are allowed."""
    for prompt in prompts:
        is_empty = isinstance(prompt, str) and not prompt
        if prompt is not None and not is_empty:
            checked_text("A prompt", prompt, error=ConfigurationError)


def choose_prompts(
    model_name: str, configured: Mapping[str, str], query: str | None, document: str | None
) -> Prompts:
    """The prompts in force: the given ones, else the model's configuration, else the table.

    An empty string that is given means: none.
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
