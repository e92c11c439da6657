//! The vectors themselves: what is encoded, and how frames are spoiled. `golden/vectors.json` is made from this.

use std::net::SocketAddr;

use layout::key::Key;
use layout::units::{BucketIndex, LogIndex, LogTime, RequestId, Space, TabletIndex, Uuid, Version};
use net::cold::ColdBlocks;
use net::frame::{HEADER_BYTES, seal};
use net::operation::REPLY_BIT;
use net::outcome::{Limit, Outcome, Why};
use net::redirect::{Redirect, encode_redirect};
use net::reply::*;
use net::request::*;
use net::route::{ClusterMap, Group, Node, Roles};
use net::session::append_frame;
use net::{Operation, Request};

pub(crate) const ID: RequestId =
    RequestId { client: 0x0123_4567_89ab_cdef, log_time: 1_700_000_000_000_000, sequence: 42 };
const TIME: u64 = 1_700_000_000_123_456;
const LOG_TIME: LogTime = LogTime(1_700_000_001_000_000);
const CLUSTER: Uuid = Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

fn key() -> Key<'static> {
    Key::new(Space(0), b"user-1", TIME).expect("a short stream")
}

fn hello() -> Hello<'static> {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        method: AuthMethod::None,
        auth: &[],
        features: 0,
        frame_bytes: 4 << 20,
        in_flight: 256,
        client: ID.client,
        cluster: Uuid::default(),
    }
}

fn frame(request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let number = if request.operation() == Operation::Hello { 0 } else { 0x1_0000 };
    append_frame(request, number, if number == 0 { 0 } else { 7 }, &mut out);
    out
}

fn reply_frame(operation: Operation, encode: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let bytes = encode(&mut out[HEADER_BYTES..]);
    out.truncate(HEADER_BYTES + bytes);
    seal(&mut out, operation.code() | REPLY_BIT, if operation == Operation::Hello { 0 } else { 0x1_0000 }, 7);
    out
}

