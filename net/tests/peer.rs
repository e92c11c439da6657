//! Connections between nodes: golden vectors in `golden/peers.json`, who is refused and why, and what ends a connection.
//!
//! After a wanted change write the vectors anew: `NET_GOLDEN_WRITE=1 cargo test -p net --test peer`.

use layout::superblock_peers::{Lives, Origin};
use layout::units::{Incarnation, TabletIndex, Uuid};
use net::frame::{BODY_BYTES_MAX, HEADER_BYTES, PROTOCOL_VERSION, next_frame};
use net::operation::{Operation, REPLY_BIT};
use net::outcome::{Outcome, Why};
use net::peer::*;
use net::request::RequestError;
use net::route::{ClusterMap, Group, Node, Roles};
use net::session::{CloseReason, ServerIdentity, ServerLimits, ServerSession, Step};
use serde_json::{Value, json};

const FILE: &str = include_str!("../golden/peers.json");
const CLUSTER: Uuid = Uuid([7; 16]);

/// A disk that took another one's place, in its second life.
fn introduction(incarnation: u32) -> Introduction {
    let mut lives = Lives::default();
    lives.begin(Incarnation(incarnation - 1), 0x1111_2222_3333_4444);
    lives.begin(Incarnation(incarnation), 0x5555_6666_7777_8888);
    Introduction {
        incarnation: Incarnation(incarnation),
        device: Uuid([0xd1; 16]),
        origin: Origin::Recovered { birth: Incarnation(incarnation - 1) },
        lives,
    }
}

fn hello() -> PeerHello {
    PeerHello {
        protocol: PROTOCOL_VERSION,
        shard_count: 4,
        node: 1,
        to: 2,
        map_epoch: 3,
        frame_bytes: BODY_BYTES_MAX,
        versions: PeerVersions::ALL,
        cluster: CLUSTER,
        introduction: introduction(9),
    }
}

/// The hello of a build that knows the first version only.
fn first_hello() -> PeerHello {
    PeerHello { versions: PeerVersions::FIRST, ..hello() }
}

fn reply(refusal: Option<Refusal>) -> PeerHelloReply {
    PeerHelloReply {
        refusal,
        node: 2,
        map_epoch: 3,
        frame_bytes: 64 << 10,
        spoken: 2,
        known: Incarnation(8),
        cluster: CLUSTER,
        introduction: introduction(5),
    }
}

fn batch(number: u64, messages: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut frame = vec![0; HEADER_BYTES];
    for (tablet, kind, payload) in messages {
        let tablet = TabletIndex::new(*tablet).expect("a tablet");
        frame.extend_from_slice(&message_head(tablet, *kind, payload.len() as u32));
        frame.extend_from_slice(payload);
    }
    seal_batch(&mut frame, number, 3);
    frame
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("hello", hello().frame().to_vec()),
        ("hello-of-version-1", first_hello().frame().to_vec()),
        ("hello-accepted", reply(None).frame().to_vec()),
        ("hello-accepted-in-version-1", PeerHelloReply { spoken: 1, ..reply(None) }.frame().to_vec()),
        ("hello-other-cluster", reply(Some(Refusal::Cluster)).frame().to_vec()),
        ("hello-other-epoch", reply(Some(Refusal::MapEpoch)).frame().to_vec()),
        ("hello-other-disk", reply(Some(Refusal::Disk)).frame().to_vec()),
        ("batch", batch(0, &[(0, 1, b"first"), (63, 255, b""), (0, 2, b"third")])),
        ("batch-that-asks", batch(17, &[(5, 1, b"read this")])),
        ("batch-empty", batch(18, &[])),
        ("batch-answer", batch_answer(17, 3).to_vec()),
    ]
}

fn introduced(introduction: &Introduction) -> Value {
    let (origin, birth) = introduction.origin.to_numbers();
    let lives = introduction.lives.0.map(|life| format!("{life:016x}"));
    json!({
        "incarnation": introduction.incarnation.0, "device": introduction.device.to_string(), "origin": origin,
        "birth": birth, "lives": lives,
    })
}

