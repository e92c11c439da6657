"""Owns where a request can go: the endpoints that were given, the cluster map once it was fetched, its caches for gets.

Never connects. Invariant: with one group any endpoint of the store will do; with several, only members of the group
that owns the request's bucket are named. Nothing but gets goes to a cache, once it is known to be one.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Tuple

from .cluster_map import ClusterMap, Group
from .connection import parse_endpoint
from .errors import InvalidArgument, WrongGroup
from .placement import BucketMap, bucket_of, replica_order, tablet_of
from .requests import Get, MultiGet, Streams

# xxh3-64 with seed 0, for instance `xxhash.xxh3_64_intdigest` of the package xxhash. Not in the standard library.
StreamHash = Callable[[bytes], int]
# All streams, as a map counts shares of them.
SHARE_WHOLE = 10_000


class Router:
    """Endpoints for requests. `stream_hash` is needed only where the map has several groups, or sends a part of the
    streams to caches. Without `caches` nothing goes there."""

    def __init__(self, seeds: Sequence[str], stream_hash: Optional[StreamHash] = None, caches: bool = True) -> None:
        if not seeds:
            raise InvalidArgument("no endpoint", to_do="give at least one HOST:PORT")
        for seed in seeds:
            parse_endpoint(seed)
        self._seeds = list(dict.fromkeys(seeds))
        self._hash = stream_hash
        self._buckets: Optional[BucketMap] = None
        self.map: Optional[ClusterMap] = None
        self._asks_caches = caches
        self._caches: List[str] = []
        # Where requests can go that name no stream, or all requests where there is one group and no hash.
        self._anywhere = self._seeds
        # The same for what no cache can do.
        self._stores = self._seeds

    @property
    def epoch(self) -> int:
        """Epoch of the map that is known, 0 = none."""
        return 0 if self.map is None else self.map.epoch

    def adopt(self, new: ClusterMap) -> None:
        """Takes a map, unless a newer one is known."""
        if new.epoch > self.epoch:
            self.map = new
            self._buckets = None
            members = {member for group in new.groups for member in group.members}
            addresses = [node.address for node in new.nodes if node.id in members]
            # What the caller gave comes first: it is known to be in reach.
            self._anywhere = list(dict.fromkeys(self._seeds + addresses))
            self._caches = [node.address for node in new.caches]
            self._stores = [endpoint for endpoint in self._anywhere if endpoint not in self._caches]

    def endpoints(self, request: Any) -> List[str]:
        """Where `request` can go, first choice first. Errors: WrongGroup where it takes the hash to know."""
        located = None if self.map is None else self._locate(request)
        if self.map is None or located is None:
            return self._stores if hasattr(request, "stream") or isinstance(request, MultiGet) else self._anywhere
        group, tablet = located
        zones = [self.map.node(member).zone for member in group.members]
        order = replica_order(zones, group.replicas)[tablet]
        rest = [index for index in range(len(group.members)) if index not in order]
        members = [self.map.node(group.members[index]).address for index in [*order, *rest]]
        return members if len(self.map.groups) > 1 else list(dict.fromkeys(members + self._stores))

    def caches(self, request: Any, now_us: int) -> List[str]:
        """The caches that may be asked, in any order; none where the request goes to the store. `now_us`: microseconds
        since 1970."""
        gets = request.gets if isinstance(request, MultiGet) else [request]
        if not (self._asks_caches and self._caches and all(isinstance(get, Get) for get in gets)):
            return []
        return self._caches if all(self._is_for_cache(get, now_us) for get in gets) else []

    def _is_for_cache(self, get: Get, now_us: int) -> bool:
        assert self.map is not None, "who knows caches knows the map"
        if get.local or self.map.recent_us == 0 or get.time < now_us - self.map.recent_us:
            return False
        if self._hash is None:
            # Which streams belong to a part is not known; all of them is all of them.
            return self.map.cache_share == SHARE_WHOLE
        low = self._hash(get.space.to_bytes(2, "little") + get.stream) & 0xFFFFFFFF
        return low * SHARE_WHOLE >> 32 < self.map.cache_share

    def _locate(self, request: Any) -> Optional[Tuple[Group, int]]:
        """The group and the tablet that own what `request` asks for; None where any node, or any member, will do."""
        assert self.map is not None
        groups = self.map.groups
        if isinstance(request, Streams):
            if request.group >= len(groups):
                raise InvalidArgument(f"there is no group {request.group}, the map has {len(groups)}")
            return groups[request.group], request.tablet
        first = request.gets[0] if isinstance(request, MultiGet) else request
        stream = getattr(first, "stream", None)
        if stream is None:
            return None
        if self._hash is None:
            if len(groups) > 1:
                raise WrongGroup(self.map.epoch, where=request.operation.name)
            return None
        bucket = bucket_of(self._hash, first.space, stream)
        return groups[self._group_of(bucket)], tablet_of(bucket)

    def group_of(self, get: Get) -> int:
        """The group that owns a key, 0 where that is not known or needs no knowing."""
        if self.map is None or self._hash is None or len(self.map.groups) == 1:
            return 0
        return self._group_of(bucket_of(self._hash, get.space, get.stream))

    def _group_of(self, bucket: int) -> int:
        assert self.map is not None
        if len(self.map.groups) == 1:
            return 0
        if self._buckets is None:
            self._buckets = BucketMap(len(self.map.groups))
        return self._buckets.group(bucket)
