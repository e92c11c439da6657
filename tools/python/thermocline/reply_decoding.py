"""Owns reading the body of a reply (section 8).

Never believes a count or a length before the body has shown the bytes. Invariant: a reply that was decoded has an
outcome that its operation can have, a code and detail that its outcome can have, and ends where its body ends.
"""

from __future__ import annotations

import ipaddress
from typing import Any, List, Set, Tuple, Type, TypeVar

from .cluster_map import ClusterMap
from .codes import (
    BODY_BYTES_BEFORE_HELLO,
    BODY_BYTES_MAX,
    COLD_OFFSET_MAX,
    COLD_READ_BYTES_MAX,
    ITEMS_MAX,
    PROTOCOL_VERSION,
    STREAM_BYTES_MAX,
    VALUE_BYTES_MAX,
    WRITES,
    Limit,
    Operation,
    Outcome,
    Why,
)
from .fields import Reader, reply_reader
from .fields import refuse_reply_unless as refuse_unless
from .placement import BUCKET_COUNT
from .replies import (
    BATCH,
    BLOCK,
    COLD_NODE,
    COUNT,
    GET,
    HEAD,
    HELLO,
    ITEM,
    PAGE,
    RECORD,
    STREAM,
    STREAMS,
    VERSION,
    BadRequestReply,
    BatchReply,
    BusyReply,
    EchoReply,
    GetReply,
    HelloReply,
    MismatchReply,
    MultiGetReply,
    OkBody,
    PageReply,
    Record,
    RedirectReply,
    Reply,
    StatusReply,
    StreamsReply,
    TooLargeReply,
    UnknownReply,
    WriteReply,
    WrongGroupReply,
    possible,
)

Code = TypeVar("Code", Outcome, Limit, Why)


def decode_reply(operation: Operation, body: bytes) -> Reply:
    """The reply to `operation` that `body` is. Errors: ReplyError, MapError."""
    reader = reply_reader(body)
    reply = _read_reply(reader, operation)
    reader.end()
    return reply


def _read_redirect(reader: Reader) -> RedirectReply:
    base = reader.at
    *fields, zero = reader.table(BLOCK)
    refuse_unless(zero == 0, "reserved", base + 44)
    bucket, file_generation, offset, block_offset, block_bytes = fields[2], fields[7], fields[8], fields[9], fields[10]
    refuse_unless(bucket < BUCKET_COUNT, "bucket", base + 4)
    refuse_unless(file_generation != 0, "file_generation", base + 28)
    refuse_unless(offset <= COLD_OFFSET_MAX, "offset", base + 32)
    refuse_unless(block_offset <= COLD_OFFSET_MAX, "block_offset", base + 36)
    refuse_unless(0 < block_bytes <= COLD_READ_BYTES_MAX, "block_bytes", base + 40)
    nodes = []
    for _ in range(3):
        at = reader.at
        packed, port, zero = reader.table(COLD_NODE)
        refuse_unless(zero == 0, "reserved", at + 18)
        refuse_unless(port != 0, "port", at + 16)
        address = ipaddress.IPv6Address(packed)
        host = str(address.ipv4_mapped) if address.ipv4_mapped else f"[{address}]"
        nodes.append(f"{host}:{port}")
    return RedirectReply(*fields, nodes=tuple(nodes))


def _read_reply(reader: Reader, operation: Operation) -> Reply:
    base = reader.at
    outcome_code, code, zeroes, detail, log_time = reader.table(HEAD)
    outcome = _known(Outcome, outcome_code, "outcome", base)
    refuse_unless(outcome in possible(operation), "outcome", base)
    refuse_unless(zeroes == bytes(2), "reserved", base + 2)
    body: Any = None
    code_used = detail_used = False
    if outcome is Outcome.Ok:
        code_used, detail_used = operation in WRITES, operation is Operation.Get
        refuse_unless(code <= (1 if code_used else 0), "code", base + 1)
        refuse_unless(detail <= (VALUE_BYTES_MAX if detail_used else 0), "detail", base + 4)
        return Reply(outcome, log_time, _read_ok(reader, operation, bool(code), detail))
    if outcome is Outcome.VersionMismatch:
        code_used = True
        refuse_unless(code <= 1, "code", base + 1)
        (current,) = reader.table(VERSION)
        refuse_unless(code == 1 or current == 0, "current", base + HEAD.size)
        body = MismatchReply(current if code else None)
    elif outcome is Outcome.Redirect:
        body = _read_redirect(reader)
    elif outcome is Outcome.Busy:
        code_used = detail_used = True
        body = BusyReply(_known(Limit, code, "code", base + 1), detail)
    elif outcome is Outcome.WrongGroup:
        detail_used = True
        body = WrongGroupReply(detail)
    elif outcome is Outcome.TooLarge:
        code_used = True
        body = TooLargeReply(_known(Limit, code, "code", base + 1))
    elif outcome is Outcome.BadRequest:
        code_used = detail_used = True
        body = BadRequestReply(_known(Why, code, "code", base + 1), detail)
    elif outcome is Outcome.UnknownOutcome:
        code_used = True
        refuse_unless(code <= 1, "code", base + 1)
        body = UnknownReply(bool(code))
    refuse_unless(code_used or code == 0, "code", base + 1)
    refuse_unless(detail_used or detail == 0, "detail", base + 4)
    return Reply(outcome, log_time, body)


