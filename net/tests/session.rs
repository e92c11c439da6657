//! Both sides of a connection as state machines: order of frames, limits, deadlines, numbers of requests.

use layout::key::Key;
use layout::units::{LogTime, Space, Uuid, Version};
use net::frame::{HEADER_BYTES, next_frame, seal};
use net::operation::REPLY_BIT;
use net::reply::{Answer, encode_get_ok, encode_hello, encode_outcome};
use net::request::{AuthMethod, Get, Hello};
use net::session::*;
use net::{Limit, Operation, Outcome, Request, Why};

const CLUSTER: Uuid = Uuid([7; 16]);

fn hello() -> Hello<'static> {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        method: AuthMethod::None,
        auth: &[],
        features: 0b11,
        frame_bytes: 1 << 20,
        in_flight: 4,
        client: 9,
        cluster: Uuid::default(),
    }
}

fn server() -> ServerSession {
    let limits = ServerLimits { in_flight: 2, ..ServerLimits::default() };
    let identity = ServerIdentity { cluster: CLUSTER, node: 1, incarnation: 5, features: 0b10 };
    ServerSession::new(limits, identity, 1_000)
}

fn frame(request: &Request<'_>, number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    append_frame(request, number, 0, &mut out);
    out
}

fn reply_frame(code: u8, number: u64, encode: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut out = vec![0; 4096];
    let bytes = encode(&mut out[HEADER_BYTES..]);
    out.truncate(HEADER_BYTES + bytes);
    seal(&mut out, code, number, 3);
    out
}

fn opened() -> ServerSession {
    let mut session = server();
    let bytes = frame(&Request::Hello(hello()), 0);
    let Step::Answer { reply: SessionReply::Hello(reply), close: None, consumed, .. } =
        session.next(1_000, 3, &bytes)
    else {
        panic!("hello was refused");
    };
    assert_eq!((reply.frame_bytes, reply.in_flight, reply.features), (1 << 20, 2, 0b10));
    assert_eq!((reply.incarnation, reply.map_epoch, consumed), (5, 3, bytes.len()));
    assert!(session.is_open() && session.client() == 9);
    session
}

fn refused(step: Step<'_>) -> (Outcome, bool) {
    match step {
        Step::Answer { reply: SessionReply::Not(outcome), close, .. } => (outcome, close.is_some()),
        other => panic!("not refused: {other:?}"),
    }
}

fn bad(why: Why, at: u32) -> Outcome {
    Outcome::BadRequest { why, at }
}

#[test]
fn the_first_request_is_hello_and_only_the_first() {
    let ping = frame(&Request::Ping(b"x"), 1);
    let mut session = server();
    assert_eq!(refused(session.next(0, 0, &ping)), (bad(Why::HelloFirst, 0), true));
    assert!(matches!(session.next(0, 0, &ping), Step::Close(CloseReason::Misuse(Why::HelloFirst))));

    let mut session = opened();
    let again = frame(&Request::Hello(hello()), 1);
    assert_eq!(refused(session.next(0, 0, &again)), (bad(Why::HelloAgain, 0), true));

    let mut session = opened();
    let reply = reply_frame(Operation::Ping.code() | REPLY_BIT, 1, |_| 0);
    assert_eq!(refused(session.next(0, 0, &reply)), (bad(Why::NotARequest, 0), true));
}

#[test]
fn hellos_that_are_refused() {
    let cases = [
        (Hello { protocol_min: 2, protocol_max: 9, ..hello() }, bad(Why::ProtocolVersion, 0)),
        (Hello { method: AuthMethod::Token, auth: b"secret", ..hello() }, Outcome::Unauthorized),
        (Hello { method: AuthMethod::Token, ..hello() }, Outcome::Unauthorized),
        (Hello { cluster: Uuid([8; 16]), ..hello() }, bad(Why::Cluster, 32)),
        (Hello { frame_bytes: 4095, ..hello() }, bad(Why::HelloLimits, 16)),
        (Hello { in_flight: 0, ..hello() }, bad(Why::HelloLimits, 20)),
    ];
    for (hello, outcome) in cases {
        let mut session = server();
        assert_eq!(
            refused(session.next(0, 0, &frame(&Request::Hello(hello), 0))),
            (outcome, true),
            "{hello:?}"
        );
        assert!(!session.is_open());
    }
    let mut session = server();
    let right = frame(&Request::Hello(Hello { cluster: CLUSTER, ..hello() }), 0);
    assert!(matches!(session.next(0, 0, &right), Step::Answer { close: None, .. }));
}

