"""Owns reading a body field by field, and the checks on what callers give.

Never knows a message. Invariant: a Reader never gives bytes that the body does not have, and `end` is passed only
where nothing is left over.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, Tuple, Union

from .codes import STREAM_BYTES_MAX, VALUE_BYTES_MAX, Limit, Why
from .errors import InvalidArgument, ProtocolError, ReplyError, RequestError

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1


class Reader:
    """A body and a position in it. `ended(at)` and `left_over(at)` make the errors for too few and too many bytes."""

    def __init__(
        self, body: bytes, ended: Callable[[int], ProtocolError], left_over: Callable[[int], ProtocolError]
    ) -> None:
        self.body = body
        self.at = 0
        self._ended = ended
        self._left_over = left_over

    def need(self, count: int) -> None:
        """Errors: `ended` at the body's end where fewer than `count` bytes are left."""
        if len(self.body) - self.at < count:
            raise self._ended(len(self.body))

    def table(self, layout: struct.Struct) -> Tuple[Any, ...]:
        """The fields of a byte table."""
        self.need(layout.size)
        fields = layout.unpack_from(self.body, self.at)
        self.at += layout.size
        return fields

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.need(count)
        taken = self.body[self.at : self.at + count]
        self.at += count
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.body) - self.at)

    def end(self) -> None:
        """Errors: `left_over` where the body goes on."""
        if self.at != len(self.body):
            raise self._left_over(self.at)


def request_reader(body: bytes) -> Reader:
    """A reader of a request's body: Short at the body's end, Trailing where bytes are left over."""
    return Reader(body, lambda at: RequestError(Why.Short, at), lambda at: RequestError(Why.Trailing, at))


def reply_reader(body: bytes) -> Reader:
    """A reader of a reply's body: both errors are the field "end", at the body's length."""
    return Reader(body, lambda at: ReplyError("end", at), lambda _: ReplyError("end", len(body)))


def refuse_request_unless(holds: bool, why: Why, at: int) -> None:
    """Errors: RequestError unless `holds`."""
    if not holds:
        raise RequestError(why, at)


def refuse_reply_unless(holds: bool, field: str, at: int) -> None:
    """Errors: ReplyError unless `holds`."""
    if not holds:
        raise ReplyError(field, at)


# --- what callers give ---------------------------------------------------------------------------------------------


def stream_bytes(stream: Union[str, bytes]) -> bytes:
    """The stream as bytes; text becomes UTF-8. Errors: InvalidArgument unless it has 1 to 128 bytes."""
    data = stream.encode() if isinstance(stream, str) else bytes(stream)
    if not 1 <= len(data) <= STREAM_BYTES_MAX:
        raise InvalidArgument(f"a stream has 1 to {STREAM_BYTES_MAX} bytes, this one {len(data)}", to_do="shorten it")
    return data


def value_bytes(value: Union[str, bytes]) -> bytes:
    """The value as bytes; text becomes UTF-8. Errors: InvalidArgument above 1 MiB."""
    data = value.encode() if isinstance(value, str) else bytes(value)
    if len(data) > VALUE_BYTES_MAX:
        raise InvalidArgument(
            f"a value has at most {VALUE_BYTES_MAX} bytes, this one {len(data)} ({Limit.Value.name})",
            to_do="split it over several records",
        )
    return data


def number(name: str, value: int, largest: int, least: int = 0) -> int:
    """`value`, for a field. Errors: InvalidArgument unless it lies between `least` and `largest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= largest:
        raise InvalidArgument(f"{name} is a whole number from {least} to {largest}, not {value!r}")
    return value
