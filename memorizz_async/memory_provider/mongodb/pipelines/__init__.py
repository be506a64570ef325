"""Every query that this package sends, as pure functions from values to documents.

What searches and stores use is named here; `editing` is about listing and changing rows, `models`
about the embedding models of collections, `sessions` about the turns of conversations.
"""

from memorizz_async.memory_provider.mongodb.pipelines.changes import (
    RESIDENT_FIELDS,
    changes_pipeline,
    list_collection,
    resident_projection,
)
from memorizz_async.memory_provider.mongodb.pipelines.rows import (
    STAGED,
    alive,
    all_of,
    any_embedded_filter,
    cached_vector,
    cached_vectors_filter,
    expired_filter,
    id_projection,
    row_projection,
    rows_by_id_filter,
    touch_filter,
    touch_update,
    vector_projection,
)
from memorizz_async.memory_provider.mongodb.pipelines.vectors import (
    MAX_CANDIDATES,
    SCORE_FIELD,
    create_search_index,
    index_scope,
    other_vectors_filter,
    scan_filter,
    scan_projection,
    search_index_definition,
    search_indexes_pipeline,
    update_search_index,
    vector_search_pipeline,
)
from memorizz_async.memory_provider.mongodb.pipelines.words import (
    TEXT_LANGUAGE_FIELD,
    TEXT_WEIGHTS,
    list_indexes,
    memory_ids_pipeline,
    text_index_keys,
    text_query,
    text_search_pipeline,
)

__all__ = [
    "LARGEST_TURN",
    "MAX_CANDIDATES",
    "RESIDENT_FIELDS",
    "SCORE_FIELD",
    "STAGED",
    "TEXT_LANGUAGE_FIELD",
    "TEXT_WEIGHTS",
    "alive",
    "all_of",
    "any_embedded_filter",
    "cached_vector",
    "cached_vectors_filter",
    "changes_pipeline",
    "create_search_index",
    "expired_filter",
    "id_projection",
    "index_scope",
    "list_collection",
    "list_indexes",
    "memory_ids_pipeline",
    "other_vectors_filter",
    "resident_projection",
    "row_projection",
    "rows_by_id_filter",
    "scan_filter",
    "scan_projection",
    "search_index_definition",
    "search_indexes_pipeline",
    "text_index_keys",
    "text_query",
    "text_search_pipeline",
    "touch_filter",
    "touch_update",
    "update_search_index",
    "vector_projection",
    "vector_search_pipeline",
]
