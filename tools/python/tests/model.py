"""Owns a server for tests: the records in memory, the protocol from the document, and whatever faults a test asks for.

Never the real server, and knows nothing that the document does not say. Invariant: a request id is applied once.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import here  # noqa: F401  (first: it makes the package importable)
from thermocline import replies, requests, writes
from thermocline.cluster_map import ROLE_STORE, ClusterMap, Group, Node
from thermocline.codes import WRITES, Limit, Operation, Outcome, Why
from thermocline.errors import RequestError, SizeError
from thermocline.frames import FrameReader
from thermocline.messages import decode_request, reply_frame
from thermocline.replies import Record, Reply

CLUSTER = bytes(range(16))
LOG_TIME = 1_700_000_000_000_000
MISMATCH = Outcome.VersionMismatch
# What a client waits for before it sends more.
UNHELD = {Operation.Hello, Operation.Map}


def busy(hint_ms: int = 1, limit: Limit = Limit.Queue) -> Reply:
    """A Busy."""
    return Reply(Outcome.Busy, LOG_TIME, replies.BusyReply(limit, hint_ms))


class Store:
    """Records and the ids of applied writes, shared by the servers of one cluster."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.records: Dict[Tuple[int, bytes, int], Record] = {}
        self.applied: Dict[Tuple[int, int], Reply] = {}
        self.log_index = 0
        # (stream, time, value) of each record written, in order.
        self.history: List[Tuple[bytes, int, bytes]] = []
        self.page_records = 4_096

    @property
    def log_time(self) -> int:
        return LOG_TIME + self.log_index

    def write(self, request: Any) -> Reply:
        """Applies a write once."""
        with self.lock:
            name = (request.request_id.client, request.request_id.sequence)
            if name in self.applied:
                before = self.applied[name]
                body = before.body
                if isinstance(body, replies.WriteReply):
                    body = replies.WriteReply(body.version, True)
                elif isinstance(body, replies.BatchReply):
                    body = replies.BatchReply(body.first_version, body.count, True)
                return Reply(before.outcome, self.log_time, body)
            self.log_index += 1
            reply = self._apply(request)
            if reply.outcome is Outcome.Ok:
                self.applied[name] = reply
            return reply

    def _apply(self, request: Any) -> Reply:
        version = self.log_index << 16
        if isinstance(request, writes.Batch):
            for index, operation in enumerate(request.operations):
                self._set(request, operation, version + index)
            return Reply(Outcome.Ok, self.log_time, replies.BatchReply(version, len(request.operations), False))
        if isinstance(request, writes.CompareAndSet):
            current = self.records.get((request.space, request.stream, request.time))
            found = 0 if current is None else current.version
            if found != request.expected:
                return Reply(MISMATCH, self.log_time, replies.MismatchReply(found))
        self._set(request, request, version)
        return Reply(Outcome.Ok, self.log_time, replies.WriteReply(version, False))

    def _set(self, key: Any, change: Any, version: int) -> None:
        value = getattr(change, "value", None)
        place = (key.space, key.stream, change.time)
        if value is None:
            self.records.pop(place, None)
        else:
            self.records[place] = Record(change.time, version, change.expiry, value)
            self.history.append((key.stream, change.time, value))

    def read(self, request: Any) -> Reply:
        """Answers a read."""
        with self.lock:
            if isinstance(request, requests.Get):
                return self._get(request)
            if isinstance(request, requests.MultiGet):
                items = tuple((index, self._get(get)) for index, get in enumerate(request.gets))
                return Reply(Outcome.Ok, 0, replies.MultiGetReply(items[::-1]))
            if isinstance(request, requests.Streams):
                return Reply(Outcome.Ok, self.log_time, self._streams(request))
            if isinstance(request, requests.Head):
                request = requests.Scan(
                    request.stream, space=request.space, backward=True, record_limit=request.record_limit
                )
            return Reply(Outcome.Ok, self.log_time, self._page(request))

    def _get(self, get: Any) -> Reply:
        record = self.records.get((get.space, get.stream, get.time))
        if get.if_newer == (0 if record is None else record.version):
            return Reply(Outcome.NotModified, self.log_time)
        if record is None:
            return Reply(Outcome.NotFound, self.log_time)
        return Reply(Outcome.Ok, self.log_time, replies.GetReply(record.version, record.expiry, record.value))

    def _page(self, scan: Any) -> replies.PageReply:
        times = sorted(
            time
            for space, stream, time in self.records
            if (space, stream) == (scan.space, scan.stream) and scan.start <= time <= scan.end
        )
        if scan.backward:
            times.reverse()
        count = min(scan.record_limit or self.page_records, self.page_records)
        records = tuple(self.records[(scan.space, scan.stream, time)] for time in times[:count])
        resume = times[count] if len(times) > count else None
        return replies.PageReply(self.log_index, resume, records)

    def _streams(self, request: Any) -> replies.StreamsReply:
        # A stand-in for the tablet, which takes a hash: the length of the stream.
        found = sorted({(space, stream) for space, stream, _ in self.records if len(stream) % 64 == request.tablet})
        found = [name for name in found if request.space in (None, name[0])]
        if request.after is not None:
            found = [name for name in found if name > request.after]
        page = tuple(found[: min(self.page_records, request.limit or self.page_records)])
        return replies.StreamsReply(len(found) > len(page) and bool(page), page)


@dataclass(frozen=True)
class Fault:
    """What to do instead of answering. `apply`: carry the request out first. `then`: "drop", "silence" or bytes."""

    then: Any
    apply: bool = False


# What a test may do with a request: give None to have it carried out, a Reply to answer so, or a Fault.
Plan = Callable[["Server", Any], Any]


