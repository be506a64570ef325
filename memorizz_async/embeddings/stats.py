"""What the engine counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from memorizz_async.markup import Summarized

if TYPE_CHECKING:
    from memorizz_async.embeddings.cache import VectorCache
    from memorizz_async.embeddings.protocol import Backend, ModelInfo
    from memorizz_async.embeddings.work_queue import WorkQueue

_RECENT = 512


@dataclass(frozen=True, repr=False)
class EmbeddingStats(Summarized):
    """The state of an embedding engine at one moment. Times are milliseconds, sizes bytes."""

    model: str
    backend: str
    device: str
    dimensions: int | None
    source: str
    workers: int
    """Threads that live now."""
    queue_depth: int
    """Texts that wait for a batch."""
    running: int
    """Texts in batches that are computed now."""
    calls: int
    texts: int
    """Texts that were asked for, cached ones included."""
    computed: int
    """Texts that a backend computed with success."""
    joined: int
    """Texts that were in flight already when they were asked for again."""
    batches: int
    batch_size_mean: float
    batch_size_max: int
    wait_ms_p50: float
    """From the asking to the start of the batch, over the last 512 texts."""
    wait_ms_p99: float
    compute_ms_p50: float
    """Of one batch, over the last 512."""
    cache_hits: int
    cache_misses: int
    cache_hit_rate: float
    cache_entries: int
    cache_bytes: int
    cache_evictions: int
    tier_hits: int
    """Texts that a second tier had, after the cache had not."""
    tier_misses: int
    tier_failures: int
    """Calls for which a second tier could not be asked, or did not take what was computed."""
    overloaded: int
    """Calls that were refused because the queue was full."""
    failed: int
    """Texts that got an error from the backend."""
    retried: int
    """Texts that were tried once more, alone, after their batch had failed."""
    halved: int
    """Batches that were too large for the device."""
    abandoned: int
    """Calls whose callers went away before the answer."""
    max_batch_tokens: int
    """The bound of a batch; it falls when the device runs out of memory."""
    backend_counters: Mapping[str, int] = field(default_factory=dict)
    """The backend's own: `truncated` of a local model, `requests` and `http_retries` of HTTP."""

    @property
    def truncated(self) -> int:
        """Texts that were longer than the model reads, so that only their beginning counts."""
        return self.backend_counters.get("truncated", 0)

    def summary(self) -> Mapping[str, object]:
        """The model, what it computed, what it did not have to, and what failed."""
        return {
            "model": self.model,
            "device": self.device,
            "texts": self.texts,
            "computed": self.computed,
            "cache_hits": self.cache_hits,
            "queue_depth": self.queue_depth,
            "failed": self.failed,
            "compute_ms_p50": self.compute_ms_p50,
        }

    def details(self) -> Sequence[Mapping[str, object]]:
        """Every counter."""
        return [{"counter": name, "value": value} for name, value in self.as_dict().items()]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Counters:
    """The running sums behind `EmbeddingStats`, changed under the engine's lock."""

    calls: int = 0
    texts: int = 0
    computed: int = 0
    joined: int = 0
    batches: int = 0
    batched_texts: int = 0
    batch_size_max: int = 0
    overloaded: int = 0
    failed: int = 0
    retried: int = 0
    halved: int = 0
    abandoned: int = 0
    running: int = 0
    tier_hits: int = 0
    tier_misses: int = 0
    tier_failures: int = 0
    waits: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    computes: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def batch_started(self, size: int) -> None:
        self.batches += 1
        self.batched_texts += size
        self.batch_size_max = max(self.batch_size_max, size)
        self.running += size


def snapshot(
    backend: Backend,
    info: ModelInfo | None,
    c: Counters,
    cache: VectorCache,
    queue: WorkQueue,
    *,
    dimensions: int | None,
    workers: int,
) -> EmbeddingStats:
    """The counters of every part as one value. Under the engine's lock."""
    lookups = cache.hits + cache.misses
    return EmbeddingStats(
        model=info.model_name if info else backend.model_name,
        backend=backend.name,
        device=info.device if info else "",
        dimensions=dimensions,
        source=info.source if info else "",
        workers=workers,
        queue_depth=len(queue),
        running=c.running,
        calls=c.calls,
        texts=c.texts,
        computed=c.computed,
        joined=c.joined,
        batches=c.batches,
        batch_size_mean=round(c.batched_texts / c.batches, 2) if c.batches else 0.0,
        batch_size_max=c.batch_size_max,
        wait_ms_p50=percentile_ms(c.waits, 0.50),
        wait_ms_p99=percentile_ms(c.waits, 0.99),
        compute_ms_p50=percentile_ms(c.computes, 0.50),
        cache_hits=cache.hits,
        cache_misses=cache.misses,
        cache_hit_rate=round(cache.hits / lookups, 4) if lookups else 0.0,
        cache_entries=len(cache),
        cache_bytes=cache.nbytes,
        cache_evictions=cache.evictions,
        tier_hits=c.tier_hits,
        tier_misses=c.tier_misses,
        tier_failures=c.tier_failures,
        overloaded=c.overloaded,
        failed=c.failed,
        retried=c.retried,
        halved=c.halved,
        abandoned=c.abandoned,
        max_batch_tokens=queue.max_tokens,
        backend_counters=backend.counters(),
    )


def percentile_ms(seconds: deque[float], share: float) -> float:
    """The nearest rank, in milliseconds; 0.0 where nothing was measured yet."""
    if not seconds:
        return 0.0
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)
