"""Every index that a database needs, made or found: one call, safe to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from memorizz_async.config import MongoDBConfig
from memorizz_async.deadline import CallTime
from memorizz_async.embeddings.protocol import Embedder
from memorizz_async.memory_provider.mongodb.indexes import (
    ROW_INDEXES,
    TURN_INDEXES,
    IndexReport,
    ensure_ordinary,
    ensure_search,
    server_has_search,
)
from memorizz_async.memory_provider.mongodb.protocol import Driver
from memorizz_async.memory_provider.mongodb.search_index import IndexProgress
from memorizz_async.memory_provider.mongodb.text_search import ensure_text


async def ensure_all(
    driver: Driver,
    filter_fields: Mapping[str, Sequence[str]],
    *,
    conversations: str,
    config: MongoDBConfig,
    search: bool,
    embedder: Callable[[], Embedder],
    known: Callable[[str], int | None],
    progress: Callable[[IndexProgress], None] | None,
    call: CallTime,
) -> IndexReport:
    """The ordinary, text and search indexes of the collections that `filter_fields` names.

    conversations: the collection of turns, which also needs their order.
    search: whether search indexes are made, too.
    embedder: asked for the dimension where the configuration has none, the collection's rows have
        none either (`known`), and the server has search.
    """
    collections, deadline = list(filter_fields), call.for_database()
    ordinary = {
        name: (*ROW_INDEXES, *TURN_INDEXES) if name == conversations else ROW_INDEXES
        for name in collections
    }
    report = await ensure_ordinary(driver, ordinary, deadline)
    await ensure_text(driver, collections, report, config, deadline)
    if not search or not await server_has_search(driver, collections[0], deadline):
        return report
    wanted = {name: config.dimensions or known(name) for name in collections}
    if None in wanted.values():
        model = embedder()
        vector = await call.within("embedding", partial(model.encode_query_async, "dimension"))
        wanted = {name: size or int(vector.size) for name, size in wanted.items()}
        deadline = call.for_database()
    done = await asyncio.gather(
        *(
            ensure_search(
                driver,
                {name: filter_fields[name] for name in collections if wanted[name] == size},
                config=config,
                dimensions=size,
                deadline=deadline,
                progress=progress,
            )
            for size in dict.fromkeys(wanted.values())
            if size is not None
        )
    )
    report.search = {name: outcome for part in done for name, outcome in part.items()}
    return report
