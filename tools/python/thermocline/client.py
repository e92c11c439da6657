"""Owns the verbs of the client: get, put, scan and the others, and paging.

Never handles a socket or a retry (engine.py, retry.py). Invariant: a verb returns only what the server has confirmed,
and a write that raises anything but UnknownOutcome (or UnexpectedReply, of a server that breaks the protocol) was not
applied.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from .call import Call
from .cluster_map import ClusterMap
from .codes import BODY_BYTES_MAX, TABLET_COUNT, TIME_MAX, Method, Outcome
from .engine import Engine
from .errors import InvalidArgument, ThermoclineError, UnexpectedReply
from .fields import U32_MAX, number, stream_bytes, value_bytes
from .messages import Request
from .multi_get import multi_get
from .replies import BatchReply, PageReply, Record, Reply, StreamsReply
from .request_ids import RequestIds
from .requests import Get, Head, Hello, Hot, Map, Ping, Scan, Status, Streams, Verify
from .routing import Router, StreamHash
from .writes import Batch, BatchOperation, CompareAndSet, Delete, Put

Text = Union[str, bytes]
Key = Tuple[Text, int]


class NotModified:
    """The answer of `get_if_newer` where the record still has the version that was named."""

    def __repr__(self) -> str:
        return "NOT_MODIFIED"


NOT_MODIFIED = NotModified()


@dataclass(frozen=True)
class Written:
    """A write that is stored. Operation i of a batch has version `version` + i.

    `repeated`: an earlier sending of the same write had been applied. `log_time` is the tablet's, in microseconds.
    """

    version: int
    log_time: int
    repeated: bool = False
    count: int = 1


def put_operation(time: int, value: Text, *, expiry: int = 0) -> BatchOperation:
    """A put of a batch."""
    return BatchOperation(time, value_bytes(value), expiry)


def delete_operation(time: int) -> BatchOperation:
    """A delete of a batch."""
    return BatchOperation(time, None)


class Client:
    """A client of one cluster. Connects when it is first used. One thread at a time.

    `endpoints`: HOST:PORT, several with commas or as a list. `deadline`: seconds for each call that names none.
    `cluster`: the 16 bytes of the cluster that is meant, any by default. `stream_hash`: xxh3-64 (seed 0) of bytes as a
    number, needed only for clusters of several groups, or with a map that sends a part of the streams to caches. Recent
    gets go to caches as the map says, unless `caches` is False. Streams and values are bytes; text becomes UTF-8.
    """

    def __init__(
        self,
        endpoints: Union[str, Sequence[str]] = "127.0.0.1:7420",
        *,
        deadline: float = 10.0,
        space: int = 0,
        frame_bytes: int = BODY_BYTES_MAX,
        in_flight: int = 1024,
        cluster: bytes = bytes(16),
        token: Optional[bytes] = None,
        stream_hash: Optional[StreamHash] = None,
        caches: bool = True,
        rng: Optional[random.Random] = None,
    ) -> None:
        seeds = [part for part in endpoints.split(",") if part] if isinstance(endpoints, str) else list(endpoints)
        method = Method.none if token is None else Method.token
        ids = RequestIds()
        hello = Hello(ids.client, frame_bytes, in_flight, method, token or b"", 0, cluster)
        hello.encode()  # complains now about what does not fit
        self._deadline = deadline
        self._space = space
        self._engine = Engine(Router(seeds, stream_hash, caches), hello, ids, rng or random.Random())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Calls that are under way end with Timeout, or UnknownOutcome for a write."""
        self._engine.close()

    # --- many at once ---

    def start(self, request: Request, *, deadline: Optional[float] = None) -> Call:
        """Begins any request of `thermocline.requests` or `thermocline.writes`; its `result()` waits for the answer.

        Requests that were started are in flight together, as many as was agreed with the server, and are answered in
        any order. A write gets its request id by itself.
        """
        return self._engine.start(request, self._deadline if deadline is None else deadline)

    def flush(self) -> None:
        """Sends what was started and takes what was answered, without waiting."""
        self._engine.poll()

    def as_completed(self, calls: Iterable[Call]) -> Iterator[Call]:
        """Gives each call once it is answered, in the order of the answers."""
        left = list(calls)
        while left:
            self._engine.run(lambda: any(call.done for call in left))
            for call in [call for call in left if call.done]:
                yield call
            left = [call for call in left if not call.done]

    def _ask(self, request: Request, deadline: Optional[float]) -> Reply:
        return self.start(request, deadline=deadline).wait()

    # --- reading ---

    def get(
        self,
        stream: Text,
        time: int,
        *,
        space: Optional[int] = None,
        local: bool = False,
        deadline: Optional[float] = None,
    ) -> Optional[Record]:
        """The record, or None. `local`: the replica that is asked answers from what it has, however old."""
        request = Get(stream_bytes(stream), time, self._in(space), None, local)
        return _record(time, self._ask(request, deadline))

    def get_if_newer(
        self,
        stream: Text,
        time: int,
        version: int,
        *,
        space: Optional[int] = None,
        local: bool = False,
        deadline: Optional[float] = None,
    ) -> Union[Record, NotModified, None]:
        """The record unless it has this version (0 = still absent): then NOT_MODIFIED. None where it is gone."""
        request = Get(stream_bytes(stream), time, self._in(space), version, local)
        reply = self._ask(request, deadline)
        return NOT_MODIFIED if reply.outcome is Outcome.NotModified else _record(time, reply)

    def multi_get(
        self,
        keys: Iterable[Key],
        *,
        space: Optional[int] = None,
        local: bool = False,
        return_errors: bool = False,
        deadline: Optional[float] = None,
    ) -> List[Any]:
        """The record or None for each (stream, time), in their order.

        Errors: that of the first key that has one; with `return_errors` each stands in the place of its record.
        """
        gets = [Get(stream_bytes(stream), time, self._in(space), None, local) for stream, time in keys]
        for get in gets:
            get.encode()
        timeout_s = self._deadline if deadline is None else deadline
        if gets and not self._engine.agreed_frame_bytes():
            self._ask(Ping(), timeout_s)
        found: List[Any] = []
        for get, answer in zip(gets, multi_get(self._engine, gets, self._engine.agreed_frame_bytes(), timeout_s)):
            if isinstance(answer, ThermoclineError) and not return_errors:
                raise answer
            found.append(answer if isinstance(answer, ThermoclineError) else _record(get.time, answer))
        return found

    def scan(
        self,
        stream: Text,
        start: int = 0,
        end: int = TIME_MAX,
        *,
        backward: bool = False,
        limit: Optional[int] = None,
        page_records: int = 0,
        page_bytes: int = 0,
        space: Optional[int] = None,
        local: bool = False,
        deadline: Optional[float] = None,
    ) -> Iterator[Record]:
        """The records with start <= time <= end, oldest first, or newest first with `backward`; at most `limit`.

        Pages are fetched as they are needed, each with the deadline of its own; `page_records` and `page_bytes` bound
        one page. Each page is a state of its own: a scan of several pages is no snapshot.
        """
        first = Scan(stream_bytes(stream), start, end, self._in(space), backward, page_records, page_bytes, local)
        first.encode()
        return self._pages(first, None, limit, deadline)

    def head(
        self,
        stream: Text,
        count: int = 1,
        *,
        space: Optional[int] = None,
        local: bool = False,
        deadline: Optional[float] = None,
    ) -> List[Record]:
        """The newest `count` records, newest first."""
        number("count", count, U32_MAX, 1)
        name = stream_bytes(stream)
        page: PageReply = self._ask(Head(name, count, self._in(space), 0, local), deadline).body
        scan = Scan(name, 0, TIME_MAX, self._in(space), True, 0, 0, local)
        return list(self._pages(scan, page, count, deadline))

    def _pages(
        self, scan: Scan, page: Optional[PageReply], limit: Optional[int], deadline: Optional[float]
    ) -> Iterator[Record]:
        """The records of a scan from `page` (its first, if that was fetched already) on."""
        left = limit
        while left is None or left > 0:
            if page is None:
                bounds = [bound for bound in (scan.record_limit, left) if bound]
                records = min(bounds, default=0)
                asked = Scan(
                    scan.stream,
                    scan.start,
                    scan.end,
                    scan.space,
                    scan.backward,
                    records,
                    scan.byte_limit,
                    scan.local,
                )
                page = self._ask(asked, deadline).body
            assert page is not None
            for record in page.records[:left]:
                yield record
            left = None if left is None else left - len(page.records)
            if page.resume is None:
                return
            scan = _next_scan(scan, page)
            page = None

    def streams(
        self,
        *,
        space: Optional[int] = None,
        tablets: Iterable[int] = range(TABLET_COUNT),
        deadline: Optional[float] = None,
    ) -> Iterator[Tuple[int, bytes]]:
        """All streams as (space, stream), group by group and tablet by tablet; with `space` only its streams."""
        tablets = list(tablets)
        for group in range(len(self.map(deadline=deadline).groups)):
            for tablet in tablets:
                after: Optional[Tuple[int, bytes]] = None
                while True:
                    page: StreamsReply = self._ask(Streams(tablet, after, space, 0, group), deadline).body
                    yield from page.streams
                    if not page.more:
                        break
                    if page.streams[-1] == after:
                        raise UnexpectedReply("a page of streams ends where the page before ended", where="Streams")
                    after = page.streams[-1]

    # --- writing ---

    def put(
        self,
        stream: Text,
        time: int,
        value: Text,
        *,
        expiry: int = 0,
        space: Optional[int] = None,
        deadline: Optional[float] = None,
    ) -> Written:
        """Writes a record. `expiry` in microseconds since 1970, 0 = never."""
        request = Put(stream_bytes(stream), time, value_bytes(value), self._in(space), expiry)
        return _written(self._ask(request, deadline))

    def delete(
        self, stream: Text, time: int, *, space: Optional[int] = None, deadline: Optional[float] = None
    ) -> Written:
        """Removes a record, also one that is not there."""
        return _written(self._ask(Delete(stream_bytes(stream), time, self._in(space)), deadline))

    def compare_and_set(
        self,
        stream: Text,
        time: int,
        value: Text,
        *,
        expected: int,
        expiry: int = 0,
        space: Optional[int] = None,
        deadline: Optional[float] = None,
    ) -> Written:
        """Writes a record whose version is `expected`, 0 = only if absent. Errors: VersionMismatch."""
        name, data = stream_bytes(stream), value_bytes(value)
        return _written(self._ask(CompareAndSet(name, time, data, expected, self._in(space), expiry), deadline))

    def batch(
        self,
        stream: Text,
        operations: Sequence[BatchOperation],
        *,
        space: Optional[int] = None,
        deadline: Optional[float] = None,
    ) -> Written:
        """Applies puts and deletes of one stream (`put_operation`, `delete_operation`), all or none."""
        if not operations:
            raise InvalidArgument("a batch has at least one operation")
        reply = self._ask(Batch(stream_bytes(stream), tuple(operations), self._in(space)), deadline)
        done: BatchReply = reply.body
        if done.count != len(operations):
            raise UnexpectedReply(f"{done.count} of {len(operations)} operations of a batch applied", where="Batch")
        return Written(done.first_version, reply.log_time, done.repeated, done.count)

    # --- the node ---

    def ping(self, echo: bytes = b"", *, deadline: Optional[float] = None) -> bytes:
        """The same bytes, from the server. Errors: UnexpectedReply where they are others."""
        answer: bytes = self._ask(Ping(echo), deadline).body.echo
        if answer != echo:
            raise UnexpectedReply("a Ping came back with other bytes", where="Ping")
        return answer

    def map(self, *, deadline: Optional[float] = None) -> ClusterMap:
        """The cluster map. The client keeps the newest that it has seen."""
        router = self._engine.router
        reply = self._ask(Map(router.epoch), deadline)
        if reply.outcome is Outcome.NotModified:
            if router.map is None:
                raise UnexpectedReply("NotModified to a Map that named no epoch", where="Map")
            return router.map
        cluster_map: ClusterMap = reply.body
        return cluster_map

    def status(self, *, deadline: Optional[float] = None) -> Dict[str, Any]:
        """The counters of the node that answers."""
        return self._counters(Status(), deadline)

    def verify(self, *, deadline: Optional[float] = None) -> Dict[str, Any]:
        """Have replicas compared by the node that answers; its counters."""
        return self._counters(Verify(), deadline)

    def hot(self, *, deadline: Optional[float] = None) -> Dict[str, Any]:
        """The keys that the node that answers was asked for most in its last five seconds that are over, core by core."""
        return self._counters(Hot(), deadline)

    def _counters(self, request: Union[Status, Verify, Hot], deadline: Optional[float]) -> Dict[str, Any]:
        text: str = self._ask(request, deadline).body.text
        try:
            counters = json.loads(text)
        except ValueError as error:
            raise UnexpectedReply(f"the status is no JSON: {error}", where=request.operation.name) from error
        if not isinstance(counters, dict):
            raise UnexpectedReply("the status is no JSON object", where=request.operation.name)
        return counters

    def _in(self, space: Optional[int]) -> int:
        return self._space if space is None else space


