//! What is said to nodes with cold disks: golden vectors in `golden/cold.json`, every body there and back, and bodies that are wrong.
//!
//! After a wanted change write the vectors anew: `NET_GOLDEN_WRITE=1 cargo test -p net --test cold`.

use layout::cold_kept::KeptFor;
use layout::key::Key;
use layout::units::{BucketIndex, LogIndex, LogTime, Space, Version};
use net::cold::*;
use net::frame::{BODY_BYTES_MAX, HEADER_BYTES, next_frame, seal};
use net::operation::{Operation, REPLY_BIT};
use net::outcome::{Limit, Outcome, Why};
use net::reply::{Answer, RecordsWriter, Reply, encode_get_ok, encode_outcome};
use net::request::{Request, RequestError};
use net::session::append_frame;
use proptest::prelude::*;
use serde_json::{Value, json};

const FILE: &str = include_str!("../golden/cold.json");

fn place() -> ColdPlace {
    ColdPlace {
        group: 2,
        disk: 7,
        whom: KeptFor {
            tablet_group: 5,
            bucket: BucketIndex::new(70_001).expect("a bucket"),
            window_from: 86_400_000_000 * 16,
            window_days: 4,
            window_generation: 3,
        },
        file: 9,
        file_generation: 2,
        offset: 40_960,
        content_bytes: 5_000,
        number: 31,
        section_count: 2,
    }
}

fn wanted() -> ColdPlace {
    ColdPlace { file: 0, file_generation: 0, offset: 0, number: 0, ..place() }
}

fn blocks() -> ColdBlocks {
    let KeptFor { bucket, window_from, window_days, window_generation, .. } = place().whom;
    ColdBlocks {
        group: 2,
        disk: 7,
        bucket,
        window_from,
        window_days,
        window_generation,
        file: 9,
        file_generation: 2,
        offset: 41_337,
        block_offset: 1_234,
        block_bytes: 567,
    }
}

fn section() -> ColdBlocks {
    ColdBlocks { block_offset: 0, block_bytes: 0, ..blocks() }
}

fn copy() -> ColdCopyOf {
    ColdCopyOf { group: 2, disk: 7, file: 9, file_generation: 2, offset: 40_960, bytes: 8_192 }
}

fn files() -> (ColdFilesHead, Vec<ColdFileSaid>) {
    let head = ColdFilesHead { is_filling: true, file_count: 40, file_bytes: 1 << 20, more: Some(9) };
    let run = ColdReservedRun { file_generation: 3, number: 9, section_count: 2 };
    let full = ColdFileSaid {
        file: 3,
        generation: 3,
        head: 81_920,
        section_count: 11,
        freed: vec![0x81, 0x04],
        reserved: vec![run, ColdReservedRun { number: 11, ..run }],
    };
    let begins = ColdFileSaid { file: 8, reserved: vec![run], ..ColdFileSaid::default() };
    (head, vec![full, begins])
}

fn requests() -> Vec<(&'static str, ColdRequest<'static>)> {
    static PIECE: [u8; 904] = [0x5e; 904];
    let key = Key::new(Space(3), b"user-1", 1_700_000_000_123_456).expect("a key");
    let scan = ColdScan {
        blocks: blocks(),
        space: Space(3),
        stream: b"user-1",
        from: 5,
        to: 1 << 60,
        backward: true,
        record_limit: 10,
        byte_limit: 4_096,
    };
    vec![
        ("reserve", ColdRequest::Reserve { place: wanted(), exactly: false }),
        ("reserve-exactly", ColdRequest::Reserve { place: place(), exactly: true }),
        ("write-last-piece", ColdRequest::Write { place: place(), at: 4_096, bytes: &PIECE }),
        ("seal", ColdRequest::Seal { place: place(), checksum: 0x0123_4567_89ab_cdef_0011_2233_4455_6677 }),
        ("free", ColdRequest::Free { place: place() }),
        ("get", ColdRequest::Get { blocks: blocks(), key }),
        ("scan", ColdRequest::Scan(scan)),
        ("list", ColdRequest::List { group: 2, disk: 7, file: 3, offset: 8_192, limit: 100 }),
        ("index", ColdRequest::Index { section: section() }),
        ("read", ColdRequest::Read { blocks: blocks() }),
        ("files", ColdRequest::Files(ColdFilesOf { group: 2, disk: 7, file: 3, limit: 100, freed: true })),
        ("copy", ColdRequest::Copy(copy())),
    ]
}