class Server:
    """A listening server on 127.0.0.1. `hold` keeps that many answers back, and what leaves together is in reverse."""

    def __init__(
        self,
        store: Optional[Store] = None,
        plan: Optional[Plan] = None,
        *,
        frame_bytes: int = 4_194_304,
        in_flight: int = 64,
        idle_ms: int = 0,
        hold: int = 1,
    ) -> None:
        self.store = store or Store()
        self.plan = plan
        self.hold = hold
        self.map: Optional[ClusterMap] = None
        self.agreed = (frame_bytes, in_flight, idle_ms)
        self.requests: List[Any] = []
        self.hellos: List[requests.Hello] = []
        self.in_flight_max = 0
        self._open: List[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener.fileno() >= 0:
            # Wakes the thread in accept: closing alone does not.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self.drop_all()
        self._thread.join()

    def drop_all(self) -> None:
        """Ends all connections."""
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def sent(self, kind: type) -> List[Any]:
        """The requests of this kind that arrived."""
        return [request for request in self.requests if isinstance(request, kind)]

    def map_with(self, *servers: Server, epoch: int = 1) -> ClusterMap:
        """A map of one group whose first members are these servers."""
        nodes = [Node(index + 1, "127.0.0.1", s.port, index, 1, ROLE_STORE) for index, s in enumerate(servers)]
        group = Group(1 if len(nodes) == 1 else 3, tuple(node.id for node in nodes))
        return ClusterMap(epoch, CLUSTER, 0, 0, 0, tuple(nodes), (group,))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = FrameReader()
        held: List[bytes] = []
        try:
            with connection:
                while True:
                    data = connection.recv(1 << 16)
                    if not data:
                        return
                    frames = list(reader.feed(data))
                    self.in_flight_max = max(self.in_flight_max, len(frames) + len(held))
                    for header, body in frames:
                        answer = self._answer(header, body)
                        if answer == "drop":
                            return
                        if isinstance(answer, bytes):
                            held.append(answer)
                        if header.operation is Operation.Hello:
                            reader.body_limit = self.agreed[0]
                    if len(held) >= self.hold or {header.operation for header, _ in frames} & UNHELD:
                        connection.sendall(b"".join(reversed(held)))
                        held = []
        except OSError:
            return

    def _answer(self, header: Any, body: bytes) -> Any:
        """The frame that answers, "drop" or None for silence."""
        try:
            request = decode_request(header.operation, body)
        except (RequestError, SizeError) as error:
            if isinstance(error, SizeError):
                refused = Reply(Outcome.TooLarge, 0, replies.TooLargeReply(error.limit))
            else:
                refused = Reply(Outcome.BadRequest, 0, replies.BadRequestReply(error.why, error.at))
            return self._frame(header, refused)
        self.requests.append(request)
        planned = None if self.plan is None else self.plan(self, request)
        if isinstance(planned, Reply):
            return self._frame(header, planned)
        if isinstance(planned, Fault):
            if planned.apply:
                self._carry_out(request)
            return None if planned.then == "silence" else planned.then
        return self._frame(header, self._carry_out(request))

    def _frame(self, header: Any, reply: Reply) -> bytes:
        epoch = 0 if self.map is None else self.map.epoch
        frame = reply_frame(header.operation, reply, header.request, epoch)
        if len(frame) - 32 <= self.agreed[0]:
            return frame
        unfit = Reply(Outcome.TooLarge, 0, replies.TooLargeReply(Limit.Frame))
        if isinstance(reply.body, replies.MultiGetReply):
            items = list(reply.body.items)
            for at in range(len(items)):
                items[at] = (items[at][0], unfit)
                shorter = Reply(reply.outcome, reply.log_time, replies.MultiGetReply(tuple(items)))
                frame = reply_frame(header.operation, shorter, header.request, epoch)
                if len(frame) - 32 <= self.agreed[0]:
                    return frame
        return reply_frame(header.operation, unfit, header.request, epoch)

    def _carry_out(self, request: Any) -> Reply:
        operation = request.operation
        if operation is Operation.Hello:
            self.hellos.append(request)
            frame, flight, idle_ms = self.agreed
            agreed = (min(frame, request.frame_bytes), min(flight, request.in_flight))
            epoch = 0 if self.map is None else self.map.epoch
            return Reply(Outcome.Ok, 0, replies.HelloReply(1, *agreed, 1, 0, CLUSTER, 1, epoch, idle_ms))
        if operation is Operation.Ping:
            return Reply(Outcome.Ok, 0, replies.EchoReply(request.echo))
        if operation is Operation.Map:
            known = self.map or self.map_with(self)
            if request.known_epoch == known.epoch:
                return Reply(Outcome.NotModified, 0)
            return Reply(Outcome.Ok, 0, known)
        if operation in (Operation.Status, Operation.Verify, Operation.Hot):
            return Reply(Outcome.Ok, 0, replies.StatusReply('{"connections":1}'))
        return self.store.write(request) if operation in WRITES else self.store.read(request)


def bad_request(why: Why, at: int = 0) -> Reply:
    """A BadRequest."""
    return Reply(Outcome.BadRequest, LOG_TIME, replies.BadRequestReply(why, at))


def first(kind: type, answer: Any, count: int = 1) -> Plan:
    """A plan: `answer` to the first `count` requests of this kind, then as the model would."""
    left = [count]

    def plan(server: Server, request: Any) -> Any:
        if isinstance(request, kind) and left[0] > 0:
            left[0] -= 1
            return answer(request) if callable(answer) else answer
        return None

    return plan


def unused_endpoint() -> str:
    """An endpoint that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"
