"""Owns the cluster map: what a reply to Map carries (section 8).

Never routes. Invariant: a map that was decoded has members that are its store nodes, each in one group.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Dict, Set, Tuple

from .errors import MapError, ReplyError
from .fields import Reader
from .fields import refuse_reply_unless as refuse_unless

_MAP = struct.Struct("<IHH16sQH2sI")
_NODE = struct.Struct("<I16sHHHB5s")
_GROUP = struct.Struct("<BBH")
_MEMBER = struct.Struct("<I")
assert (_MAP.size, _NODE.size, _GROUP.size) == (40, 32, 4)

GROUPS_MAX = 1_000
REVISION_MAX = 1 << 30
CACHES_MAX = 40
SHARDS_MAX = 64
ROLE_CACHE, ROLE_STORE, ROLE_COLD, ROLE_CONTAINER, ROLE_MASTER = 1, 2, 4, 8, 16
_ROLES = 31
# How many replicas a group of so many members may have.
_REPLICAS: Dict[int, Tuple[int, ...]] = {1: (1,), 3: (3,), 5: (3, 5), 6: (3, 5)}
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. `host` is an IPv4 or IPv6 address as text, `roles` the bits ROLE_*."""

    id: int
    host: str
    port: int
    zone: int
    shard_count: int
    roles: int

    @property
    def address(self) -> str:
        """HOST:PORT, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Group:
    """Store nodes that keep a share of the buckets: `replicas` copies of each tablet on its `members` (node ids)."""

    replicas: int
    members: Tuple[int, ...]


@dataclass(frozen=True)
class ClusterMap:
    """Which nodes there are and how they stand in groups. `recent_us`, `cache_share` and the caches say where gets go, `revision`
    how often that was said anew."""

    epoch: int
    cluster: bytes
    revision: int
    recent_us: int
    cache_share: int
    nodes: Tuple[Node, ...]
    groups: Tuple[Group, ...]

    def node(self, node_id: int) -> Node:
        """The node of this id, which the map has."""
        return next(node for node in self.nodes if node.id == node_id)

    @property
    def caches(self) -> Tuple[Node, ...]:
        """The nodes that are caches and nothing else."""
        return tuple(node for node in self.nodes if node.roles == ROLE_CACHE)

    def encode(self) -> bytes:
        counts = (len(self.groups), len(self.nodes))
        reads = (self.recent_us, self.cache_share, bytes(2), self.revision)
        parts = [_MAP.pack(self.epoch, *counts, self.cluster, *reads)]
        for node in self.nodes:
            address = ipaddress.ip_address(node.host)
            packed = address.packed if address.version == 6 else _IPV4_MAPPED + address.packed
            parts.append(_NODE.pack(node.id, packed, node.port, node.zone, node.shard_count, node.roles, bytes(5)))
        for group in self.groups:
            parts.append(_GROUP.pack(group.replicas, len(group.members), 0))
            parts.extend(_MEMBER.pack(member) for member in group.members)
        return b"".join(parts)

    @classmethod
    def read(cls, reader: Reader) -> ClusterMap:
        """The map at the reader's place. Errors: ReplyError in the head of the map, MapError in a node or a group."""
        base = reader.at
        epoch, group_count, node_count, cluster, recent_us, cache_share, zeroes, revision = reader.table(_MAP)
        refuse_unless(epoch >= 1, "epoch", base)
        refuse_unless(1 <= group_count <= GROUPS_MAX, "group_count", base + 4)
        refuse_unless(cluster != bytes(16), "cluster", base + 8)
        refuse_unless(zeroes == bytes(2), "reserved", base + 34)
        refuse_unless(revision < epoch and revision <= REVISION_MAX, "revision", base + 36)
        nodes: Dict[int, Node] = {}
        last = 0
        for index in range(node_count):
            node = _read_node(reader, index, last)
            nodes[node.id] = node
            last = node.id
        refuse_unless(sum(node.roles == ROLE_CACHE for node in nodes.values()) <= CACHES_MAX, "node_count", base + 6)
        stores = {node.id for node in nodes.values() if node.roles & ROLE_STORE}
        groups = tuple(_read_group(reader, index, stores) for index in range(group_count))
        return cls(epoch, cluster, revision, recent_us, cache_share, tuple(nodes.values()), groups)


def _read_node(reader: Reader, index: int, last: int) -> Node:
    """Node `index`, whose id is above `last`."""
    try:
        node_id, packed, port, zone, shard_count, roles, zeroes = reader.table(_NODE)
    except ReplyError:
        raise MapError("node", index) from None
    good = node_id > last and port != 0 and 1 <= shard_count <= SHARDS_MAX
    if not good or roles & ~_ROLES or zeroes != bytes(5):
        raise MapError("node", index)
    address = ipaddress.IPv6Address(packed)
    return Node(node_id, str(address.ipv4_mapped or address), port, zone, shard_count, roles)


def _read_group(reader: Reader, index: int, stores: Set[int]) -> Group:
    """Group `index`. Its members are taken out of `stores`: each is in one group only."""
    try:
        replicas, member_count, zero = reader.table(_GROUP)
        members = tuple(reader.table(_MEMBER)[0] for _ in range(member_count))
    except ReplyError:
        raise MapError("group", index) from None
    if replicas not in _REPLICAS.get(member_count, ()) or zero != 0:
        raise MapError("group", index)
    for member in members:
        if member not in stores:
            raise MapError("group", index)
        stores.remove(member)
    return Group(replicas, members)
