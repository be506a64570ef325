"""Which scopes are in memory, and which goes where there is too little room."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, defaultdict

from memorizz_async.memory_provider.mongodb.vector_search.resident_scope import (
    ResidentScope,
    ScopeName,
)

log = logging.getLogger(__name__)

_TOO_LARGE_S = 600.0
"""How long a scope that did not fit is scanned before it is tried again."""

Paths = frozenset[str]


class HeldScopes:
    """Scopes that follow the changes: those that serve searches, and those that are being loaded.

    Bounded by bytes: the scope that was not searched for the longest time goes first. Of one name
    one serves, while another with more fields is loaded beside it.
    """

    def __init__(self, most_mb: int) -> None:
        self._most_bytes = most_mb * 1_000_000
        self._serving: OrderedDict[ScopeName, ResidentScope] = OrderedDict()
        self._following: defaultdict[str, set[ResidentScope]] = defaultdict(set)
        self._sizes: dict[ResidentScope, int] = {}
        self._refused_until: defaultdict[ScopeName, dict[Paths, float]] = defaultdict(dict)
        self.nbytes = 0
        """About what all scopes take in memory."""

    def ready(self, name: ScopeName, paths: Paths) -> ResidentScope | None:
        """The scope that serves, where it has these fields."""
        scope = self._serving.get(name)
        if scope is None or not paths.issubset(scope.paths):
            return None
        self._serving.move_to_end(name)
        return scope

    def following(self, collection: str) -> list[ResidentScope]:
        """Who is to be told of a change."""
        return list(self._following.get(collection, ()))

    def follow(self, scope: ResidentScope) -> None:
        """From now on it is told of changes."""
        self._following[scope.name[0]].add(scope)

    def serve(self, scope: ResidentScope) -> None:
        """It is loaded, and takes the place of the one of its name."""
        if (replaced := self._serving.get(scope.name)) is not None:
            self.drop(replaced)
        self._serving[scope.name] = scope
        self.weigh(scope)

    def serves(self, scope: ResidentScope) -> bool:
        return self._serving.get(scope.name) is scope

    def refuse(self, name: ScopeName, paths: Paths, for_s: float) -> None:
        """With these fields, or more, it is not to be loaded for so many seconds."""
        self._refused_until[name][paths] = time.monotonic() + for_s

    def refuses(self, name: ScopeName, paths: Paths) -> bool:
        refused, now = self._refused_until.get(name, {}), time.monotonic()
        return any(now < until and fewer <= paths for fewer, until in refused.items())

    def weigh(self, scope: ResidentScope) -> None:
        """Count a scope's bytes anew, and make room where there is too little."""
        if scope.dropped:
            return
        now = scope.nbytes
        self.nbytes += now - self._sizes.get(scope, 0)
        self._sizes[scope] = now
        while self.nbytes > self._most_bytes:
            oldest = next((each for each in self._serving.values() if each is not scope), None)
            if oldest is None:
                # Alone it is too large; beside others that are being loaded, one has to give way.
                self.refuse(scope.name, frozenset(scope.paths), _TOO_LARGE_S)
                log.info(
                    "a scope of %r does not fit into %d MB: searching it by scan",
                    scope.name[0],
                    self._most_bytes // 1_000_000,
                )
                self.drop(scope)
                return
            self.drop(oldest)

    def drop(self, scope: ResidentScope) -> None:
        """Forget a scope."""
        scope.dropped = True
        self._following[scope.name[0]].discard(scope)
        if self.serves(scope):
            del self._serving[scope.name]
        self.nbytes -= self._sizes.pop(scope, 0)

    def drop_all(self, collection: str | None) -> None:
        """Forget the scopes of a collection; None is no collection."""
        for scope in list(self._following.get(collection or "", ())):
            self.drop(scope)

    def clear(self) -> None:
        """Forget all."""
        for collection in list(self._following):
            self.drop_all(collection)
