//! Blobs as they are written, read in pieces of any size, and changed.

use super::*;

const IDENTITY: StateIdentity =
    StateIdentity { device: Uuid([7; 16]), shard: ShardIndex(2), generation: 3, blob: TableId(4) };

fn head(tablet: u8, request_count: u32, recent_count: u32) -> TabletHead {
    TabletHead {
        tablet: TabletIndex::new(tablet).unwrap(),
        applied: LogIndex(90 + u64::from(tablet)),
        log_time: LogTime(1000),
        damage: [None, Some((LogIndex(5), None)), Some((LogIndex(5), Some(LogIndex(9))))]
            [usize::from(tablet % 3)],
        request_floor: LogTime(7),
        request_count,
        recent_floor: LogIndex(2),
        recent_newest: LogIndex(80),
        recent_count,
        window_count: u32::from(tablet == 2),
        sink_count: if tablet == 2 { 2 } else { 0 },
        seal_generation: 7,
        sealed_generation: u32::from(tablet),
    }
}

fn window() -> TabletWindow {
    TabletWindow {
        from: 5,
        to: 9,
        generation: 7,
        index: LogIndex(11),
        log_time: LogTime(3),
        options: crate::seal_operation::SealOptions {
            codec: 1,
            block_bytes: 4096,
            dictionary_bytes: 0,
            level: 3,
        },
        checksum: Some(9),
        over_at: 0,
    }
}

const LINK: ColdLink = ColdLink {
    group: 0,
    disk: 0,
    bucket: crate::units::BucketIndex::new(66).unwrap(),
    file: 3,
    file_generation: 1,
    offset: 4096,
    content_bytes: 100,
    number: 0,
    section_count: 1,
};

fn sink() -> TabletSink {
    TabletSink {
        from: 1,
        to: 2,
        seal_generation: 3,
        checksum: 4,
        generation: 5,
        nonce: 6,
        codec: 7,
        level: 8,
        sunk: Some(9),
        link_count: 2,
    }
}

fn items() -> Vec<StateItem> {
    let mut items = Vec::new();
    for (tablet, requests, recents) in [(0, 3, 2), (1, 0, 0), (2, 0, 4), (6, 5, 0)] {
        items.push(StateItem::Tablet(head(tablet, requests, recents)));
        items.extend((0..requests).map(|number| {
            let id = RequestId { client: u64::MAX, log_time: 3, sequence: u64::from(number) };
            let log_time = LogTime(10 + u64::from(number) / 2);
            StateItem::Request(StateRequest { id, log_time, status: 3, version: Version(9 << 16) })
        }));
        items.extend((0..recents).map(|number| {
            let log_index = LogIndex(3 + u64::from(number) / 2);
            StateItem::Recent(StateRecent { key_hash: u128::MAX - u128::from(number), log_index })
        }));
        items.extend((tablet == 2).then(|| StateItem::Window(window())));
        if tablet == 2 {
            items.push(StateItem::Sink(sink()));
            items.extend([1, 2].map(|disk| StateItem::Link(ColdLink { disk, ..LINK })));
            items.push(StateItem::Sink(TabletSink { sunk: None, link_count: 0, ..sink() }));
        }
    }
    items
}

fn written() -> (Vec<u8>, StateSummary) {
    let mut writer = StateWriter::new(&IDENTITY, 4);
    let mut bytes = Vec::new();
    for item in items() {
        match item {
            StateItem::Tablet(head) => writer.begin_tablet(&head),
            StateItem::Request(request) => writer.request(&request),
            StateItem::Recent(recent) => writer.recent(&recent),
            StateItem::Window(window) => writer.window(&window),
            StateItem::Sink(sink) => writer.sink(&sink),
            StateItem::Link(link) => writer.link(&link),
            StateItem::End { .. } => unreachable!("the list has no end"),
        }
        let count = writer.pending().len().min(7);
        bytes.extend_from_slice(&writer.pending()[..count]);
        writer.consume(count);
    }
    let summary = writer.finish();
    bytes.extend_from_slice(writer.pending());
    assert_eq!(bytes.len() as u64, summary.bytes);
    (bytes, summary)
}

/// Reads it as pieces of `piece` bytes come.
fn read(identity: &StateIdentity, bytes: &[u8], total: u64, piece: usize) -> Result<Vec<StateItem>, Corrupt> {
    let mut reader = StateReader::new(identity, total);
    let (mut items, mut kept) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        kept.extend_from_slice(piece);
        let mut input = &kept[..];
        while let Some(item) = reader.next(&mut input)? {
            items.push(item);
            if matches!(item, StateItem::End { .. }) {
                return Ok(items);
            }
        }
        kept = input.to_vec();
    }
    Ok(items)
}

#[test]
fn states_round_trip_in_pieces_of_any_size() {
    let (bytes, summary) = written();
    let mut expected = items();
    expected.push(StateItem::End { checksum: summary.checksum });
    for piece in [1, 40, 41, 500, bytes.len()] {
        assert_eq!(read(&IDENTITY, &bytes, summary.bytes, piece).as_ref(), Ok(&expected), "{piece}");
    }
}

#[test]
fn every_changed_byte_and_every_other_identity_is_seen() {
    let (bytes, summary) = written();
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1 << (index % 8);
        let read = read(&IDENTITY, &changed, summary.bytes, bytes.len());
        let ended = read.is_ok_and(|items| matches!(items.last(), Some(StateItem::End { .. })));
        assert!(!ended, "byte {index}");
    }
    for other in [
        StateIdentity { blob: TableId(5), ..IDENTITY },
        StateIdentity { generation: 4, ..IDENTITY },
        StateIdentity { shard: ShardIndex(3), ..IDENTITY },
        StateIdentity { device: Uuid([8; 16]), ..IDENTITY },
    ] {
        let corrupt = read(&other, &bytes, summary.bytes, 100).expect_err("another blob");
        assert_eq!(corrupt.field, "checksum");
    }
}

#[test]
fn counts_beyond_the_blob_are_refused_before_anything_is_read() {
    let (mut bytes, summary) = written();
    bytes[HEADER_BYTES + T_REQUEST_COUNT.offset + 3] = 0x80;
    let corrupt = read(&IDENTITY, &bytes, summary.bytes, 4096).expect_err("2^31 requests");
    assert_eq!((corrupt.structure, corrupt.field), ("tablet state", "request_count"));
    let (bytes, summary) = written();
    assert!(read(&IDENTITY, &bytes, summary.bytes - 1, 4096).is_err());
    assert!(read(&IDENTITY, &bytes, summary.bytes + 1, 4096).is_err());
}

/// Whoever restores the list holds no write that is older than its floor, and has not seen the checksum yet.
#[test]
fn a_recent_key_below_the_floor_is_refused_before_the_end() {
    let (mut bytes, summary) = written();
    bytes[HEADER_BYTES + T_RECENT_FLOOR.offset] ^= 64;
    let corrupt = read(&IDENTITY, &bytes, summary.bytes, 4096).expect_err("floor 66, first write 3");
    assert_eq!((corrupt.structure, corrupt.field), ("state recent", "log_index"));
}

#[test]
#[should_panic(expected = "as it was announced")]
fn a_missing_request_is_our_own_bug() {
    let mut writer = StateWriter::new(&IDENTITY, 1);
    writer.begin_tablet(&head(1, 1, 0));
    writer.finish();
}
