"""Owns the bodies of requests that write, and the request id (sections 7 and 10).

Never draws an id and never sends. Invariant: as in requests.py; a write without its id cannot be encoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, List, Optional, Tuple, Union

from .codes import ITEMS_MAX, STREAM_BYTES_MAX, TIME_MAX, VALUE_BYTES_MAX, Kind, Limit, Operation, Why
from .errors import InvalidArgument, SizeError
from .fields import U16_MAX, U64_MAX, Reader, number, request_reader, stream_bytes, value_bytes
from .fields import refuse_request_unless as refuse_unless

_REQUEST_ID = struct.Struct("<QQQ")
_PUT = struct.Struct("<HBBIQQ24s")
_DELETE = struct.Struct("<HB5sQ24s")
_COMPARE_AND_SET = struct.Struct("<HBBIQQ24sQ")
_BATCH = struct.Struct("<HBBHH24s")
_BATCH_OPERATION = struct.Struct("<B3sIQQ")
assert (_REQUEST_ID.size, _PUT.size, _DELETE.size, _COMPARE_AND_SET.size) == (24, 48, 40, 56)
assert (_BATCH.size, _BATCH_OPERATION.size) == (32, 24)


@dataclass(frozen=True)
class RequestId:
    """Names a write, so that it is applied once. `log_time` is the newest seen before the first sending, 0 = none."""

    client: int
    log_time: int
    sequence: int

    def encode(self) -> bytes:
        return _REQUEST_ID.pack(
            number("client", self.client, U64_MAX, 1),
            number("log_time", self.log_time, U64_MAX),
            number("sequence", self.sequence, U64_MAX, 1),
        )

    @classmethod
    def decode(cls, data: bytes, at: int) -> RequestId:
        """The id in these 24 bytes, which stand at `at`. Errors: RequestError RequestId."""
        request_id = cls(*_REQUEST_ID.unpack(data))
        refuse_unless(request_id.client != 0 and request_id.sequence != 0, Why.RequestId, at)
        return request_id


def encode_id(request_id: Optional[RequestId]) -> bytes:
    """Errors: InvalidArgument where the write has no id yet."""
    if request_id is None:
        raise InvalidArgument("the write has no request id", to_do="start it through a Client, which draws one")
    return request_id.encode()


def check_value_length(length: int, held: int, at: int) -> None:
    """Errors: SizeError Value, RequestError ValueBytes where the body holds `held` bytes instead."""
    if length > VALUE_BYTES_MAX:
        raise SizeError(Limit.Value)
    refuse_unless(length == held, Why.ValueBytes, at)


@dataclass(frozen=True)
class Put:
    """Writes a record. `expiry` is when it expires, 0 = never."""

    operation: ClassVar[Operation] = Operation.Put
    stream: bytes
    time: int
    value: bytes
    space: int = 0
    expiry: int = 0
    request_id: Optional[RequestId] = None

    def encode(self) -> bytes:
        stream, value = stream_bytes(self.stream), value_bytes(self.value)
        space, time = number("space", self.space, U16_MAX), number("time", self.time, TIME_MAX)
        expiry = number("expiry", self.expiry, TIME_MAX)
        fixed = _PUT.pack(space, len(stream), 0, len(value), time, expiry, encode_id(self.request_id))
        return b"".join((fixed, stream, value))

    @classmethod
    def decode(cls, body: bytes) -> Put:
        reader = request_reader(body)
        space, length, zero, value_length, time, expiry, request_id = reader.table(_PUT)
        refuse_unless(zero == 0, Why.Reserved, 3)
        stream, value = _read_stream_and_value(reader, length, value_length)
        return cls(stream, time, value, space, expiry, RequestId.decode(request_id, 24))


@dataclass(frozen=True)
class Delete:
    """Removes a record, also one that is not there."""

    operation: ClassVar[Operation] = Operation.Delete
    stream: bytes
    time: int
    space: int = 0
    request_id: Optional[RequestId] = None

    def encode(self) -> bytes:
        stream = stream_bytes(self.stream)
        space, time = number("space", self.space, U16_MAX), number("time", self.time, TIME_MAX)
        return _DELETE.pack(space, len(stream), bytes(5), time, encode_id(self.request_id)) + stream

    @classmethod
    def decode(cls, body: bytes) -> Delete:
        reader = request_reader(body)
        space, length, zeroes, time, request_id = reader.table(_DELETE)
        refuse_unless(1 <= length <= STREAM_BYTES_MAX, Why.Stream, 2)
        refuse_unless(zeroes == bytes(5), Why.Reserved, 3)
        stream = reader.take(length)
        reader.end()
        return cls(stream, time, space, RequestId.decode(request_id, 16))


@dataclass(frozen=True)
class CompareAndSet:
    """Writes a record where its version is `expected`, 0 = only if absent."""

    operation: ClassVar[Operation] = Operation.CompareAndSet
    stream: bytes
    time: int
    value: bytes
    expected: int
    space: int = 0
    expiry: int = 0
    request_id: Optional[RequestId] = None

    def encode(self) -> bytes:
        stream, value = stream_bytes(self.stream), value_bytes(self.value)
        space, time = number("space", self.space, U16_MAX), number("time", self.time, TIME_MAX)
        expiry, expected = number("expiry", self.expiry, TIME_MAX), number("expected", self.expected, U64_MAX)
        request_id = encode_id(self.request_id)
        fixed = _COMPARE_AND_SET.pack(space, len(stream), 0, len(value), time, expiry, request_id, expected)
        return b"".join((fixed, stream, value))

    @classmethod
    def decode(cls, body: bytes) -> CompareAndSet:
        reader = request_reader(body)
        space, length, zero, value_length, time, expiry, request_id, expected = reader.table(_COMPARE_AND_SET)
        refuse_unless(zero == 0, Why.Reserved, 3)
        stream, value = _read_stream_and_value(reader, length, value_length)
        return cls(stream, time, value, expected, space, expiry, RequestId.decode(request_id, 24))


def _read_stream_and_value(reader: Reader, stream_length: int, value_length: int) -> Tuple[bytes, bytes]:
    """The stream and the value at the end of a body, whose lengths stand at 2 and 4."""
    refuse_unless(1 <= stream_length <= STREAM_BYTES_MAX, Why.Stream, 2)
    stream = reader.take(stream_length)
    check_value_length(value_length, len(reader.body) - reader.at, 4)
    return stream, reader.rest()


@dataclass(frozen=True)
class BatchOperation:
    """One put, or one delete where `value` is None, of a Batch."""

    time: int
    value: Optional[bytes]
    expiry: int = 0

    def encode(self) -> bytes:
        time, expiry = number("time", self.time, TIME_MAX), number("expiry", self.expiry, TIME_MAX)
        if self.value is None:
            if expiry != 0:
                raise InvalidArgument("a delete has no expiry")
            return _BATCH_OPERATION.pack(Kind.delete, bytes(3), 0, time, 0)
        value = value_bytes(self.value)
        return _BATCH_OPERATION.pack(Kind.put, bytes(3), len(value), time, expiry) + value

    @classmethod
    def read(cls, reader: Reader) -> BatchOperation:
        """One operation at the reader's place."""
        base = reader.at
        kind, zeroes, length, time, expiry = reader.table(_BATCH_OPERATION)
        refuse_unless(kind in (Kind.put, Kind.delete), Why.Kind, base)
        refuse_unless(zeroes == bytes(3), Why.Reserved, base + 1)
        if kind == Kind.delete:
            refuse_unless(length == 0, Why.Reserved, base + 4)
            refuse_unless(expiry == 0, Why.Reserved, base + 16)
            return cls(time, None)
        if length > VALUE_BYTES_MAX:
            raise SizeError(Limit.Value)
        return cls(time, reader.take(length), expiry)


