"""Owns one request from start to answer, as its caller holds it.

Never moves by itself: an engine does. Invariant: a call is settled once, with a reply or with an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional, Tuple

from .caches import Way
from .codes import WRITES
from .errors import ThermoclineError
from .messages import Request
from .replies import Reply
from .request_ids import RequestIds
from .retry import History
from .writes import CompareAndSet

if TYPE_CHECKING:
    from .engine import Engine


class Call:
    """A request under way. `deadline` is a time of the engine's clock; `replica` counts how often it went
    on to the next, `answered_by` is the endpoint of the final reply."""

    def __init__(self, engine: Engine, request: Request, deadline: float) -> None:
        expected = request.expected if isinstance(request, CompareAndSet) else None
        self.request: Any = request
        self.deadline = deadline
        self.history = History(request.operation.name, request.operation in WRITES, expected)
        self.replica = 0
        self.answered_by = ""
        # Of a get, once it was found out where it goes: the caches that are still to be asked, the one asked in front.
        self.is_placed = False
        self.way: Optional[Way] = None
        self.reply: Optional[Reply] = None
        self.error: Optional[ThermoclineError] = None
        self._engine = engine
        self._body: Optional[bytes] = None

    @property
    def done(self) -> bool:
        """True once there is a reply or an error."""
        return self.reply is not None or self.error is not None

    @property
    def space_and_stream(self) -> Optional[Tuple[int, bytes]]:
        """The stream that the request is about, where it is one."""
        stream = getattr(self.request, "stream", None)
        return None if stream is None else (self.request.space, stream)

    def body(self, ids: RequestIds) -> bytes:
        """The body to send. A write draws its request id here, at its first sending, and keeps it."""
        if self._body is None:
            if self.history.is_write and self.request.request_id is None:
                assert self.space_and_stream is not None, "each write names a stream"
                self.request = replace(self.request, request_id=ids.draw(*self.space_and_stream))
            self._body = self.request.encode()
        return self._body

    def forget_id(self) -> None:
        """The next sending is a new write, with an id of its own."""
        self.request = replace(self.request, request_id=None)
        self._body = None

    def settle(self, reply: Optional[Reply] = None, error: Optional[ThermoclineError] = None) -> None:
        """Ends the call."""
        assert not self.done, "a call is settled once"
        self.reply, self.error = reply, error

    def result(self) -> Any:
        """Waits, and gives what stands behind the reply's head (None for NotFound, NotModified).

        Errors: what the request ended with.
        """
        return self.wait().body

    def wait(self) -> Reply:
        """Waits, and gives the reply: Ok, NotFound or NotModified. Errors: what the request ended with."""
        self._engine.run(lambda: self.done)
        if self.error is not None:
            raise self.error
        assert self.reply is not None, "a call is done with one of both"
        return self.reply