/// Name and frame of each request that must decode.
pub(crate) fn requests() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, request: &Request<'_>| all.push((name.to_owned(), frame(request)));
    add("hello", &Request::Hello(hello()));
    add(
        "hello-token",
        &Request::Hello(Hello {
            protocol_max: 3,
            method: AuthMethod::Token,
            auth: b"sesame",
            features: u64::MAX,
            frame_bytes: FRAME_BYTES_MIN,
            in_flight: 1,
            client: 0,
            cluster: CLUSTER,
            ..hello()
        }),
    );
    add("ping-empty", &Request::Ping(b""));
    add("ping-echo", &Request::Ping(b"are you there"));
    add("get", &Request::Get(Get { key: key(), local: false, if_newer: None, redirect: false }));
    add("get-local", &Request::Get(Get { key: key(), local: true, if_newer: None, redirect: false }));
    add(
        "get-if-newer",
        &Request::Get(Get { key: key(), local: false, if_newer: Some(Version(9 << 16)), redirect: false }),
    );
    add(
        "get-if-no-longer-absent",
        &Request::Get(Get { key: key(), local: false, if_newer: Some(Version(0)), redirect: false }),
    );
    add("get-redirect", &Request::Get(Get { key: key(), local: false, if_newer: None, redirect: true }));
    let longest = [0xa5; 128];
    let last_key = Key::new(Space(u16::MAX), &longest, u64::MAX).expect("128 bytes");
    add(
        "get-longest-stream",
        &Request::Get(Get { key: last_key, local: false, if_newer: None, redirect: false }),
    );
    let mut many = MultiGetBody::new();
    let others = [key(), Key { stream: b"user-2", ..key() }, Key { space: Space(3), time: 0, ..key() }];
    for (index, key) in others.into_iter().enumerate() {
        let if_newer = (index == 1).then_some(Version(5 << 16 | 2));
        assert!(many.push(&Get { key, local: false, if_newer, redirect: false }), "three keys fit");
    }
    add("multi-get", &Request::MultiGet(many.request().expect("three keys")));
    add("put", &Request::Put(Put { id: ID, key: key(), expiry: 0, value: b"hello" }));
    add(
        "put-expiry",
        &Request::Put(Put { id: ID, key: key(), expiry: TIME + 86_400_000_000, value: b"gone tomorrow" }),
    );
    add(
        "put-empty",
        &Request::Put(Put { id: RequestId { log_time: 0, ..ID }, key: key(), expiry: 0, value: b"" }),
    );
    add("delete", &Request::Delete(Delete { id: ID, key: key() }));
    let cas = CompareAndSet { id: ID, key: key(), expected: Version(9 << 16), expiry: 0, value: b"second" };
    add("compare-and-set", &Request::CompareAndSet(cas));
    add(
        "put-if-absent",
        &Request::CompareAndSet(CompareAndSet { expected: Version(0), value: b"first", ..cas }),
    );
    let mut batch = BatchBody::new();
    let changes = [
        Change::Put { expiry: 0, value: b"one" },
        Change::Delete,
        Change::Put { expiry: TIME + 1_000_000, value: b"" },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert!(batch.push(&BatchOperation { time: TIME + index as u64, change }), "three operations fit");
    }
    add("batch", &Request::Batch(batch.request(ID, Space(0), b"user-1").expect("three operations")));
    let scan = Scan {
        space: Space(0),
        stream: b"user-1",
        from: TIME,
        to: TIME + 3_600_000_000,
        backward: false,
        local: false,
        record_limit: 100,
        byte_limit: 65_536,
    };
    add("scan", &Request::Scan(scan));
    let all_times =
        Scan { from: 0, to: u64::MAX, backward: true, local: true, record_limit: 0, byte_limit: 0, ..scan };
    add("scan-all-backward", &Request::Scan(all_times));
    let head = Head { space: Space(0), stream: b"user-1", local: false, record_limit: 10, byte_limit: 0 };
    add("head", &Request::Head(head));
    let streams =
        Streams { group: 0, tablet: TabletIndex::new(63).expect("63"), space: None, after: None, limit: 0 };
    add("streams-first-page", &Request::Streams(streams));
    let next_page =
        Streams { space: Some(Space(3)), after: Some((Space(3), b"user-1")), limit: 1000, ..streams };
    add("streams-next-page", &Request::Streams(next_page));
    add("map", &Request::Map(Map { known_epoch: 0 }));
    add("map-known", &Request::Map(Map { known_epoch: 7 }));
    add("status", &Request::Status);
    add("verify", &Request::Verify);
    add("hot", &Request::Hot);
    let mut map = Vec::new();
    cluster_map().encode(&mut map);
    add("set-map", &Request::SetMap(&map));
    all
}

pub(crate) fn cluster_map() -> ClusterMap {
    let node = |id: u32, address: &str, roles: Roles| Node {
        id,
        address: address.parse::<SocketAddr>().expect("an address"),
        zone: id as u16 - 1,
        roles,
        shard_count: 4,
    };
    ClusterMap {
        epoch: 7,
        cluster: CLUSTER,
        revision: 3,
        recent_us: 86_400_000_000,
        cache_share: 5_000,
        nodes: vec![
            node(1, "10.0.0.1:7420", Roles::STORE),
            node(2, "10.0.0.2:7420", Roles::STORE),
            node(3, "[2001:db8::3]:7420", Roles(Roles::STORE.0 | Roles::MASTER.0)),
            node(4, "10.0.0.4:7420", Roles::CACHE),
        ],
        groups: vec![Group { replicas: 3, members: vec![1, 2, 3] }],
    }
}

