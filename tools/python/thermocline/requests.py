"""Owns the bodies of requests: one class for each operation, encoding and decoding (sections 4 and 7).

Never sends anything and never draws a request id. Invariant: `decode(encode(x)) == x`, and what `encode` gives passes
`decode`; a body that the document refuses raises RequestError or SizeError with the document's word and offset.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, List, Optional, Tuple, Type, TypeVar, Union

from .cluster_map import ClusterMap
from .codes import (
    BODY_BYTES_BEFORE_HELLO,
    GET_IF_NEWER,
    GET_LOCAL,
    GET_REDIRECT,
    ITEMS_MAX,
    SCAN_BACKWARD,
    SCAN_LOCAL,
    STREAM_BYTES_MAX,
    STREAMS_AFTER,
    STREAMS_ONE_SPACE,
    TABLET_COUNT,
    TIME_MAX,
    TOKEN_BYTES_MAX,
    Limit,
    Method,
    Operation,
    Why,
)
from .errors import InvalidArgument, SizeError
from .fields import U16_MAX, U32_MAX, U64_MAX, Reader, number, request_reader, stream_bytes
from .fields import refuse_request_unless as refuse_unless

_HELLO = struct.Struct("<BBBBHHQIIQ16s")
_GET = struct.Struct("<HBBIQQ")
_MULTI_GET = struct.Struct("<H6s")
_SCAN = struct.Struct("<HBBIQQII")
_HEAD = struct.Struct("<HBBIII")
_STREAMS = struct.Struct("<BBHHBBIHH")
_MAP = struct.Struct("<II")
assert (_HELLO.size, _GET.size, _MULTI_GET.size, _SCAN.size) == (48, 24, 8, 32)
assert (_HEAD.size, _STREAMS.size, _MAP.size) == (16, 16, 8)


def read_stream(reader: Reader, length: int, at: int) -> bytes:
    """The stream of `length` bytes, which stands at `at`. Errors: RequestError Stream, Short."""
    refuse_unless(1 <= length <= STREAM_BYTES_MAX, Why.Stream, at)
    return reader.take(length)


@dataclass(frozen=True)
class Hello:
    """The first request. `client` is the client half of request ids, 0 = it does not write; `cluster` zero = any."""

    operation: ClassVar[Operation] = Operation.Hello
    client: int = 0
    frame_bytes: int = 4_194_304
    in_flight: int = 256
    method: Method = Method.none
    auth: bytes = b""
    features: int = 0
    cluster: bytes = bytes(16)
    protocol_min: int = 1
    protocol_max: int = 1

    def encode(self) -> bytes:
        if len(self.auth) > (TOKEN_BYTES_MAX if self.method is Method.token else 0):
            raise InvalidArgument(f"a token has at most {TOKEN_BYTES_MAX} bytes, and none goes without the method")
        if len(self.cluster) != 16:
            raise InvalidArgument("a cluster has 16 bytes")
        if self.protocol_max < self.protocol_min:
            raise InvalidArgument("protocol_max is below protocol_min")
        return (
            _HELLO.pack(
                self.protocol_min,
                self.protocol_max,
                self.method,
                0,
                len(self.auth),
                0,
                number("features", self.features, U64_MAX),
                number("frame_bytes", self.frame_bytes, U32_MAX, BODY_BYTES_BEFORE_HELLO),
                number("in_flight", self.in_flight, U32_MAX, 1),
                number("client", self.client, U64_MAX),
                self.cluster,
            )
            + self.auth
        )

    @classmethod
    def decode(cls, body: bytes) -> Hello:
        reader = request_reader(body)
        low, high, method, zero, auth_bytes, zeroes, features, frame, flight, client, cluster = reader.table(_HELLO)
        refuse_unless(low <= high, Why.Range, 0)
        refuse_unless(method in (Method.none, Method.token), Why.Method, 2)
        refuse_unless(zero == 0, Why.Reserved, 3)
        refuse_unless(auth_bytes <= (TOKEN_BYTES_MAX if method == Method.token else 0), Why.Count, 4)
        refuse_unless(zeroes == 0, Why.Reserved, 6)
        refuse_unless(frame >= BODY_BYTES_BEFORE_HELLO, Why.HelloLimits, 16)
        refuse_unless(flight >= 1, Why.HelloLimits, 20)
        auth = reader.take(auth_bytes)
        reader.end()
        return cls(client, frame, flight, Method(method), auth, features, cluster, low, high)


@dataclass(frozen=True)
class Ping:
    """Any bytes, which come back."""

    operation: ClassVar[Operation] = Operation.Ping
    echo: bytes = b""

    def encode(self) -> bytes:
        return self.echo

    @classmethod
    def decode(cls, body: bytes) -> Ping:
        return cls(body)


@dataclass(frozen=True)
class Get:
    """One record. With `if_newer` (a version, 0 = absent) the answer is NotModified where the record still has it.

    With `redirect` the answer may be where on cold disks it lies.
    """

    operation: ClassVar[Operation] = Operation.Get
    stream: bytes
    time: int
    space: int = 0
    if_newer: Optional[int] = None
    local: bool = False
    redirect: bool = False

    def encode(self) -> bytes:
        stream = stream_bytes(self.stream)
        flags = (GET_LOCAL if self.local else 0) | (0 if self.if_newer is None else GET_IF_NEWER)
        flags |= GET_REDIRECT if self.redirect else 0
        return (
            _GET.pack(
                number("space", self.space, U16_MAX),
                len(stream),
                flags,
                0,
                number("time", self.time, TIME_MAX),
                number("if_newer", self.if_newer or 0, U64_MAX),
            )
            + stream
        )

    @classmethod
    def read(cls, reader: Reader) -> Get:
        """One body of Get at the reader's place; another may follow."""
        base = reader.at
        space, length, flags, zero, time, if_newer = reader.table(_GET)
        refuse_unless(1 <= length <= STREAM_BYTES_MAX, Why.Stream, base + 2)
        refuse_unless(flags & ~(GET_LOCAL | GET_IF_NEWER | GET_REDIRECT) == 0, Why.Flags, base + 3)
        refuse_unless(zero == 0, Why.Reserved, base + 4)
        named = bool(flags & GET_IF_NEWER)
        refuse_unless(named or if_newer == 0, Why.Version, base + 16)
        stream = reader.take(length)
        newer_than = if_newer if named else None
        return cls(stream, time, space, newer_than, bool(flags & GET_LOCAL), bool(flags & GET_REDIRECT))

    @classmethod
    def decode(cls, body: bytes) -> Get:
        reader = request_reader(body)
        get = cls.read(reader)
        reader.end()
        return get


