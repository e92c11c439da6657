"""Owns one TCP connection: connecting, Hello, frames out, frames in, which request is in flight under which number.

Never blocks, never tries again, never decides what a reply means. Invariant: a number is in flight once, and what
`on_ready` gives out answers a request of this connection with its own operation.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Deque, Dict, Iterator, Optional, Tuple

from .codes import PORT_DEFAULT, Operation, Outcome
from .errors import ConnectionLost, InvalidArgument, UnexpectedReply
from .frames import FrameReader, encode_frame
from .replies import HelloReply, Reply
from .reply_decoding import decode_reply
from .requests import Hello

# Hello's number, by custom.
HELLO_NUMBER = 0
RECEIVE_BYTES = 1 << 18


def parse_endpoint(endpoint: str) -> Tuple[str, int]:
    """HOST:PORT, HOST, [V6]:PORT or [V6] as host and port. Errors: InvalidArgument."""
    text = endpoint.strip()
    host, port = text, str(PORT_DEFAULT)
    if text.startswith("["):
        host, _, behind = text[1:].partition("]")
        port = behind[1:] if behind.startswith(":") else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise InvalidArgument(f"{endpoint!r} is no endpoint", to_do="write HOST:PORT, as in 127.0.0.1:7420")
    return host, int(port)


@dataclass
class Sending:
    """A request in flight. `tag` is the owner's, None once nobody waits for the answer."""

    tag: Any
    operation: Operation
    sent_at: float


class HelloRefused(Exception):
    """The server answered Hello with something else than Ok; it closes the connection."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.outcome.name)
        self.reply = reply


class Connection:
    """One connection to `endpoint`, from connect to close. Times are seconds of the owner's monotonic clock."""

    def __init__(self, endpoint: str, hello: Hello, now: float) -> None:
        """Begins to connect. Errors: ConnectionLost, InvalidArgument."""
        self.endpoint = endpoint
        self.agreed: Optional[HelloReply] = None
        self.in_flight: Dict[int, Sending] = {}
        self.begun_at = self.heard_at = self.sent_at = now
        self._hello = hello
        self._reader = FrameReader()
        self._out: Deque[memoryview] = deque()
        self._next_number = HELLO_NUMBER
        self._connected = False
        host, port = parse_endpoint(endpoint)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise ConnectionLost(f"no such host: {error}", where=endpoint) from error
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self.close()
            raise ConnectionLost(f"cannot connect: {os.strerror(code)}", where=endpoint)
        self.send(None, Operation.Hello, hello.encode(), 0, now)

    @property
    def wants_write(self) -> bool:
        """True while there is something to send, or the connection is being made."""
        return bool(self._out)

    @property
    def room(self) -> int:
        """How many more requests may be sent: 0 before Hello is answered."""
        return 0 if self.agreed is None else self.agreed.in_flight - len(self.in_flight)

    def send(self, tag: Any, operation: Operation, body: bytes, map_epoch: int, now: float) -> int:
        """Queues a frame and gives its number. The bytes leave in `on_ready`, or at once where there is room."""
        number = self._next_number
        self._next_number = (number + 1) % 2**64
        self.in_flight[number] = Sending(tag, operation, now)
        self._out.append(memoryview(encode_frame(operation, number, map_epoch, body)))
        self.sent_at = now
        return number

    def idle_for(self, now: float) -> float:
        """Seconds since something went either way, while nothing is in flight; else 0."""
        return 0.0 if self.in_flight else now - max(self.heard_at, self.sent_at)

    def silent_for(self, now: float) -> float:
        """Seconds that the oldest request in flight waits without anything being heard; 0 with none in flight."""
        oldest = next(iter(self.in_flight.values()), None)
        return 0.0 if oldest is None else now - max(oldest.sent_at, self.heard_at)

    def flush(self) -> None:
        """Sends what the socket takes. Errors: ConnectionLost."""
        while self._out and self._connected:
            # Small frames go together: one call to the system for many.
            parts = [self._out[index] for index in range(min(len(self._out), 64))]
            try:
                sent = self.socket.sendmsg(parts)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise self._lost(f"cannot send: {error}") from error
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.popleft())
            if sent:
                self._out[0] = self._out[0][sent:]

    def on_ready(self, readable: bool, writable: bool, now: float) -> Iterator[Tuple[Any, Reply, int]]:
        """Moves bytes. Gives (tag, reply, map epoch of the server) for each answer, also for those nobody waits for.

        To be iterated to its end. Errors, after the answers before them: ConnectionLost; HelloRefused; ProtocolError,
        after which the connection is to be closed.
        """
        if writable:
            if not self._connected:
                code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise self._lost(f"cannot connect: {os.strerror(code)}")
                self._connected = True
            self.flush()
        if not readable:
            return
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise self._lost(f"cannot receive: {error}") from error
        if not data:
            raise self._lost("the server closed the connection")
        self.heard_at = now
        for header, body in self._reader.feed(data):
            yield self._answer(header.code, header.request, body, header.map_epoch)

    def _answer(self, code: int, number: int, body: bytes, map_epoch: int) -> Tuple[Any, Reply, int]:
        sending = self.in_flight.get(number)
        if sending is None:
            raise UnexpectedReply(f"a reply to request {number}, which is not in flight", where=self.endpoint)
        if code != sending.operation | 0x80:
            text = f"code {code} in the reply to request {number}, a {sending.operation.name}"
            raise UnexpectedReply(text, where=self.endpoint)
        reply = decode_reply(sending.operation, body)
        del self.in_flight[number]
        if sending.operation is Operation.Hello:
            self._agree(reply)
        return sending.tag, reply, map_epoch

    def _agree(self, reply: Reply) -> None:
        if reply.outcome is not Outcome.Ok:
            raise HelloRefused(reply)
        agreed: HelloReply = reply.body
        if agreed.frame_bytes > self._hello.frame_bytes or agreed.in_flight > self._hello.in_flight:
            raise UnexpectedReply("the server agrees to more than was asked for", where=self.endpoint)
        self.agreed = agreed
        self._reader.body_limit = agreed.frame_bytes

    def _lost(self, what: str) -> ConnectionLost:
        return ConnectionLost(what, where=self.endpoint, to_do="is the server there?")

    def close(self) -> None:
        """Closes the socket. What is in flight stays listed, for the owner."""
        self.socket.close()