/// Name and frame of each reply that must decode.
pub(crate) fn replies() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, frame: Vec<u8>| all.push((name.to_owned(), frame));
    let hello = HelloReply {
        protocol: 1,
        frame_bytes: 4 << 20,
        in_flight: 256,
        node: 1,
        features: 0,
        cluster: CLUSTER,
        incarnation: 3,
        map_epoch: 7,
        idle_ms: 300_000,
    };
    add("hello-ok", reply_frame(Operation::Hello, |out| encode_hello(out, &hello)));
    add("ping-ok", reply_frame(Operation::Ping, |out| encode_echo(out, b"are you there")));
    let version = Version(9 << 16 | 1);
    add("get-ok", reply_frame(Operation::Get, |out| encode_get_ok(out, LOG_TIME, version, 0, b"hello")));
    add("get-ok-empty", reply_frame(Operation::Get, |out| encode_get_ok(out, LOG_TIME, version, TIME, b"")));
    add("get-redirected", reply_frame(Operation::Get, |out| encode_redirect(out, LOG_TIME, &redirect())));
    add(
        "multi-get-ok",
        reply_frame(Operation::MultiGet, |out| {
            let mut writer = MultiGetWriter::new(out, 3);
            assert!(writer.outcome(2, LogTime(5), &Outcome::NotFound), "fits");
            assert!(writer.record(0, LOG_TIME, version, 0, b"hello"), "fits");
            assert!(writer.outcome(1, LOG_TIME, &Outcome::NotModified), "fits");
            writer.finish()
        }),
    );
    add("put-ok", reply_frame(Operation::Put, |out| encode_written(out, LOG_TIME, version, false)));
    add("put-ok-repeated", reply_frame(Operation::Put, |out| encode_written(out, LOG_TIME, version, true)));
    add("delete-ok", reply_frame(Operation::Delete, |out| encode_written(out, LOG_TIME, version, false)));
    add(
        "compare-and-set-ok",
        reply_frame(Operation::CompareAndSet, |out| encode_written(out, LOG_TIME, version, false)),
    );
    add(
        "batch-ok",
        reply_frame(Operation::Batch, |out| encode_batch_written(out, LOG_TIME, version, 3, false)),
    );
    let page = |out: &mut [u8], resume| {
        let mut writer = RecordsWriter::new(out, LOG_TIME, LogIndex(11));
        assert!(
            writer.push(TIME, version, 0, b"one") && writer.push(TIME + 5, Version(10 << 16), TIME + 9, b""),
            "fits"
        );
        writer.finish(resume)
    };
    add("scan-ok", reply_frame(Operation::Scan, |out| page(out, None)));
    add("scan-ok-more", reply_frame(Operation::Scan, |out| page(out, Some(TIME + 6))));
    let nothing = |out: &mut [u8]| RecordsWriter::new(out, LOG_TIME, LogIndex(11)).finish(None);
    add("scan-ok-empty", reply_frame(Operation::Scan, nothing));
    add(
        "head-ok",
        reply_frame(Operation::Head, |out| {
            let mut writer = RecordsWriter::new(out, LOG_TIME, LogIndex(11));
            assert!(writer.push(TIME, version, 0, b"newest"), "fits");
            writer.finish(Some(TIME - 1))
        }),
    );
    add(
        "streams-ok",
        reply_frame(Operation::Streams, |out| {
            let mut writer = StreamsWriter::new(out, LOG_TIME);
            assert!(writer.push(Space(0), b"user-1") && writer.push(Space(3), &[0xa5; 128]), "fits");
            writer.finish(true)
        }),
    );
    add(
        "streams-ok-empty",
        reply_frame(Operation::Streams, |out| StreamsWriter::new(out, LOG_TIME).finish(false)),
    );
    let mut map = Vec::new();
    cluster_map().encode(&mut map);
    add("map-ok", reply_frame(Operation::Map, |out| encode_map(out, &map)));
    add("set-map-ok", reply_frame(Operation::SetMap, |out| encode_map(out, &map)));
    add("status-ok", reply_frame(Operation::Status, |out| encode_status(out, "{\"connections\":1}")));
    add("hot-ok", reply_frame(Operation::Hot, |out| encode_status(out, "{\"cores\":[]}")));
    add("verify-ok", reply_frame(Operation::Verify, |out| encode_status(out, "{\"connections\":1}")));
    let outcomes = [
        ("get-not-found", Operation::Get, Outcome::NotFound),
        ("get-not-modified", Operation::Get, Outcome::NotModified),
        ("get-corrupt", Operation::Get, Outcome::Corrupt),
        ("get-not-current", Operation::Get, Outcome::NotCurrent),
        ("get-wrong-group", Operation::Get, Outcome::WrongGroup { epoch: 8 }),
        ("get-timeout", Operation::Get, Outcome::Timeout),
        ("map-not-modified", Operation::Map, Outcome::NotModified),
        ("put-busy", Operation::Put, Outcome::Busy { limit: Limit::Journal, hint_ms: 5 }),
        ("put-unknown-outcome", Operation::Put, Outcome::UnknownOutcome),
        ("put-id-too-old", Operation::Put, Outcome::TooOld),
        ("put-too-far-ahead", Operation::Put, Outcome::BadRequest { why: Why::Time, at: 8 }),
        ("put-value-too-large", Operation::Put, Outcome::TooLarge { limit: Limit::Value }),
        (
            "compare-and-set-mismatch",
            Operation::CompareAndSet,
            Outcome::VersionMismatch { current: Some(version) },
        ),
        (
            "compare-and-set-mismatch-absent",
            Operation::CompareAndSet,
            Outcome::VersionMismatch { current: Some(Version(0)) },
        ),
        (
            "compare-and-set-mismatch-unknown",
            Operation::CompareAndSet,
            Outcome::VersionMismatch { current: None },
        ),
        ("hello-unauthorized", Operation::Hello, Outcome::Unauthorized),
        ("scan-frame-too-small", Operation::Scan, Outcome::TooLarge { limit: Limit::Frame }),
    ];
    for (name, operation, outcome) in outcomes {
        let log_time = if operation == Operation::Hello { LogTime(0) } else { LOG_TIME };
        add(name, reply_frame(operation, |out| encode_outcome(out, log_time, &outcome)));
    }
    all
}

