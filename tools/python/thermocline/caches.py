"""Owns the way of one get through the caches of the map: which is asked next, when all again, and when the store.

Never sends, never waits, and is never asked about a write. Invariant: a way ends after three rounds at the latest, and
behind its end is the store.
"""

from __future__ import annotations

import random
from typing import List, Optional, Sequence

from .codes import Outcome
from .replies import Reply
from .retry import busy_wait_s

# How often all caches are asked that are busy, before the store is.
ROUNDS = 3


class Way:
    """From cache to cache, in an order that is drawn anew for each round; `first` stands in front of the first one."""

    def __init__(self, caches: Sequence[str], rng: random.Random, first: Optional[str] = None) -> None:
        self._caches = list(caches)
        self._rng = rng
        self._round = 0
        self._begin()
        if first in self._order:
            self._order.remove(first)
            self._order.insert(0, first)

    def _begin(self) -> None:
        self._order: List[str] = self._rng.sample(self._caches, len(self._caches))
        self._hint_ms = 0
        self._is_lost = False

    @property
    def endpoint(self) -> Optional[str]:
        """Whom to ask; None at the end."""
        return self._order[0] if self._order else None

    def renewed(self) -> Way:
        """A way of its own through the same caches, with the one that is asked now in front."""
        return Way(self._caches, self._rng, self.endpoint)

    def lost(self) -> float:
        """The cache gave no answer, or none that helps: the next one. Seconds to wait before it is asked."""
        self._is_lost = True
        return self._next()

    def refused(self, reply: Reply) -> float:
        """The cache has answered, but neither with a record nor that there is none. Seconds to wait before the next."""
        if reply.outcome is not Outcome.Busy:
            return self.lost()
        self._hint_ms = max(self._hint_ms, reply.body.hint_ms)
        return self._next()

    def _next(self) -> float:
        del self._order[0]
        if self._order or self._is_lost:
            return 0.0
        # All were busy: a cache that is cold, and says so, is what stands between the store and all its misses at once.
        wait_s = busy_wait_s(self._hint_ms, self._round, self._rng)
        self._round += 1
        if self._round < ROUNDS:
            self._begin()
        return wait_s
