//! A journal record: what one turn of a shard writes and flushes as one.
//!
//! Owns the record header, the cutting of a body into frames, and the reading back. Must never
//! decide whether a broken record is a torn tail or damage (that is recovery's, frame by frame).
//! Invariant: `read_record` returns exactly the body that was appended and sealed, or `Corrupt`.
//!
//! ```text
//! frame 0                              frame 1                      last frame of a 4096 block
//! | frame header 16 | record header 48 | body 448 | frame header 16 | body 496 | .. | zeros |
//! ```

use crate::FORMAT_VERSION;
use crate::checksum::Pieces;
use crate::field::{Corrupt, Field, Table, byte_table, is_zero};
use crate::journal_frame::FRAME_HEADER_BYTES;
pub use crate::journal_frame::{
    FRAME_BYTES, FRAME_MAGIC, FRAME_PAYLOAD_BYTES, FRAME_TABLE, Frame, FrameChecksum, JournalIdentity,
    classify_frame,
};
use crate::units::{BLOCK_BYTES, DiskOffset, Incarnation, Sequence};

/// Bytes of the record header at the start of frame 0's payload.
pub const RECORD_HEADER_BYTES: usize = 48;
/// First bytes of a record header.
pub const RECORD_MAGIC: [u8; 4] = *b"TCLR";
/// Body bytes in frame 0; every other frame carries [`FRAME_PAYLOAD_BYTES`].
pub const FIRST_BODY_BYTES: usize = FRAME_PAYLOAD_BYTES - RECORD_HEADER_BYTES;
/// Frames in a block of 4096 bytes: a record is a multiple of this many.
pub const BLOCK_FRAMES: usize = BLOCK_BYTES / FRAME_BYTES;

byte_table! {
    /// Byte table of a record header.
    RECORD_TABLE = "journal record", RECORD_HEADER_BYTES;
    R_MAGIC = "magic", 0, 4;
    R_VERSION = "version", 4, 2;
    R_KIND = "kind", 6, 1;
    R_RESERVED = "reserved", 7, 1;
    R_FRAME_COUNT = "frame_count", 8, 4;
    R_BODY_BYTES = "body_bytes", 12, 4;
    R_PREVIOUS_SEQUENCE = "previous_sequence", 16, 8;
    R_FLUSHED_SEQUENCE = "flushed_sequence", 24, 8;
    R_BODY_CHECKSUM = "body_checksum", 32, 8;
    R_PREVIOUS_INCARNATION = "previous_incarnation", 40, 4;
    R_MEMTABLE_NUMBER = "memtable_number", 44, 4;
}

/// Not a stored field: names the zeros behind a record's body in errors.
const PADDING: Field = Field { name: "padding", offset: RECORD_HEADER_BYTES, bytes: 0 };

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// First record of a start: what an older incarnation left above it is void.
    Open,
    /// Log entries, back to back.
    Entries,
    /// Votes and chosen entries of a replica of a group, back to back.
    Items,
    /// No entries: says that everything before it is flushed.
    Mark,
}

impl RecordKind {
    fn to_number(self) -> u8 {
        match self {
            RecordKind::Open => 1,
            RecordKind::Entries => 2,
            RecordKind::Mark => 3,
            RecordKind::Items => 4,
        }
    }

    fn from_number(number: u8) -> Option<RecordKind> {
        match number {
            1 => Some(RecordKind::Open),
            2 => Some(RecordKind::Entries),
            3 => Some(RecordKind::Mark),
            4 => Some(RecordKind::Items),
            _ => None,
        }
    }
}

/// What the writer of a record says about it when sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordFields {
    /// What it is for.
    pub kind: RecordKind,
    /// Start of the process that writes it, from 1.
    pub incarnation: Incarnation,
    /// Its number, from 1.
    pub sequence: Sequence,
    /// Incarnation that wrote the record before it; 0 when there is none.
    pub previous_incarnation: Incarnation,
    /// Number of the record before it; 0 when there is none.
    pub previous_sequence: Sequence,
    /// Highest record known flushed when this one was written.
    pub flushed_sequence: Sequence,
    /// Which memtable its entries went to. A replay goes on in a fresh one where it changes, so that each memtable has
    /// to hold what it held before, and no more.
    pub memtable_number: u32,
}