/// A block of three cold nodes, one of them by IPv6.
fn redirect() -> Redirect {
    let blocks = ColdBlocks {
        group: 1,
        disk: 2,
        bucket: BucketIndex::new(77).expect("below 131,072"),
        window_from: 1_728_000_000_000_000,
        window_days: 7,
        window_generation: 3,
        file: 4,
        file_generation: 5,
        offset: 8_192,
        block_offset: 600,
        block_bytes: 4_100,
    };
    let nodes = ["10.0.0.1:7420", "[2001:db8::2]:7421", "10.0.0.3:7422"];
    Redirect { blocks, nodes: nodes.map(|node| node.parse().expect("an address")) }
}

/// A frame that must be refused.
pub(crate) struct Malformed {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    /// The body limit in force.
    pub(crate) limit: u32,
}

/// The frame with bytes of its body written over, and both checksums made right.
fn body_with(base: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = base.to_vec();
    frame[HEADER_BYTES + at..HEADER_BYTES + at + bytes.len()].copy_from_slice(bytes);
    sealed_again(frame)
}

/// The frame with its body cut or lengthened, and both checksums made right.
fn body_of_length(base: &[u8], bytes: usize) -> Vec<u8> {
    let mut frame = base.to_vec();
    frame.resize(HEADER_BYTES + bytes, 0);
    sealed_again(frame)
}

fn sealed_again(mut frame: Vec<u8>) -> Vec<u8> {
    let number =
        |range: std::ops::Range<usize>| u64::from_le_bytes(frame[range].try_into().expect("eight bytes"));
    let (code, request, epoch) = (frame[5], number(8..16), (number(16..24) >> 32) as u32);
    seal(&mut frame, code, request, epoch);
    frame
}

/// The frame with bytes of its header written over, and the header's checksum made right.
fn header_with(base: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = base.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    let checksum = crc32fast::hash(&frame[..28]);
    frame[28..32].copy_from_slice(&checksum.to_le_bytes());
    frame
}

