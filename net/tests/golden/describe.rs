//! Decoded requests, replies and errors as JSON with the names of PROTOCOL.md: what a vector expects.
//!
//! Bytes are hex text, absent things are null, outcomes and codes go by their names.

use net::frame::{FrameError, FrameHeader};
use net::outcome::Outcome;
use net::redirect::Redirect;
use net::reply::{Answer, Reply, ReplyError};
use net::request::{AuthMethod, Change, Request, RequestError};
use net::route::ClusterMap;
use serde_json::{Value, json};

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).expect("hex digits") as u8).collect();
    assert!(digits.len().is_multiple_of(2), "hex digits come in pairs");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

pub(crate) fn header(header: &FrameHeader) -> Value {
    json!({
        "operation": header.operation.name(),
        "code": header.code(),
        "request": header.request,
        "body_bytes": header.body_bytes,
        "map_epoch": header.map_epoch,
    })
}

fn request_id(id: layout::units::RequestId) -> Value {
    json!({ "client": id.client, "log_time": id.log_time, "sequence": id.sequence })
}

fn get(get: &net::request::Get<'_>) -> Value {
    json!({
        "space": get.key.space.0,
        "stream": hex(get.key.stream),
        "time": get.key.time,
        "local": get.local,
        "if_newer": get.if_newer.map(|version| version.0),
        "redirect": get.redirect,
    })
}

fn change(change: Change<'_>) -> (&'static str, u64, Option<String>) {
    match change {
        Change::Put { expiry, value } => ("put", expiry, Some(hex(value))),
        Change::Delete => ("delete", 0, None),
    }
}

pub(crate) fn request(request: &Request<'_>) -> Value {
    match request {
        Request::Hello(hello) => json!({
            "protocol_min": hello.protocol_min,
            "protocol_max": hello.protocol_max,
            "method": match hello.method { AuthMethod::None => "none", AuthMethod::Token => "token" },
            "auth": hex(hello.auth),
            "features": hello.features,
            "frame_bytes": hello.frame_bytes,
            "in_flight": hello.in_flight,
            "client": hello.client,
            "cluster": hex(&hello.cluster.0),
        }),
        Request::Ping(echo) => json!({ "echo": hex(echo) }),
        Request::Get(one) => get(one),
        Request::MultiGet(many) => json!({ "gets": many.gets().map(|one| get(&one)).collect::<Vec<_>>() }),
        Request::Put(put) => json!({
            "space": put.key.space.0,
            "stream": hex(put.key.stream),
            "time": put.key.time,
            "expiry": put.expiry,
            "request_id": request_id(put.id),
            "value": hex(put.value),
        }),
        Request::Delete(delete) => json!({
            "space": delete.key.space.0,
            "stream": hex(delete.key.stream),
            "time": delete.key.time,
            "request_id": request_id(delete.id),
        }),
        Request::CompareAndSet(cas) => json!({
            "space": cas.key.space.0,
            "stream": hex(cas.key.stream),
            "time": cas.key.time,
            "expiry": cas.expiry,
            "request_id": request_id(cas.id),
            "expected": cas.expected.0,
            "value": hex(cas.value),
        }),
        Request::Batch(batch) => {
            let operations: Vec<Value> = batch
                .operations()
                .map(|operation| {
                    let (kind, expiry, value) = change(operation.change);
                    json!({ "kind": kind, "time": operation.time, "expiry": expiry, "value": value })
                })
                .collect();
            json!({
                "space": batch.space.0,
                "stream": hex(batch.stream),
                "request_id": request_id(batch.id),
                "operations": operations,
            })
        }
        Request::Scan(scan) => json!({
            "space": scan.space.0,
            "stream": hex(scan.stream),
            "from": scan.from,
            "to": scan.to,
            "backward": scan.backward,
            "local": scan.local,
            "record_limit": scan.record_limit,
            "byte_limit": scan.byte_limit,
        }),
        Request::Head(head) => json!({
            "space": head.space.0,
            "stream": hex(head.stream),
            "local": head.local,
            "record_limit": head.record_limit,
            "byte_limit": head.byte_limit,
        }),
        Request::Streams(streams) => json!({
            "group": streams.group,
            "tablet": streams.tablet.get(),
            "space": streams.space.map(|space| space.0),
            "after": streams.after.map(|(space, name)| json!({ "space": space.0, "stream": hex(name) })),
            "limit": streams.limit,
        }),
        Request::Map(map) => json!({ "known_epoch": map.known_epoch }),
        Request::SetMap(bytes) => {
            json!({ "map": ClusterMap::decode(bytes).map(|map| cluster_map(&map)).ok() })
        }
        Request::Status | Request::Verify | Request::Hot => json!({}),
        Request::Cold(_) => unreachable!("their vectors are in cold.json"),
    }
}

fn outcome(outcome: &Outcome) -> Value {
    let mut said = json!({ "outcome": outcome.code().name() });
    let detail = match outcome {
        Outcome::VersionMismatch { current } => json!({ "current": current.map(|version| version.0) }),
        Outcome::Busy { limit, hint_ms } => json!({ "limit": limit.name(), "hint_ms": hint_ms }),
        Outcome::WrongGroup { epoch } => json!({ "epoch": epoch }),
        Outcome::TooLarge { limit } => json!({ "limit": limit.name() }),
        Outcome::BadRequest { why, at } => json!({ "why": why.name(), "at": at }),
        Outcome::UnknownOutcome => json!({ "too_old": false }),
        Outcome::TooOld => json!({ "too_old": true }),
        _ => json!({}),
    };
    extend(&mut said, detail);
    said
}