/// A record header as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the writer said; incarnation and sequence are those of the frame.
    pub fields: RecordFields,
    /// Frames of the record, padding included: a multiple of 8.
    pub frame_count: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// xxh3-64, seed 0, of the body.
    pub body_checksum: u64,
}

impl RecordHeader {
    /// Bytes of the whole record on the device, a multiple of 4096.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        u64::from(self.frame_count) * FRAME_BYTES as u64
    }

    /// Reads the header from the payload of a record's frame 0, whose frame header gave
    /// `incarnation` and `sequence`; `at` is the payload's place, for the error. A payload in the
    /// middle of a record fails at `magic`: it is not a first frame.
    pub fn decode(
        incarnation: Incarnation,
        sequence: Sequence,
        payload: &[u8],
        at: DiskOffset,
    ) -> Result<RecordHeader, Corrupt> {
        let wrong = |field: Field| Err(RECORD_TABLE.corrupt(field, at.0));
        if payload.len() < RECORD_HEADER_BYTES || R_MAGIC.array(payload) != RECORD_MAGIC {
            return wrong(R_MAGIC);
        }
        if u32::from(R_VERSION.u16(payload)) != FORMAT_VERSION {
            return wrong(R_VERSION);
        }
        let Some(kind) = RecordKind::from_number(R_KIND.u8(payload)) else { return wrong(R_KIND) };
        let fields = RecordFields {
            kind,
            incarnation,
            sequence,
            previous_incarnation: Incarnation(R_PREVIOUS_INCARNATION.u32(payload)),
            previous_sequence: Sequence(R_PREVIOUS_SEQUENCE.u64(payload)),
            flushed_sequence: Sequence(R_FLUSHED_SEQUENCE.u64(payload)),
            memtable_number: R_MEMTABLE_NUMBER.u32(payload),
        };
        let header = RecordHeader {
            fields,
            frame_count: R_FRAME_COUNT.u32(payload),
            body_bytes: R_BODY_BYTES.u32(payload),
            body_checksum: R_BODY_CHECKSUM.u64(payload),
        };
        let frames = header.frame_count as usize;
        if frames == 0 || !frames.is_multiple_of(BLOCK_FRAMES) {
            return wrong(R_FRAME_COUNT);
        }
        if frames_of_body(header.body_bytes as usize) != frames {
            return wrong(R_BODY_BYTES);
        }
        if !R_RESERVED.is_zero(payload) {
            return wrong(R_RESERVED);
        }
        match first_wrong(&fields) {
            Some(field) => wrong(field),
            None => Ok(header),
        }
    }
}

/// The first of the writer's fields that cannot be.
fn first_wrong(fields: &RecordFields) -> Option<Field> {
    if fields.previous_sequence >= fields.sequence {
        return Some(R_PREVIOUS_SEQUENCE);
    }
    if fields.flushed_sequence >= fields.sequence {
        return Some(R_FLUSHED_SEQUENCE);
    }
    let none_before = fields.previous_sequence.0 == 0;
    let incarnation_fits = match fields.kind {
        RecordKind::Open => fields.previous_incarnation < fields.incarnation,
        RecordKind::Entries | RecordKind::Items | RecordKind::Mark => {
            fields.previous_incarnation == fields.incarnation
        }
    };
    if !incarnation_fits || (none_before != (fields.previous_incarnation.0 == 0)) {
        return Some(R_PREVIOUS_INCARNATION);
    }
    None
}

/// Frames of a record with a body of so many bytes, rounded up to whole blocks of 4096 bytes.
#[must_use]
pub const fn frames_of_body(body_bytes: usize) -> usize {
    (1 + body_bytes.saturating_sub(FIRST_BODY_BYTES).div_ceil(FRAME_PAYLOAD_BYTES))
        .next_multiple_of(BLOCK_FRAMES)
}

