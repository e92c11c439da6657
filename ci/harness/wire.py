"""Frames as net/PROTOCOL.md describes them, made by hand so that they can be made wrong.

Owns the 32 bytes of a header and the body of Hello, for the hostile client. It must never become a client: whoever
wants records uses tools/python.
"""

import socket
import struct
import zlib

HEADER = struct.Struct("<4sBBHQIII")  # magic, version, operation, flags, request, body bytes, map epoch, body CRC-32
HEADER_BYTES = 32
MAGIC = b"TCL1"
REPLY = 0x80
HELLO, PING = 1, 2
OK = 1
FRAME_BYTES_MAX = 4 << 20
HELLO_BODY = struct.Struct("<BBBxHxxQIIQ16s")  # protocol min and max, method, auth bytes, features, limits, client, cluster


def header(operation, request, body=b"", *, magic=MAGIC, version=1, flags=0, body_bytes=None, body_crc=None):
    """A frame header whose own checksum is right, whatever else is not."""
    length = len(body) if body_bytes is None else body_bytes
    crc = zlib.crc32(body) if body_crc is None else body_crc
    head = HEADER.pack(magic, version, operation, flags, request, length, 0, crc)
    return head + struct.pack("<I", zlib.crc32(head))


def frame(operation, request, body=b"", **wrong):
    """Header and body."""
    return header(operation, request, body, **wrong) + body


def hello(request=1, *, in_flight=1024, client=0):
    """A good hello."""
    return frame(HELLO, request, HELLO_BODY.pack(1, 1, 0, 0, 0, FRAME_BYTES_MAX, in_flight, client, bytes(16)))


class Closed(Exception):
    """The server closed the connection."""


class Raw:
    """A connection that sends whatever it is given. `patience` seconds without an answer is an error of the server."""

    def __init__(self, address, patience=30.0, greet=False, receive_buffer=None):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = 0
        if greet:
            self.send(hello())
            operation, _, body = self.receive()
            if operation != HELLO | REPLY or body[0] != OK:
                raise Closed(f"hello was answered with operation {operation:#x}, outcome {body[0]}")

    def send(self, data):
        """Sends; raises Closed where the server has hung up."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def receive(self):
        """One frame: operation, request number, body. Raises Closed, or TimeoutError after the patience."""
        head = self._exactly(HEADER_BYTES)
        magic, _, operation, _, request, length, _, body_crc = HEADER.unpack(head[:28])
        if magic != MAGIC or zlib.crc32(head[:28]) != struct.unpack("<I", head[28:])[0]:
            raise AssertionError(f"the server sent a bad header: {head.hex()}")
        body = self._exactly(length)
        if zlib.crc32(body) != body_crc:
            raise AssertionError("the server sent a body with a wrong checksum")
        return operation, request, body

    def closed_by_server(self):
        """Reads what still comes until the server closes; the bytes. TimeoutError where it does not close."""
        data = b""
        while True:
            try:
                part = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return data
            if not part:
                return data
            data += part

    def ping(self, body=b""):
        """An echo; the body that came back."""
        self.request += 1
        self.send(frame(PING, self.request, body))
        operation, request, reply = self.receive()
        assert (operation, request) == (PING | REPLY, self.request), (operation, request)
        assert reply[0] == OK, f"ping was answered with outcome {reply[0]}"
        return reply[16:]

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _exactly(self, count):
        parts = []
        while count:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except ConnectionResetError as error:
                raise Closed(str(error)) from error
            if not part:
                raise Closed("the server closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
