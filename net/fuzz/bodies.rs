//! What is tried with any bytes, shared by the fuzz targets and by tests/mutate.rs.
//!
//! Owns the properties: a decoder never panics; what it accepts encodes to the same bytes; a session never takes more than it
//! was given and always comes to an end. Each body also tries its input with the checksums made right, so that what lies
//! behind them is reached. Answers how many of its tries were accepted, so that a test sees whether it got past the
//! checks.

use layout::units::Uuid;
use net::cold::{ColdAnswer, encode_freed, encode_index, encode_listed, encode_reserved, encode_sealed};
use net::field::Sink;
use net::frame::{BODY_BYTES_MAX, HEADER_BYTES, next_frame, seal};
use net::peer::*;
use net::reply::*;
use net::request::{AuthMethod, Hello};
use net::route::ClusterMap;
use net::session::*;
use net::{Operation, Reply, Request};

/// The frame with its length and both checksums made right, when it is long enough to have them.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut frame = data.to_vec();
    if let Some(head) = data.first_chunk::<HEADER_BYTES>() {
        let [request, epoch] =
            [&head[8..16], &head[16..24]].map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
        seal(&mut frame, head[5], request, (epoch >> 32) as u32);
    }
    frame
}

/// One frame: cut, decoded, encoded again.
pub(crate) fn frame(data: &[u8]) -> usize {
    let mut accepted = 0;
    for bytes in [data, &mended(data)] {
        let Ok(Some(frame)) = next_frame(bytes, BODY_BYTES_MAX) else { continue };
        assert_eq!(frame.consumed, HEADER_BYTES + frame.body.len());
        let mut again = bytes[..frame.consumed].to_vec();
        seal(&mut again, frame.header.code(), frame.header.request, frame.header.map_epoch);
        assert_eq!(again, bytes[..frame.consumed], "a frame that was accepted is sealed the same again");
        let decoded = if frame.header.is_reply {
            reply(frame.header.operation, frame.body)
        } else {
            request(frame.header.operation, frame.body)
        };
        accepted += usize::from(decoded);
    }
    accepted
}

fn request(operation: Operation, body: &[u8]) -> bool {
    let Ok(request) = Request::decode(operation, body) else { return false };
    let mut again = Vec::new();
    request.encode(&mut again);
    assert_eq!(again, body, "{request:?}");
    assert_eq!(request.encoded_bytes(), body.len());
    true
}

fn reply(operation: Operation, body: &[u8]) -> bool {
    let Ok(reply) = Reply::decode(operation, body) else { return false };
    if let Answer::Map(bytes) = reply.answer {
        return map(bytes);
    }
    let mut again = vec![0; body.len()];
    let bytes = encode(&mut again, &reply);
    assert_eq!(bytes, body.len(), "{reply:?}");
    assert_eq!(again, body, "{reply:?}");
    true
}

/// The cluster map: what is accepted is valid, encodes the same, and its replica orders can be computed.
fn map(bytes: &[u8]) -> bool {
    let Ok(map) = ClusterMap::decode(bytes) else { return false };
    let mut again = Vec::new();
    map.encode(&mut again);
    assert_eq!(again, bytes);
    assert!((0..map.groups.len()).all(|group| map.replica_order(group).is_ok()), "a valid map has orders");
    true
}

