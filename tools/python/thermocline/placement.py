"""Owns net/PLACEMENT.md: which group owns a bucket, and the order of the replicas of a tablet.

Never hashes: xxh3-64 is not in the standard library and the document does not say how it is computed, so that the
caller gives it. Invariant: everything here follows from the cluster map alone; golden/placement.json has the answers.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from functools import lru_cache
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple
from typing import Counter as Counts

from .codes import TABLET_COUNT
from .errors import InvalidArgument

BUCKET_BITS = 17
BUCKET_COUNT = 1 << BUCKET_BITS
CELL_BUCKETS = BUCKET_COUNT // TABLET_COUNT
# The 65th node of the search: a group whose set may grow or shrink by one.
EXTRA = TABLET_COUNT


def bucket_of(stream_hash: Callable[[bytes], int], space: int, stream: bytes) -> int:
    """The bucket of a stream, by a function that computes xxh3-64 with seed 0."""
    return stream_hash(space.to_bytes(2, "little") + stream) >> (64 - BUCKET_BITS)


def tablet_of(bucket: int) -> int:
    """The tablet of a bucket."""
    return bucket % TABLET_COUNT


class BucketMap:
    """Which of `group_count` groups owns each bucket. Takes about a second for a hundred groups."""

    def __init__(self, group_count: int) -> None:
        cells = [[list(range(tablet, BUCKET_COUNT, TABLET_COUNT)) for tablet in range(TABLET_COUNT)]]
        kept: List[Set[int]] = [set()]
        for group in range(1, group_count):
            kept = _sets(group, kept)
            floor = CELL_BUCKETS // (group + 1)
            newcomer: List[List[int]] = [[] for _ in range(TABLET_COUNT)]
            for old in range(group):
                for tablet in range(TABLET_COUNT):
                    cell = cells[old][tablet]
                    surplus = len(cell) - floor - (tablet in kept[old])
                    if surplus > 0:
                        # One after the other to the front: they stand in reverse.
                        newcomer[tablet][:0] = reversed(cell[:surplus])
                        del cell[:surplus]
            cells.append(newcomer)
        self._groups = [0] * BUCKET_COUNT
        for group, tablets in enumerate(cells):
            for cell in tablets:
                for bucket in cell:
                    self._groups[bucket] = group

    def group(self, bucket: int) -> int:
        """The group that owns `bucket`."""
        return self._groups[bucket]


def _sets(newcomer: int, kept: List[Set[int]]) -> List[Set[int]]:
    """Steps 1 to 5 for adding group `newcomer`: for each group the tablets in which it ends with floor + 1 buckets."""
    count = newcomer + 1
    floor = CELL_BUCKETS // count
    column = CELL_BUCKETS - floor * count
    low = TABLET_COUNT * column // count
    high_left = TABLET_COUNT * column - low * count
    every = set(range(TABLET_COUNT))
    if floor < CELL_BUCKETS // newcomer:
        may = [set(every) for _ in range(count)]
    else:
        may = [set(old) for old in kept] + [every]
    slack = [sum(tablet in one for one in may) - column for tablet in range(TABLET_COUNT)]
    sets: List[Set[int]] = []
    for group, allowed in enumerate(may):
        chosen = set(allowed)
        size = low
        if high_left > 0 and len(chosen) > low:
            size, high_left = low + 1, high_left - 1
        first = 7 * group % TABLET_COUNT
        order = [(first + step) % TABLET_COUNT for step in range(TABLET_COUNT)]
        while len(chosen) > size:
            dropped = max((tablet for tablet in order if tablet in chosen), key=lambda tablet: slack[tablet])
            chosen.remove(dropped)
            slack[dropped] -= 1
        sets.append(chosen)
    while True:
        over = next((tablet for tablet in range(TABLET_COUNT) if slack[tablet] > 0), None)
        if over is None:
            return sets
        _mend(over, slack, sets, may, low)


def _mend(over: int, slack: List[int], sets: List[Set[int]], may: List[Set[int]], low: int) -> None:
    """One round of step 5: takes one from `over` and gives it, along a shortest path, to a tablet that lacks one."""
    came: Dict[int, Tuple[Optional[int], int]] = {over: (None, 0)}
    waiting: Deque[int] = deque([over])
    end: Optional[int] = None
    while end is None:
        node = waiting.popleft()
        for group, (chosen, allowed) in enumerate(zip(sets, may)):
            if node == EXTRA:
                goes = len(chosen) == low
            else:
                goes = node in chosen
            if not goes:
                continue
            nexts = sorted(allowed - chosen)
            if node != EXTRA and len(chosen) == low + 1:
                nexts.insert(0, EXTRA)
            for other in nexts:
                if other not in came:
                    came[other] = (node, group)
                    waiting.append(other)
                    if other != EXTRA and slack[other] < 0:
                        end = other
                        break
            if end is not None:
                break
    slack[over] -= 1
    slack[end] += 1
    to = end
    while to != over:
        start, group = came[to]
        assert start is not None, "only `over` was reached from nowhere"
        if to != EXTRA:
            sets[group].add(to)
        if start != EXTRA:
            sets[group].remove(start)
        to = start


def replica_order(zones: Sequence[int], replicas: int) -> List[Tuple[int, ...]]:
    """For each tablet, positions in the group's list of members (whose zones these are), first choice first."""
    return _replica_order(tuple(zones), replicas)


@lru_cache(maxsize=1024)
def _replica_order(zones: Tuple[int, ...], replicas: int) -> List[Tuple[int, ...]]:
    if not 1 <= replicas <= len(zones):
        raise InvalidArgument(f"{replicas} replicas on {len(zones)} members")
    candidates = [order for order in itertools.permutations(range(len(zones)), replicas) if _spreads(order, zones)]
    leading: List[Counts[Tuple[int, ...]]] = [Counter() for _ in range(4)]
    places: List[Counts[int]] = [Counter() for _ in range(5)]
    uses: Counts[int] = Counter()
    orders = []
    for _ in range(TABLET_COUNT):

        def cost(order: Tuple[int, ...]) -> Tuple[int, ...]:
            place = [places[at][member] for at, member in enumerate(order)] + [0] * (5 - replicas)
            pair, triple = (leading[2][order[:2]], leading[3][order[:3]]) if replicas >= 3 else (0, 0)
            return (
                place[0],
                pair,
                sum(uses[m] for m in order),
                place[1],
                triple,
                place[2],
                place[3],
                place[4],
            )

        best = min(candidates, key=cost)
        orders.append(best)
        leading[2][best[:2]] += 1
        leading[3][best[:3]] += 1
        for at, member in enumerate(best):
            places[at][member] += 1
            uses[member] += 1
    return orders


def _spreads(order: Tuple[int, ...], zones: Tuple[int, ...]) -> bool:
    """Each next member is in a zone used least often before it, among the zones of the members not yet used."""
    used: Counts[int] = Counter()
    left = list(range(len(zones)))
    for member in order:
        if used[zones[member]] != min(used[zones[other]] for other in left):
            return False
        used[zones[member]] += 1
        left.remove(member)
    return True
