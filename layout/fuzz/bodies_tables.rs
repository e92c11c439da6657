//! What is tried with any bytes of tables, manifests and state blobs, shared by the fuzz targets and by tests/mutate.rs.
//!
//! Owns the same properties as `bodies.rs`, for what a flush leaves on a device.

use layout::checksum::{Crc, long};
use layout::inspect::Line;
use layout::inspect_manifest::{edits as edits_text, manifest as manifest_text};
use layout::inspect_section::section as section_text;
use layout::inspect_table::{TableShown, raw_block, state as state_text, table as table_text};
use layout::journal_frame::{FRAME_BYTES, Frame, FrameChecksum};
use layout::journal_record::{JournalIdentity, RecordWriter};
use layout::manifest::EditIter;
use layout::manifest_record::{ManifestHeader, seal};
use layout::table::{
    Block, BlockBuilder, Cursor, FOOTER_BYTES, Filter, Footer, Index, SectionReader, Sections, TableIdentity,
    key_hash,
};
use layout::table_columns::{ColumnsBuilder, read_columns};
use layout::tablet_state::{StateIdentity, StateItem, StateReader, StateWriter};
use layout::units::{BucketIndex, DiskOffset, ShardIndex, TableId, TabletIndex, Uuid};

const DEVICE: Uuid = Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
const GENERATION: u32 = 3;
const SHARD: ShardIndex = ShardIndex(1);
/// The identity of the golden manifest record, and its place.
const MANIFEST: JournalIdentity = JournalIdentity { device: DEVICE, shard: SHARD, generation: GENERATION };
const MANIFEST_AT: DiskOffset = DiskOffset(0x0200_1000);
/// Where the other copy of that record would stand.
const TWIN_AT: DiskOffset = DiskOffset(0x0300_1000);
/// Bytes of the data blocks of the golden run, and of the golden sealed table.
const DATA_BYTES: [u64; 2] = [801, 1141];
/// Blocks and records of the golden sealed table.
const SEALED_COUNTS: (u32, u64) = (3, 5);
/// Bytes of the block whose columns are golden.
const COLUMNS_ROWS_BYTES: usize = 1045;
/// The identity of the golden state blob.
const STATE: StateIdentity =
    StateIdentity { device: DEVICE, shard: SHARD, generation: GENERATION, blob: TableId(7) };

/// The identity of the golden table.
fn table_identity() -> TableIdentity {
    let tablet = TabletIndex::new(1).expect("below 64");
    TableIdentity::Run { device: DEVICE, shard: SHARD, generation: GENERATION, tablet, table: TableId(6) }
}

/// The identity of the golden sealed table.
fn sealed_identity() -> TableIdentity {
    let tablet = TabletIndex::new(1).expect("below 64");
    let (window_from, window_to) = (0, 200);
    TableIdentity::Sealed { cluster: Uuid([0xc7; 16]), tablet, window_from, window_to, window_generation: 2 }
}

fn any_wrong(lines: &[Line]) -> bool {
    lines.iter().any(|line| line.wrong.is_some())
}