@dataclass(frozen=True)
class MultiGet:
    """Up to 4,096 gets in one frame."""

    operation: ClassVar[Operation] = Operation.MultiGet
    gets: Tuple[Get, ...]

    def encode(self) -> bytes:
        number("count of gets", len(self.gets), ITEMS_MAX, 1)
        return _MULTI_GET.pack(len(self.gets), bytes(6)) + b"".join(get.encode() for get in self.gets)

    @classmethod
    def decode(cls, body: bytes) -> MultiGet:
        reader = request_reader(body)
        count, zeroes = reader.table(_MULTI_GET)
        refuse_unless(count != 0, Why.Count, 0)
        if count > ITEMS_MAX:
            raise SizeError(Limit.Operations)
        refuse_unless(zeroes == bytes(6), Why.Reserved, 2)
        gets: List[Get] = []
        for _ in range(count):
            base = reader.at
            gets.append(Get.read(reader))
            refuse_unless(not gets[-1].redirect, Why.Flags, base + 3)
        reader.end()
        return cls(tuple(gets))


@dataclass(frozen=True)
class Scan:
    """The records of a stream with start <= time <= end. A limit of 0 leaves it to the server."""

    operation: ClassVar[Operation] = Operation.Scan
    stream: bytes
    start: int = 0
    end: int = TIME_MAX
    space: int = 0
    backward: bool = False
    record_limit: int = 0
    byte_limit: int = 0
    local: bool = False

    def encode(self) -> bytes:
        stream = stream_bytes(self.stream)
        start, end = number("start", self.start, TIME_MAX), number("end", self.end, TIME_MAX)
        if start > end:
            raise InvalidArgument(f"the range ends at {end}, before it begins at {start}")
        flags = (SCAN_LOCAL if self.local else 0) | (SCAN_BACKWARD if self.backward else 0)
        records = number("record_limit", self.record_limit, U32_MAX)
        in_bytes = number("byte_limit", self.byte_limit, U32_MAX)
        space = number("space", self.space, U16_MAX)
        return _SCAN.pack(space, len(stream), flags, records, start, end, in_bytes, 0) + stream

    @classmethod
    def decode(cls, body: bytes) -> Scan:
        reader = request_reader(body)
        space, length, flags, records, start, end, in_bytes, zero = reader.table(_SCAN)
        refuse_unless(flags & ~(SCAN_LOCAL | SCAN_BACKWARD) == 0, Why.Flags, 3)
        refuse_unless(start <= end, Why.Range, 8)
        refuse_unless(zero == 0, Why.Reserved, 28)
        stream = read_stream(reader, length, 2)
        reader.end()
        backward, local = bool(flags & SCAN_BACKWARD), bool(flags & SCAN_LOCAL)
        return cls(stream, start, end, space, backward, records, in_bytes, local)


