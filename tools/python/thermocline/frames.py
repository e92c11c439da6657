"""Owns the frame: 32 bytes of header and a body (section 3 of net/PROTOCOL.md).

Never looks into a body, and never keeps room for one before its length has been checked. Invariant: what
`FrameReader` gives out has passed every check of the table, in the table's order.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Iterator, Tuple, Union

from .codes import BODY_BYTES_BEFORE_HELLO, HEADER_BYTES, PROTOCOL_VERSION, REPLY_BIT, Operation
from .errors import FrameError

MAGIC = b"TCL1"
_HEADER = struct.Struct("<4sBBHQIII")
_CHECKSUM = struct.Struct("<I")
assert _HEADER.size + _CHECKSUM.size == HEADER_BYTES


@dataclass(frozen=True)
class Header:
    """A frame header that has passed its checks, without the checksums.

    `code` is the operation, with 0x80 added in a reply; `request` the number that the client chose; `map_epoch` the
    epoch of the cluster map that the sender knows, 0 = none.
    """

    code: int
    request: int
    body_bytes: int
    map_epoch: int

    @property
    def is_reply(self) -> bool:
        return bool(self.code & REPLY_BIT)

    @property
    def operation(self) -> Operation:
        return Operation(self.code & ~REPLY_BIT)


def encode_frame(code: int, request: int, map_epoch: int, body: bytes) -> bytes:
    """One whole frame. The caller holds the limit on the body."""
    first = _HEADER.pack(MAGIC, PROTOCOL_VERSION, code, 0, request, len(body), map_epoch, zlib.crc32(body))
    return b"".join((first, _CHECKSUM.pack(zlib.crc32(first)), body))


def decode_frame(data: bytes, body_limit: int) -> Tuple[Header, bytes]:
    """The one whole frame that `data` is. Errors: FrameError, also (kind Length) where `data` is not one frame."""
    check_magic(data)
    if len(data) < HEADER_BYTES:
        raise FrameError("Length", f"a header has {HEADER_BYTES} bytes, here are {len(data)}")
    header, body_checksum = _decode_header(data, body_limit)
    body = bytes(data[HEADER_BYTES:])
    if len(body) != header.body_bytes:
        raise FrameError("Length", f"the body has {len(body)} bytes, the header says {header.body_bytes}")
    _check_body(body, body_checksum)
    return header, body


def check_magic(data: Union[bytes, bytearray]) -> None:
    """Refuses bytes that cannot begin a frame, at the first wrong one. Errors: FrameError BadMagic."""
    if bytes(data[:4]) != MAGIC[: len(data)]:
        raise FrameError("BadMagic", f"a frame begins with {MAGIC!r}, here is {bytes(data[:4])!r}")


def _decode_header(data: Union[bytes, bytearray], body_limit: int) -> Tuple[Header, int]:
    """The header at the start of `data` and the checksum of the body. Errors: FrameError."""
    magic, version, code, flags, request, body_bytes, map_epoch, body_checksum = _HEADER.unpack_from(data)
    check_magic(magic)
    if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[: _HEADER.size]):
        raise FrameError("HeaderChecksum", "the checksum of the header is wrong")
    if version != PROTOCOL_VERSION:
        raise FrameError("BadVersion", f"protocol version {version} is not {PROTOCOL_VERSION}", found=version)
    if body_bytes > body_limit:
        text = f"a body of {body_bytes} bytes, at most {body_limit} are agreed"
        raise FrameError("FrameTooLarge", text, found=body_bytes, limit=body_limit)
    try:
        Operation(code & ~REPLY_BIT)
    except ValueError:
        raise FrameError("UnknownOperation", f"operation {code} is not known", found=code) from None
    if flags != 0:
        raise FrameError("BadFlags", f"flags {flags:#06x} are not defined", found=flags)
    return Header(code, request, body_bytes, map_epoch), body_checksum


def _check_body(body: bytes, body_checksum: int) -> None:
    if zlib.crc32(body) != body_checksum:
        raise FrameError("BodyChecksum", "the checksum of the body is wrong")


class FrameReader:
    """Cuts a stream of bytes into frames. `body_limit` is raised when Hello has agreed on more.

    After an error the reader is not to be used again: the place of the next frame is not known.
    """

    def __init__(self, body_limit: int = BODY_BYTES_BEFORE_HELLO) -> None:
        self.body_limit = body_limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Tuple[Header, bytes]]:
        """Takes what arrived and gives the frames that are now whole. Errors: FrameError."""
        self._buffer += data
        at = 0
        try:
            while True:
                check_magic(self._buffer[at : at + 4])
                if len(self._buffer) - at < HEADER_BYTES:
                    return
                # The limit is read for each frame: the reply to Hello, given out just before, may have changed it.
                header, body_checksum = _decode_header(self._buffer[at : at + HEADER_BYTES], self.body_limit)
                end = at + HEADER_BYTES + header.body_bytes
                if len(self._buffer) < end:
                    return
                body = bytes(self._buffer[at + HEADER_BYTES : end])
                _check_body(body, body_checksum)
                at = end
                yield header, body
        finally:
            del self._buffer[:at]
