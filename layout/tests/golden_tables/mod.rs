//! The images of what a flush leaves: a table, a state blob, a manifest record with its edits. Owns the values they are
//! made from and how each is written and read; the comparison is `golden.rs`'. Nothing here is compressed, so that no image
//! depends on the version of zstd.

use layout::cold_section::{MadeSection, SectionWriter};
use layout::inspect_manifest;
use layout::inspect_section;
use layout::inspect_table::{self, TableShown};
use layout::journal_frame::{FRAME_BYTES, FrameChecksum};
use layout::journal_record::{JournalIdentity, RecordWriter};
use layout::key::Key;
use layout::manifest::{
    AddTable, Edit, EditIter, EditWriter, ExtentRange, Extents, SetJournalStart, SetState, TableKind,
};
use layout::manifest_record::{ManifestHeader, ManifestKind, seal};
use layout::seal_operation::SealOptions;
use layout::table::{
    Block, BlockBuilder, BlockChecksum, BlockKind, Compressor, Decompressor, FOOTER_BYTES, Footer,
    SectionReader, TableIdentity, TableOptions, TableWriter, encode_key, open_block, open_index,
    open_sections,
};
use layout::table_columns::{ColumnsBuilder, read_columns};
use layout::table_sunk::{SunkWriter, open_sunk_sections, section_identity};
use layout::tablet_sink::{ColdLink, TabletSink};
use layout::tablet_state::{
    StateIdentity, StateItem, StateReader, StateRecent, StateRequest, StateWriter, TabletHead,
};
use layout::tablet_window::TabletWindow;
use layout::units::{
    BucketIndex, DiskOffset, Incarnation, LogIndex, LogTime, RequestId, Sequence, ShardIndex, Space, TableId,
    TabletIndex, Uuid, Version,
};

const DEVICE: Uuid = Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const MANIFEST: JournalIdentity = JournalIdentity { device: DEVICE, shard: ShardIndex(1), generation: 3 };
const MANIFEST_AT: DiskOffset = DiskOffset(0x0200_1000);
const STATE: StateIdentity =
    StateIdentity { device: DEVICE, shard: ShardIndex(1), generation: 3, blob: TableId(7) };
const RANGES: [ExtentRange; 2] = [ExtentRange { first: 2, count: 1 }, ExtentRange { first: 0, count: 2 }];

fn tablet() -> TabletIndex {
    TabletIndex::new(1).expect("below 64")
}

fn table_identity() -> TableIdentity {
    TableIdentity::Run {
        device: DEVICE,
        shard: ShardIndex(1),
        generation: 3,
        tablet: tablet(),
        table: TableId(6),
    }
}

fn sealed_identity() -> TableIdentity {
    let (window_from, window_to) = (0, 200);
    TableIdentity::Sealed {
        cluster: Uuid([0xc7; 16]),
        tablet: tablet(),
        window_from,
        window_to,
        window_generation: 2,
    }
}

/// Key, version, expiry, value.
type Kept = (Vec<u8>, u64, u64, Option<Vec<u8>>);

fn key(bucket: u32, time: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let bucket = BucketIndex::new(bucket).expect("below 2^17");
    encode_key(&mut out, bucket, Key { space: Space(2), stream: b"user-1", time });
    out
}

/// The records of the run: more than one block, a tombstone, an expiry.
fn records() -> Vec<Kept> {
    vec![
        (key(65, 100), (7 << 16) + 1, 0, Some(b"first".to_vec())),
        (key(65, 101), (7 << 16) + 2, 1_800_000_000_000_000, Some(Vec::new())),
        (key(65, 102), 8 << 16, 0, None),
        (key(65, 103), (8 << 16) + 1, 0, Some((0..=255).cycle().take(600).collect())),
        (key(65, u64::MAX), 9 << 16, 0, Some(b"last".to_vec())),
    ]
}

/// Those of the sealed table: three buckets, one of them in two blocks.
fn sealed_records() -> Vec<Kept> {
    let long = || Some((0..=255).cycle().take(300).collect());
    vec![
        (key(65, 100), (7 << 16) + 1, 0, Some(b"first".to_vec())),
        (key(129, 101), (7 << 16) + 2, 1_800_000_000_000_000, long()),
        (key(129, 103), (8 << 16) + 1, 0, long()),
        (key(129, 104), (8 << 16) + 2, 0, long()),
        (key(131_009, 0), 9 << 16, 0, Some(b"last".to_vec())),
    ]
}

/// Those of the block of columns: of three streams, with a tombstone and an expiry.
fn column_records() -> Vec<Kept> {
    [&records()[..3], &sealed_records()[1..]].concat()
}

fn block(records: Vec<Kept>) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for (key, version, expiry, value) in records {
        builder.push(&key, Version(version), expiry, value.as_deref());
    }
    builder.finish().to_vec()
}