/// Body bytes that fit into a record of so many bytes (a multiple of 4096, not 0).
#[must_use]
pub const fn body_bytes_max(record_bytes: usize) -> usize {
    FIRST_BODY_BYTES + (record_bytes / FRAME_BYTES - 1) * FRAME_PAYLOAD_BYTES
}

/// Builds one record in the caller's buffer: append the body, then seal.
///
/// The body is appended before incarnation and sequence are known to the caller's pipeline, so the
/// frames' headers are left open and filled by [`RecordWriter::seal`].
#[derive(Debug)]
pub struct RecordWriter<'a> {
    buffer: &'a mut [u8],
    /// Where the next body byte goes; always inside a payload, or at the end of the buffer.
    cursor: usize,
    body_bytes: usize,
}

impl<'a> RecordWriter<'a> {
    /// Starts an empty record in `buffer`: a multiple of 4096 bytes, at least one, at most 2^31.
    #[must_use]
    pub fn new(buffer: &'a mut [u8]) -> RecordWriter<'a> {
        let aligned = !buffer.is_empty() && buffer.len().is_multiple_of(BLOCK_BYTES);
        assert!(aligned && buffer.len() <= 1 << 31, "a record's buffer is 1..=2^19 blocks of 4096 bytes");
        RecordWriter { buffer, cursor: FRAME_HEADER_BYTES + RECORD_HEADER_BYTES, body_bytes: 0 }
    }

    /// Body bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        body_bytes_max(self.buffer.len()) - self.body_bytes
    }

    /// Body bytes appended so far.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// Bytes the record takes on the device if it is sealed now.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        frames_of_body(self.body_bytes) * FRAME_BYTES
    }

    /// Appends to the body; false, with nothing written, when it does not fit.
    #[inline]
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        self.body_bytes += bytes.len();
        let mut rest = bytes;
        loop {
            let left_in_frame = FRAME_BYTES - self.cursor % FRAME_BYTES;
            if rest.len() < left_in_frame {
                self.buffer[self.cursor..self.cursor + rest.len()].copy_from_slice(rest);
                self.cursor += rest.len();
                return true;
            }
            let (run, after) = rest.split_at(left_in_frame);
            self.buffer[self.cursor..self.cursor + left_in_frame].copy_from_slice(run);
            self.cursor += left_in_frame;
            rest = after;
            if self.cursor == self.buffer.len() {
                assert!(rest.is_empty(), "room was checked before copying");
                // Full: stay at the end; only empty appends can follow.
                return true;
            }
            self.cursor += FRAME_HEADER_BYTES;
        }
    }

    /// Completes the record for the place `offset` of the device and returns the bytes to write, a
    /// multiple of 4096 from the start of the buffer.
    ///
    /// `offset` is a multiple of 4096. Fields that the decoder would refuse are our own bug.
    #[must_use]
    pub fn seal(self, identity: JournalIdentity, offset: DiskOffset, fields: RecordFields) -> usize {
        self.seal_with(&FrameChecksum::new(identity), offset, fields)
    }

    /// [`RecordWriter::seal`] with the identity already hashed.
    #[must_use]
    pub fn seal_with(self, checksum: &FrameChecksum, offset: DiskOffset, fields: RecordFields) -> usize {
        assert!(first_wrong(&fields).is_none(), "a record we write can be read again: {fields:?}");
        self.seal_frames(checksum, offset, fields.incarnation, fields.sequence, |header, measure| {
            R_MAGIC.put(header, RECORD_MAGIC);
            R_VERSION.put(header, (FORMAT_VERSION as u16).to_le_bytes());
            R_KIND.put(header, [fields.kind.to_number()]);
            R_FRAME_COUNT.put(header, measure.frame_count.to_le_bytes());
            R_BODY_BYTES.put(header, measure.body_bytes.to_le_bytes());
            R_PREVIOUS_SEQUENCE.put(header, fields.previous_sequence.0.to_le_bytes());
            R_FLUSHED_SEQUENCE.put(header, fields.flushed_sequence.0.to_le_bytes());
            R_PREVIOUS_INCARNATION.put(header, fields.previous_incarnation.0.to_le_bytes());
            R_BODY_CHECKSUM.put(header, measure.body_checksum.to_le_bytes());
            R_MEMTABLE_NUMBER.put(header, fields.memtable_number.to_le_bytes());
        })
    }

    /// Completes a record of any kind: `fill` writes its header into [`RECORD_HEADER_BYTES`] zeros.
    pub(crate) fn seal_frames(
        self,
        checksum: &FrameChecksum,
        offset: DiskOffset,
        incarnation: Incarnation,
        sequence: Sequence,
        fill: impl FnOnce(&mut [u8], &Measure),
    ) -> usize {
        assert!(offset.0.is_multiple_of(BLOCK_BYTES as u64), "a record is written at a multiple of 4096");
        assert!(incarnation.0 > 0 && sequence.0 > 0, "incarnations and sequences count from 1");
        let record_bytes = self.record_bytes();
        let record = &mut self.buffer[..record_bytes];
        record[self.cursor.min(record_bytes)..].fill(0);
        let mut pieces = Pieces::default();
        for_each_piece(record, self.body_bytes, |piece| pieces.add(piece));
        let measure = Measure {
            frame_count: (record_bytes / FRAME_BYTES) as u32,
            body_bytes: self.body_bytes as u32,
            body_checksum: pieces.finish(),
        };
        let header = &mut record[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + RECORD_HEADER_BYTES];
        header.fill(0);
        fill(header, &measure);
        for (index, frame) in record.as_chunks_mut::<FRAME_BYTES>().0.iter_mut().enumerate() {
            let frame_offset = offset.plus((index * FRAME_BYTES) as u64);
            checksum.seal(frame_offset, incarnation, sequence, frame);
        }
        record_bytes
    }
}

