"""Async memory for AI agents on any MongoDB: one embedding, parallel recall over memory types.

Names are loaded when they are first used, so that importing the package costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memorizz_async.config import MongoDBConfig
    from memorizz_async.context import (
        ContextMemory,
        ContextReport,
        ContextTemplate,
        ContextWindow,
        ContextWindowManager,
        KeptMemory,
        LeftOut,
    )
    from memorizz_async.embeddings import (
        AsyncEmbeddingProvider,
        get_async_embedding_provider,
        get_embedding_async,
        get_embeddings_batch_async,
    )
    from memorizz_async.enums import ApplicationMode, MemoryType
    from memorizz_async.errors import (
        AuthenticationError,
        ClosedError,
        ConfigurationError,
        DatabaseError,
        DataFolderError,
        DeviceUnavailableError,
        DuplicateMemoryError,
        EmbeddingError,
        EmbeddingModelMismatchError,
        InvalidEmbeddingError,
        InvalidFilterError,
        InvalidInputError,
        InvalidLimitError,
        InvalidQueryError,
        InvalidURIError,
        LifecycleError,
        LocalServerError,
        MemorizzAsyncError,
        MissingDependencyError,
        ModelLoadError,
        MongodNotFoundError,
        OperationTimeoutError,
        OverloadedError,
        ReembedError,
        ScopeError,
        ServerUnavailableError,
        StoredEmbeddingError,
        UnknownMemoryTypeError,
        UnsupportedOperationError,
        WriteError,
    )
    from memorizz_async.memory_provider.mongodb import EVERY_TENANT, UNSET, AsyncMongoDBProvider
    from memorizz_async.memory_provider.mongodb.reembedding.report import (
        ReembedProgress,
        ReembedReport,
    )
    from memorizz_async.memory_unit import MemoryUnit
    from memorizz_async.notebook import allow_nested_run
    from memorizz_async.results import (
        BatchResults,
        Explanation,
        FoundBy,
        HitExplanation,
        Hits,
        RecallResults,
        Timings,
    )
    from memorizz_async.retrieval.memory_signal import MemorySignal, memory_signal
    from memorizz_async.retrieval.reranking import CrossEncoderReranker, Reranker

__version__ = "0.1.0"

_HOMES = {
    "memorizz_async.config": ("MongoDBConfig",),
    "memorizz_async.context": (
        "ContextMemory",
        "ContextReport",
        "ContextTemplate",
        "ContextWindow",
        "ContextWindowManager",
        "KeptMemory",
        "LeftOut",
    ),
    "memorizz_async.embeddings": (
        "AsyncEmbeddingProvider",
        "get_async_embedding_provider",
        "get_embedding_async",
        "get_embeddings_batch_async",
    ),
    "memorizz_async.enums": ("ApplicationMode", "MemoryType"),
    "memorizz_async.errors": (
        "AuthenticationError",
        "ClosedError",
        "ConfigurationError",
        "DataFolderError",
        "DatabaseError",
        "DeviceUnavailableError",
        "DuplicateMemoryError",
        "EmbeddingError",
        "EmbeddingModelMismatchError",
        "InvalidEmbeddingError",
        "InvalidFilterError",
        "InvalidInputError",
        "InvalidLimitError",
        "InvalidQueryError",
        "InvalidURIError",
        "LifecycleError",
        "LocalServerError",
        "MemorizzAsyncError",
        "MissingDependencyError",
        "ModelLoadError",
        "MongodNotFoundError",
        "OperationTimeoutError",
        "OverloadedError",
        "ReembedError",
        "ScopeError",
        "ServerUnavailableError",
        "StoredEmbeddingError",
        "UnknownMemoryTypeError",
        "UnsupportedOperationError",
        "WriteError",
    ),
    "memorizz_async.memory_provider.mongodb": ("EVERY_TENANT", "UNSET", "AsyncMongoDBProvider"),
    "memorizz_async.memory_provider.mongodb.reembedding.report": (
        "ReembedProgress",
        "ReembedReport",
    ),
    "memorizz_async.memory_unit": ("MemoryUnit",),
    "memorizz_async.notebook": ("allow_nested_run",),
    "memorizz_async.results": (
        "BatchResults",
        "Explanation",
        "FoundBy",
        "HitExplanation",
        "Hits",
        "RecallResults",
        "Timings",
    ),
    "memorizz_async.retrieval.memory_signal": ("MemorySignal", "memory_signal"),
    "memorizz_async.retrieval.reranking": ("CrossEncoderReranker", "Reranker"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "EVERY_TENANT",
    "UNSET",
    "ApplicationMode",
    "AsyncEmbeddingProvider",
    "AsyncMongoDBProvider",
    "AuthenticationError",
    "BatchResults",
    "ClosedError",
    "ConfigurationError",
    "ContextMemory",
    "ContextReport",
    "ContextTemplate",
    "ContextWindow",
    "ContextWindowManager",
    "CrossEncoderReranker",
    "DataFolderError",
    "DatabaseError",
    "DeviceUnavailableError",
    "DuplicateMemoryError",
    "EmbeddingError",
    "EmbeddingModelMismatchError",
    "Explanation",
    "FoundBy",
    "HitExplanation",
    "Hits",
    "InvalidEmbeddingError",
    "InvalidFilterError",
    "InvalidInputError",
    "InvalidLimitError",
    "InvalidQueryError",
    "InvalidURIError",
    "KeptMemory",
    "LeftOut",
    "LifecycleError",
    "LocalServerError",
    "MemorizzAsyncError",
    "MemorySignal",
    "MemoryType",
    "MemoryUnit",
    "MissingDependencyError",
    "ModelLoadError",
    "MongoDBConfig",
    "MongodNotFoundError",
    "OperationTimeoutError",
    "OverloadedError",
    "RecallResults",
    "ReembedError",
    "ReembedProgress",
    "ReembedReport",
    "Reranker",
    "ScopeError",
    "ServerUnavailableError",
    "StoredEmbeddingError",
    "Timings",
    "UnknownMemoryTypeError",
    "UnsupportedOperationError",
    "WriteError",
    "__version__",
    "allow_nested_run",
    "get_async_embedding_provider",
    "get_embedding_async",
    "get_embeddings_batch_async",
    "memory_signal",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