fn encode(out: &mut [u8], reply: &Reply<'_>) -> usize {
    match reply.answer {
        Answer::Cold(cold) => {
            let bytes = match cold {
                ColdAnswer::Reserved(kept, place) => encode_reserved(out, kept, &place),
                ColdAnswer::Written => net::cold::encode_written(out),
                ColdAnswer::Sealed(checksum) => encode_sealed(out, checksum),
                ColdAnswer::Freed(count) => encode_freed(out, count),
                ColdAnswer::Listed(list) => encode_listed(out, &list.iter().collect::<Vec<_>>(), list.more),
                ColdAnswer::Index(index) => encode_index(out, &index),
                ColdAnswer::Read(blocks) => net::cold::encode_read(out, blocks),
                ColdAnswer::Files(files) => {
                    let said = |item: net::cold::ColdFileItem<'_>| net::cold::ColdFileSaid {
                        file: item.file,
                        generation: item.generation,
                        head: item.head,
                        section_count: item.section_count,
                        freed: item.freed.to_vec(),
                        reserved: item.reserved().collect(),
                    };
                    let items: Vec<_> = files.iter().map(said).collect();
                    net::cold::encode_files(out, &files.head, &items)
                }
                ColdAnswer::Copied(bytes) => net::cold::encode_copy(out, bytes),
            };
            put_log_time(out, reply);
            bytes
        }
        Answer::Not(outcome) => encode_outcome(out, reply.log_time, &outcome),
        Answer::Redirect(redirect) => net::redirect::encode_redirect(out, reply.log_time, &redirect),
        Answer::Hello(hello) => {
            let bytes = encode_hello(out, &hello);
            // Only replies that ask a tablet have a log time of their own; the others are written with none.
            put_log_time(out, reply);
            bytes
        }
        Answer::Echo(payload) | Answer::Map(payload) => {
            let bytes = encode_echo(out, payload);
            put_log_time(out, reply);
            bytes
        }
        Answer::Status(text) => {
            let bytes = encode_status(out, text);
            put_log_time(out, reply);
            bytes
        }
        Answer::Record { version, expiry, value } => {
            encode_get_ok(out, reply.log_time, version, expiry, value)
        }
        Answer::Written(w) => encode_written(out, reply.log_time, w.version, w.repeated),
        Answer::BatchWritten { first, count } => {
            encode_batch_written(out, reply.log_time, first.version, count, first.repeated)
        }
        Answer::MultiGet(many) => {
            let mut writer = MultiGetWriter::new(out, many.count());
            for item in many.items() {
                let log_time = item.reply.log_time;
                let fits = match item.reply.answer {
                    Answer::Record { version, expiry, value } => {
                        writer.record(item.index, log_time, version, expiry, value)
                    }
                    Answer::Not(outcome) => writer.outcome(item.index, log_time, &outcome),
                    other => panic!("an item is a get's reply, not {other:?}"),
                };
                assert!(fits, "it came from as many bytes");
            }
            let bytes = writer.finish();
            put_log_time(out, reply);
            bytes
        }
        Answer::Records(page) => {
            let mut writer = RecordsWriter::new(out, reply.log_time, page.log_index);
            for record in page.iter() {
                assert!(
                    writer.push(record.time, record.version, record.expiry, record.value),
                    "it came from as many bytes"
                );
            }
            writer.finish(page.resume)
        }
        Answer::Streams(list) => {
            let mut writer = StreamsWriter::new(out, reply.log_time);
            for (space, stream) in list.iter() {
                assert!(writer.push(space, stream), "it came from as many bytes");
            }
            writer.finish(list.more)
        }
    }
}

fn put_log_time(out: &mut [u8], reply: &Reply<'_>) {
    out[8..16].copy_from_slice(&reply.log_time.0.to_le_bytes());
}

fn hello() -> Hello<'static> {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        method: AuthMethod::None,
        auth: &[],
        features: 0,
        frame_bytes: BODY_BYTES_MAX,
        in_flight: 8,
        client: 1,
        cluster: Uuid::default(),
    }
}

/// A connection to a server: a good hello, or none, and then the bytes, a few more each turn.
pub(crate) fn server(data: &[u8]) -> usize {
    let mut accepted = 0;
    for good_hello in [false, true] {
        let mut input = Vec::new();
        if good_hello {
            append_frame(&Request::Hello(hello()), 0, 0, &mut input);
        }
        Sink::put(&mut input, data);
        let identity = ServerIdentity { cluster: Uuid([1; 16]), node: 1, incarnation: 1, features: 0 };
        let mut session = ServerSession::new(ServerLimits::default(), identity, 0);
        let (mut from, mut to, mut now) = (0, 0, 0);
        // Each turn takes a frame or shows more bytes, and a frame has 32, so this many turns are enough.
        for _ in 0..2 * input.len() + 8 {
            now += 1;
            match session.next(now, 1, &input[from..to]) {
                Step::Need { bytes } => {
                    assert!(bytes > to - from, "asks for what it has");
                    if to == input.len() {
                        break;
                    }
                    to = input.len().min(to + 1 + data.first().map_or(0, |byte| *byte as usize));
                }
                Step::Full => unreachable!("each is answered at once"),
                Step::Request { consumed, .. } => {
                    accepted += 1;
                    from += consumed;
                    session.answered(now);
                }
                Step::Answer { consumed, close, .. } => {
                    from += consumed;
                    assert!(close.is_none() || matches!(session.next(now, 1, &[]), Step::Close(_)));
                }
                Step::Peer { .. } | Step::Close(_) => break,
            }
            assert!(from <= to, "took more than it was given");
            assert!(session.deadline_us().is_some(), "silence has a deadline in each state");
        }
    }
    accepted
}

