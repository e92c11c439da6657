"""Owns the request ids of a client: its 64 random bits, the count of its writes, the log times it has seen.

Never gives the same id twice. Invariant: the log time in an id is not above any that the stream's tablet has said.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import Tuple

from .writes import RequestId

# Streams whose log time is remembered; beyond, the longest unused are forgotten and their next id says 0 = none.
STREAMS_REMEMBERED = 65_536


class RequestIds:
    """Draws ids. One for a client, for all its connections."""

    def __init__(self, client: int = 0, streams_remembered: int = STREAMS_REMEMBERED) -> None:
        while client == 0:
            client = secrets.randbits(64)
        self.client = client
        self._sequence = 0
        self._streams_remembered = streams_remembered
        self._log_times: OrderedDict[Tuple[int, bytes], int] = OrderedDict()

    def saw(self, space: int, stream: bytes, log_time: int) -> None:
        """A reply about this stream said this log time; 0 says nothing."""
        if log_time == 0:
            return
        key = (space, stream)
        self._log_times[key] = max(log_time, self._log_times.get(key, 0))
        self._log_times.move_to_end(key)
        if len(self._log_times) > self._streams_remembered:
            self._log_times.popitem(last=False)

    def draw(self, space: int, stream: bytes) -> RequestId:
        """A new id for a write of this stream."""
        self._sequence += 1
        return RequestId(self.client, self._log_times.get((space, stream), 0), self._sequence)
