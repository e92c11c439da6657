"""Owns the table of messages: which class stands for which operation, and whole frames of them.

Never holds a connection. Invariant: each operation has one request class; requests and replies are told apart by the
bit 0x80 of the frame's code alone.
"""

from __future__ import annotations

from typing import Any, Dict, Type, Union

from .codes import REPLY_BIT, Operation
from .frames import encode_frame
from .replies import Reply, encode_reply
from .reply_decoding import decode_reply
from .requests import Get, Head, Hello, Hot, Map, MultiGet, Ping, ReadRequest, Scan, SetMap, Status, Streams, Verify
from .writes import Batch, CompareAndSet, Delete, Put, WriteRequest

Request = Union[Hello, ReadRequest, WriteRequest]

REQUESTS: Dict[Operation, Type[Any]] = {
    kind.operation: kind
    for kind in (
        Hello,
        Ping,
        Get,
        MultiGet,
        Put,
        Delete,
        CompareAndSet,
        Batch,
        Scan,
        Head,
        Streams,
        Map,
        Status,
        Verify,
        SetMap,
        Hot,
    )
}
assert set(REQUESTS) == set(Operation)


def request_frame(request: Request, number: int, map_epoch: int) -> bytes:
    """The frame of a request. Errors: InvalidArgument where a field does not fit."""
    return encode_frame(request.operation, number, map_epoch, request.encode())


def reply_frame(operation: Operation, reply: Reply, number: int, map_epoch: int) -> bytes:
    """The frame of a reply to `operation`."""
    return encode_frame(operation | REPLY_BIT, number, map_epoch, encode_reply(reply))


def decode_request(operation: Operation, body: bytes) -> Request:
    """The request that `body` is. Errors: RequestError, SizeError."""
    request: Request = REQUESTS[operation].decode(body)
    return request


__all__ = ["REQUESTS", "Reply", "Request", "decode_reply", "decode_request", "reply_frame", "request_frame"]