@dataclass(frozen=True)
class Batch:
    """Puts and deletes of one stream, all applied at one point of the log, or none."""

    operation: ClassVar[Operation] = Operation.Batch
    stream: bytes
    operations: Tuple[BatchOperation, ...]
    space: int = 0
    request_id: Optional[RequestId] = None

    def encode(self) -> bytes:
        stream, space = stream_bytes(self.stream), number("space", self.space, U16_MAX)
        count = number("count of operations", len(self.operations), ITEMS_MAX, 1)
        fixed = _BATCH.pack(space, len(stream), 0, count, 0, encode_id(self.request_id))
        return b"".join((fixed, stream, *(operation.encode() for operation in self.operations)))

    @classmethod
    def decode(cls, body: bytes) -> Batch:
        reader = request_reader(body)
        space, length, zero, count, zeroes, request_id = reader.table(_BATCH)
        refuse_unless(1 <= length <= STREAM_BYTES_MAX, Why.Stream, 2)
        refuse_unless(zero == 0, Why.Reserved, 3)
        refuse_unless(count != 0, Why.Count, 4)
        if count > ITEMS_MAX:
            raise SizeError(Limit.Operations)
        refuse_unless(zeroes == 0, Why.Reserved, 6)
        name = RequestId.decode(request_id, 8)
        stream = reader.take(length)
        operations: List[BatchOperation] = [BatchOperation.read(reader) for _ in range(count)]
        reader.end()
        return cls(stream, tuple(operations), space, name)


WriteRequest = Union[Put, Delete, CompareAndSet, Batch]