/// A connection to a server that answers hello well and then anything; four requests are in flight.
pub(crate) fn client(data: &[u8]) -> usize {
    let mut session = ClientSession::new(8);
    session.send_hello(&hello(), &mut Vec::new());
    let agreed = HelloReply {
        protocol: 1,
        frame_bytes: BODY_BYTES_MAX,
        in_flight: 8,
        node: 1,
        features: 0,
        cluster: Uuid([1; 16]),
        incarnation: 1,
        map_epoch: 1,
        idle_ms: 0,
    };
    let mut answer = vec![0; HEADER_BYTES + reply_bytes_hello()];
    encode_hello(&mut answer[HEADER_BYTES..], &agreed);
    seal(&mut answer, Operation::Hello.code() | net::operation::REPLY_BIT, 0, 1);
    assert!(matches!(session.next(&answer), Ok(ClientStep::Hello { .. })));
    // The numbers of the golden replies, in turn with each operation.
    let mut accepted = 0;
    for operation in Operation::ALL {
        let mut session = session.clone();
        let number = session.begin(operation, 0, 77).expect("eight are allowed");
        assert_eq!(number, 0x1_0000, "the number that the golden replies carry");
        let mut rest = data;
        loop {
            match session.next(rest) {
                Ok(ClientStep::Need { bytes }) => {
                    assert!(bytes > rest.len(), "asks for what it has");
                    break;
                }
                Ok(ClientStep::Reply { tag, consumed, .. }) => {
                    assert_eq!((tag, session.in_flight()), (77, 0));
                    accepted += 1;
                    rest = &rest[consumed..];
                }
                Ok(ClientStep::Hello { consumed, .. } | ClientStep::Late { consumed }) => {
                    rest = &rest[consumed..]
                }
                Err(_) => break,
            }
        }
    }
    accepted
}

/// A connection between two nodes, from both ends: a hello, batches, answers. What is accepted encodes to the same bytes.
pub(crate) fn peer(data: &[u8]) -> usize {
    let mut accepted = 0;
    for bytes in [data, &mended(data)] {
        if let Ok(Some(frame)) = next_frame(bytes, BODY_BYTES_MAX)
            && let Ok(hello) = PeerHello::decode(frame.body)
        {
            assert_eq!(hello.frame()[HEADER_BYTES..], *frame.body);
            accepted += usize::from(frame.header.operation == Operation::PeerHello);
        }
        accepted += batches(bytes) + answers(bytes);
    }
    accepted
}

/// To who was called, after its hello.
fn batches(input: &[u8]) -> usize {
    let mut session = PeerSession::new(2, BODY_BYTES_MAX, 0);
    let (mut at, mut accepted) = (0, 0);
    loop {
        match session.next(1, &input[at..]) {
            PeerStep::Need { bytes } => {
                assert!(bytes > input.len() - at, "asks for what it has");
                return accepted;
            }
            PeerStep::Batch { messages, answer, consumed } => {
                let mut again = vec![0; HEADER_BYTES];
                for message in messages {
                    let bytes = message.payload.len() as u32;
                    again.extend_from_slice(&message_head(message.tablet, message.kind, bytes));
                    again.extend_from_slice(message.payload);
                }
                assert_eq!(again[HEADER_BYTES..], input[at + HEADER_BYTES..at + consumed]);
                assert!(answer.is_none_or(|number| number > 0));
                at += consumed;
                accepted += 1;
            }
            PeerStep::Close(broken) => {
                assert_eq!(session.next(2, b""), PeerStep::Close(broken), "it stays closed");
                return accepted;
            }
        }
    }
}

/// To who calls.
fn answers(input: &[u8]) -> usize {
    let mut accepted = 0;
    for begins_greeted in [false, true] {
        let (mut at, mut greeted) = (0, begins_greeted);
        while let Ok(answer) = next_answer(&input[at..], greeted) {
            match answer {
                PeerAnswer::Need { bytes } => {
                    assert!(bytes > input.len() - at, "asks for what it has");
                    break;
                }
                PeerAnswer::Hello { reply, consumed } => {
                    assert_eq!(reply.frame()[HEADER_BYTES..], input[at + HEADER_BYTES..at + consumed]);
                    greeted = true;
                    at += consumed;
                }
                PeerAnswer::Read { consumed, .. } => at += consumed,
            }
            accepted += 1;
        }
    }
    accepted
}