fn reply_frame(operation: Operation, encode: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut out = vec![0; 8192];
    let bytes = encode(&mut out[HEADER_BYTES..]);
    out.truncate(HEADER_BYTES + bytes);
    seal(&mut out, operation.code() | REPLY_BIT, 0x1_0000, 7);
    out
}

fn replies() -> Vec<(&'static str, Vec<u8>)> {
    let version = Version(9 << 16 | 1);
    let index = ColdIndex {
        record_count: 12,
        data_bytes: 4_500,
        number: 31,
        digest: u128::MAX - 9,
        index: b"stored",
    };
    let places = [(ColdKept::Reserved, place()), (ColdKept::Sealed, place())];
    let not =
        |operation, outcome: Outcome| reply_frame(operation, |out| encode_outcome(out, LogTime(0), &outcome));
    vec![
        ("reserve-new", reply_frame(Operation::ColdReserve, |o| encode_reserved(o, ColdKept::New, &place()))),
        (
            "reserve-taken",
            reply_frame(Operation::ColdReserve, |o| encode_reserved(o, ColdKept::Taken, &place())),
        ),
        ("write-ok", reply_frame(Operation::ColdWrite, encode_written)),
        ("seal-ok", reply_frame(Operation::ColdSeal, |out| encode_sealed(out, 77 << 100))),
        ("free-ok", reply_frame(Operation::ColdFree, |out| encode_freed(out, 2))),
        ("get-ok", reply_frame(Operation::ColdGet, |o| encode_get_ok(o, LogTime(0), version, 0, b"hello"))),
        (
            "scan-ok",
            reply_frame(Operation::ColdScan, |out| {
                let mut writer = RecordsWriter::new(out, LogTime(0), LogIndex(0));
                assert!(writer.push(8, version, 0, b"one"), "it fits");
                writer.finish(Some(7))
            }),
        ),
        ("list-ok", reply_frame(Operation::ColdList, |out| encode_listed(out, &places, Some((4, 4_096))))),
        ("list-end", reply_frame(Operation::ColdList, |out| encode_listed(out, &[], None))),
        ("index-ok", reply_frame(Operation::ColdIndex, |out| encode_index(out, &index))),
        ("read-ok", reply_frame(Operation::ColdRead, |out| encode_read(out, b"blocks as stored"))),
        ("files-ok", reply_frame(Operation::ColdFiles, |out| encode_files(out, &files().0, &files().1))),
        ("copy-ok", reply_frame(Operation::ColdCopy, |out| encode_copy(out, &[0x77; 4_096]))),
        ("copy-moved", not(Operation::ColdCopy, Outcome::Moved)),
        ("copy-corrupt", not(Operation::ColdCopy, Outcome::Corrupt)),
        ("files-busy", not(Operation::ColdFiles, Outcome::Busy { limit: Limit::Device, hint_ms: 1_000 })),
        ("read-moved", not(Operation::ColdRead, Outcome::Moved)),
        ("read-too-large", not(Operation::ColdRead, Outcome::TooLarge { limit: Limit::Frame })),
        ("get-not-found", not(Operation::ColdGet, Outcome::NotFound)),
        ("get-moved", not(Operation::ColdGet, Outcome::Moved)),
        ("get-corrupt", not(Operation::ColdGet, Outcome::Corrupt)),
        ("write-moved", not(Operation::ColdWrite, Outcome::Moved)),
        ("reserve-no-disk", not(Operation::ColdReserve, Outcome::BadRequest { why: Why::Disk, at: 0 })),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn document() -> Value {
    let frame = |request: &ColdRequest<'_>| {
        let mut out = Vec::new();
        append_frame(&Request::Cold(*request), 0x1_0000, 7, &mut out);
        out
    };
    let one = |name: &str, bytes: &[u8]| {
        let frame = next_frame(bytes, BODY_BYTES_MAX).expect("a frame").expect("whole");
        let (operation, body) = (frame.header.operation, frame.body);
        let said = if frame.header.is_reply {
            format!("{:?}", Reply::decode(operation, body).expect("a reply").answer)
        } else {
            format!("{:?}", Request::decode(operation, body).expect("a request"))
        };
        json!({ "name": name, "operation": operation.name(), "said": said, "frame": hex(bytes) })
    };
    let requests: Vec<Value> = requests().iter().map(|(name, request)| one(name, &frame(request))).collect();
    let replies: Vec<Value> = replies().iter().map(|(name, frame)| one(name, frame)).collect();
    json!({ "requests": requests, "replies": replies })
}

#[test]
#[expect(clippy::disallowed_methods, reason = "writes a file of the repository when told to")]
fn the_file_is_what_the_code_says() {
    let text = serde_json::to_string_pretty(&document()).expect("plain values") + "\n";
    if std::env::var_os("NET_GOLDEN_WRITE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/cold.json");
        return std::fs::write(path, text).expect("the repository is writable");
    }
    assert!(text == FILE, "golden/cold.json is not what the code says: see the head of this file");
}

