//! Committed images decode to the values they were made from, and those encode to the same bytes.
//!
//! Guards the formats of devices in use: `golden/README.md` says what each image is.

mod golden_cold;
mod golden_tables;

use std::net::Ipv6Addr;

use layout::journal_record::{
    JournalIdentity, RecordFields, RecordHeader, RecordKind, RecordWriter, read_record,
};
use layout::key::Key;
use layout::log_entry::{Change, EntryIter, Operation, Write, append_entry};
use layout::seal_operation::{Seal, SealOptions, Sealed};
use layout::sink_operation::{Links, Sink, SinkBegin};
use layout::superblock::{Role, SUPERBLOCK_BYTES, Superblock, copy_offset};
use layout::superblock_peers::{Lives, Origin, PeerDisk, PeerDisks};
use layout::superblock_reads::{CachePlace, StoredReads};
use layout::units::{
    DiskOffset, Incarnation, LogIndex, LogTime, RequestId, SHARD_COUNT_MAX, Sequence, ShardIndex, Space,
    TABLET_COUNT, TabletIndex, Uuid, Version,
};
use layout::version_cell::{Cells, HEADER_BYTES, Header, Row, TabletState, Tag};
use layout::zone::{self, ShardZones, TableGeometry};

const SUPERBLOCK: &[u8] = include_bytes!("../golden/superblock_copy_1.bin");
const RECORD: &[u8] = include_bytes!("../golden/journal_record.bin");
const OPEN: &[u8] = include_bytes!("../golden/journal_open.bin");
const BODY: &[u8] = include_bytes!("../golden/journal_body.bin");
const VERSION_HEADER: &[u8] = include_bytes!("../golden/version_header.bin");
const VERSION_ROW: &[u8] = include_bytes!("../golden/version_row.bin");

const DEVICE: Uuid = Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const IDENTITY: JournalIdentity = JournalIdentity { device: DEVICE, shard: ShardIndex(1), generation: 3 };
const RECORD_AT: DiskOffset = DiskOffset(0x0123_4000);
const OPEN_AT: DiskOffset = DiskOffset(0x0123_5000);

fn superblock() -> Superblock {
    let mut superblock = Superblock {
        sequence: 11,
        device: DEVICE,
        cluster: Uuid([0xc7; 16]),
        node: 5,
        role: Role::Store,
        generation: 3,
        incarnation: Incarnation(9),
        origin: Origin::Recovered { birth: Incarnation(7) },
        served: Incarnation(8),
        lives: Lives([0, 0, 0, 0, 0, 0, 0, 0x7777, 0x8888, 0x9999, 0, 0, 0, 0, 0, 0]),
        peers: PeerDisks::default(),
        reads: StoredReads {
            revision: 2,
            recent_us: 86_400_000_000,
            cache_share: 5_000,
            ..StoredReads::default()
        },
        block_bytes: 512,
        device_bytes: 1 << 30,
        segment_bytes: 4 << 20,
        tables: TableGeometry::default(),
        shard_count: 0,
        zones: [ShardZones::default(); SHARD_COUNT_MAX],
    };
    let zones = zone::plan(1 << 30, 512, 2, Some(64 << 20), 4 << 20).expect("1 GiB holds two shards");
    superblock.set_zones(&zones);
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
    superblock.reads.caches[0] = CachePlace { node: 101, address, port: 7423, zone: 1, shard_count: 2 };
    superblock.peers[1] =
        PeerDisk { node: 4, incarnation: Incarnation(3), life: 0x0123_4567, device: Uuid([0xd4; 16]) };
    superblock
}

fn tablet(index: u8) -> TabletIndex {
    TabletIndex::new(index).expect("below 64")
}