def _record(time: int, reply: Reply) -> Optional[Record]:
    """The record of a reply to a Get."""
    if reply.outcome is Outcome.NotFound:
        return None
    if reply.outcome is not Outcome.Ok:
        raise UnexpectedReply(f"{reply.outcome.name} to a Get that named no version", where="Get")
    return Record(time, reply.body.version, reply.body.expiry, reply.body.value)


def _written(reply: Reply) -> Written:
    """What a reply to a single write says."""
    return Written(reply.body.version, reply.log_time, reply.body.repeated)


def _next_scan(scan: Scan, page: PageReply) -> Scan:
    """The scan of what is left behind `page`. Errors: UnexpectedReply where it would not move on."""
    assert page.resume is not None, "there is a next page"
    last = page.records[-1].time if page.records else None
    if scan.backward:
        moves = scan.start <= page.resume and page.resume < (scan.end if last is None else last)
        begin, end = scan.start, page.resume
    else:
        moves = page.resume <= scan.end and page.resume > (scan.start if last is None else last)
        begin, end = page.resume, scan.end
    if not moves:
        raise UnexpectedReply(
            f"the next page of a scan would begin at {page.resume}, which is not further", where="Scan"
        )
    return Scan(scan.stream, begin, end, scan.space, scan.backward, scan.record_limit, scan.byte_limit, scan.local)