fn columns() -> Vec<u8> {
    let rows = block(column_records());
    ColumnsBuilder::default().build(&Block::parse(&rows).expect("a block")).to_vec()
}

fn table(identity: TableIdentity, records: Vec<Kept>) -> Vec<u8> {
    let options = TableOptions {
        block_bytes: 512,
        level: None,
        extent_bytes: 1 << 14,
        dictionary: None,
        dictionary_bytes_max: 0,
    };
    let mut writer = TableWriter::new(identity, options, Compressor::new());
    for (key, version, expiry, value) in records {
        writer.push(&key, Version(version), expiry, value.as_deref());
    }
    writer.finish();
    writer.pending().to_vec()
}

fn state_items() -> Vec<StateItem> {
    let head = |index, damage, request_count, recent_count, window_count| {
        StateItem::Tablet(TabletHead {
            tablet: TabletIndex::new(index).expect("below 64"),
            applied: LogIndex(9),
            log_time: LogTime(1_700_000_000_000_009),
            damage,
            request_floor: LogTime(1_700_000_000_000_000),
            request_count,
            recent_floor: LogIndex(2),
            recent_newest: LogIndex(8),
            recent_count,
            window_count,
            sink_count: if window_count > 0 { 2 } else { 0 },
            seal_generation: 9,
            sealed_generation: 4,
        })
    };
    let window = |from, checksum: Option<u128>| {
        StateItem::Window(TabletWindow {
            from,
            to: from + 86_400_000_000,
            generation: 4 + u32::from(checksum.is_none()),
            index: LogIndex(3),
            log_time: LogTime(1_700_000_000_000_000),
            options: SealOptions {
                codec: 10_507,
                block_bytes: 16 << 10,
                dictionary_bytes: 64 << 10,
                level: 6,
            },
            checksum,
            over_at: 0,
        })
    };
    let id = RequestId { client: 0x1122_3344_5566_7788, log_time: 1_700_000_000_000_000, sequence: 3 };
    vec![
        head(1, None, 1, 1, 2),
        StateItem::Request(StateRequest {
            id,
            log_time: LogTime(1_700_000_000_000_007),
            status: 1,
            version: Version((7 << 16) + 1),
        }),
        StateItem::Recent(StateRecent { key_hash: 0x0123_4567_89ab_cdef << 64 | 5, log_index: LogIndex(8) }),
        window(0, Some(0x0123_4567_89ab_cdef << 64 | 7)),
        window(86_400_000_000, None),
        StateItem::Sink(sink(Some(0x89ab << 64 | 8))),
        StateItem::Link(link()),
        StateItem::Sink(sink(None)),
        head(63, Some((LogIndex(5), Some(LogIndex(9)))), 0, 0, 0),
    ]
}

fn link() -> ColdLink {
    ColdLink {
        group: 1,
        disk: 3,
        bucket: BucketIndex::new(129).expect("below 2^17"),
        file: 9,
        file_generation: 4,
        offset: 8_192,
        content_bytes: sunk_section().bytes() as u32,
        number: 5,
        section_count: 1,
    }
}

fn sink(sunk: Option<u128>) -> TabletSink {
    TabletSink {
        from: if sunk.is_some() { 0 } else { 86_400_000_000 },
        to: 86_400_000_000 * if sunk.is_some() { 1 } else { 2 },
        seal_generation: 4,
        checksum: 0x0123_4567_89ab_cdef << 64 | 7,
        generation: if sunk.is_some() { 6 } else { 8 },
        nonce: 0xfeed_f00d,
        codec: 10_507,
        level: 3,
        sunk,
        link_count: u32::from(sunk.is_some()),
    }
}

fn sunk_identity() -> TableIdentity {
    let (window_from, window_to) = (0, 86_400_000_000);
    TableIdentity::Sunk {
        cluster: Uuid([0xc7; 16]),
        tablet: tablet(),
        window_from,
        window_to,
        window_generation: 4,
    }
}

fn sunk_section() -> MadeSection {
    let bucket = BucketIndex::new(129).expect("below 2^17");
    let identity = section_identity(&sunk_identity(), 6, bucket).expect("a window of one day");
    let mut writer = SectionWriter::new(identity, 1);
    for (key, version, expiry, value) in sealed_records().iter().filter(|one| one.0.starts_with(&[0, 0, 129]))
    {
        writer.push(key, Version(*version), *expiry, value.as_deref());
    }
    writer.finish()
}

fn sunk_table() -> Vec<u8> {
    let mut writer = SunkWriter::new(sunk_identity(), 6, 1);
    for (key, version, expiry, value) in sealed_records().iter().filter(|one| one.0.starts_with(&[0, 0, 129]))
    {
        writer.record(key, Version(*version), *expiry, value.as_deref());
    }
    let only = writer.section(&sunk_section());
    writer.link(&[only], link());
    writer.finish().0
}