#[test]
fn each_operation_has_vectors_in_both_directions() {
    let document = document();
    for side in ["requests", "replies"] {
        let vectors = document[side].as_array().expect("a list");
        for operation in Operation::COLD {
            assert!(
                vectors.iter().any(|one| one["operation"] == operation.name()),
                "{side} of {operation:?}"
            );
        }
    }
}

/// Any byte of any body changed, cut or added: refused, or another request that encodes to just these bytes.
#[test]
fn no_bytes_are_taken_for_more_than_they_say() {
    for (name, request) in requests() {
        let mut body = Vec::new();
        Request::Cold(request).encode(&mut body);
        assert_eq!(body.len(), Request::Cold(request).encoded_bytes(), "{name}");
        assert_eq!(Request::decode(request.operation(), &body), Ok(Request::Cold(request)), "{name}");
        for cut in 0..body.len() {
            assert!(Request::decode(request.operation(), &body[..cut]).is_err(), "{name} cut at {cut}");
        }
        let mut longer = body.clone();
        longer.push(0);
        assert!(Request::decode(request.operation(), &longer).is_err(), "{name} with a byte more");
        for at in 0..body.len() {
            for byte in 0..=255u8 {
                let mut other = body.clone();
                other[at] = byte;
                for operation in Operation::COLD {
                    let Ok(decoded) = Request::decode(operation, &other) else { continue };
                    let mut again = Vec::new();
                    decoded.encode(&mut again);
                    assert_eq!(again, other, "{name}: {decoded:?}");
                }
            }
        }
    }
    for (name, frame) in replies() {
        let operation = Operation::from_code(frame[5] & !REPLY_BIT).expect("an operation");
        let body = &frame[HEADER_BYTES..];
        assert!(Reply::decode(operation, body).is_ok(), "{name}");
        for cut in 0..body.len() {
            assert!(Reply::decode(operation, &body[..cut]).is_err(), "{name} cut at {cut}");
        }
        for at in 0..body.len() {
            for byte in 0..=255u8 {
                let mut other = body.to_vec();
                other[at] = byte;
                if let Ok(Reply { answer: Answer::Cold(ColdAnswer::Listed(list)), .. }) =
                    Reply::decode(operation, &other)
                {
                    assert!(list.iter().count() <= 2, "{name}");
                }
                if let Ok(Reply { answer: Answer::Cold(ColdAnswer::Files(files)), .. }) =
                    Reply::decode(operation, &other)
                {
                    assert!(files.iter().map(|item| item.reserved().count()).sum::<usize>() <= 3, "{name}");
                }
            }
        }
    }
}

