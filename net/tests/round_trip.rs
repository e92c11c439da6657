//! Every request and reply survives encoding and decoding, and `encoded_bytes` and `reply_bytes_*` tell the truth.

use layout::key::Key;
use layout::units::{LogIndex, LogTime, RequestId, Space, TabletIndex, Uuid, Version};
use net::Operation;
use net::outcome::{Limit, Outcome, Why};
use net::reply::*;
use net::request::*;
use proptest::prelude::*;

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 1..20), prop::collection::vec(any::<u8>(), 127..=128)]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

fn id() -> impl Strategy<Value = RequestId> {
    (1..=u64::MAX, any::<u64>(), 1..=u64::MAX).prop_map(|(client, log_time, sequence)| RequestId {
        client,
        log_time,
        sequence,
    })
}

fn check(request: &Request<'_>) {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    assert_eq!(bytes.len(), request.encoded_bytes());
    assert_eq!(Request::decode(request.operation(), &bytes).as_ref(), Ok(request));
    // A body cut short is never taken for a whole one, except an echo and a map, which is looked at later.
    if !matches!(request, Request::Ping(_) | Request::SetMap(_)) {
        for cut in 0..bytes.len() {
            assert!(Request::decode(request.operation(), &bytes[..cut]).is_err(), "{request:?} cut at {cut}");
        }
        bytes.push(0);
        assert!(Request::decode(request.operation(), &bytes).is_err(), "{request:?} with one byte more");
    }
}

