"""Owns the translation between messages and the field names of net/golden/vectors.json (section 14 of the document).

Never encodes or decodes bytes. Invariant: `build(describe(x)) == x` for each message.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Dict, Optional

import here  # noqa: F401  (first: it makes the package importable)
from thermocline import replies, requests, writes
from thermocline.cluster_map import ClusterMap, Group, Node
from thermocline.codes import Kind, Limit, Method, Operation, Outcome, Why
from thermocline.errors import FrameError, MapError, ProtocolError, ReplyError, RequestError, SizeError
from thermocline.replies import Record, Reply

Fields = Dict[str, Any]
# Fields of our classes that hold bytes, and which the vectors write as hex text.
BYTES = ("stream", "value", "auth", "cluster", "echo")
# Our names for times that are a word of Python or of the document's table.
NAMES = {"start": "from", "end": "to"}


def simple(message: Any) -> Fields:
    """The fields of a message whose vector has the same ones."""
    fields = {}
    for name, value in vars(message).items():
        if name in BYTES and value is not None:
            value = value.hex()
        elif name == "request_id":
            value = dict(vars(value))
        fields[NAMES.get(name, name) if isinstance(message, requests.Scan) else name] = value
    return fields


def plain(kind: Any, fields: Fields) -> Any:
    """The message of class `kind` with these fields."""
    back = {ours: theirs for theirs, ours in NAMES.items()} if kind is requests.Scan else {}
    given = {}
    for name, value in fields.items():
        if name in BYTES and value is not None:
            value = bytes.fromhex(value)
        elif name == "request_id":
            value = writes.RequestId(**value)
        given[back.get(name, name)] = value
    return kind(**given)


# --- requests ------------------------------------------------------------------------------------------------------


def describe_request(request: Any) -> Fields:
    """The `fields` of a request."""
    fields = simple(request)
    if isinstance(request, requests.Hello):
        fields["method"] = request.method.name
    elif isinstance(request, requests.MultiGet):
        fields["gets"] = [simple(get) for get in request.gets]
    elif isinstance(request, writes.Batch):
        fields["operations"] = [
            {**simple(o), "kind": (Kind.delete if o.value is None else Kind.put).name} for o in request.operations
        ]
    elif isinstance(request, requests.Streams) and request.after is not None:
        fields["after"] = {"space": request.after[0], "stream": request.after[1].hex()}
    elif isinstance(request, requests.SetMap):
        fields["map"] = describe_map(request.map)
    return fields


def build_request(operation: Operation, fields: Fields) -> Any:
    """The request that these `fields` describe."""
    from thermocline.messages import REQUESTS

    fields = dict(fields)
    if operation is Operation.Hello:
        fields["method"] = Method[fields["method"]]
    elif operation is Operation.MultiGet:
        fields["gets"] = tuple(plain(requests.Get, get) for get in fields["gets"])
    elif operation is Operation.Batch:
        fields["operations"] = tuple(
            plain(writes.BatchOperation, {name: value for name, value in o.items() if name != "kind"})
            for o in fields["operations"]
        )
    elif operation is Operation.Streams and fields["after"] is not None:
        fields["after"] = (fields["after"]["space"], bytes.fromhex(fields["after"]["stream"]))
    elif operation is Operation.SetMap:
        fields["map"] = build_map(fields["map"])
    return plain(REQUESTS[operation], fields)


# --- replies -------------------------------------------------------------------------------------------------------

OK_BODIES = {
    Operation.Hello: replies.HelloReply,
    Operation.Ping: replies.EchoReply,
    Operation.Get: replies.GetReply,
    Operation.Put: replies.WriteReply,
    Operation.Delete: replies.WriteReply,
    Operation.CompareAndSet: replies.WriteReply,
    Operation.Batch: replies.BatchReply,
    Operation.Status: replies.StatusReply,
    Operation.Verify: replies.StatusReply,
    Operation.Hot: replies.StatusReply,
}
OTHER_BODIES = {
    Outcome.VersionMismatch: replies.MismatchReply,
    Outcome.WrongGroup: replies.WrongGroupReply,
    Outcome.UnknownOutcome: replies.UnknownReply,
}


def describe_reply(reply: Reply) -> Fields:
    """The `fields` of a reply."""
    body = reply.body
    fields: Fields = {}
    if isinstance(body, replies.MultiGetReply):
        fields["items"] = [{**describe_reply(item), "index": index} for index, item in body.items]
    elif isinstance(body, replies.PageReply):
        records = [simple(record) for record in body.records]
        fields.update(log_index=body.log_index, resume=body.resume, records=records)
    elif isinstance(body, replies.StreamsReply):
        streams = [{"space": space, "stream": stream.hex()} for space, stream in body.streams]
        fields.update(more=body.more, streams=streams)
    elif isinstance(body, ClusterMap):
        fields["map"] = describe_map(body)
    elif isinstance(body, replies.RedirectReply):
        fields.update(vars(body), nodes=list(body.nodes))
    elif isinstance(body, (replies.BusyReply, replies.TooLargeReply)):
        fields.update(vars(body), limit=body.limit.name)
    elif isinstance(body, replies.BadRequestReply):
        fields.update(vars(body), why=body.why.name)
    elif body is not None:
        fields.update(simple(body))
    return {**fields, "outcome": reply.outcome.name, "log_time": reply.log_time}


def describe_map(cluster_map: ClusterMap) -> Fields:
    """The decoded map as the vectors write it."""
    nodes = []
    for node in cluster_map.nodes:
        fields = {name: value for name, value in vars(node).items() if name not in ("host", "port")}
        nodes.append({**fields, "address": node.address})
    groups = [{"replicas": group.replicas, "members": list(group.members)} for group in cluster_map.groups]
    return {**vars(cluster_map), "cluster": cluster_map.cluster.hex(), "nodes": nodes, "groups": groups}


def build_map(fields: Fields) -> ClusterMap:
    """The map that these fields describe."""
    nodes = []
    for node in fields["nodes"]:
        host, _, port = node["address"].rpartition(":")
        given = {name: value for name, value in node.items() if name != "address"}
        nodes.append(Node(host=str(ipaddress.ip_address(host.strip("[]"))), port=int(port), **given))
    groups = tuple(Group(group["replicas"], tuple(group["members"])) for group in fields["groups"])
    cluster = bytes.fromhex(fields["cluster"])
    return ClusterMap(**{**fields, "cluster": cluster, "nodes": tuple(nodes), "groups": groups})


def build_reply(operation: Operation, fields: Fields) -> Reply:
    """The reply to `operation` that these `fields` describe."""
    fields = dict(fields)
    outcome, log_time = Outcome[fields.pop("outcome")], fields.pop("log_time")
    body: Optional[Any] = None
    if outcome is Outcome.Busy:
        body = replies.BusyReply(Limit[fields["limit"]], fields["hint_ms"])
    elif outcome is Outcome.Redirect:
        body = replies.RedirectReply(**{**fields, "nodes": tuple(fields["nodes"])})
    elif outcome is Outcome.TooLarge:
        body = replies.TooLargeReply(Limit[fields["limit"]])
    elif outcome is Outcome.BadRequest:
        body = replies.BadRequestReply(Why[fields["why"]], fields["at"])
    elif outcome in OTHER_BODIES:
        body = OTHER_BODIES[outcome](**fields)
    elif outcome is Outcome.Ok and operation is Operation.MultiGet:
        items = []
        for item in fields["items"]:
            given = {name: value for name, value in item.items() if name != "index"}
            items.append((item["index"], build_reply(Operation.Get, given)))
        body = replies.MultiGetReply(tuple(items))
    elif outcome is Outcome.Ok and operation in (Operation.Scan, Operation.Head):
        records = tuple(plain(Record, record) for record in fields["records"])
        body = replies.PageReply(fields["log_index"], fields["resume"], records)
    elif outcome is Outcome.Ok and operation is Operation.Streams:
        streams = tuple((stream["space"], bytes.fromhex(stream["stream"])) for stream in fields["streams"])
        body = replies.StreamsReply(fields["more"], streams)
    elif outcome is Outcome.Ok and operation in (Operation.Map, Operation.SetMap):
        body = build_map(fields["map"])
    elif outcome is Outcome.Ok:
        body = plain(OK_BODIES[operation], fields)
    return Reply(outcome, log_time, body)


# --- errors --------------------------------------------------------------------------------------------------------

# What the vectors call the thing that `FrameError.found` holds.
FOUND = {
    "BadVersion": "version",
    "UnknownOperation": "code",
    "BadFlags": "flags",
    "FrameTooLarge": "body_bytes",
}


def describe_error(error: ProtocolError) -> Fields:
    """The `error` of a malformed vector."""
    fields: Fields = {"kind": error.kind}
    if isinstance(error, FrameError):
        if error.found is not None:
            fields[FOUND[error.kind]] = error.found
        if error.limit is not None:
            fields["limit"] = error.limit
    elif isinstance(error, RequestError):
        fields.update(why=error.why.name, at=error.at)
    elif isinstance(error, SizeError):
        fields["limit"] = error.limit.name
    elif isinstance(error, ReplyError):
        fields.update(field=error.field, at=error.at)
    elif isinstance(error, MapError):
        fields.update(of=error.of, index=error.index)
    return fields