/// Magic, format version, device, shard, generation: what identities begin with.
fn identity(magic: &[u8; 8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend_from_slice(&layout::FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&DEVICE.0);
    bytes.extend_from_slice(&SHARD.0.to_le_bytes());
    bytes.extend_from_slice(&GENERATION.to_le_bytes());
    bytes
}

/// What the checksums of the golden run begin with, from the document and not from the encoder.
fn run_bytes() -> Vec<u8> {
    let mut run = identity(b"TCLRUNBK");
    run.push(1);
    run.extend_from_slice(&6_u64.to_le_bytes());
    run
}

/// The same of the golden sealed table.
fn sealed_bytes() -> Vec<u8> {
    let mut sealed = b"TCLSEALB".to_vec();
    sealed.extend_from_slice(&layout::FORMAT_VERSION.to_le_bytes());
    sealed.extend_from_slice(&[0xc7; 16]);
    sealed.push(1);
    sealed.extend_from_slice(&0_u64.to_le_bytes());
    sealed.extend_from_slice(&200_u64.to_le_bytes());
    sealed.extend_from_slice(&2_u32.to_le_bytes());
    sealed
}

/// Makes the checksums of a table right.
fn fix_table(identity: &[u8], table: &mut [u8]) {
    let Some(footer_at) = table.len().checked_sub(FOOTER_BYTES) else { return };
    let sum = |at: usize, bytes: &[u8]| {
        let checksum = Crc::with(identity).and(&(at as u64).to_le_bytes()).and(bytes);
        checksum.finish().to_le_bytes()
    };
    let (front, footer) = table.split_at_mut(footer_at);
    let mut at = 0;
    while at + 16 <= front.len() {
        let payload = u32::from_le_bytes(front[at + 8..at + 12].try_into().expect("four bytes"));
        let Some(end) = (at + 16).checked_add(payload as usize).filter(|end| *end <= front.len()) else {
            break;
        };
        let checksum = sum(at, &front[at + 4..end]);
        front[at..at + 4].copy_from_slice(&checksum);
        at = end;
    }
    footer[168..184].copy_from_slice(&long(front).to_le_bytes());
    let checksum = sum(footer_at, &footer[..508]);
    footer[508..].copy_from_slice(&checksum);
}

/// A whole run.
pub(crate) fn table(data: &[u8]) -> usize {
    whole(&table_identity(), &run_bytes(), data)
}

/// A whole sealed table.
pub(crate) fn sealed_table(data: &[u8]) -> usize {
    whole(&sealed_identity(), &sealed_bytes(), data)
}

fn whole(of: &TableIdentity, identity: &[u8], data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut bytes = data.to_vec();
    for fix_checksums in [false, true] {
        if fix_checksums {
            fix_table(identity, &mut bytes);
        }
        let shown = TableShown { extent_bytes: 1 << 14, records_max: u64::MAX };
        let lines = table_text(of, &bytes, shown);
        let footer = bytes.last_chunk().map(|last| Footer::decode(of, bytes.len() as u64, last));
        for bucket in [0, 129, 131_071] {
            let bucket = BucketIndex::new(bucket).expect("below 2^17");
            let of_section = section_text(of, &bytes, bucket, shown);
            assert!(any_wrong(&lines) || !any_wrong(&of_section), "a section of a table that is right");
        }
        match footer {
            Some(Ok(footer)) if !any_wrong(&lines) => {
                let records = lines.iter().filter(|line| line.name.trim() == "record").count();
                assert_eq!(footer.record_count, records as u64, "every record has a text");
                accepted += 1;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => assert!(any_wrong(&lines), "a table without footer is wrong"),
        }
    }
    accepted
}

/// The input as a data block, an index, a filter and a list of sections, before compression.
pub(crate) fn table_parts(data: &[u8]) -> usize {
    let mut accepted = 0;
    let checked = Block::parse(data).and_then(|block| block.check().map(|()| block));
    assert_eq!(
        any_wrong(&raw_block(data, 0, &mut u64::MAX.clone())),
        checked.is_err(),
        "text and check agree"
    );
    if let Ok(block) = Block::parse(data) {
        let mut cursor = Cursor::new();
        let _ = cursor.seek_last(&block).and_then(|_| cursor.previous(&block));
        let _ = block.get(&data[..data.len().min(40)]);
    }
    if let Ok(block) = checked {
        accepted += 1;
        let mut cursor = Cursor::new();
        let mut more = cursor.seek_first(&block).expect("it was checked");
        while more {
            let entry = cursor.entry(&block).expect("it was checked").expect("the cursor is at an entry");
            assert_eq!(block.get(entry.key), Ok(Some(entry.record)), "what is there is found");
            more = cursor.next(&block).expect("it was checked");
        }
    }
    for data_bytes in DATA_BYTES.into_iter().chain([1 << 14]) {
        if let Ok(index) = Index::decode(data.to_vec(), data_bytes) {
            accepted += 1;
            let handles: Vec<_> = (0..index.block_count()).map(|number| index.handle(number)).collect();
            assert!(
                handles.iter().all(Option::is_some)
                    && index.find(data).is_none_or(|(n, _)| n < index.block_count())
            );
        }
    }
    if let Ok(filter) = Filter::decode(data.to_vec()) {
        let _ = filter.contains(key_hash(data));
        accepted += 1;
    }
    let (blocks, records) = SEALED_COUNTS;
    if let Ok(sections) = Sections::decode(data.to_vec(), blocks, records) {
        accepted += 1;
        assert_eq!(sections.iter().map(|section| section.record_count).sum::<u64>(), records);
        for section in sections.iter() {
            assert_eq!(sections.find(section.bucket), Some(section), "what is there is found");
            assert!(SectionReader::new(section).finish().is_err(), "no record was taken");
        }
    }
    accepted
}

/// The input as the columns of a block of as many bytes as the golden one, of one more, and of any.
pub(crate) fn table_columns(data: &[u8]) -> usize {
    let mut accepted = 0;
    let (mut rows, mut again) = (BlockBuilder::new(), BlockBuilder::new());
    for raw_bytes in [COLUMNS_ROWS_BYTES, COLUMNS_ROWS_BYTES + 1, data.len() + 60] {
        let Ok(bytes) = read_columns(data, raw_bytes, &mut rows) else { continue };
        accepted += 1;
        assert_eq!(bytes.len(), raw_bytes);
        let block = Block::parse(bytes).expect("what decodes is a block");
        assert_eq!(block.check(), Ok(()), "all of it");
        let mut builder = ColumnsBuilder::default();
        let columns = builder.build(&block);
        assert_eq!(read_columns(columns, raw_bytes, &mut again), Ok(bytes), "there and back");
    }
    accepted
}

/// Makes the checksum of each frame right, from the document and not from the encoder.
fn fix_frames(frames: &mut [u8]) {
    for (index, frame) in frames.as_chunks_mut::<FRAME_BYTES>().0.iter_mut().enumerate() {
        let at = MANIFEST_AT.0 + (index * FRAME_BYTES) as u64;
        let checksum = Crc::with(&identity(b"TCLMANFR")).and(&at.to_le_bytes()).and(&frame[4..]).finish();
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A half of a manifest, a record at its start.
pub(crate) fn manifest(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut frames = data.to_vec();
    let checksum = FrameChecksum::manifest(MANIFEST);
    for fix_checksums in [false, true] {
        if fix_checksums {
            fix_frames(&mut frames);
        }
        let lines = manifest_text(MANIFEST, MANIFEST_AT, TWIN_AT, &frames);
        assert_eq!(lines.is_empty(), frames.is_empty(), "everything has a text");
        let (whole, _) = frames.as_chunks::<FRAME_BYTES>();
        let Some(first) = whole.first() else { continue };
        let Frame::Valid { incarnation, sequence } = checksum.classify(MANIFEST_AT, first) else { continue };
        let Ok(header) = ManifestHeader::decode(incarnation, sequence, &first[16..], MANIFEST_AT) else {
            continue;
        };
        let record_bytes = header.record_bytes() as usize;
        let Some(record) = frames.get(..record_bytes) else { continue };
        let mut body = Vec::new();
        if header.body(record, MANIFEST_AT, &mut body).is_ok() {
            let mut again = vec![0xee; record_bytes];
            let mut writer = RecordWriter::new(&mut again);
            assert!(writer.append(&body), "a body fits its record");
            let bytes = seal(writer, &checksum, MANIFEST_AT, incarnation, sequence, header.kind);
            assert_eq!(bytes, record_bytes);
            let whole = (0..record_bytes / FRAME_BYTES).all(|index| {
                let at = MANIFEST_AT.plus((index * FRAME_BYTES) as u64);
                checksum.classify(at, &whole[index]) == Frame::Valid { incarnation, sequence }
            });
            assert_eq!(again == record, whole, "what was read is written to the same bytes");
            accepted += 1 + edits(&body);
        }
    }
    accepted
}

/// Edits back to back.
pub(crate) fn edits(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut again = Vec::new();
    let mut refused = false;
    for edit in EditIter::new(data) {
        match edit {
            Ok(edit) => {
                edit.encode_into(&mut again);
                accepted += 1;
            }
            Err(_) => refused = true,
        }
    }
    assert!(data.starts_with(&again), "what decodes encodes to the same bytes");
    assert_eq!(again.len() < data.len(), refused, "all of it is edits, or something is wrong");
    assert_eq!(any_wrong(&edits_text(data)), refused, "text and decoder agree");
    accepted
}

/// Makes the checksum at the end of a blob right, from the document and not from the encoder.
fn fix_state(blob: &mut [u8]) {
    let Some(end) = blob.len().checked_sub(16) else { return };
    let mut all = identity(b"TCLSTATE");
    all.extend_from_slice(&7_u64.to_le_bytes());
    all.extend_from_slice(&blob[..end]);
    blob[end..].copy_from_slice(&long(&all).to_le_bytes());
}

/// A state blob.
pub(crate) fn state(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut blob = data.to_vec();
    for fix_checksum in [false, true] {
        if fix_checksum {
            fix_state(&mut blob);
        }
        let items = read_state(&blob);
        assert_eq!(any_wrong(&state_text(&STATE, &blob, true)), items.is_none(), "text and reader agree");
        let Some(items) = items else { continue };
        let heads = items.iter().filter(|item| matches!(item, StateItem::Tablet(_))).count();
        let mut writer = StateWriter::new(&STATE, heads);
        for item in &items {
            match item {
                StateItem::Tablet(head) => writer.begin_tablet(head),
                StateItem::Request(request) => writer.request(request),
                StateItem::Recent(recent) => writer.recent(recent),
                StateItem::Window(window) => writer.window(window),
                StateItem::Sink(sink) => writer.sink(sink),
                StateItem::Link(link) => writer.link(link),
                StateItem::End { .. } => unreachable!("the list has no end"),
            }
        }
        writer.finish();
        assert!(writer.pending() == blob, "what was read is written to the same bytes");
        accepted += 1;
    }
    accepted
}

/// Its items without the end; `None` when something is wrong.
fn read_state(blob: &[u8]) -> Option<Vec<StateItem>> {
    let mut reader = StateReader::new(&STATE, blob.len() as u64);
    let mut input = blob;
    let mut items = Vec::new();
    loop {
        match reader.next(&mut input).ok()?? {
            StateItem::End { .. } => return Some(items),
            item => items.push(item),
        }
    }
}