fn state() -> Vec<u8> {
    let mut writer = StateWriter::new(&STATE, 2);
    for item in state_items() {
        match item {
            StateItem::Tablet(head) => writer.begin_tablet(&head),
            StateItem::Request(request) => writer.request(&request),
            StateItem::Recent(recent) => writer.recent(&recent),
            StateItem::Window(window) => writer.window(&window),
            StateItem::Sink(sink) => writer.sink(&sink),
            StateItem::Link(link) => writer.link(&link),
            StateItem::End { .. } => unreachable!("the list has no end"),
        }
    }
    writer.finish();
    writer.pending().to_vec()
}

fn edits() -> [Edit<'static>; 5] {
    let extents = Extents::List(&RANGES);
    [
        Edit::AddTable(AddTable {
            table: TableId(6),
            tablet: tablet(),
            kind: TableKind::Sealed,
            level: 3,
            window_from: 10,
            window_to: 20,
            window_generation: 1,
            extents,
            bytes: 5000,
            data_bytes: 4000,
            record_count: 7,
            tombstone_count: 2,
            time_min: 11,
            time_max: 19,
            log_index_min: LogIndex(1),
            log_index_max: LogIndex(4),
            expiry_min: 0,
            expiry_max: 0,
            checksum: u128::MAX - 5,
        }),
        Edit::RemoveTable(TableId(4)),
        Edit::SetState(SetState { blob: TableId(7), extents, bytes: 77, checksum: 1 }),
        Edit::SetJournalStart(SetJournalStart {
            at: 4096,
            incarnation: Incarnation(9),
            sequence: Sequence(42),
        }),
        Edit::SetNextTableId(TableId(8)),
    ]
}

const KIND: ManifestKind = ManifestKind::Edit { snapshot: Sequence(11) };

fn manifest() -> Vec<u8> {
    let mut body = EditWriter::new();
    edits().iter().for_each(|edit| body.append(edit));
    let mut record = vec![0xee; 8192];
    let mut writer = RecordWriter::new(&mut record);
    assert!(writer.append(body.bytes()), "8192 bytes hold the edits");
    let checksum = FrameChecksum::manifest(MANIFEST);
    let bytes = seal(writer, &checksum, MANIFEST_AT, Incarnation(9), Sequence(12), KIND);
    record.truncate(bytes);
    record
}