#[test]
fn frames_are_small_before_hello_and_as_agreed_after() {
    let long = frame(&Request::Ping(&[0; 5000]), 1);
    let too_large = Outcome::TooLarge { limit: Limit::Frame };
    assert_eq!(
        refused(server().next(0, 0, &long[..HEADER_BYTES])),
        (too_large, true),
        "from the header alone"
    );
    let Step::Request { request, consumed, .. } = opened().next(0, 0, &long) else {
        panic!("5000 bytes are allowed")
    };
    assert_eq!((request, consumed), (Request::Ping(&[0; 5000]), long.len()));
    let longer = frame(&Request::Ping(&vec![0; (1 << 20) + 1]), 1);
    assert_eq!(refused(opened().next(0, 0, &longer)), (too_large, true), "one byte over what hello agreed");
}

#[test]
fn framing_lost_closes_in_silence_and_a_wrong_body_is_answered_first() {
    let ping = frame(&Request::Ping(b"x"), 6);
    let flip = |at: usize| {
        let mut bytes = ping.clone();
        bytes[at] ^= 1;
        bytes
    };
    assert!(matches!(opened().next(0, 0, &flip(0)), Step::Close(CloseReason::Frame(_))));
    assert!(matches!(opened().next(0, 0, &flip(9)), Step::Close(CloseReason::Frame(_))));
    let bytes = flip(32);
    let mut session = opened();
    let Step::Answer { code, request, consumed, .. } = session.next(0, 0, &bytes) else {
        panic!("no answer")
    };
    assert_eq!((code, request, consumed), (Operation::Ping.code() | REPLY_BIT, 6, bytes.len()));
    assert!(matches!(session.next(0, 0, b""), Step::Close(_)));
    assert_eq!(refused(opened().next(0, 0, &bytes)), (bad(Why::BodyChecksum, 0), true));

    let mut unknown = vec![0; HEADER_BYTES];
    seal(&mut unknown, 0x7f, 1, 0);
    assert_eq!(refused(opened().next(0, 0, &unknown)), (bad(Why::UnknownOperation, 0), true));
}

#[test]
fn a_bad_body_is_answered_and_the_connection_goes_on() {
    let mut session = opened();
    let mut bytes = reply_frame(Operation::Get.code(), 8, |_| 3);
    let first = bytes.len();
    bytes.extend(frame(&Request::Ping(b"still here"), 9));
    let Step::Answer { consumed, close: None, request: 8, .. } = session.next(0, 0, &bytes) else {
        panic!("closed")
    };
    assert_eq!(consumed, first);
    assert!(matches!(session.next(0, 0, &bytes[first..]), Step::Request { request: Request::Ping(_), .. }));
}

#[test]
fn no_more_is_read_than_agreed_in_flight() {
    let mut session = opened();
    let bytes = frame(&Request::Status, 1);
    for _ in 0..2 {
        assert!(matches!(session.next(0, 0, &bytes), Step::Request { .. }));
    }
    assert_eq!(session.next(0, 0, &bytes), Step::Full);
    session.answered(0);
    assert!(matches!(session.next(0, 0, &bytes), Step::Request { .. }));
    assert_eq!(session.in_flight(), 2);
}

#[test]
fn silence_has_a_deadline_in_each_state() {
    let mut session = server();
    let bytes = frame(&Request::Hello(hello()), 0);
    assert_eq!(session.next(2_000, 0, &bytes[..40]), Step::Need { bytes: bytes.len() });
    assert_eq!(session.deadline_us(), Some(5_001_000), "half a hello does not buy time");
    assert_eq!(session.expired(5_000_999), None);
    assert_eq!(session.expired(5_001_000), Some(CloseReason::HelloDeadline));
    assert_eq!(session.next(5_001_000, 0, &bytes), Step::Close(CloseReason::HelloDeadline));

    let mut session = opened();
    assert_eq!(session.deadline_us(), Some(300_001_000), "idle");
    let ping = frame(&Request::Ping(b"x"), 1);
    assert_eq!(session.next(2_000, 0, &ping[..1]), Step::Need { bytes: HEADER_BYTES });
    assert_eq!(session.next(9_000, 0, &ping[..32]), Step::Need { bytes: ping.len() });
    assert_eq!(session.deadline_us(), Some(30_002_000), "counted from the frame's first byte");
    assert!(matches!(session.next(10_000, 0, &ping), Step::Request { .. }));
    assert_eq!(session.deadline_us(), None, "who waits for us is not idle");
    session.answered(50_000);
    assert_eq!(session.deadline_us(), Some(300_050_000));
    assert_eq!(session.expired(300_050_000), Some(CloseReason::Idle));
}

fn client() -> ClientSession {
    let mut session = ClientSession::new(4);
    let mut out = Vec::new();
    assert_eq!(session.begin(Operation::Status, 0, 0), None, "nothing is sent before hello");
    session.send_hello(&hello(), &mut out);
    let Step::Answer { code, request, reply: SessionReply::Hello(reply), .. } = server().next(0, 3, &out)
    else {
        panic!("hello was refused");
    };
    let answer = reply_frame(code, request, |out| encode_hello(out, &reply));
    assert_eq!(session.next(&answer[..50]), Ok(ClientStep::Need { bytes: answer.len() }));
    assert_eq!(session.next(&answer), Ok(ClientStep::Hello { reply, consumed: answer.len() }));
    session
}