/// What sealing finds out about a record, for its header.
pub(crate) struct Measure {
    pub(crate) frame_count: u32,
    pub(crate) body_bytes: u32,
    pub(crate) body_checksum: u64,
}

/// Replaces the content of `body_out` by the body of a record whose frames were checked one by one; false, with nothing
/// there, when its checksum or the padding is wrong.
pub(crate) fn check_body(record: &[u8], body_bytes: usize, checksum: u64, body_out: &mut Vec<u8>) -> bool {
    body_out.clear();
    let mut pieces = Pieces::default();
    for_each_piece(record, body_bytes, |piece| {
        pieces.add(piece);
        body_out.extend_from_slice(piece);
    });
    let frames = record.as_chunks::<FRAME_BYTES>().0;
    let good = pieces.finish() == checksum && padding_is_zero(frames, body_bytes);
    if !good {
        body_out.clear();
    }
    good
}

/// Calls `piece` with each run of the body in order. `record` holds whole frames, enough for the body.
fn for_each_piece(record: &[u8], body_bytes: usize, mut piece: impl FnMut(&[u8])) {
    let mut left = body_bytes;
    let mut skip = FRAME_HEADER_BYTES + RECORD_HEADER_BYTES;
    for frame in record.as_chunks::<FRAME_BYTES>().0 {
        let run = left.min(FRAME_BYTES - skip);
        piece(&frame[skip..skip + run]);
        left -= run;
        skip = FRAME_HEADER_BYTES;
        if left == 0 {
            return;
        }
    }
    assert!(left == 0, "the record's frames hold its body");
}

