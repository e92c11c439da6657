"""Owns the calls under way and the connections that carry them; everything that waits, waits here.

Never decides what an answer means (retry.py) nor where a request may go (routing.py). Invariant: each call that is not
settled stands in exactly one place: in the queue of a link, in flight on its connection, waiting for its time, or
waiting for the cluster map. One thread only.
"""

from __future__ import annotations

import heapq
import itertools
import random
import select
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

from . import errors
from .caches import Way
from .call import Call
from .codes import Limit, Operation, Outcome
from .connection import Connection, HelloRefused
from .messages import Request
from .replies import MultiGetReply, Reply
from .request_ids import RequestIds
from .requests import Hello, Map, MultiGet
from .retry import Done, History, Report, decide, expire, report
from .routing import Router

# A connection on which a request, Hello too, waits this long without a byte from the server is given up.
SILENCE_S = 5.0
# The same of a cache: there are others, and the store.
SILENCE_CACHE_S = 2.0
# The wait before connecting again after a failure doubles from the first to the last of these.
RECONNECT_FIRST_S = 0.02
RECONNECT_MAX_S = 1.0
# An idle connection is used until this share of the agreed idle time; then the server may be about to close it.
IDLE_SHARE = 0.75
# How long an internal fetch of the map may take.
MAP_S = 5.0
# A map that somebody has named is asked for this long after the last try, where that brought none.
MAP_AGAIN_S = 0.2
FINAL = (Outcome.Ok, Outcome.NotFound, Outcome.NotModified)
# Requests started without anybody waiting that leave together.
START_TOGETHER = 64


class Link:
    """An endpoint, its connection if there is one, and what waits to be sent there."""

    def __init__(self, endpoint: str, silence_s: float) -> None:
        self.endpoint = endpoint
        self.silence_s = silence_s
        self.connection: Optional[Connection] = None
        self.queue: Deque[Call] = deque()
        self.failures = 0
        self.not_before = 0.0
        # How Hello itself was answered: a load is tried again, with its own history of waiting.
        self.hellos = History(Operation.Hello.name, False)