@dataclass(frozen=True)
class Head:
    """The newest records of a stream, newest first."""

    operation: ClassVar[Operation] = Operation.Head
    stream: bytes
    record_limit: int = 1
    space: int = 0
    byte_limit: int = 0
    local: bool = False

    def encode(self) -> bytes:
        stream = stream_bytes(self.stream)
        records = number("record_limit", self.record_limit, U32_MAX)
        in_bytes = number("byte_limit", self.byte_limit, U32_MAX)
        space = number("space", self.space, U16_MAX)
        return _HEAD.pack(space, len(stream), SCAN_LOCAL if self.local else 0, records, in_bytes, 0) + stream

    @classmethod
    def decode(cls, body: bytes) -> Head:
        reader = request_reader(body)
        space, length, flags, records, in_bytes, zero = reader.table(_HEAD)
        refuse_unless(flags & ~SCAN_LOCAL == 0, Why.Flags, 3)
        refuse_unless(zero == 0, Why.Reserved, 12)
        stream = read_stream(reader, length, 2)
        reader.end()
        return cls(stream, records, space, in_bytes, bool(flags & SCAN_LOCAL))


@dataclass(frozen=True)
class Streams:
    """The streams of one tablet, after the stream `after` (space, stream) of the page before."""

    operation: ClassVar[Operation] = Operation.Streams
    tablet: int
    after: Optional[Tuple[int, bytes]] = None
    space: Optional[int] = None
    limit: int = 0
    group: int = 0

    def encode(self) -> bytes:
        after_space, after_stream = (0, b"") if self.after is None else (self.after[0], stream_bytes(self.after[1]))
        flags = (0 if self.after is None else STREAMS_AFTER) | (0 if self.space is None else STREAMS_ONE_SPACE)
        return (
            _STREAMS.pack(
                number("tablet", self.tablet, TABLET_COUNT - 1),
                flags,
                number("space of after", after_space, U16_MAX),
                number("space", self.space or 0, U16_MAX),
                len(after_stream),
                0,
                number("limit", self.limit, U32_MAX),
                number("group", self.group, U16_MAX),
                0,
            )
            + after_stream
        )

    @classmethod
    def decode(cls, body: bytes) -> Streams:
        reader = request_reader(body)
        tablet, flags, after_space, space, length, zero, limit, group, zeroes = reader.table(_STREAMS)
        refuse_unless(tablet < TABLET_COUNT, Why.Tablet, 0)
        refuse_unless(flags & ~(STREAMS_AFTER | STREAMS_ONE_SPACE) == 0, Why.Flags, 1)
        after, one_space = bool(flags & STREAMS_AFTER), bool(flags & STREAMS_ONE_SPACE)
        refuse_unless(after or after_space == 0, Why.Reserved, 2)
        refuse_unless(one_space or space == 0, Why.Reserved, 4)
        refuse_unless(after or length == 0, Why.Reserved, 6)
        refuse_unless(zero == 0, Why.Reserved, 7)
        refuse_unless(zeroes == 0, Why.Reserved, 14)
        last = (after_space, read_stream(reader, length, 6)) if after else None
        reader.end()
        return cls(tablet, last, space if one_space else None, limit, group)


@dataclass(frozen=True)
class Map:
    """The cluster map, unless the node's has the epoch that is known."""

    operation: ClassVar[Operation] = Operation.Map
    known_epoch: int = 0

    def encode(self) -> bytes:
        return _MAP.pack(number("known_epoch", self.known_epoch, U32_MAX), 0)

    @classmethod
    def decode(cls, body: bytes) -> Map:
        reader = request_reader(body)
        known_epoch, zero = reader.table(_MAP)
        refuse_unless(zero == 0, Why.Reserved, 4)
        reader.end()
        return cls(known_epoch)


_B = TypeVar("_B", bound="_Bare")


@dataclass(frozen=True)
class _Bare:
    """A request without a body."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls: Type[_B], body: bytes) -> _B:
        request_reader(body).end()
        return cls()


@dataclass(frozen=True)
class Status(_Bare):
    """Counters of the node."""

    operation: ClassVar[Operation] = Operation.Status


@dataclass(frozen=True)
class Verify(_Bare):
    """Have the replicas compared of each tablet whose first replica the node is."""

    operation: ClassVar[Operation] = Operation.Verify


@dataclass(frozen=True)
class SetMap:
    """Says anew where reads go, by a map that is the node's own but for that."""

    operation: ClassVar[Operation] = Operation.SetMap
    map: ClusterMap

    def encode(self) -> bytes:
        return self.map.encode()

    @classmethod
    def decode(cls, body: bytes) -> SetMap:
        reader = request_reader(body)
        cluster_map = ClusterMap.read(reader)
        reader.end()
        return cls(cluster_map)


@dataclass(frozen=True)
class Hot(_Bare):
    """The keys that the node is asked for most."""

    operation: ClassVar[Operation] = Operation.Hot


ReadRequest = Union[Ping, Get, MultiGet, Scan, Head, Streams, Map, Status, Verify, SetMap, Hot]