#[test]
fn places_that_cannot_be_are_named() {
    let refused = |request: ColdRequest<'_>, why: Why, at: u32| {
        let mut body = Vec::new();
        Request::Cold(request).encode(&mut body);
        let found = Request::decode(request.operation(), &body);
        assert_eq!(found, Err(RequestError::Bad { why, at }), "{request:?}");
    };
    refused(ColdRequest::Free { place: wanted() }, Why::Place, 32);
    refused(ColdRequest::Reserve { place: place(), exactly: false }, Why::Place, 36);
    refused(ColdRequest::Reserve { place: wanted(), exactly: true }, Why::Place, 36);
    let at = ColdPlace { offset: 4_096, ..wanted() };
    refused(ColdRequest::Reserve { place: at, exactly: false }, Why::Place, 36);
    let mut body = Vec::new();
    let passes = ColdRequest::Reserve { place: ColdPlace { file: 9, ..wanted() }, exactly: false };
    Request::Cold(passes).encode(&mut body);
    assert_eq!(
        Request::decode(passes.operation(), &body),
        Ok(Request::Cold(passes)),
        "files are passed over"
    );
    refused(ColdRequest::Free { place: ColdPlace { content_bytes: 0, ..place() } }, Why::Place, 40);
    refused(ColdRequest::Free { place: ColdPlace { section_count: 0, ..place() } }, Why::Place, 48);
    refused(ColdRequest::Free { place: ColdPlace { section_count: 40_000, ..place() } }, Why::Place, 48);
    refused(ColdRequest::Free { place: ColdPlace { offset: u32::MAX, ..place() } }, Why::Place, 36);
    for (at, bytes) in
        [(4_096, 905), (4_096, 903), (0, 4_097), (8_192, 1), (1, 4_096), (0, 0), (4_294_963_200, 904)]
    {
        let bytes = vec![1; bytes];
        refused(ColdRequest::Write { place: place(), at, bytes: &bytes }, Why::Place, 0);
    }
    let large = ColdBlocks { block_bytes: COLD_READ_BYTES_MAX + 1, ..blocks() };
    let key = Key::new(Space(3), b"user-1", 1).expect("a key");
    refused(ColdRequest::Get { blocks: large, key }, Why::Place, 56);
    refused(ColdRequest::Get { blocks: section(), key }, Why::Place, 56);
    refused(ColdRequest::Index { section: blocks() }, Why::Place, 36);
    refused(ColdRequest::Read { blocks: large }, Why::Place, 40);
    refused(ColdRequest::Read { blocks: section() }, Why::Place, 40);
    for (of, at) in [
        (ColdCopyOf { file_generation: 0, ..copy() }, 8),
        (ColdCopyOf { offset: 1, ..copy() }, 12),
        (ColdCopyOf { offset: 3 << 30, ..copy() }, 12),
        (ColdCopyOf { bytes: 0, ..copy() }, 16),
        (ColdCopyOf { bytes: 4_097, ..copy() }, 16),
        (ColdCopyOf { bytes: COLD_READ_BYTES_MAX + 4_096, ..copy() }, 16),
    ] {
        refused(ColdRequest::Copy(of), Why::Place, at);
    }
    refused(ColdRequest::Read { blocks: ColdBlocks { file_generation: 0, ..blocks() } }, Why::Place, 28);
}

#[test]
fn the_longest_blocks_fit_a_reply_and_longer_ones_are_no_reply() {
    let blocks = vec![0x5a; COLD_READ_BYTES_MAX as usize];
    let mut out = vec![0; read_reply_bytes(blocks.len() + 1)];
    let bytes = encode_read(&mut out, &blocks);
    assert_eq!(bytes, read_reply_bytes(blocks.len()));
    assert!(bytes <= BODY_BYTES_MAX as usize);
    let reply = Reply::decode(Operation::ColdRead, &out[..bytes]).expect("what was encoded decodes");
    assert_eq!(reply.answer, Answer::Cold(ColdAnswer::Read(&blocks)));
    let field = bytes - blocks.len() - 8;
    for count in [0, COLD_READ_BYTES_MAX - 1, COLD_READ_BYTES_MAX + 1, u32::MAX] {
        out[field..field + 4].copy_from_slice(&count.to_le_bytes());
        assert!(Reply::decode(Operation::ColdRead, &out[..bytes]).is_err(), "{count}");
        assert!(Reply::decode(Operation::ColdRead, &out).is_err(), "{count}");
    }
}

