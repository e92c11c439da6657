"""Owns what replies say, which outcomes an operation can have, and their encoding (section 8).

Never decides what to do about an outcome; reading one is reply_decoding's. Invariant: each body class stands for one
table of the document, and encodes to the bytes that it was decoded from.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Any, FrozenSet, Optional, Tuple, Union

from .cluster_map import ClusterMap
from .codes import WRITES, Limit, Operation, Outcome, Why

HEAD = struct.Struct("<BB2sIQ")
HELLO = struct.Struct("<B3sIIIQ16sIIII")
GET = struct.Struct("<QQ")
VERSION = struct.Struct("<Q")
COUNT = struct.Struct("<II")
ITEM = struct.Struct("<HH")
BATCH = struct.Struct("<QII")
PAGE = struct.Struct("<QQIB3s")
RECORD = struct.Struct("<QQQI")
STREAMS = struct.Struct("<IB3s")
STREAM = struct.Struct("<HBB")
BLOCK = struct.Struct("<HHIQIIIIIIII")
COLD_NODE = struct.Struct("<16sHH")
assert (HEAD.size, HELLO.size, GET.size, BATCH.size) == (16, 56, 16, 16)
assert (PAGE.size, RECORD.size, STREAMS.size, STREAM.size) == (24, 28, 8, 4)
assert (BLOCK.size, COLD_NODE.size) == (48, 20)


@dataclass(frozen=True)
class HelloReply:
    """What was agreed, and who answers."""

    protocol: int
    frame_bytes: int
    in_flight: int
    node: int
    features: int
    cluster: bytes
    incarnation: int
    map_epoch: int
    idle_ms: int


@dataclass(frozen=True)
class EchoReply:
    """The bytes of a Ping."""

    echo: bytes


@dataclass(frozen=True)
class GetReply:
    """A record without its key."""

    version: int
    expiry: int
    value: bytes


@dataclass(frozen=True)
class RedirectReply:
    """Where on cold disks the record lies, if there is one. Each of the three `nodes`, as "host:port", has the block."""

    group: int
    disk: int
    bucket: int
    window_from: int
    window_days: int
    window_generation: int
    file: int
    file_generation: int
    offset: int
    block_offset: int
    block_bytes: int
    nodes: Tuple[str, str, str]


@dataclass(frozen=True)
class WriteReply:
    """The version that a write has. `repeated`: it had been applied by an earlier sending."""

    version: int
    repeated: bool


@dataclass(frozen=True)
class BatchReply:
    """Operation i of the batch has version `first_version` + i."""

    first_version: int
    count: int
    repeated: bool


@dataclass(frozen=True)
class Record:
    """A record of a known stream. `time` and `expiry` in microseconds since 1970, expiry 0 = never."""

    time: int
    version: int
    expiry: int
    value: bytes


@dataclass(frozen=True)
class PageReply:
    """Records of a Scan or Head. `resume` is where the next page begins, None = this was the last."""

    log_index: int
    resume: Optional[int]
    records: Tuple[Record, ...]


@dataclass(frozen=True)
class StreamsReply:
    """Streams as (space, stream). `more`: ask again after the last one."""

    more: bool
    streams: Tuple[Tuple[int, bytes], ...]


@dataclass(frozen=True)
class StatusReply:
    """Counters of the node, as the text of one JSON object."""

    text: str


@dataclass(frozen=True)
class MismatchReply:
    """The version that the key has, 0 = absent, None = not known."""

    current: Optional[int]


@dataclass(frozen=True)
class BusyReply:
    """Which limit is reached, and when to try again."""

    limit: Limit
    hint_ms: int


@dataclass(frozen=True)
class WrongGroupReply:
    """The epoch of the map that says so."""

    epoch: int


@dataclass(frozen=True)
class TooLargeReply:
    """Which limit on size."""

    limit: Limit


@dataclass(frozen=True)
class BadRequestReply:
    """What is wrong with the request, and where in its body."""

    why: Why
    at: int


@dataclass(frozen=True)
class UnknownReply:
    """`too_old`: the id is from before those kept, and this sending applied nothing."""

    too_old: bool


@dataclass(frozen=True)
class Reply:
    """The head of a reply and what stands behind it; `body` is None for outcomes that say nothing more."""

    outcome: Outcome
    log_time: int
    body: Any = None


@dataclass(frozen=True)
class MultiGetReply:
    """The replies to the keys, each with its key's position, in the order of the frame."""

    items: Tuple[Tuple[int, Reply], ...]


