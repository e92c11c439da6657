"""Owns the numbers of the protocol that carry names: operations, outcomes, limits, reasons, flags, sizes.

Never does anything: no I/O, no decisions. Invariant: names and numbers are those of net/PROTOCOL.md, sections 3, 5, 9
and 11, letter by letter (a test reads the document's tables and compares).
"""

from __future__ import annotations

from enum import IntEnum

PROTOCOL_VERSION = 1
PORT_DEFAULT = 7420

HEADER_BYTES = 32
BODY_BYTES_MAX = 4_194_304
BODY_BYTES_BEFORE_HELLO = 4_096
STREAM_BYTES_MAX = 128
VALUE_BYTES_MAX = 1_048_576
TOKEN_BYTES_MAX = 1_024
# Keys of a MultiGet, operations of a Batch, records or streams of a page.
ITEMS_MAX = 4_096
TABLET_COUNT = 64
COLD_OFFSET_MAX = 1 << 30
COLD_READ_BYTES_MAX = 2_097_152
TIME_MAX = 2**64 - 1

REPLY_BIT = 0x80

GET_LOCAL = 1
GET_IF_NEWER = 2
GET_REDIRECT = 4
SCAN_LOCAL = 1
SCAN_BACKWARD = 2
STREAMS_AFTER = 1
STREAMS_ONE_SPACE = 2


class Operation(IntEnum):
    """What a request asks for."""

    Hello = 1
    Ping = 2
    Get = 3
    MultiGet = 4
    Put = 5
    Delete = 6
    CompareAndSet = 7
    Batch = 8
    Scan = 9
    Head = 10
    Streams = 11
    Map = 12
    Status = 13
    Verify = 14
    SetMap = 15
    Hot = 16


class ColdOperation(IntEnum):
    """What is asked of a node with cold disks: net/COLD.md. This client does not ask it yet."""

    ColdReserve = 32
    ColdWrite = 33
    ColdSeal = 34
    ColdFree = 35
    ColdGet = 36
    ColdScan = 37
    ColdList = 38
    ColdIndex = 39
    ColdRead = 40
    ColdFiles = 41
    ColdCopy = 42


WRITES = frozenset({Operation.Put, Operation.Delete, Operation.CompareAndSet, Operation.Batch})


class Outcome(IntEnum):
    """How a request ended."""

    Ok = 1
    NotFound = 2
    NotModified = 3
    Redirect = 4
    Moved = 5
    VersionMismatch = 6
    Busy = 7
    NotCurrent = 8
    WrongGroup = 9
    TooLarge = 10
    BadRequest = 11
    Unauthorized = 12
    Corrupt = 13
    UnknownOutcome = 14
    Timeout = 15


class Limit(IntEnum):
    """Which limit a Busy or TooLarge names. Up to 31 they are loads, from 32 on they are sizes."""

    InFlight = 1
    Connections = 2
    Queue = 3
    Memory = 4
    Journal = 5
    Space = 6
    RequestIds = 7
    ReplyBuffers = 8
    Tables = 9
    Starting = 10
    Draining = 11
    Rate = 12
    Device = 13
    Frame = 32
    Value = 33
    Operations = 34
    Entry = 35


class Why(IntEnum):
    """What is wrong with a request."""

    UnknownOperation = 1
    Short = 2
    Trailing = 3
    Stream = 4
    Flags = 5
    Reserved = 6
    Time = 7
    Range = 8
    Count = 9
    Kind = 10
    ValueBytes = 11
    Version = 12
    BodyChecksum = 13
    ProtocolVersion = 14
    HelloFirst = 15
    HelloAgain = 16
    NotARequest = 17
    RequestId = 18
    Tablet = 19
    Cluster = 20
    HelloLimits = 21
    Method = 22
    HeaderFlags = 23
    Map = 24
    Disk = 25
    Place = 26


class Method(IntEnum):
    """How a Hello proves who the client is."""

    none = 0
    token = 1


class Kind(IntEnum):
    """What one operation of a Batch does."""

    put = 1
    delete = 2