fn fields(name: &str, frame: &[u8]) -> Value {
    let header = next_frame(frame, BODY_BYTES_MAX).expect("a frame").expect("whole").header;
    let refused = |refusal: Option<Refusal>| refusal.map(|refusal| format!("{refusal:?}"));
    if header.code() == Operation::PeerHello.code() {
        let hello = PeerHello::decode(&frame[HEADER_BYTES..]).expect("a hello");
        return json!({
            "protocol": hello.protocol, "shard_count": hello.shard_count, "node": hello.node, "to": hello.to,
            "map_epoch": hello.map_epoch, "frame_bytes": hello.frame_bytes, "newest": hello.versions.newest(),
            "cluster": hello.cluster.to_string(), "introduction": introduced(&hello.introduction),
        });
    }
    if header.code() == Operation::PeerBatch.code() {
        let PeerStep::Batch { messages, answer, .. } = PeerSession::new(1, BODY_BYTES_MAX, 0).next(0, frame)
        else {
            panic!("{name} is a batch")
        };
        let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).expect("text");
        let messages: Vec<Value> = messages
            .map(|m| json!({ "tablet": m.tablet.get(), "kind": m.kind, "payload": text(m.payload) }))
            .collect();
        return json!({ "answer": answer, "messages": messages });
    }
    match next_answer(frame, header.operation == Operation::PeerBatch).expect("an answer") {
        PeerAnswer::Hello { reply, .. } => json!({
            "refusal": refused(reply.refusal), "node": reply.node, "known": reply.known.0,
            "spoken": reply.spoken, "map_epoch": reply.map_epoch, "frame_bytes": reply.frame_bytes, "cluster": reply.cluster.to_string(),
            "introduction": introduced(&reply.introduction),
        }),
        PeerAnswer::Read { number, .. } => json!({ "number": number }),
        PeerAnswer::Need { .. } => panic!("{name} is whole"),
    }
}

#[test]
fn the_file_is_what_the_code_says() {
    let lines: Vec<String> = frames()
        .iter()
        .map(|(name, frame)| {
            let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("  {}", json!({ "name": name, "hex": hex, "fields": fields(name, frame) }))
        })
        .collect();
    let fresh = format!("{{\n\"protocol_version\": 1,\n\"vectors\": [\n{}\n]\n}}\n", lines.join(",\n"));
    if std::env::var_os("NET_GOLDEN_WRITE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/peers.json");
        #[expect(
            clippy::disallowed_methods,
            reason = "a developer's tool that writes a file of the source tree"
        )]
        std::fs::write(path, &fresh).expect("the source tree can be written");
        return;
    }
    assert_eq!(FILE, fresh);
}

fn map() -> ClusterMap {
    let node = |id: u32| Node {
        id,
        address: ([10, 0, 0, id as u8], 7420).into(),
        zone: id as u16,
        roles: Roles::STORE,
        shard_count: 4,
    };
    ClusterMap {
        epoch: 3,
        cluster: CLUSTER,
        revision: 0,
        recent_us: 0,
        cache_share: 0,
        nodes: (1..=4).map(node).collect(),
        groups: vec![Group { replicas: 3, members: vec![1, 2, 3] }, Group { replicas: 1, members: vec![4] }],
    }
}

#[test]
fn a_hello_that_does_not_fit_the_map_is_refused_by_name() {
    let refusal = |hello: PeerHello| hello.refusal(&map(), 2, PeerVersions::ALL);
    assert_eq!(refusal(hello()), None);
    assert_eq!(refusal(PeerHello { protocol: 2, ..hello() }), Some(Refusal::Protocol));
    assert_eq!(refusal(PeerHello { cluster: Uuid([8; 16]), ..hello() }), Some(Refusal::Cluster));
    assert_eq!(refusal(PeerHello { to: 3, ..hello() }), Some(Refusal::Node));
    assert_eq!(refusal(PeerHello { map_epoch: 4, ..hello() }), Some(Refusal::MapEpoch));
    for stranger in [0, 2, 4, 5] {
        assert_eq!(refusal(PeerHello { node: stranger, ..hello() }), Some(Refusal::Stranger), "{stranger}");
    }
    assert_eq!(refusal(PeerHello { shard_count: 5, ..hello() }), Some(Refusal::Shards));
    for code in 0..=255 {
        assert!(Refusal::from_code(code).is_none_or(|refusal| refusal as u8 == code));
    }
}