OkBody = Union[
    HelloReply,
    EchoReply,
    GetReply,
    MultiGetReply,
    WriteReply,
    BatchReply,
    PageReply,
    StreamsReply,
    ClusterMap,
    StatusReply,
]

_ANY = frozenset(Outcome) - {
    Outcome.NotFound,
    Outcome.NotModified,
    Outcome.Redirect,
    Outcome.Moved,
    Outcome.VersionMismatch,
    Outcome.UnknownOutcome,
}


def possible(operation: Operation) -> FrozenSet[Outcome]:
    """The outcomes that a reply to `operation` can have."""
    outcomes = _ANY
    if operation in WRITES:
        outcomes = outcomes - {Outcome.Timeout} | {Outcome.UnknownOutcome}
    if operation is Operation.Get:
        outcomes = outcomes | {Outcome.NotFound, Outcome.NotModified, Outcome.Redirect}
    if operation is Operation.Map:
        outcomes = outcomes | {Outcome.NotModified}
    if operation is Operation.CompareAndSet:
        outcomes = outcomes | {Outcome.VersionMismatch}
    return outcomes


def encode_reply(reply: Reply) -> bytes:
    """The body of a reply. What stands behind the head says which operation it answers."""
    body = reply.body
    code = detail = 0
    if isinstance(body, (WriteReply, BatchReply)):
        code = int(body.repeated)
    elif isinstance(body, GetReply):
        detail = len(body.value)
    elif isinstance(body, MismatchReply):
        code = int(body.current is not None)
    elif isinstance(body, BusyReply):
        code, detail = body.limit, body.hint_ms
    elif isinstance(body, WrongGroupReply):
        detail = body.epoch
    elif isinstance(body, TooLargeReply):
        code = body.limit
    elif isinstance(body, BadRequestReply):
        code, detail = body.why, body.at
    elif isinstance(body, UnknownReply):
        code = int(body.too_old)
    return HEAD.pack(reply.outcome, code, bytes(2), detail, reply.log_time) + _encode_behind(body)


def _encode_node(node: str) -> bytes:
    host, _, port = node.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    mapped = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    return COLD_NODE.pack(mapped, int(port), 0)


def _encode_behind(body: Any) -> bytes:
    """What stands behind the head."""
    if isinstance(body, HelloReply):
        agreed = (body.protocol, bytes(3), body.frame_bytes, body.in_flight, body.node, body.features)
        return HELLO.pack(*agreed, body.cluster, body.incarnation, body.map_epoch, body.idle_ms, 0)
    if isinstance(body, EchoReply):
        return body.echo
    if isinstance(body, GetReply):
        return GET.pack(body.version, body.expiry) + body.value
    if isinstance(body, RedirectReply):
        *fields, nodes = vars(body).values()
        return BLOCK.pack(*fields, 0) + b"".join(_encode_node(node) for node in nodes)
    if isinstance(body, WriteReply):
        return VERSION.pack(body.version)
    if isinstance(body, MismatchReply):
        return VERSION.pack(body.current or 0)
    if isinstance(body, BatchReply):
        return BATCH.pack(body.first_version, body.count, 0)
    if isinstance(body, MultiGetReply):
        items = (ITEM.pack(index, 0) + encode_reply(reply) for index, reply in body.items)
        return COUNT.pack(len(body.items), 0) + b"".join(items)
    if isinstance(body, PageReply):
        more = body.resume is not None
        head = PAGE.pack(body.log_index, body.resume or 0, len(body.records), more, bytes(3))
        records = (RECORD.pack(r.time, r.version, r.expiry, len(r.value)) + r.value for r in body.records)
        return head + b"".join(records)
    if isinstance(body, StreamsReply):
        streams = (STREAM.pack(space, len(stream), 0) + stream for space, stream in body.streams)
        return STREAMS.pack(len(body.streams), body.more, bytes(3)) + b"".join(streams)
    if isinstance(body, StatusReply):
        return body.text.encode()
    if isinstance(body, ClusterMap):
        return body.encode()
    return b""