def _known(codes: Type[Code], code: int, field: str, at: int) -> Code:
    """The member of `codes` that `code` is."""
    refuse_unless(code in frozenset(codes), field, at)
    return codes(code)


def _read_ok(reader: Reader, operation: Operation, repeated: bool, detail: int) -> OkBody:
    """What stands behind the head of an Ok."""
    base = reader.at
    if operation is Operation.Hello:
        return _read_hello(reader)
    if operation is Operation.Ping:
        return EchoReply(reader.rest())
    if operation is Operation.Get:
        version, expiry = reader.table(GET)
        refuse_unless(version != 0, "version", base)
        return GetReply(version, expiry, reader.take(detail))
    if operation is Operation.MultiGet:
        return _read_multi_get(reader)
    if operation is Operation.Batch:
        first_version, count, zero = reader.table(BATCH)
        refuse_unless(first_version != 0, "first_version", base)
        refuse_unless(1 <= count <= ITEMS_MAX, "count", base + 8)
        refuse_unless(zero == 0, "reserved", base + 12)
        return BatchReply(first_version, count, repeated)
    if operation in WRITES:
        (version,) = reader.table(VERSION)
        refuse_unless(version != 0, "version", base)
        return WriteReply(version, repeated)
    if operation in (Operation.Scan, Operation.Head):
        return _read_page(reader)
    if operation is Operation.Streams:
        return _read_streams(reader)
    if operation in (Operation.Map, Operation.SetMap):
        return ClusterMap.read(reader)
    assert operation in (Operation.Status, Operation.Verify, Operation.Hot), operation
    try:
        return StatusReply(reader.rest().decode())
    except UnicodeDecodeError:
        refuse_unless(False, "text", base)
        raise


def _read_hello(reader: Reader) -> HelloReply:
    base = reader.at
    protocol, zeroes, frame, flight, node, features, cluster, incarnation, epoch, idle_ms, zero = reader.table(HELLO)
    refuse_unless(protocol == PROTOCOL_VERSION, "protocol", base)
    refuse_unless(zeroes == bytes(3), "reserved", base + 1)
    refuse_unless(BODY_BYTES_BEFORE_HELLO <= frame <= BODY_BYTES_MAX, "frame_bytes", base + 4)
    refuse_unless(flight >= 1, "in_flight", base + 8)
    refuse_unless(zero == 0, "reserved", base + 52)
    return HelloReply(protocol, frame, flight, node, features, cluster, incarnation, epoch, idle_ms)


def _read_multi_get(reader: Reader) -> MultiGetReply:
    base = reader.at
    count, zero = reader.table(COUNT)
    refuse_unless(1 <= count <= ITEMS_MAX, "count", base)
    refuse_unless(zero == 0, "reserved", base + 4)
    items: List[Tuple[int, Reply]] = []
    seen: Set[int] = set()
    for _ in range(count):
        at = reader.at
        index, zero = reader.table(ITEM)
        refuse_unless(index < count and index not in seen, "index", at)
        refuse_unless(zero == 0, "reserved", at + 2)
        seen.add(index)
        items.append((index, _read_reply(reader, Operation.Get)))
    return MultiGetReply(tuple(items))


def _read_page(reader: Reader) -> PageReply:
    base = reader.at
    log_index, resume, count, more, zeroes = reader.table(PAGE)
    refuse_unless(count <= ITEMS_MAX, "count", base + 16)
    refuse_unless(more <= 1, "more", base + 20)
    refuse_unless(more == 1 or resume == 0, "resume", base + 8)
    refuse_unless(zeroes == bytes(3), "reserved", base + 21)
    records: List[Record] = []
    for _ in range(count):
        at = reader.at
        time, version, expiry, length = reader.table(RECORD)
        refuse_unless(version != 0, "version", at + 8)
        refuse_unless(length <= VALUE_BYTES_MAX, "value_bytes", at + 24)
        records.append(Record(time, version, expiry, reader.take(length)))
    return PageReply(log_index, resume if more else None, tuple(records))


def _read_streams(reader: Reader) -> StreamsReply:
    base = reader.at
    count, more, zeroes = reader.table(STREAMS)
    refuse_unless(count <= ITEMS_MAX, "count", base)
    refuse_unless(more <= 1 and not (more == 1 and count == 0), "more", base + 4)
    refuse_unless(zeroes == bytes(3), "reserved", base + 5)
    streams: List[Tuple[int, bytes]] = []
    for _ in range(count):
        at = reader.at
        space, length, zero = reader.table(STREAM)
        refuse_unless(1 <= length <= STREAM_BYTES_MAX, "stream_bytes", at + 2)
        refuse_unless(zero == 0, "reserved", at + 3)
        streams.append((space, reader.take(length)))
    return StreamsReply(bool(more), tuple(streams))