fn extend(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

pub(crate) fn reply(reply: &Reply<'_>) -> Value {
    let mut said = match &reply.answer {
        Answer::Not(not) => outcome(not),
        Answer::Redirect(_) => json!({ "outcome": "Redirect" }),
        _ => json!({ "outcome": "Ok" }),
    };
    extend(&mut said, json!({ "log_time": reply.log_time.0 }));
    let result = match &reply.answer {
        Answer::Not(_) => json!({}),
        Answer::Hello(hello) => json!({
            "protocol": hello.protocol,
            "frame_bytes": hello.frame_bytes,
            "in_flight": hello.in_flight,
            "node": hello.node,
            "features": hello.features,
            "cluster": hex(&hello.cluster.0),
            "incarnation": hello.incarnation,
            "map_epoch": hello.map_epoch,
            "idle_ms": hello.idle_ms,
        }),
        Answer::Echo(echo) => json!({ "echo": hex(echo) }),
        Answer::Record { version, expiry, value } => {
            json!({ "version": version.0, "expiry": expiry, "value": hex(value) })
        }
        Answer::Redirect(Redirect { blocks, nodes }) => json!({
            "group": blocks.group,
            "disk": blocks.disk,
            "bucket": blocks.bucket.get(),
            "window_from": blocks.window_from,
            "window_days": blocks.window_days,
            "window_generation": blocks.window_generation,
            "file": blocks.file,
            "file_generation": blocks.file_generation,
            "offset": blocks.offset,
            "block_offset": blocks.block_offset,
            "block_bytes": blocks.block_bytes,
            "nodes": nodes.map(|node| node.to_string()),
        }),
        Answer::MultiGet(many) => {
            let items: Vec<Value> = many
                .items()
                .map(|item| {
                    let mut said = json!({ "index": item.index });
                    extend(&mut said, self::reply(&item.reply));
                    said
                })
                .collect();
            json!({ "items": items })
        }
        Answer::Written(written) => json!({ "version": written.version.0, "repeated": written.repeated }),
        Answer::BatchWritten { first, count } => {
            json!({ "first_version": first.version.0, "count": count, "repeated": first.repeated })
        }
        Answer::Records(page) => {
            let records: Vec<Value> = page
                .iter()
                .map(|record| {
                    json!({
                        "time": record.time,
                        "version": record.version.0,
                        "expiry": record.expiry,
                        "value": hex(record.value),
                    })
                })
                .collect();
            json!({ "log_index": page.log_index.0, "resume": page.resume, "records": records })
        }
        Answer::Streams(list) => {
            let streams: Vec<Value> =
                list.iter().map(|(space, name)| json!({ "space": space.0, "stream": hex(name) })).collect();
            json!({ "more": list.more, "streams": streams })
        }
        Answer::Map(bytes) => json!({ "map": ClusterMap::decode(bytes).map(|map| cluster_map(&map)).ok() }),
        Answer::Status(text) => json!({ "text": text }),
        Answer::Cold(_) => unreachable!("their vectors are in cold.json"),
    };
    extend(&mut said, result);
    said
}

fn cluster_map(map: &ClusterMap) -> Value {
    let nodes: Vec<Value> = map
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id,
                "address": node.address.to_string(),
                "zone": node.zone,
                "roles": node.roles.0,
                "shard_count": node.shard_count,
            })
        })
        .collect();
    let groups: Vec<Value> = map
        .groups
        .iter()
        .map(|group| json!({ "replicas": group.replicas, "members": group.members }))
        .collect();
    json!({
        "epoch": map.epoch,
        "cluster": hex(&map.cluster.0),
        "revision": map.revision,
        "recent_us": map.recent_us,
        "cache_share": map.cache_share,
        "nodes": nodes,
        "groups": groups,
    })
}

pub(crate) fn frame_error(error: &FrameError) -> Value {
    match error {
        FrameError::BadMagic => json!({ "kind": "BadMagic" }),
        FrameError::HeaderChecksum => json!({ "kind": "HeaderChecksum" }),
        FrameError::BadVersion { version, .. } => json!({ "kind": "BadVersion", "version": version }),
        FrameError::UnknownOperation { code, .. } => json!({ "kind": "UnknownOperation", "code": code }),
        FrameError::BadFlags { flags, .. } => json!({ "kind": "BadFlags", "flags": flags }),
        FrameError::TooLarge { body_bytes, limit, .. } => {
            json!({ "kind": "FrameTooLarge", "body_bytes": body_bytes, "limit": limit })
        }
        FrameError::BodyChecksum { .. } => json!({ "kind": "BodyChecksum" }),
    }
}

pub(crate) fn request_error(error: &RequestError) -> Value {
    match error {
        RequestError::Bad { why, at } => json!({ "kind": "BadRequest", "why": why.name(), "at": at }),
        RequestError::TooLarge { limit } => json!({ "kind": "TooLarge", "limit": limit.name() }),
    }
}

pub(crate) fn reply_error(error: &ReplyError) -> Value {
    json!({ "kind": "BadReply", "field": error.field, "at": error.at })
}