fn entries() -> Vec<(u8, u64, Vec<Operation<'static>>)> {
    static LONG: [u8; 1500] = [0x4c; 1500];
    let write = |stream: &'static [u8], time: u64, sequence: u64, change: Change<'static>| Write {
        key: Key { space: Space(2), stream, time },
        request: RequestId { client: 0x1122_3344_5566_7788, log_time: 1_700_000_000_000_000, sequence },
        expiry_us: 0,
        atomic_with_next: false,
        change,
    };
    let compare = |value| Change::CompareAndSet {
        expected: Version::ABSENT,
        observed: Version((6 << 16) + 1),
        observed_index: LogIndex(6),
        observed_expiry_us: 1_700_000_000_000_000,
        value,
    };
    let expiring = Write {
        expiry_us: 1_800_000_000_000_000,
        atomic_with_next: true,
        ..write(b"user-1", 100, 1, Change::Put { value: b"first" })
    };
    static SPANS: [u8; 32] = {
        let mut bytes = [0; 32];
        (bytes[8], bytes[16], bytes[24]) = (9, 9, 20);
        bytes
    };
    static TABLES: [u8; 48] = {
        let mut bytes = [0; 48];
        (bytes[0], bytes[16]) = (0xc5, 0x0e);
        bytes
    };
    let options = SealOptions { codec: 10_507, block_bytes: 16 << 10, dictionary_bytes: 64 << 10, level: 6 };
    let seal = Seal::new(4, options, &SPANS).expect("two windows in order");
    let sealed = Sealed::new(4, &TABLES).expect("a table, and none");
    const BEGIN: SinkBegin = SinkBegin {
        generation: 6,
        from: 0,
        to: 86_400_000_000,
        seal_generation: 4,
        checksum: 0x0123_4567_89ab_cdef << 64 | 7,
        nonce: 0xfeed_f00d,
        codec: 10_507,
        level: 3,
    };
    static LINK: [u8; 32] = {
        let mut bytes = [0; 32];
        // Group 1, disk 3, bucket 129, file 9 of generation 4, 100 bytes of one section, number 5.
        (bytes[0], bytes[2], bytes[4], bytes[8]) = (1, 3, 129, 9);
        (bytes[12], bytes[20], bytes[24], bytes[28]) = (4, 100, 5, 1);
        bytes
    };
    let links = Links::new(&LINK).expect("one link");
    let (sunk, given_up) =
        (Sink::Sunk { generation: 6, checksum: 8, links }, Sink::GivenUp { generation: 6 });
    vec![
        (
            1,
            7,
            vec![
                Operation::Write(expiring),
                Operation::Write(Write {
                    atomic_with_next: true,
                    ..write(b"user-1", 101, 2, compare(Some(b"")))
                }),
                Operation::Write(write(b"user-1", 102, 3, compare(None))),
                Operation::Write(write(&[0xff; 128], u64::MAX, 4, Change::Delete)),
            ],
        ),
        (63, 1, vec![Operation::Tick]),
        (2, 5, vec![Operation::Seal(seal), Operation::Sealed(sealed)]),
        (3, 6, vec![Operation::Sink(Sink::Begin(BEGIN)), Operation::Sink(sunk), Operation::Sink(given_up)]),
        (1, 8, vec![Operation::Write(write(b"a", 0, 5, Change::Put { value: &LONG }))]),
    ]
}

fn fields() -> RecordFields {
    RecordFields {
        kind: RecordKind::Entries,
        incarnation: Incarnation(9),
        sequence: Sequence(42),
        previous_incarnation: Incarnation(9),
        previous_sequence: Sequence(41),
        flushed_sequence: Sequence(41),
        memtable_number: 0x0708_090a,
    }
}

fn open_fields() -> RecordFields {
    RecordFields {
        kind: RecordKind::Open,
        incarnation: Incarnation(10),
        sequence: Sequence(43),
        previous_incarnation: Incarnation(9),
        previous_sequence: Sequence(42),
        flushed_sequence: Sequence(42),
        memtable_number: 3,
    }
}

fn version_header() -> Header {
    let mut header = Header {
        device: DEVICE,
        shard: ShardIndex(1),
        generation: 3,
        boot: Uuid([0xb0; 16]),
        incarnation: Incarnation(9),
        row_count: 1 << 20,
        tablets: [TabletState::default(); TABLET_COUNT],
    };
    header.tablets[1] = TabletState { coherent_index: 8, generation: 2 };
    header.tablets[63] = TabletState { coherent_index: 1, generation: 0 };
    header
}

fn version_cells() -> Cells {
    let mut cells = Cells::EMPTY;
    cells.insert(Tag::from_hash(0x0123_4567_89ab_cdef), Version((7 << 16) + 2));
    cells.insert(Tag::from_hash(u64::MAX), Version((1 << 61) - 1));
    cells.insert(Tag::from_hash(1), Version::ABSENT);
    cells
}

/// The images as today's code writes them: name and bytes.
fn written() -> Vec<(&'static str, Vec<u8>)> {
    let mut copy = [0; SUPERBLOCK_BYTES];
    superblock().encode(1, &mut copy);
    let mut record = vec![0xee; 8192];
    let mut writer = RecordWriter::new(&mut record);
    for (index, log_index, operations) in entries() {
        let stamp = LogTime(1_700_000_000_000_000 + log_index);
        append_entry(&mut writer, tablet(index), LogIndex(log_index), stamp, operations.into_iter())
            .expect("8192 bytes hold the entries");
    }
    let record_bytes = writer.seal(IDENTITY, RECORD_AT, fields());
    record.truncate(record_bytes);
    let mut body = Vec::new();
    read_record(IDENTITY, RECORD_AT, &record, &mut body).expect("what was sealed");
    let mut open = vec![0xee; 4096];
    let open_bytes = RecordWriter::new(&mut open).seal(IDENTITY, OPEN_AT, open_fields());
    open.truncate(open_bytes);
    let mut header = [0; HEADER_BYTES];
    version_header().encode(&mut header);
    let mut images = vec![
        ("superblock_copy_1.bin", copy.to_vec()),
        ("journal_record.bin", record),
        ("journal_body.bin", body),
        ("journal_open.bin", open),
        ("version_header.bin", header.to_vec()),
        ("version_row.bin", version_cells().encode().to_bytes().to_vec()),
    ];
    images.extend(golden_tables::written());
    images.extend(golden_cold::written());
    images
}