/// Every frame that must be refused, by what is wrong with it.
pub(crate) fn malformed() -> Vec<Malformed> {
    const LIMIT: u32 = 4 << 20;
    let valid: std::collections::BTreeMap<String, Vec<u8>> =
        requests().into_iter().chain(replies()).collect();
    let of = |name: &str| valid[name].as_slice();
    let mut all = Vec::new();
    let mut add =
        |name: &str, limit: u32, frame: Vec<u8>| all.push(Malformed { name: name.to_owned(), frame, limit });

    let mut flipped = of("put").to_vec();
    flipped[9] ^= 1;
    add("frame-header-checksum", LIMIT, flipped);
    let mut flipped = of("put").to_vec();
    flipped[40] ^= 0x80;
    add("frame-body-checksum", LIMIT, flipped);
    let mut swapped = of("put").to_vec();
    swapped[24..28].copy_from_slice(&[0; 4]);
    add("frame-body-checksum-zeroed", LIMIT, header_with(&swapped, 24, &[0; 4]));
    add("frame-magic", LIMIT, header_with(of("get"), 0, b"TCL2"));
    add("frame-of-http", LIMIT, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec());
    add("frame-zeroes", LIMIT, vec![0; 64]);
    add("frame-version", LIMIT, header_with(of("get"), 4, &[2]));
    add("frame-operation-0", LIMIT, header_with(of("get"), 5, &[0]));
    add("frame-operation-14", LIMIT, header_with(of("get"), 5, &[14]));
    add("frame-flags", LIMIT, header_with(of("get"), 6, &[1, 0]));
    add("frame-4-gib", LIMIT, header_with(of("get"), 16, &u32::MAX.to_le_bytes()));
    add("frame-one-over-limit", LIMIT, header_with(of("get"), 16, &(LIMIT + 1).to_le_bytes()));
    add("frame-over-4-kib-before-hello", 4096, header_with(of("ping-empty"), 16, &4097u32.to_le_bytes()));

    add("hello-short", LIMIT, body_of_length(of("hello"), 47));
    add("hello-trailing", LIMIT, body_of_length(of("hello"), 49));
    add("hello-versions-swapped", LIMIT, body_with(of("hello"), 0, &[2, 1]));
    add("hello-method", LIMIT, body_with(of("hello"), 2, &[9]));
    add("hello-none-with-token", LIMIT, body_with(of("hello-token"), 2, &[0]));
    add("hello-token-cut", LIMIT, body_of_length(of("hello-token"), 50));
    add("hello-token-over-1024", LIMIT, body_with(of("hello-token"), 4, &1025u16.to_le_bytes()));
    add("hello-frame-bytes", LIMIT, body_with(of("hello"), 16, &4095u32.to_le_bytes()));
    add("hello-in-flight", LIMIT, body_with(of("hello"), 20, &[0; 4]));
    add("get-empty-body", LIMIT, body_of_length(of("get"), 0));
    add("get-short", LIMIT, body_of_length(of("get"), 23));
    add("get-stream-cut", LIMIT, body_of_length(of("get"), 29));
    add("get-trailing", LIMIT, body_of_length(of("get"), 31));
    add("get-stream-0", LIMIT, body_with(of("get"), 2, &[0]));
    add("get-stream-129", LIMIT, body_with(of("get-longest-stream"), 2, &[129]));
    add("get-flags", LIMIT, body_with(of("get"), 3, &[8]));
    add("get-reserved", LIMIT, body_with(of("get"), 7, &[1]));
    add("get-version-without-flag", LIMIT, body_with(of("get-if-newer"), 3, &[0]));
    add("multi-get-none", LIMIT, body_with(of("multi-get"), 0, &[0, 0]));
    add("multi-get-4097", LIMIT, body_with(of("multi-get"), 0, &4097u16.to_le_bytes()));
    add("multi-get-one-too-many", LIMIT, body_with(of("multi-get"), 0, &[4, 0]));
    add("multi-get-one-too-few", LIMIT, body_with(of("multi-get"), 0, &[2, 0]));
    add("put-value-too-long", LIMIT, body_with(of("put"), 4, &((1u32 << 20) + 1).to_le_bytes()));
    add("put-value-length-short", LIMIT, body_with(of("put"), 4, &4u32.to_le_bytes()));
    add("put-value-length-long", LIMIT, body_with(of("put"), 4, &6u32.to_le_bytes()));
    add("put-value-length-4-gib", LIMIT, body_with(of("put"), 4, &u32::MAX.to_le_bytes()));
    add("put-no-client", LIMIT, body_with(of("put"), 24, &[0; 8]));
    add("put-no-sequence", LIMIT, body_with(of("put"), 40, &[0; 8]));
    add("delete-reserved", LIMIT, body_with(of("delete"), 3, &[1]));
    add("compare-and-set-short", LIMIT, body_of_length(of("compare-and-set"), 55));
    add("batch-none", LIMIT, body_with(of("batch"), 4, &[0, 0]));
    add("batch-4097", LIMIT, body_with(of("batch"), 4, &4097u16.to_le_bytes()));
    add("batch-kind", LIMIT, body_with(of("batch"), 38, &[3]));
    add("batch-delete-with-value", LIMIT, body_with(of("batch"), 38 + 24 + 3 + 4, &[1]));
    add("batch-value-cut", LIMIT, body_with(of("batch"), 38 + 4, &[0, 0, 1, 0]));
    add("scan-range", LIMIT, body_with(of("scan"), 16, &[0; 8]));
    add("scan-flags", LIMIT, body_with(of("scan"), 3, &[8]));
    add("head-reserved", LIMIT, body_with(of("head"), 12, &[1]));
    add("streams-tablet-64", LIMIT, body_with(of("streams-first-page"), 0, &[64]));
    add("streams-after-without-flag", LIMIT, body_with(of("streams-next-page"), 1, &[2]));
    add("map-trailing", LIMIT, body_of_length(of("map"), 9));
    add("status-with-body", LIMIT, body_of_length(of("status"), 1));

    add("reply-empty-body", LIMIT, body_of_length(of("get-ok"), 0));
    add("reply-outcome-0", LIMIT, body_with(of("get-ok"), 0, &[0]));
    add("multi-get-redirect", LIMIT, body_with(of("multi-get"), 8 + 3, &[4]));
    add("reply-redirect-cut", LIMIT, body_with(of("get-not-found"), 0, &[4]));
    add("reply-redirect-port", LIMIT, body_with(of("get-redirected"), 16 + 48 + 20 + 16, &[0, 0]));
    add("reply-not-found-to-put", LIMIT, body_with(of("put-busy"), 0, &[2]));
    add("reply-reserved", LIMIT, body_with(of("get-not-found"), 2, &[1]));
    add("reply-detail", LIMIT, body_with(of("get-not-found"), 4, &[1]));
    add("reply-code", LIMIT, body_with(of("get-not-found"), 1, &[1]));
    add("reply-limit-unknown", LIMIT, body_with(of("put-busy"), 1, &[99]));
    add("reply-why-unknown", LIMIT, body_with(of("put-too-far-ahead"), 1, &[200]));
    add("reply-get-value-cut", LIMIT, body_of_length(of("get-ok"), 36));
    add("reply-get-value-length", LIMIT, body_with(of("get-ok"), 4, &[4]));
    add("reply-get-version-0", LIMIT, body_with(of("get-ok"), 16, &[0; 8]));
    add("reply-multi-get-index-twice", LIMIT, body_with(of("multi-get-ok"), 44, &[2]));
    add("reply-multi-get-index-beyond", LIMIT, body_with(of("multi-get-ok"), 24, &[3]));
    add("reply-scan-more-2", LIMIT, body_with(of("scan-ok"), 36, &[2]));
    add("reply-scan-resume-without-more", LIMIT, body_with(of("scan-ok-more"), 36, &[0]));
    add("reply-scan-count", LIMIT, body_with(of("scan-ok"), 32, &[3]));
    add("reply-scan-record-cut", LIMIT, body_of_length(of("scan-ok"), 60));
    add("reply-streams-more-of-nothing", LIMIT, body_with(of("streams-ok-empty"), 20, &[1]));
    add("reply-hello-in-flight", LIMIT, body_with(of("hello-ok"), 24, &[0; 4]));
    add("reply-status-not-text", LIMIT, body_with(of("status-ok"), 16, &[0xff]));
    add("reply-map-cut", LIMIT, body_of_length(of("map-ok"), 60));
    add("reply-map-member-unknown", LIMIT, {
        let at = of("map-ok").len() - HEADER_BYTES - 4;
        body_with(of("map-ok"), at, &[9])
    });
    all
}