/// Reads the record whose frame 0 was read at `offset`; `frames` may go on behind it.
///
/// Checks every frame, the header, the body's checksum and the padding, and replaces the content of
/// `body_out` by the body (left empty on an error). Fails at `frame_count` when `frames` holds fewer
/// frames than the record has: read more and call again.
pub fn read_record(
    identity: JournalIdentity,
    offset: DiskOffset,
    frames: &[u8],
    body_out: &mut Vec<u8>,
) -> Result<RecordHeader, Corrupt> {
    body_out.clear();
    let checksum = FrameChecksum::new(identity);
    let payload_at = DiskOffset(offset.0.saturating_add(FRAME_HEADER_BYTES as u64));
    let wrong = |field: Field| RECORD_TABLE.corrupt(field, payload_at.0);
    let chunks = frames.as_chunks::<FRAME_BYTES>().0;
    let first = chunks.first().ok_or_else(|| wrong(R_MAGIC))?;
    let (incarnation, sequence) = checksum.check(offset, first)?;
    let header = RecordHeader::decode(incarnation, sequence, &first[FRAME_HEADER_BYTES..], payload_at)?;
    let chunks = chunks.get(..header.frame_count as usize).ok_or_else(|| wrong(R_FRAME_COUNT))?;
    for (index, frame) in chunks.iter().enumerate() {
        let frame_offset = DiskOffset(offset.0.saturating_add((index * FRAME_BYTES) as u64));
        let found = checksum.check(frame_offset, frame)?;
        if found.0 != incarnation {
            return Err(FRAME_TABLE.corrupt(crate::journal_frame::F_INCARNATION, frame_offset.0));
        }
        if found.1 != sequence {
            return Err(FRAME_TABLE.corrupt(crate::journal_frame::F_SEQUENCE, frame_offset.0));
        }
    }
    let record = chunks.as_flattened();
    let mut pieces = Pieces::default();
    for_each_piece(record, header.body_bytes as usize, |piece| {
        pieces.add(piece);
        body_out.extend_from_slice(piece);
    });
    let error = if pieces.finish() != header.body_checksum {
        Some(R_BODY_CHECKSUM)
    } else if !padding_is_zero(chunks, header.body_bytes as usize) {
        Some(PADDING)
    } else {
        None
    };
    match error {
        Some(field) => {
            body_out.clear();
            Err(wrong(field))
        }
        None => Ok(header),
    }
}