/// The images as today's code writes them: name and bytes.
pub(crate) fn written() -> [(&'static str, Vec<u8>); 6] {
    [
        ("table.bin", table(table_identity(), records())),
        ("tablet_state.bin", state()),
        ("manifest_record.bin", manifest()),
        ("sealed_table.bin", table(sealed_identity(), sealed_records())),
        ("table_columns.bin", columns()),
        ("sunk_table.bin", sunk_table()),
    ]
}

/// The images as they are committed, in the order of [`written`].
pub(crate) const COMMITTED: [&[u8]; 6] = [
    include_bytes!("../../golden/table.bin"),
    include_bytes!("../../golden/tablet_state.bin"),
    include_bytes!("../../golden/manifest_record.bin"),
    include_bytes!("../../golden/sealed_table.bin"),
    include_bytes!("../../golden/table_columns.bin"),
    include_bytes!("../../golden/sunk_table.bin"),
];

/// The text of the images.
pub(crate) fn lines() -> Vec<layout::inspect::Line> {
    let shown = TableShown { extent_bytes: 1 << 14, records_max: 100 };
    let mut lines = inspect_table::table(&table_identity(), COMMITTED[0], shown);
    lines.extend(inspect_table::table(&sealed_identity(), COMMITTED[3], shown));
    let bucket = BucketIndex::new(129).expect("below 2^17");
    lines.extend(inspect_section::section(&sealed_identity(), COMMITTED[3], bucket, shown));
    lines.extend(inspect_table::table(&sunk_identity(), COMMITTED[5], shown));
    lines.extend(inspect_section::section(&sunk_identity(), COMMITTED[5], bucket, shown));
    lines.extend(inspect_table::state(&STATE, COMMITTED[1], true));
    lines.extend(inspect_manifest::manifest(MANIFEST, MANIFEST_AT, MANIFEST_AT.plus(1 << 20), COMMITTED[2]));
    lines
}

#[test]
fn table_decodes() {
    let (bytes, identity) = (COMMITTED[0], table_identity());
    let last = bytes.last_chunk::<FOOTER_BYTES>().expect("a table ends with its footer");
    let footer = Footer::decode(&identity, bytes.len() as u64, last).expect("a committed footer");
    let (checksum, mut decompressor) = (BlockChecksum::new(&identity), Decompressor::new());
    let from = footer.index_offset() as usize;
    let section = &bytes[from..from + footer.index_bytes as usize];
    let index = open_index(&checksum, &footer, section, &mut decompressor).expect("a committed index");
    assert!(index.block_count() > 1, "the image has more than one block");
    for (key, version, expiry, value) in records() {
        let (number, _) = index.find(&key).expect("a key of the table");
        let handle = index.handle(number).expect("a block of the index");
        let stored = &bytes[handle.offset as usize..handle.end() as usize];
        let mut raw = Vec::new();
        let kind = BlockKind::Data;
        open_block(&checksum, handle.offset, kind, stored, None, &mut decompressor, &mut raw)
            .expect("a block");
        let record = Block::parse(&raw).expect("a block").get(&key).expect("whole").expect("it is there");
        assert_eq!((record.version.0, record.expiry_us, record.value), (version, expiry, value.as_deref()));
    }
}

#[test]
fn sunk_table_decodes() {
    let (bytes, identity) = (COMMITTED[5], sunk_identity());
    let last = bytes.last_chunk::<FOOTER_BYTES>().expect("a table ends with its footer");
    let footer = Footer::decode(&identity, bytes.len() as u64, last).expect("a committed footer");
    let (checksum, mut decompressor) = (BlockChecksum::new(&identity), Decompressor::new());
    let part = &bytes[..footer.sections_bytes as usize];
    let sections = open_sunk_sections(&checksum, &footer, part, &mut decompressor).expect("its sections");
    assert_eq!((sections.generation, sections.links()), (6, &[link()][..]));
    let made = sunk_section();
    let found = sections.sections()[0];
    assert_eq!((found.offset, found.number, found.digest), (8_192, 5, made.digest));
    assert_eq!(found.bytes(), made.bytes());
}

#[test]
fn columns_decode() {
    let rows = block(column_records());
    assert_eq!(read_columns(COMMITTED[4], rows.len(), &mut BlockBuilder::new()), Ok(&rows[..]));
}

#[test]
fn tablet_state_decodes() {
    let mut reader = StateReader::new(&STATE, COMMITTED[1].len() as u64);
    let mut input = COMMITTED[1];
    for expected in state_items() {
        assert_eq!(reader.next(&mut input), Ok(Some(expected)));
    }
    assert!(matches!(reader.next(&mut input), Ok(Some(StateItem::End { .. }))));
}

#[test]
fn manifest_record_decodes() {
    let record = COMMITTED[2];
    let payload = &record[16..FRAME_BYTES]; // behind the frame header
    let header =
        ManifestHeader::decode(Incarnation(9), Sequence(12), payload, MANIFEST_AT).expect("a header");
    assert_eq!((header.kind, header.record_bytes()), (KIND, record.len() as u64));
    let mut body = Vec::new();
    header.body(record, MANIFEST_AT, &mut body).expect("a committed body");
    let read: Vec<_> = EditIter::new(&body).collect::<Result<_, _>>().expect("its edits");
    assert_eq!(read, edits());
}

#[test]
fn sections_decode() {
    let (bytes, identity) = (COMMITTED[3], sealed_identity());
    let last = bytes.last_chunk::<FOOTER_BYTES>().expect("a table ends with its footer");
    let footer = Footer::decode(&identity, bytes.len() as u64, last).expect("a committed footer");
    let (checksum, mut decompressor) = (BlockChecksum::new(&identity), Decompressor::new());
    let part = |at: u64, length: u64| &bytes[at as usize..(at + length) as usize];
    let index_part = part(footer.index_offset(), footer.index_bytes);
    let index = open_index(&checksum, &footer, index_part, &mut decompressor).expect("a committed index");
    let list = part(footer.sections_offset(), footer.sections_bytes);
    let sections = open_sections(&checksum, &footer, list, &mut decompressor).expect("a committed list");
    let mut kept = sealed_records().into_iter();
    for section in sections.expect("a sealed table has sections").iter() {
        let mut reader = SectionReader::new(section);
        while let Some(number) = reader.wanted() {
            let handle = index.handle(number).expect("a block of the index");
            let stored = part(handle.offset, u64::from(handle.stored_bytes));
            let mut raw = Vec::new();
            open_block(&checksum, handle.offset, BlockKind::Data, stored, None, &mut decompressor, &mut raw)
                .expect("a block");
            let block = Block::parse(&raw).expect("a block");
            let each = |entry: &layout::table::BlockEntry<'_>| {
                let (key, version, expiry, value) = kept.next().expect("no more than were written");
                let record = entry.record;
                assert_eq!(entry.key, key);
                assert_eq!(
                    (record.version.0, record.expiry_us, record.value),
                    (version, expiry, value.as_deref())
                );
            };
            reader.block(&block, each).expect("records of the section");
        }
        reader.finish().expect("its digest");
    }
    assert_eq!(kept.next(), None);
}