#[test]
fn files_are_read_back_and_numbers_that_were_not_given_are_not_freed() {
    let (head, items) = files();
    let mut out = vec![0; 4_096];
    let bytes = encode_files(&mut out, &head, &items);
    let item_bytes: usize = items.iter().map(ColdFileSaid::reply_bytes).sum();
    assert_eq!(bytes, files_reply_bytes(item_bytes));
    let reply = Reply::decode(Operation::ColdFiles, &out[..bytes]).expect("what was encoded decodes");
    let Answer::Cold(ColdAnswer::Files(found)) = reply.answer else { panic!("files") };
    assert_eq!(found.head, head);
    let back: Vec<ColdFileSaid> = found
        .iter()
        .map(|item| ColdFileSaid {
            file: item.file,
            generation: item.generation,
            head: item.head,
            section_count: item.section_count,
            freed: item.freed.to_vec(),
            reserved: item.reserved().collect(),
        })
        .collect();
    assert_eq!(back, items);
    for freed in [vec![0x81, 0x08], vec![0x81, 0x00], vec![1, 1, 1]] {
        let wrong = ColdFileSaid { freed, ..items[0].clone() };
        let bytes = encode_files(&mut out, &head, &[wrong]);
        assert!(Reply::decode(Operation::ColdFiles, &out[..bytes]).is_err());
    }
}

proptest! {
    #[test]
    fn every_place_survives(
        (group, disk, tablet_group, window_from) in any::<(u16, u16, u16, u64)>(),
        (window_days, window_generation, file) in any::<(u32, u32, u32)>(), bucket in 0u32..131_072,
        (file_generation, offset, content_bytes) in (1..=u32::MAX, 0u32..=1 << 30, 1u32..=1 << 30),
        (number, section_count) in (0u32..32_000, 1u32..32_000), checksum in any::<u128>(),
    ) {
        let bucket = BucketIndex::new(bucket).expect("a bucket");
        let whom = KeptFor { tablet_group, bucket, window_from, window_days, window_generation };
        let place = ColdPlace {
            group, disk, whom, file, file_generation, offset, content_bytes, number, section_count,
        };
        for request in [
            ColdRequest::Reserve { place, exactly: true },
            ColdRequest::Seal { place, checksum },
            ColdRequest::Free { place },
        ] {
            let mut body = Vec::new();
            Request::Cold(request).encode(&mut body);
            prop_assert_eq!(Request::decode(request.operation(), &body), Ok(Request::Cold(request)));
        }
        let mut out = [0; 4_096];
        let bytes = encode_reserved(&mut out, ColdKept::Sealed, &place);
        prop_assert_eq!(bytes, RESERVED_REPLY_BYTES);
        let reply = Reply::decode(Operation::ColdReserve, &out[..bytes]).expect("what was encoded decodes");
        prop_assert_eq!(reply.answer, Answer::Cold(ColdAnswer::Reserved(ColdKept::Sealed, place)));
        let places = [(ColdKept::Reserved, place), (ColdKept::Sealed, place)];
        let bytes = encode_listed(&mut out, &places, Some((file, offset)));
        prop_assert_eq!(bytes, listed_reply_bytes(2));
        let reply = Reply::decode(Operation::ColdList, &out[..bytes]).expect("what was encoded decodes");
        let Answer::Cold(ColdAnswer::Listed(list)) = reply.answer else { panic!("a list") };
        prop_assert_eq!(list.more, Some((file, offset)));
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), places);
    }
}