class Engine:
    """Moves calls. `clock` gives monotonic seconds, `wall` seconds since 1970."""

    def __init__(
        self,
        router: Router,
        hello: Hello,
        ids: RequestIds,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.router = router
        self.ids = ids
        self.clock = clock
        self._wall = wall
        self._hello = hello
        self._rng = rng
        self._links: Dict[str, Link] = {}
        self._order = itertools.count()
        self._waiting: List[Tuple[float, int, Call]] = []
        self._deadlines: List[Tuple[float, int, Call]] = []
        self._for_map: List[Call] = []
        self._map_call: Optional[Call] = None
        self._map_asked = 0
        self._map_again_at = 0.0
        self._started = 0

    # --- for callers ---

    def start(self, request: Request, timeout_s: float) -> Call:
        """Begins a request. Its bytes leave with the next `run`, or once START_TOGETHER were started."""
        call = Call(self, request, self.clock() + timeout_s)
        heapq.heappush(self._deadlines, (call.deadline, next(self._order), call))
        self._dispatch(call)
        self._started += 1
        if self._started >= START_TOGETHER:
            self.poll()
        return call

    def poll(self) -> None:
        """Takes what has arrived and sends what can be sent, without waiting."""
        self._started = 0
        # First what has arrived: an answer counts that came before its deadline, however late it is looked at.
        self._exchange(0.0)
        self._move()

    def run(self, until: Callable[[], bool]) -> None:
        """Moves calls until `until` holds."""
        self.poll()
        while not until():
            self._exchange(max(0.0, self._next_time() - self.clock()))
            self._move()

    def start_answered(self, request: Request, reply: Reply, inside: Call, timeout_s: float) -> Call:
        """A request that was answered already, with `reply`, inside another one."""
        call = Call(self, request, self.clock() + timeout_s)
        heapq.heappush(self._deadlines, (call.deadline, next(self._order), call))
        call.is_placed = True
        call.way = None if inside.way is None else inside.way.renewed()
        self._decide(call, reply, inside.answered_by)
        return call

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return int(self._wall() * 1_000_000)

    def agreed_frame_bytes(self) -> int:
        """The least body limit agreed on any connection; 0 where none is open."""
        open_links = (link.connection for link in self._links.values() if link.connection is not None)
        return min((c.agreed.frame_bytes for c in open_links if c.agreed is not None), default=0)

    def close(self) -> None:
        """Closes all connections. Calls that are not settled end as at their deadline."""
        for link in self._links.values():
            if link.connection is not None:
                link.connection.close()
        self._links.clear()
        for _, _, call in self._deadlines:
            if not call.done:
                call.settle(error=expire(call.history))
        self._deadlines.clear()

    # --- moving ---

    def _dispatch(self, call: Call) -> None:
        """Puts a call into the queue of the first of its endpoints that is not known to be down, of caches first."""
        if not call.is_placed:
            call.is_placed = True
            caches = self.router.caches(call.request, self.wall_us())
            call.way = Way(caches, self._rng) if caches else None
        while call.way is not None:
            cache = call.way.endpoint
            if cache is None:
                call.way = None
            elif self._link(cache, SILENCE_CACHE_S).not_before > self.clock():
                call.way.lost()
            else:
                self._link(cache, SILENCE_CACHE_S).queue.append(call)
                return
        try:
            endpoints = self.router.endpoints(call.request)
        except errors.ThermoclineError as error:
            call.settle(error=report(call.history, error).error)
            return
        first = call.replica % len(endpoints)
        links = [self._link(endpoint) for endpoint in endpoints[first:] + endpoints[:first]]
        now = self.clock()
        up = next((link for link in links if link.not_before <= now), None)
        (up or min(links, key=lambda link: link.not_before)).queue.append(call)

    def _link(self, endpoint: str, silence_s: float = SILENCE_S) -> Link:
        return self._links.setdefault(endpoint, Link(endpoint, silence_s))

    def _move(self) -> None:
        now = self.clock()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].done):
            call = heapq.heappop(self._deadlines)[2]
            if not call.done:
                call.settle(error=expire(call.history))
        while self._waiting and self._waiting[0][0] <= now:
            call = heapq.heappop(self._waiting)[2]
            if not call.done:
                self._dispatch(call)
        if self._for_map and (self._map_call is None or self._map_call.done):
            calls, self._for_map = self._for_map, []
            for call in calls:
                if not call.done:
                    self._dispatch(call)
        for link in list(self._links.values()):
            self._serve(link, now)

    def _serve(self, link: Link, now: float) -> None:
        """Connects where something waits, and sends what the connection has room for."""
        connection = link.connection
        if connection is not None and connection.silent_for(now) >= link.silence_s:
            what = f"nothing was heard for {link.silence_s:g} s"
            self._fail(link, errors.ConnectionLost(what, where=link.endpoint))
            return
        while link.queue and link.queue[0].done:
            link.queue.popleft()
        if not link.queue:
            return
        if connection is not None and connection.agreed is not None and connection.agreed.idle_ms:
            if connection.idle_for(now) >= connection.agreed.idle_ms / 1000 * IDLE_SHARE:
                connection.close()
                link.connection = connection = None
        try:
            if connection is None:
                if link.not_before > now:
                    return
                link.connection = connection = Connection(link.endpoint, self._hello, now)
            while link.queue and connection.room > 0:
                call = link.queue.popleft()
                if not call.done:
                    self._send(call, connection, now)
            connection.flush()
        except errors.ConnectionLost as error:
            self._fail(link, error)

    def _send(self, call: Call, connection: Connection, now: float) -> None:
        assert connection.agreed is not None, "a connection has room once Hello is answered"
        try:
            body = call.body(self.ids)
        except errors.InvalidArgument as error:
            call.settle(error=error)
            return
        if len(body) > connection.agreed.frame_bytes and call.way is not None:
            call.way.lost()
            self._dispatch(call)
            return
        if len(body) > connection.agreed.frame_bytes:
            too_large = errors.TooLarge(Limit.Frame, where=f"{call.history.operation} to {connection.endpoint}")
            call.settle(error=report(call.history, too_large).error)
            return
        connection.send(call, call.request.operation, body, self.router.epoch, now)
        call.history.open_sendings += 1

    def _exchange(self, timeout_s: float) -> None:
        """Waits for the sockets, at most `timeout_s`, and takes what arrived."""
        by_number: Dict[int, Link] = {}
        poll = select.poll()
        for link in self._links.values():
            if link.connection is not None:
                number = link.connection.socket.fileno()
                by_number[number] = link
                poll.register(number, select.POLLIN | (select.POLLOUT if link.connection.wants_write else 0))
        if not by_number:
            if timeout_s > 0:
                time.sleep(timeout_s)
            return
        # Rounded up, so as not to wake just before the time that is waited for.
        for number, events in poll.poll(int(timeout_s * 1000 + 0.999)):
            ended = bool(events & (select.POLLERR | select.POLLHUP))
            self._take(
                by_number[number],
                bool(events & select.POLLIN) or ended,
                bool(events & select.POLLOUT) or ended,
            )

    def _take(self, link: Link, readable: bool, writable: bool) -> None:
        connection = link.connection
        if connection is None:
            return
        try:
            for call, reply, map_epoch in connection.on_ready(readable, writable, self.clock()):
                link.failures, link.hellos.busy_count = 0, 0
                if call is not None and not call.done:
                    self._decide(call, reply, link.endpoint)
                is_due = map_epoch > self._map_asked or self.clock() >= self._map_again_at
                if map_epoch > self.router.epoch and is_due:
                    self._map_asked = map_epoch
                    self._map_again_at = self.clock() + MAP_AGAIN_S
                    self._fetch_map(link)
        except HelloRefused as refused:
            self._refused(link, refused.reply)
        except errors.ConnectionLost as error:
            if connection.agreed is not None and not connection.in_flight:
                # An idle connection may be closed at any time; it says nothing about the server.
                connection.close()
                link.connection = None
            else:
                self._fail(link, error)
        except errors.ThermoclineError as error:
            self._fail(link, error)

    def _decide(self, call: Call, reply: Reply, endpoint: str) -> None:
        self._remember_log_time(call, reply)
        if call.way is not None and reply.outcome not in FINAL:
            # What a cache cannot say, another one or the store may.
            self._after(call, call.way.refused(reply))
            return
        decision = decide(call.history, reply, endpoint, len(self._endpoints(call)), self._rng)
        if isinstance(decision, Done):
            call.answered_by = endpoint
            call.settle(reply=decision.reply)
            if reply.outcome is Outcome.Ok and call.request.operation is Operation.Map:
                self.router.adopt(reply.body)
            return
        if isinstance(decision, Report):
            call.settle(error=decision.error)
            return
        if decision.new_id:
            call.forget_id()
        if decision.next_replica:
            call.replica += 1
        if decision.fetch_map and decision.wait_s <= 0:
            self._for_map.append(call)
        else:
            self._after(call, decision.wait_s)
        if decision.fetch_map:
            self._fetch_map()

    def _after(self, call: Call, wait_s: float) -> None:
        if wait_s > 0:
            heapq.heappush(self._waiting, (self.clock() + wait_s, next(self._order), call))
        else:
            self._dispatch(call)

    def _endpoints(self, call: Call) -> List[str]:
        try:
            return self.router.endpoints(call.request)
        except errors.ThermoclineError:
            return [""]

    def _remember_log_time(self, call: Call, reply: Reply) -> None:
        if call.space_and_stream is not None:
            self.ids.saw(*call.space_and_stream, reply.log_time)
        elif isinstance(reply.body, MultiGetReply) and isinstance(call.request, MultiGet):
            for index, item in reply.body.items:
                if index < len(call.request.gets):
                    get = call.request.gets[index]
                    self.ids.saw(get.space, get.stream, item.log_time)

    def _fetch_map(self, link: Optional[Link] = None) -> None:
        """Asks a node for its map, the one at `link` before any other, unless that is under way."""
        if self._map_call is not None and not self._map_call.done:
            return
        self._map_call = call = Call(self, Map(self.router.epoch), self.clock() + MAP_S)
        heapq.heappush(self._deadlines, (call.deadline, next(self._order), call))
        if link is None:
            self._dispatch(call)
        else:
            link.queue.append(call)

    # --- failing ---

    def _refused(self, link: Link, reply: Reply) -> None:
        """Hello was answered, but not with Ok."""
        decision = decide(link.hellos, reply, link.endpoint, 1, self._rng)
        if not isinstance(decision, Report):
            wait_s = getattr(decision, "wait_s", 0.0)
            self._fail(
                link,
                link.hellos.last or errors.ConnectionLost("Hello was refused", where=link.endpoint),
                wait_s,
            )
            return
        calls = self._drop(link)
        self._back_off(link)
        for call in calls:
            call.history.last = decision.error
            if call.way is not None:
                call.way.lost()
                self._dispatch(call)
                continue
            call.replica += 1
            # Another endpoint may accept; the last one's word is final.
            if call.replica < len(self._endpoints(call)):
                self._dispatch(call)
            else:
                call.settle(error=report(call.history, decision.error).error)

    def _fail(self, link: Link, error: errors.ThermoclineError, wait_s: float = 0.0) -> None:
        """The connection is gone: everything on it goes on elsewhere, or here after a while."""
        calls = self._drop(link)
        self._back_off(link, wait_s)
        for call in calls:
            call.history.last = error
            if call.way is not None:
                call.way.lost()
            else:
                call.replica += 1
            self._dispatch(call)

    def _drop(self, link: Link) -> List[Call]:
        """Closes the connection; gives the calls that were in flight or queued there and are not settled."""
        calls: List[Optional[Call]] = []
        if link.connection is not None:
            link.connection.close()
            calls = [sending.tag for sending in link.connection.in_flight.values()]
            link.connection = None
        calls.extend(link.queue)
        link.queue.clear()
        return [call for call in calls if call is not None and not call.done]

    def _back_off(self, link: Link, wait_s: float = 0.0) -> None:
        again_s = min(RECONNECT_MAX_S, RECONNECT_FIRST_S * 2 ** min(link.failures, 16)) * self._rng.uniform(0.5, 1.5)
        link.failures += 1
        link.not_before = self.clock() + max(wait_s, again_s)

    def _next_time(self) -> float:
        """When something is to be done even if no socket stirs."""
        times = [heap[0][0] for heap in (self._waiting, self._deadlines) if heap]
        for link in self._links.values():
            if link.connection is None:
                times.extend([link.not_before] if link.queue else [])
            elif link.queue and link.connection.room > 0:
                # Came from a link that failed after this one was served: nothing else would wake for it.
                times.append(self.clock())
            elif link.connection.in_flight:
                silent_s = link.connection.silent_for(self.clock())
                times.append(self.clock() + link.silence_s - silent_s)
        return min(times, default=self.clock())
