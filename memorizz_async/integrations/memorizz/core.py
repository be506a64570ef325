"""What every part of the adapter stands on."""

from __future__ import annotations

from functools import partial
from typing import Any

from memorizz_async.config import MongoDBConfig
from memorizz_async.enums import MemoryType, memory_type_of
from memorizz_async.errors import ConfigurationError, InvalidInputError
from memorizz_async.fork import ProcessBound
from memorizz_async.integrations.memorizz.aio import SharedProvider
from memorizz_async.integrations.memorizz.background import BackgroundLoop
from memorizz_async.integrations.memorizz.documents import Record
from memorizz_async.integrations.memorizz.documents import shown as shown_record
from memorizz_async.integrations.memorizz.embeddings import MemorizzEmbeddings
from memorizz_async.integrations.memorizz.framework import is_unset
from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET, AsyncMongoDBProvider
from memorizz_async.memory_provider.mongodb.row_problems import RowProblems
from memorizz_async.memory_provider.mongodb.scope import Scoped
from memorizz_async.memory_provider.mongodb.stored_rows import EmbeddingForm
from memorizz_async.redaction import shown
from memorizz_async.validation import MAX_COUNT, checked_count, checked_list


class AdapterCore(ProcessBound):
    """The provider behind the adapter, the loop that it runs on, and its embedder."""

    def __init__(
        self,
        inner: AsyncMongoDBProvider,
        *,
        owns: bool,
        embedding_form: EmbeddingForm,
    ) -> None:
        if embedding_form not in ("array", "bindata"):
            raise ConfigurationError(
                "embedding_form must be 'array' or 'bindata'", seen=shown(embedding_form, word=True)
            )
        self.config: MongoDBConfig = inner.config
        self._inner = inner
        self._owns = owns
        self._form = embedding_form
        self._background = BackgroundLoop()
        self._aio = SharedProvider(inner, self._background)
        self._embedding_provider = MemorizzEmbeddings(lambda: inner.embedder, self._background)
        self._names_model = False
        self._problems = RowProblems()

    def _do(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the async provider on the background loop, and wait for it here."""
        return self._background.run(partial(getattr(self._inner, name), *args, **options))

    def _rows(self, kind: MemoryType, **options: Any) -> list[Record]:
        """Rows as memorizz has them; those that have expired too, which it judges by itself."""
        rows = self._do("list_async", kind, include_expired=True, as_stored=True, **options)
        return [shown_record(row) for row in rows]

    def _address(self, kind: MemoryType, row_id: Any) -> list[dict[str, Any]]:
        """The ways in which memorizz names a row besides its `_id`."""
        name = _OTHER_IDS.get(kind)
        return [] if name is None else [{name: str(row_id)}]

    def _find(self, kind: MemoryType, row_id: Any, **options: Any) -> Record | None:
        """A row by its id, whosever it is: memorizz asks for no tenant here."""
        if _is_none(row_id):
            return None
        everybody = {"memory_id": EVERY_TENANT, "limit": 1, **options}
        # memorizz's own ids are texts; those of other programs' rows are what they are.
        forms = [row_id] if isinstance(row_id, str) else [row_id, str(row_id)]
        rows = self._rows(kind, ids=forms, **everybody)
        if not rows and (where := self._address(kind, row_id)):
            rows = self._rows(kind, where=where, **everybody)
        return rows[0] if rows else None

    def _row_id(self, kind: MemoryType, row_id: Any) -> Any:
        """The `_id` of the row that memorizz calls so, where it may go by another name."""
        if _is_none(row_id):
            return None
        if kind not in _OTHER_IDS and isinstance(row_id, str):
            return row_id
        row = self._find(kind, row_id)
        return None if row is None else row["_id"]


def _is_none(row_id: Any) -> bool:
    return row_id is None or (isinstance(row_id, str) and not row_id)


def texts_of(name: str, values: Any) -> list[str]:
    """The items of a list as texts, without those that are empty; None is no list.

    Raises InvalidInputError for a single text: its characters are not what is meant.
    """
    items = [] if values is None else checked_list(name, values)
    return [text for one in items if (text := str(one or "").strip())]


def limit_of(limit: Any) -> int | None:
    """Memorizz's limit: None and 0 are no limit, a negative one is 1."""
    count = 0 if limit is None else checked_count("limit", limit, least=-MAX_COUNT)
    return max(1, count) if count else None


_OTHER_IDS = {
    MemoryType.MEMAGENT: "agent_id",
    MemoryType.TOOL_LOG: "tool_log_id",
    MemoryType.SEMANTIC_CACHE: "cache_key",
}


def kind_of(*given: Any) -> MemoryType:
    """The store that the first argument which is not None names: an enum of any version, a value,
    or an old name. Raises InvalidInputError, UnknownMemoryTypeError.
    """
    for value in given:
        if value is not None:
            return memory_type_of(value).store
    raise InvalidInputError(
        "The call names no memory store", fix="pass memory_store_type or memory_type"
    )


def memory_scope(memory_id: Any) -> Scoped:
    """Memorizz's memory: None is no condition, which here is said aloud."""
    return EVERY_TENANT if memory_id is None or is_unset(memory_id) else str(memory_id)


def user_scope(user_id: Any) -> Scoped:
    """Memorizz's user: left out, by any of its marks for that, is no condition; None is rows
    without a user; anything else is that user.
    """
    if user_id is UNSET or is_unset(user_id):
        return UNSET
    scoped: Scoped = user_id
    return scoped