fn reply_of(operation: Operation, bytes: &[u8]) -> Reply<'_> {
    let any = [
        Operation::Ping,
        Operation::Map,
        Operation::SetMap,
        Operation::Status,
        Operation::Verify,
        Operation::Hot,
    ];
    if !any.contains(&operation) {
        for cut in 0..bytes.len() {
            assert!(Reply::decode(operation, &bytes[..cut]).is_err(), "{operation:?} cut at {cut}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(Reply::decode(operation, &longer).is_err(), "{operation:?} with one byte more");
    }
    Reply::decode(operation, bytes).expect("what was encoded decodes")
}

proptest! {
    #[test]
    fn requests_of_one_key(
        space in any::<u16>(), stream in stream(), time in any::<u64>(), id in id(), value in value(),
        (local, newer, redirect, version, expiry) in any::<(bool, bool, bool, u64, u64)>(),
    ) {
        let key = Key::new(Space(space), &stream, time).unwrap();
        let if_newer = newer.then_some(Version(version));
        check(&Request::Get(Get { key, local, if_newer, redirect }));
        check(&Request::Put(Put { id, key, expiry, value: &value }));
        check(&Request::Delete(Delete { id, key }));
        check(&Request::CompareAndSet(CompareAndSet { id, key, expected: Version(version), expiry, value: &value }));
        check(&Request::Ping(&value));
    }

    #[test]
    fn requests_of_many_keys(
        keys in prop::collection::vec((any::<u16>(), stream(), any::<u64>(), any::<bool>()), 1..20),
        writes in prop::collection::vec((any::<u64>(), prop::option::of((any::<u64>(), value()))), 1..20),
        id in id(),
    ) {
        let mut many = MultiGetBody::new();
        for (space, stream, time, local) in &keys {
            let key = Key::new(Space(*space), stream, *time).unwrap();
            let get = Get { key, local: *local, if_newer: None, redirect: false };
            prop_assert!(many.push(&get));
        }
        check(&Request::MultiGet(many.request().unwrap()));
        let gets: Vec<_> = many.request().unwrap().gets().map(|get| get.key.time).collect();
        prop_assert_eq!(gets, keys.iter().map(|key| key.2).collect::<Vec<_>>());

        let mut batch = BatchBody::new();
        let operations: Vec<BatchOperation<'_>> = writes
            .iter()
            .map(|(time, put)| BatchOperation {
                time: *time,
                change: put.as_ref().map_or(Change::Delete, |(expiry, value)| Change::Put { expiry: *expiry, value }),
            })
            .collect();
        for operation in &operations {
            prop_assert!(batch.push(operation));
        }
        let request = batch.request(id, Space(keys[0].0), &keys[0].1).unwrap();
        check(&Request::Batch(request));
        prop_assert_eq!(request.operations().collect::<Vec<_>>(), operations);
    }

    #[test]
    fn requests_of_ranges_and_of_the_node(
        (space, from, to, local, backward) in any::<(u16, u64, u64, bool, bool)>(), stream in stream(),
        (record_limit, byte_limit, group, known_epoch) in any::<(u32, u32, u16, u32)>(), tablet in 0u8..64,
        (one, after) in any::<(bool, bool)>(), auth in prop::collection::vec(any::<u8>(), 0..40),
        frame_bytes in 4096..=u32::MAX, in_flight in 1..=u32::MAX, cluster in any::<[u8; 16]>(),
    ) {
        let (space, tablet) = (Space(space), TabletIndex::new(tablet).unwrap());
        let (from, to) = (from.min(to), from.max(to));
        check(&Request::Scan(Scan { space, stream: &stream, from, to, backward, local, record_limit, byte_limit }));
        check(&Request::Head(Head { space, stream: &stream, local, record_limit, byte_limit }));
        check(&Request::Streams(Streams {
            group,
            tablet,
            space: one.then_some(space),
            after: after.then_some((space, &stream)),
            limit: record_limit,
        }));
        check(&Request::Map(Map { known_epoch }));
        check(&Request::Status);
        check(&Request::Verify);
        check(&Request::Hot);
        check(&Request::SetMap(&auth));
        check(&Request::Hello(Hello {
            protocol_min: 1,
            protocol_max: 3,
            method: if auth.is_empty() { AuthMethod::None } else { AuthMethod::Token },
            auth: &auth,
            features: from,
            frame_bytes,
            in_flight,
            client: to,
            cluster: Uuid(cluster),
        }));
    }

    #[test]
    fn replies_of_records(
        (time, log, expiry, index) in any::<(u64, u64, u64, u64)>(), version in 1..=u64::MAX, value in value(),
        records in prop::collection::vec((any::<u64>(), 1..=u64::MAX, any::<u64>(), value()), 0..10),
        resume in any::<Option<u64>>(),
    ) {
        let mut out = [0u8; 8192];
        let log_time = LogTime(log);
        let bytes = encode_get_ok(&mut out, log_time, Version(version), expiry, &value);
        prop_assert_eq!(bytes, reply_bytes_get_ok(value.len()));
        let answer = Answer::Record { version: Version(version), expiry, value: &value };
        prop_assert_eq!(reply_of(Operation::Get, &out[..bytes]), Reply { log_time, answer });

        let mut out = [0u8; 8192];
        let mut writer = RecordsWriter::new(&mut out, log_time, LogIndex(index));
        for (time, version, expiry, value) in &records {
            prop_assert!(writer.push(*time, Version(*version), *expiry, value));
        }
        let bytes = writer.finish(resume);
        let room: usize = records.iter().map(|(.., value)| reply_bytes_record(value.len())).sum();
        prop_assert_eq!(bytes, reply_bytes_records() + room);
        let Answer::Records(page) = reply_of(Operation::Scan, &out[..bytes]).answer else { panic!("not a page") };
        prop_assert_eq!((page.log_index, page.resume), (LogIndex(index), resume));
        let read: Vec<_> = page.iter().map(|r| (r.time, r.version.0, r.expiry, r.value.to_vec())).collect();
        prop_assert_eq!(read, records);

        let mut out = [0u8; 8192];
        let mut writer = MultiGetWriter::new(&mut out, 2);
        prop_assert!(writer.record(1, log_time, Version(version), expiry, &value));
        prop_assert!(writer.outcome(0, log_time, &Outcome::NotFound));
        let bytes = writer.finish();
        prop_assert_eq!(bytes, reply_bytes_multi_get(2, reply_bytes_get_ok(value.len()) + 16));
        let Answer::MultiGet(many) = reply_of(Operation::MultiGet, &out[..bytes]).answer else { panic!("not many") };
        let read: Vec<_> = many.items().map(|item| (item.index, item.reply.answer)).collect();
        prop_assert_eq!(read, vec![(1, answer), (0, Answer::Not(Outcome::NotFound))]);
        let _ = time;
    }
}

#[test]
fn replies_of_writes_and_pages_and_hello() {
    let mut out = [0u8; 512];
    let log_time = LogTime(9);
    for repeated in [false, true] {
        let bytes = encode_written(&mut out, log_time, Version(7), repeated);
        assert_eq!(bytes, reply_bytes_written());
        let written = Written { version: Version(7), repeated };
        for operation in [Operation::Put, Operation::Delete, Operation::CompareAndSet] {
            assert_eq!(
                reply_of(operation, &out[..bytes]),
                Reply { log_time, answer: Answer::Written(written) }
            );
        }
        let bytes = encode_batch_written(&mut out, log_time, Version(7), 3, repeated);
        assert_eq!(bytes, reply_bytes_batch_written());
        let answer = Answer::BatchWritten { first: written, count: 3 };
        assert_eq!(reply_of(Operation::Batch, &out[..bytes]).answer, answer);
    }

    let mut writer = StreamsWriter::new(&mut out, log_time);
    assert!(writer.push(Space(3), b"one") && writer.push(Space(4), &[0xff; 128]));
    let bytes = writer.finish(true);
    assert_eq!(bytes, reply_bytes_streams() + reply_bytes_stream(3) + reply_bytes_stream(128));
    let Answer::Streams(list) = reply_of(Operation::Streams, &out[..bytes]).answer else { panic!("no list") };
    assert!(list.more);
    assert_eq!(list.iter().collect::<Vec<_>>(), [(Space(3), &b"one"[..]), (Space(4), &[0xff; 128][..])]);

    let hello = HelloReply {
        protocol: 1,
        frame_bytes: 4096,
        in_flight: 1,
        node: 2,
        features: 3,
        cluster: Uuid([4; 16]),
        incarnation: 5,
        map_epoch: 6,
        idle_ms: 7,
    };
    let bytes = encode_hello(&mut out, &hello);
    assert_eq!(bytes, reply_bytes_hello());
    assert_eq!(reply_of(Operation::Hello, &out[..bytes]).answer, Answer::Hello(hello));

    for (operation, answer) in [
        (Operation::Ping, Answer::Echo(b"{}")),
        (Operation::Map, Answer::Map(b"{}")),
        (Operation::SetMap, Answer::Map(b"{}")),
        (Operation::Status, Answer::Status("{}")),
    ] {
        let bytes = encode_echo(&mut out, b"{}");
        assert_eq!(bytes, reply_bytes_payload(2));
        assert_eq!(reply_of(operation, &out[..bytes]).answer, answer);
    }
}

#[test]
fn outcomes_fit_their_operations() {
    let all = || Operation::ALL.into_iter().chain(Operation::COLD);
    let mut out = [0u8; 64];
    let outcomes = [
        (Outcome::NotFound, vec![Operation::Get, Operation::ColdGet]),
        (Outcome::Moved, Operation::COLD.to_vec()),
        (Outcome::NotModified, vec![Operation::Get, Operation::Map]),
        (Outcome::VersionMismatch { current: None }, vec![Operation::CompareAndSet]),
        (Outcome::VersionMismatch { current: Some(Version(8)) }, vec![Operation::CompareAndSet]),
        (Outcome::VersionMismatch { current: Some(Version(0)) }, vec![Operation::CompareAndSet]),
        (Outcome::UnknownOutcome, all().filter(|o| o.is_write()).collect()),
        (Outcome::TooOld, all().filter(|o| o.is_write()).collect()),
        (Outcome::Timeout, all().filter(|o| !o.is_write()).collect()),
        (Outcome::Busy { limit: Limit::Space, hint_ms: 20 }, all().collect()),
        (Outcome::NotCurrent, all().collect()),
        (Outcome::WrongGroup { epoch: 4 }, all().collect()),
        (Outcome::TooLarge { limit: Limit::Value }, all().collect()),
        (Outcome::BadRequest { why: Why::Time, at: 8 }, all().collect()),
        (Outcome::Unauthorized, all().collect()),
        (Outcome::Corrupt, all().collect()),
    ];
    for (outcome, fits) in outcomes {
        let bytes = encode_outcome(&mut out, LogTime(3), &outcome);
        assert_eq!(bytes, reply_bytes_outcome(&outcome));
        for operation in all() {
            let decoded = Reply::decode(operation, &out[..bytes]);
            if fits.contains(&operation) {
                assert_eq!(decoded, Ok(Reply { log_time: LogTime(3), answer: Answer::Not(outcome) }));
            } else {
                assert!(decoded.is_err(), "{outcome} in a reply to {operation:?}");
            }
        }
    }
}