#[test]
fn superblock_decodes() {
    let block = SUPERBLOCK.try_into().expect("4096 bytes");
    assert_eq!(Superblock::decode(block, copy_offset(1)), Ok(superblock()));
}

#[test]
fn journal_record_decodes() {
    let mut body = Vec::new();
    let header = read_record(IDENTITY, RECORD_AT, RECORD, &mut body).expect("a committed record");
    assert_eq!(header.fields, fields());
    assert!(body == BODY, "the committed body is the record's");
    let found: Vec<_> = EntryIter::new(&body).collect::<Result<_, _>>().expect("its entries");
    let expected = entries();
    assert_eq!(found.len(), expected.len());
    for (entry, (index, log_index, operations)) in found.iter().zip(&expected) {
        assert_eq!((entry.header.tablet, entry.header.log_index.0), (tablet(*index), *log_index));
        assert_eq!(entry.header.stamp, LogTime(1_700_000_000_000_000 + log_index));
        let decoded: Vec<_> = entry.operations().collect::<Result<_, _>>().expect("its operations");
        assert_eq!(&decoded, operations);
    }
}

#[test]
fn journal_open_decodes() {
    let mut body = vec![1];
    let header = read_record(IDENTITY, OPEN_AT, OPEN, &mut body).expect("a committed record");
    let expected = RecordHeader {
        fields: open_fields(),
        frame_count: 8,
        body_bytes: 0,
        body_checksum: header.body_checksum,
    };
    assert_eq!(header, expected);
    assert!(body.is_empty());
}

#[test]
fn version_file_decodes() {
    assert_eq!(Header::decode(VERSION_HEADER.try_into().expect("4096 bytes")), Ok(version_header()));
    let row = Row::from_bytes(VERSION_ROW.try_into().expect("64 bytes"));
    assert_eq!(row.decode(), Ok(version_cells()));
}

#[test]
fn todays_code_writes_the_same_bytes() {
    let mut committed = vec![SUPERBLOCK, RECORD, BODY, OPEN, VERSION_HEADER, VERSION_ROW];
    committed.extend(golden_tables::COMMITTED);
    committed.extend(golden_cold::COMMITTED);
    let written = written();
    assert_eq!(written.len(), committed.len());
    for ((name, bytes), committed) in written.iter().zip(committed) {
        let first = bytes.iter().zip(committed).position(|(new, old)| new != old);
        assert!(bytes == committed, "{name} differs, first at byte {first:?}");
    }
}

/// Bytes changed, and the version did not: devices in use would be misread.
#[test]
fn the_format_version_stands_for_these_bytes() {
    let mut all = Vec::new();
    for (name, bytes) in written() {
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(&bytes);
    }
    let hash = xxhash_rust::xxh3::xxh3_64(&all);
    let known = layout::format_version::IMAGES.last().expect("there is a version");
    assert!(
        hash == *known,
        "the images of format version {} hash to {hash:#018x}, not {known:#018x}: bytes of a device have changed. Raise \
         FORMAT_VERSION, add this hash as its line, leave the lines before it",
        layout::FORMAT_VERSION
    );
}

/// The text of every image names its content, and marks nothing.
#[test]
fn inspect_marks_nothing_in_good_images() {
    let mut lines = layout::inspect::superblock(SUPERBLOCK, copy_offset(1));
    lines.extend(layout::inspect::journal(IDENTITY, RECORD_AT, &[RECORD, OPEN].concat()));
    lines.extend(layout::inspect::version_header(VERSION_HEADER));
    lines.extend(golden_tables::lines());
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    assert!(!text.contains("WRONG"), "{text}");
    for part in [
        "sequence 43, incarnation 10",
        "tick",
        "sink, generation 6: 0 to 86400000000, sealed 4, ",
        "1 links",
        "1 sections on 1 links, sunk with generation 6",
        "of bucket 129: 3 records, ",
        "file 9 generation 4 offset 8192",
        "0 to 86400000000 generation 6 of seal 4: ",
        "put value 5 bytes \"first\"",
        "expiry 1800000000000000",
        "compare-and-set expected 0 observed 393217 at index 6 expiring 1700000000000000 delete",
        "coherent to index 8, generation 2",
        "bucket 65 space 2 stream \"user-1\" time 101 version 458754 expiry 1800000000000000",
        "time 102 version 524288 tombstone",
        "add table 6 of tablet 1: Sealed, level 3, 7 records, 5000 bytes in extents 2+1 0+2",
        "set journal start 4096: sequence 42, incarnation 9",
        "90 bytes, 3 sections, the largest of bucket 129: 3 records",
        "section                of bucket 129: 3 records, ",
        "bucket 129 space 2 stream \"user-1\" time 104",
        "63 applied 9 log time 1700000000000009 lost 5 to 9 requests 0",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

/// Overwrites the images: only for one that is new.
#[test]
#[ignore = "writes into the repository"]
#[expect(clippy::disallowed_methods, reason = "makes a file of the repository, not of a node")]
fn write_the_images() {
    for (name, bytes) in written() {
        let path = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(&path, bytes).expect("the repository is writable");
    }
}