#[test]
fn two_nodes_use_the_highest_version_that_both_speak() {
    let up_to = |newest| PeerVersions::up_to(newest).expect("this build speaks it");
    assert_eq!((PeerVersions::up_to(0), PeerVersions::up_to(PeerVersions::ALL.newest() + 1)), (None, None));
    assert_eq!((up_to(1), up_to(2)), (PeerVersions::FIRST, PeerVersions::ALL));
    let spoken = |comes: PeerHello, own| comes.spoken(own);
    for (comes, own, version) in [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 2)] {
        let comes = PeerHello { versions: up_to(comes), ..hello() };
        let bytes = comes.frame();
        let read = PeerHello::decode(&bytes[HEADER_BYTES..]).expect("a hello");
        assert_eq!((read, spoken(read, up_to(own))), (comes, Some(version)));
        assert_eq!(read.refusal(&map(), 2, up_to(own)), None);
    }
    // A build to come that speaks neither of ours any more.
    let with = |oldest: u8, newest: u8| {
        let mut frame = hello().frame();
        (frame[HEADER_BYTES + 60], frame[HEADER_BYTES + 61]) = (oldest, newest);
        PeerHello::decode(&frame[HEADER_BYTES..])
    };
    let later = with(3, 7).expect("a range");
    assert_eq!(later.refusal(&map(), 2, PeerVersions::ALL), Some(Refusal::Protocol));
    assert_eq!(with(2, 7).expect("a range").spoken(PeerVersions::ALL), Some(2));
    for (oldest, newest) in [(0, 1), (1, 0), (1, 1), (0, 2), (3, 2)] {
        let wrong = RequestError::Bad { why: Why::HelloLimits, at: 60 };
        assert_eq!(with(oldest, newest), Err(wrong), "{oldest} to {newest}");
    }
    let bytes = first_hello().frame();
    assert_eq!(bytes[HEADER_BYTES + 60..HEADER_BYTES + 64], [0; 4], "as builds of the first version want it");
    let bytes = PeerHelloReply { spoken: 1, ..reply(None) }.frame();
    assert_eq!(bytes[HEADER_BYTES + 2..HEADER_BYTES + 4], [0; 2], "the same of the answer");
}

fn server() -> ServerSession {
    let identity = ServerIdentity { cluster: CLUSTER, node: 2, incarnation: 5, features: 0 };
    ServerSession::new(ServerLimits::default(), identity, 0)
}

#[test]
fn a_server_hands_a_node_on_and_refuses_its_frames_from_anybody_else() {
    let mut session = server();
    assert_eq!(
        session.next(0, 3, &hello().frame()),
        Step::Peer { hello: hello(), consumed: HELLO_FRAME_BYTES }
    );
    assert_eq!(session.deadline_us(), None, "its deadlines are the peer session's");
    let bad = |step: Step<'_>| match step {
        Step::Answer { reply: net::session::SessionReply::Not(outcome), close: Some(_), .. } => outcome,
        other => panic!("{other:?}"),
    };
    let before = bad(server().next(0, 3, &batch(0, &[])));
    assert_eq!(before, Outcome::BadRequest { why: Why::HelloFirst, at: 0 });
    let mut open = server();
    let client = net::request::Hello {
        protocol_min: 1,
        protocol_max: 1,
        method: net::request::AuthMethod::None,
        auth: &[],
        features: 0,
        frame_bytes: BODY_BYTES_MAX,
        in_flight: 1,
        client: 1,
        cluster: CLUSTER,
    };
    let mut bytes = Vec::new();
    net::session::append_frame(&net::Request::Hello(client), 0, 0, &mut bytes);
    assert!(matches!(open.next(0, 3, &bytes), Step::Answer { close: None, .. }));
    for frame in [hello().frame().to_vec(), batch(0, &[])] {
        let outcome = bad(open.clone().next(0, 3, &frame));
        assert_eq!(outcome, Outcome::BadRequest { why: Why::UnknownOperation, at: 0 });
    }
    let mut short = hello().frame();
    net::frame::seal(&mut short[..60], Operation::PeerHello.code(), 0, 0);
    let mut session = server();
    assert_eq!(bad(session.next(0, 3, &short[..60])), Outcome::BadRequest { why: Why::Short, at: 28 });
    assert!(matches!(session.next(0, 3, b""), Step::Close(CloseReason::Hello(_))));
}

