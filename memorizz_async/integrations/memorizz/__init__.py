"""memorizz on this package's provider: `MemAgent(memory_provider=MemorizzProvider(…))`.

memorizz itself is under the PolyForm Noncommercial License and comes with the extra `[memorizz]`.
"""

from memorizz_async.integrations.memorizz.embeddings import MemorizzEmbeddings
from memorizz_async.integrations.memorizz.provider import MemorizzProvider, use_with_memorizz
from memorizz_async.integrations.memorizz.searching import FILTER_FIELDS

__all__ = ["FILTER_FIELDS", "MemorizzEmbeddings", "MemorizzProvider", "use_with_memorizz"]
