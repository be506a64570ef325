"""The counters of the engine, and their snapshot for users."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from memorizz_async.markup import Summarized

if TYPE_CHECKING:
    from memorizz_async.embeddings.batching import WorkQueue
    from memorizz_async.embeddings.cache import VectorCache
    from memorizz_async.embeddings.protocol import Backend, ModelInfo

_RECENT = 512


@dataclass(frozen=True, repr=False)
class EmbeddingStats(Summarized):
    """A snapshot of an embedding engine, from `AsyncEmbeddingProvider.stats()`.

    Times are in milliseconds, sizes in bytes.

    Attributes:
        model: Name of the model.
        backend: Kind of backend, such as `sentence-transformers` or `openai`.
        device: Where the model runs; empty before it is loaded.
        dimensions: Length of every vector; None before it is known.
        source: Where the weights came from.
        workers: Running threads.
        queue_depth: Texts that wait for a batch.
        running: Texts in batches that are being computed.
        calls: Calls that asked for vectors.
        texts: Texts that were asked for, cached ones included.
        computed: Texts that the backend computed.
        joined: Texts that were already in flight for another call.
        batches: Batches started.
        batch_size_mean: Mean number of texts of a batch.
        batch_size_max: Largest number of texts of a batch.
        wait_ms_p50: Median time from request to start of the batch, over the last 512 texts.
        wait_ms_p99: The same, 99th percentile.
        compute_ms_p50: Median time of one batch, over the last 512.
        cache_hits: Look-ups that found a vector in memory.
        cache_misses: Look-ups that did not.
        cache_hit_rate: Share of hits, 0 to 1.
        cache_entries: Vectors in memory.
        cache_bytes: Size of the cache.
        cache_evictions: Vectors evicted for want of room.
        tier_hits: Texts found in a second tier, after a miss in memory.
        tier_misses: Texts found in neither.
        tier_failures: Calls for which a second tier failed to read or to write.
        overloaded: Calls refused because the queue was full.
        failed: Texts for which the backend failed.
        retried: Texts computed again, alone, after their batch had failed.
        halved: Batches split because they were too large for the device.
        abandoned: Calls cancelled before their answer.
        max_batch_tokens: Token limit of a batch; it falls when the device runs out of memory.
        backend_counters: The backend's own: `truncated` of a local model, `requests` and
            `http_retries` of HTTP.
    """

    model: str
    backend: str
    device: str
    dimensions: int | None
    source: str
    workers: int
    queue_depth: int
    running: int
    calls: int
    texts: int
    computed: int
    joined: int
    batches: int
    batch_size_mean: float
    batch_size_max: int
    wait_ms_p50: float
    wait_ms_p99: float
    compute_ms_p50: float
    cache_hits: int
    cache_misses: int
    cache_hit_rate: float
    cache_entries: int
    cache_bytes: int
    cache_evictions: int
    tier_hits: int
    tier_misses: int
    tier_failures: int
    overloaded: int
    failed: int
    retried: int
    halved: int
    abandoned: int
    max_batch_tokens: int
    backend_counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def truncated(self) -> int:
        """Texts longer than the model reads, of which only the beginning was embedded."""
        return self.backend_counters.get("truncated", 0)

    def summary(self) -> Mapping[str, object]:
        """Return the main counters, for the one-line `repr`."""
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
        """Return every counter, one row each, for the table in a notebook."""
        return [{"counter": name, "value": value} for name, value in self.as_dict().items()]

    def as_dict(self) -> dict[str, Any]:
        """Return every counter as a dict that JSON can hold."""
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
        """Count a batch of so many texts."""
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
    """Return the counters of every part as one value. Under the engine's lock."""
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
    """Return a percentile (nearest rank) in milliseconds; 0.0 without measurements.

    Args:
        seconds: The measurements.
        share: Which percentile, 0 to 1.
    """
    if not seconds:
        return 0.0
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)