#[test]
fn batches_come_one_after_the_other_and_anything_else_ends_the_connection() {
    let mut session = PeerSession::new(1, 4096, 0);
    let mut input = batch(0, &[(1, 2, b"a"), (3, 4, b"bc")]);
    let first = input.len();
    input.extend(batch(9, &[]));
    let PeerStep::Batch { messages, answer: None, consumed } = session.next(5, &input) else { panic!() };
    let got: Vec<(u8, u8, &[u8])> = messages.map(|m| (m.tablet.get(), m.kind, m.payload)).collect();
    assert_eq!(got, [(1, 2, &b"a"[..]), (3, 4, &b"bc"[..])]);
    assert_eq!(consumed, first);
    let step = session.next(5, &input[first..]);
    assert!(matches!(step, PeerStep::Batch { answer: Some(9), consumed: HEADER_BYTES, .. }));
    assert_eq!(session.next(5, &input[..10]), PeerStep::Need { bytes: HEADER_BYTES });
    assert!(!session.expired(5 + SILENCE_US));
    assert!(session.expired(6 + SILENCE_US));

    let too_long = batch(0, &[(1, 2, &[0; 4096])]);
    let ends = |frame: &[u8]| match PeerSession::new(1, 4096, 0).next(0, frame) {
        PeerStep::Close(broken) => broken,
        other => panic!("{other:?}"),
    };
    assert!(matches!(ends(&too_long), PeerBroken::Frame(_)));
    assert_eq!(ends(&hello().frame()), PeerBroken::Misplaced { code: 0x40 });
    assert_eq!(ends(&batch_answer(1, 0)), PeerBroken::Misplaced { code: 0x41 | REPLY_BIT });
    let spoil = |at: usize, with: u8| {
        let mut frame = batch(0, &[(1, 2, b"abc")]);
        frame[HEADER_BYTES + at] = with;
        seal_batch(&mut frame, 0, 3);
        ends(&frame)
    };
    let bad = |why, at| PeerBroken::Batch(RequestError::Bad { why, at });
    assert_eq!(spoil(0, 64), bad(Why::Tablet, 0));
    assert_eq!(spoil(2, 1), bad(Why::Reserved, 2));
    assert_eq!(spoil(4, 4), bad(Why::Short, 11));
    assert_eq!(spoil(4, 2), bad(Why::Short, 11), "the byte left over is no message");
}

#[test]
fn answers_are_taken_in_their_order_only() {
    assert!(matches!(next_answer(&batch_answer(1, 0), true), Ok(PeerAnswer::Read { number: 1, .. })));
    assert!(next_answer(&batch_answer(1, 0), false).is_err(), "before the hello was answered");
    assert!(next_answer(&reply(None).frame(), true).is_err(), "twice");
    let mut unknown = reply(None).frame();
    unknown[HEADER_BYTES] = 99;
    net::frame::seal(&mut unknown, Operation::PeerHello.code() | REPLY_BIT, 0, 0);
    assert_eq!(next_answer(&unknown, false), Err(PeerBroken::Answer));
}