/// True when everything behind the body, frame headers apart, is zero.
fn padding_is_zero(frames: &[[u8; FRAME_BYTES]], body_bytes: usize) -> bool {
    let mut left = body_bytes;
    let mut skip = FRAME_HEADER_BYTES + RECORD_HEADER_BYTES;
    frames.iter().all(|frame| {
        let run = left.min(FRAME_BYTES - skip);
        let zero = is_zero(&frame[skip + run..]);
        left -= run;
        skip = FRAME_HEADER_BYTES;
        zero
    })
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 1] = [RECORD_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ShardIndex, Uuid};
    use proptest::prelude::*;

    const HOME: JournalIdentity =
        JournalIdentity { device: Uuid([7; 16]), shard: ShardIndex(2), generation: 3 };
    const AT: DiskOffset = DiskOffset(1 << 20);

    fn fields(sequence: u64) -> RecordFields {
        RecordFields {
            kind: RecordKind::Entries,
            incarnation: Incarnation(4),
            sequence: Sequence(sequence),
            previous_incarnation: Incarnation(4),
            previous_sequence: Sequence(sequence - 1),
            flushed_sequence: Sequence(sequence - 1),
            memtable_number: 2,
        }
    }

    fn sealed(pieces: &[&[u8]], buffer: &mut [u8]) -> usize {
        buffer.fill(0xee);
        let mut writer = RecordWriter::new(buffer);
        pieces.iter().for_each(|piece| assert!(writer.append(piece)));
        writer.seal(HOME, AT, fields(9))
    }

    #[test]
    fn every_body_length_around_frame_and_block_edges_round_trips() {
        let content: Vec<u8> = (0..12_000u32).map(|i| (i % 251) as u8 + 1).collect();
        let block = body_bytes_max(BLOCK_BYTES);
        assert_eq!(block, 448 + 7 * 496);
        let edges = [0, 1, 447, 448, 449, 943, 944, 945, block - 1, block, block + 1, body_bytes_max(8192)];
        for body_bytes in edges {
            let mut buffer = vec![0; 8192];
            let body = &content[..body_bytes];
            let written = sealed(&[body], &mut buffer);
            assert_eq!(written, if body_bytes <= block { 4096 } else { 8192 }, "{body_bytes}");
            let mut out = vec![1, 2, 3];
            let header = read_record(HOME, AT, &buffer[..written], &mut out).expect("what was sealed");
            assert_eq!((header.fields, header.body_bytes as usize), (fields(9), body_bytes));
            assert_eq!(header.record_bytes() as usize, written);
            assert!(out == body, "{body_bytes}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let mut buffer = vec![0; 4096];
        let mut writer = RecordWriter::new(&mut buffer);
        assert!(writer.append(&[1; 3900]));
        assert_eq!(writer.room(), 20);
        assert!(!writer.append(&[2; 21]));
        assert_eq!(writer.body_bytes(), 3900);
        assert!(writer.append(&[3; 20]));
        assert!(writer.append(&[]) && !writer.append(&[4]));
        assert_eq!(writer.seal(HOME, AT, fields(1 + 1)), 4096);
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let mut buffer = vec![0; 4096];
        sealed(&[&[0xab; 700]], &mut buffer);
        let mut out = Vec::new();
        for bit in 0..4096 * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            let corrupt = read_record(HOME, AT, &buffer, &mut out).expect_err("a flipped bit");
            assert_eq!(corrupt.at, AT.0 + (bit / 8 / 512 * 512) as u64, "bit {bit}");
            assert!(out.is_empty());
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_frame_of_another_record_in_the_middle_is_named() {
        let mut buffer = vec![0; 4096];
        sealed(&[&[1; 3000]], &mut buffer);
        let frame: &mut [u8; FRAME_BYTES] = (&mut buffer[1024..1536]).try_into().expect("512 bytes");
        FrameChecksum::new(HOME).seal(AT.plus(1024), Incarnation(4), Sequence(8), frame);
        let corrupt = read_record(HOME, AT, &buffer, &mut Vec::new()).expect_err("an older frame");
        assert_eq!((corrupt.field, corrupt.at), ("sequence", AT.0 + 1024 + 8));
    }

    #[test]
    fn changed_body_under_right_frame_checksums_is_seen() {
        let mut buffer = vec![0; 4096];
        sealed(&[&[1; 3000]], &mut buffer);
        for (place, field) in [(600, "body_checksum"), (4000, "padding")] {
            let mut changed = buffer.clone();
            changed[place] ^= 1;
            let index = place / 512;
            let frame = (&mut changed[index * 512..index * 512 + 512]).try_into().expect("512 bytes");
            FrameChecksum::new(HOME).seal(AT.plus(index as u64 * 512), Incarnation(4), Sequence(9), frame);
            let corrupt = read_record(HOME, AT, &changed, &mut Vec::new()).expect_err("a changed body");
            assert_eq!(corrupt.field, field);
        }
    }

    #[test]
    fn a_record_cut_short_asks_for_more_frames() {
        let mut buffer = vec![0; 8192];
        sealed(&[&[1; 5000]], &mut buffer);
        let corrupt = read_record(HOME, AT, &buffer[..4096], &mut Vec::new()).expect_err("half a record");
        assert_eq!(corrupt.field, "frame_count");
        assert!(read_record(HOME, AT, &[], &mut Vec::new()).is_err());
        let corrupt = read_record(HOME, AT.plus(512), &buffer[512..], &mut Vec::new());
        assert_eq!(corrupt.expect_err("not a first frame").field, "magic");
    }

    #[test]
    #[should_panic(expected = "can be read again")]
    fn an_entries_record_of_another_incarnation_than_its_predecessor_is_our_own_bug() {
        let mut buffer = vec![0; 4096];
        let wrong = RecordFields { previous_incarnation: Incarnation(3), ..fields(9) };
        let _ = RecordWriter::new(&mut buffer).seal(HOME, AT, wrong);
    }

    proptest! {
        #[test]
        fn any_cutting_into_appends_gives_the_same_record(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1200), 0..12),
        ) {
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let whole = pieces.concat();
            let (mut cut, mut once) = (vec![0; 16_384], vec![0; 16_384]);
            let written = sealed(&slices, &mut cut);
            prop_assert_eq!(written, sealed(&[&whole], &mut once));
            prop_assert!(cut[..written] == once[..written]);
            let mut out = Vec::new();
            prop_assert!(read_record(HOME, AT, &cut, &mut out).is_ok());
            prop_assert_eq!(out, whole);
        }
    }
}