#[test]
fn answers_find_their_requests_in_any_order() {
    let mut session = client();
    let mut out = Vec::new();
    let get = Request::Get(Get {
        key: Key::new(Space(0), b"s", 1).unwrap(),
        local: false,
        if_newer: None,
        redirect: false,
    });
    let first = session.send(&get, 3, 100, 1001, &mut out).unwrap();
    let second = session.send(&Request::Status, 3, 50, 1002, &mut out).unwrap();
    assert_eq!(session.send(&get, 3, 1, 1003, &mut out), None, "the server agreed to two");
    assert_eq!((session.in_flight(), session.deadline_us()), (2, Some(50)));
    let frames: Vec<u64> =
        [&out[..], &out[57..]].map(|b| next_frame(b, 4096).unwrap().unwrap().header.request).to_vec();
    assert_eq!(frames, [first, second]);

    let not = |number, code: Operation| {
        reply_frame(code.code() | REPLY_BIT, number, |out| {
            encode_outcome(out, LogTime(0), &Outcome::Unauthorized)
        })
    };
    let answer = not(second, Operation::Status);
    let Ok(ClientStep::Reply { tag: 1002, reply, map_epoch: 3, .. }) = session.next(&answer) else {
        panic!("no reply")
    };
    assert_eq!(reply.answer, Answer::Not(Outcome::Unauthorized));
    assert!(matches!(session.next(&answer), Ok(ClientStep::Late { .. })), "answered twice");
    let third = session.send(&get, 3, 100, 1003, &mut out).unwrap();
    let record = reply_frame(Operation::Get.code() | REPLY_BIT, first, |out| {
        encode_get_ok(out, LogTime(5), Version(1 << 16), 0, b"value")
    });
    assert!(matches!(session.next(&record), Ok(ClientStep::Reply { tag: 1001, .. })));

    // Given up at its deadline: its late answer is not the answer of who uses the slot next.
    assert_eq!(session.overdue(99), None);
    assert_eq!(session.overdue(100), Some((third, 1003)));
    assert_eq!(session.give_up(third), Some(1003));
    assert_eq!(session.give_up(third), None);
    let fourth = session.send(&get, 3, 100, 1004, &mut out).unwrap();
    assert_eq!(fourth & 0xffff, third & 0xffff, "the slot is used again");
    assert!(matches!(session.next(&not(third, Operation::Get)), Ok(ClientStep::Late { .. })));
    assert_eq!(session.tags().collect::<Vec<_>>(), [1004]);
    assert!(matches!(
        session.next(&not(fourth, Operation::Put)),
        Err(SessionBroken::OtherOperation { sent: Operation::Get, answered: Operation::Put, .. })
    ));
}

#[test]
fn what_a_server_may_not_send() {
    let not = |number| {
        reply_frame(Operation::Get.code() | REPLY_BIT, number, |out| {
            encode_outcome(out, LogTime(0), &Outcome::NotFound)
        })
    };
    for number in [0, 1, 1 << 16, (9 << 16) + 1, 0xffff, u64::MAX] {
        let broken = client().next(&not(number)).unwrap_err();
        assert_eq!(broken, SessionBroken::NeverSent { request: number });
    }
    assert!(matches!(client().next(&frame(&Request::Status, 0)), Err(SessionBroken::NeverSent { .. })));
    assert!(matches!(client().next(b"HTTP/1.1"), Err(SessionBroken::Frame(_))));

    let mut session = ClientSession::new(4);
    session.send_hello(&hello(), &mut Vec::new());
    let Step::Answer { reply: SessionReply::Hello(reply), .. } =
        server().next(0, 3, &frame(&Request::Hello(hello()), 0))
    else {
        panic!("hello was refused");
    };
    let cases = [
        ("protocol", net::reply::HelloReply { protocol: 2, ..reply }),
        ("frame_bytes", net::reply::HelloReply { frame_bytes: (1 << 20) + 1, ..reply }),
        ("in_flight", net::reply::HelloReply { in_flight: 5, ..reply }),
        ("features", net::reply::HelloReply { features: 0b100, ..reply }),
    ];
    for (field, wrong) in cases {
        let answer = reply_frame(Operation::Hello.code() | REPLY_BIT, 0, |out| encode_hello(out, &wrong));
        assert_eq!(session.clone().next(&answer), Err(SessionBroken::HelloMismatch { field }));
    }
    let answer = reply_frame(Operation::Hello.code() | REPLY_BIT, 0, |out| {
        encode_outcome(out, LogTime(0), &Outcome::Unauthorized)
    });
    assert_eq!(session.next(&answer), Err(SessionBroken::Refused(Outcome::Unauthorized)));
}
