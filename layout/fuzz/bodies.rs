//! What is tried with any bytes, shared by the fuzz targets and by tests/mutate.rs.
//!
//! Owns the properties: a decoder never panics, what it accepts encodes to the same bytes, and
//! `inspect` marks something exactly when the decoder refuses. Each body also tries its input with
//! the checksums made right, so that what lies behind them is reached. Answers how many of its tries
//! were accepted, so that a test sees whether it got past the checks.

use layout::checksum::{Crc, short};
use layout::inspect;
use layout::journal_record::{
    FRAME_BYTES, Frame, JournalIdentity, RecordWriter, classify_frame, read_record,
};
use layout::log_entry::EntryIter;
use layout::superblock::{
    COPY_COUNT, Copies, SUPERBLOCK_BYTES, Superblock, UpdatePlan, choose, copy_offset, sequence_next,
};
use layout::units::{DiskOffset, ShardIndex, Uuid, Version};
use layout::version_cell::{HEADER_BYTES, Header, ROW_BYTES, Row, Tag};

/// The identity of the golden images.
pub(crate) const IDENTITY: JournalIdentity = JournalIdentity {
    device: Uuid([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
    shard: ShardIndex(1),
    generation: 3,
};
/// The place of the golden journal record.
pub(crate) const RECORD_AT: DiskOffset = DiskOffset(0x0123_4000);

fn any_wrong(lines: &[inspect::Line]) -> bool {
    lines.iter().any(|line| line.wrong.is_some())
}

/// The input as an array, cut or filled up with zeros.
fn sized<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let length = data.len().min(N);
    bytes[..length].copy_from_slice(&data[..length]);
    bytes
}

/// One superblock copy, and the input as four copies.
pub(crate) fn superblock(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut block: [u8; SUPERBLOCK_BYTES] = sized(data);
    for fix_checksum in [false, true] {
        if fix_checksum {
            let checksum = Crc::with(&block[..4092]).finish();
            block[4092..].copy_from_slice(&checksum.to_le_bytes());
        }
        for copy in 0..COPY_COUNT {
            let decoded = Superblock::decode(&block, copy_offset(copy));
            let lines = inspect::superblock(&block, copy_offset(copy));
            assert_eq!(any_wrong(&lines), decoded.is_err(), "inspect and decoder agree");
            if let Ok(superblock) = decoded {
                let mut again = [0; SUPERBLOCK_BYTES];
                superblock.encode(copy, &mut again);
                assert!(again == block, "what decodes encodes to the same bytes");
                accepted += 1;
            }
        }
    }
    assert!(data.len() >= SUPERBLOCK_BYTES || any_wrong(&inspect::superblock(data, DiskOffset(u64::MAX))));
    let copies: Copies = std::array::from_fn(|copy| {
        let part = data.get(copy * SUPERBLOCK_BYTES..).unwrap_or_default();
        Superblock::decode(&sized(part), copy_offset(copy))
    });
    match choose(&copies) {
        Ok(superblock) => {
            let plan = UpdatePlan::new(&copies, &superblock);
            let mut all = plan.order;
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3], "an update writes every copy once");
            assert!(sequence_next(&copies) > superblock.sequence);
            accepted += 1;
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    accepted
}

/// Makes the checksum of each frame right, from the document and not from the encoder.
fn fix_frames(frames: &mut [u8], at: DiskOffset) {
    for (index, frame) in frames.as_chunks_mut::<FRAME_BYTES>().0.iter_mut().enumerate() {
        let mut identity = Vec::from(*b"TCLFRAME");
        identity.extend_from_slice(&layout::FORMAT_VERSION.to_le_bytes());
        identity.extend_from_slice(&IDENTITY.device.0);
        identity.extend_from_slice(&IDENTITY.shard.0.to_le_bytes());
        identity.extend_from_slice(&IDENTITY.generation.to_le_bytes());
        identity.extend_from_slice(&(at.0 + (index * FRAME_BYTES) as u64).to_le_bytes());
        let checksum = Crc::with(&identity).and(&frame[4..]).finish();
        frame[..4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Frames of a journal, a record at their start.
pub(crate) fn journal(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut frames = data.to_vec();
    let mut body = Vec::new();
    for fix_checksums in [false, true] {
        if fix_checksums {
            fix_frames(&mut frames, RECORD_AT);
        }
        let lines = inspect::journal(IDENTITY, RECORD_AT, &frames);
        if let Some(first) = frames.first_chunk::<FRAME_BYTES>() {
            let class = classify_frame(IDENTITY, RECORD_AT, first);
            assert_eq!(class == Frame::Zero, first.iter().all(|byte| *byte == 0), "zero is all zero");
        }
        match read_record(IDENTITY, RECORD_AT, &frames, &mut body) {
            Ok(header) => {
                let record_bytes = header.record_bytes() as usize;
                let mut again = vec![0xee; record_bytes];
                let mut writer = RecordWriter::new(&mut again);
                assert!(writer.append(&body), "a body fits into its record");
                assert_eq!(writer.seal(IDENTITY, RECORD_AT, header.fields), record_bytes);
                assert!(again == frames[..record_bytes], "what was read is written to the same bytes");
                accepted += 1 + entries(&body);
            }
            Err(_) => assert!(body.is_empty(), "no half of a body is handed out"),
        }
        assert!(lines.is_empty() == frames.is_empty(), "everything has a text");
    }
    let _ = inspect::journal(IDENTITY, DiskOffset(u64::MAX - 511), data);
    accepted
}

/// The body of a record: entries and their operations.
pub(crate) fn entries(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut again = Vec::new();
    let mut refused = false;
    for entry in EntryIter::new(data) {
        let Ok(entry) = entry else {
            refused = true;
            break;
        };
        again.extend_from_slice(&entry.header.encode());
        let mut count = 0;
        for operation in entry.operations() {
            match operation {
                Ok(operation) => {
                    let before = again.len();
                    operation.encode_into(&mut |piece: &[u8]| again.extend_from_slice(piece));
                    assert_eq!(again.len() - before, operation.encoded_bytes());
                    count += 1;
                }
                Err(_) => refused = true,
            }
        }
        if refused {
            break;
        }
        assert_eq!(count, usize::from(entry.header.operation_count), "an entry holds what it says");
        accepted += 1;
    }
    assert!(data.starts_with(&again), "what decodes encodes to the same bytes");
    assert!(refused || again.len() == data.len(), "all of a body is entries, or an error is said");
    assert_eq!(any_wrong(&inspect::entries(data)), refused, "inspect and decoder agree");
    accepted
}

/// The row with its check made right, from the document and not from the encoder.
fn with_check(row: &Row) -> Row {
    let mut words = row.0;
    for pair in words.as_chunks_mut::<2>().0 {
        pair[0] &= !(1 << 63);
        pair[1] &= !(7 << 61);
    }
    if words == [0; 8] {
        return Row(words);
    }
    let check = short(&Row(words).to_bytes()) >> 48;
    for (index, pair) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        pair[0] |= (check >> (4 * index) & 1) << 63;
        pair[1] |= (check >> (4 * index + 1) & 7) << 61;
    }
    Row(words)
}

/// The header of a version file, and rows.
pub(crate) fn version(data: &[u8]) -> usize {
    let mut accepted = 0;
    let mut bytes: [u8; HEADER_BYTES] = sized(data);
    for fix_checksum in [false, true] {
        if fix_checksum {
            let checksum = Crc::with(&bytes[..124]).finish();
            bytes[124..128].copy_from_slice(&checksum.to_le_bytes());
        }
        let decoded = Header::decode(&bytes);
        assert_eq!(
            any_wrong(&inspect::version_header(&bytes)),
            decoded.is_err(),
            "inspect and decoder agree"
        );
        if let Ok(header) = decoded {
            let mut again = [0; HEADER_BYTES];
            header.encode(&mut again);
            assert!(again == bytes, "what decodes encodes to the same bytes");
            accepted += 1;
        }
    }
    let rows = data.as_chunks::<ROW_BYTES>().0.iter().map(Row::from_bytes);
    for (number, row) in rows.flat_map(|row| [row, with_check(&row)]).enumerate() {
        assert_eq!(
            any_wrong(&inspect::version_row(u64::MAX / 64 - 100 + number as u64 % 8, &row)),
            row.decode().is_err()
        );
        if let Ok(mut cells) = row.decode() {
            assert!(cells.encode() == row, "what decodes encodes to the same words");
            let count = cells.iter().count();
            for (position, cell) in cells.iter().enumerate() {
                assert_eq!(cells.find(cell.tag), Some((position, cell.version)), "a key is in a row once");
            }
            if count > 0 {
                cells.touch(count - 1);
            }
            cells.insert(Tag::from_hash(number as u64), Version(number as u64));
            assert_eq!(cells.encode().decode(), Ok(cells));
            accepted += 1;
        }
    }
    accepted
}
