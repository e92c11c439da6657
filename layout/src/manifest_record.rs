//! A record of the manifest log: part of a snapshot, or one edit behind it. The body is opaque here.
//!
//! Owns the record's header; frames, and the cutting of a body into them, are those of a journal record. Must never be
//! taken for a record of a journal, nor a journal's for one of these: the identity that frames are bound to begins with
//! another magic. Invariant: a header that decodes is one that [`seal`] can write.
//!
//! ```text
//! frame 0                              frame 1                      last frame of a 4096 block
//! | frame header 16 | record header 48 | body 448 | frame header 16 | body 496 | .. | zeros |
//! ```

use crate::FORMAT_VERSION;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::journal_frame::FrameChecksum;
use crate::journal_record::{BLOCK_FRAMES, RECORD_HEADER_BYTES, RecordWriter, check_body, frames_of_body};
use crate::units::{DiskOffset, Incarnation, Sequence};

/// First bytes of a manifest record's header.
pub const MANIFEST_RECORD_MAGIC: [u8; 4] = *b"TCLM";

byte_table! {
    /// Byte table of a manifest record's header.
    MANIFEST_RECORD_TABLE = "manifest record", RECORD_HEADER_BYTES;
    M_MAGIC = "magic", 0, 4;
    M_VERSION = "version", 4, 2;
    M_KIND = "kind", 6, 1;
    M_LAST = "last", 7, 1;
    M_FRAME_COUNT = "frame_count", 8, 4;
    M_BODY_BYTES = "body_bytes", 12, 4;
    M_SNAPSHOT_SEQUENCE = "snapshot_sequence", 16, 8;
    M_PART = "part", 24, 4;
    M_RESERVED = "reserved", 28, 4;
    M_BODY_CHECKSUM = "body_checksum", 32, 8;
    M_RESERVED_2 = "reserved_2", 40, 8;
}

const KIND_SNAPSHOT: u8 = 1;
const KIND_EDIT: u8 = 2;

/// What a manifest record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestKind {
    /// A part of a snapshot. All parts have the sequence of the snapshot.
    Snapshot {
        /// Which, from 0.
        part: u32,
        /// No part follows.
        last: bool,
    },
    /// An edit of what the snapshot and the edits before this one say.
    Edit {
        /// Sequence of the snapshot that it follows.
        snapshot: Sequence,
    },
}

/// A manifest record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestHeader {
    /// What it is.
    pub kind: ManifestKind,
    /// Start of the process that wrote it, from 1.
    pub incarnation: Incarnation,
    /// Its number, from 1: one for each edit and one for each snapshot.
    pub sequence: Sequence,
    /// Frames of the record, padding included: a multiple of 8.
    pub frame_count: u32,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// xxh3-64, seed 0, of the body.
    pub body_checksum: u64,
}

impl ManifestHeader {
    /// Bytes of the whole record on the device, a multiple of 4096.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        u64::from(self.frame_count) * crate::journal_frame::FRAME_BYTES as u64
    }

    /// Reads the header from the payload of a record's frame 0, whose frame header gave `incarnation` and `sequence`;
    /// `at` is the payload's place, for the error. A payload in the middle of a record fails at `magic`.
    pub fn decode(
        incarnation: Incarnation,
        sequence: Sequence,
        payload: &[u8],
        at: DiskOffset,
    ) -> Result<ManifestHeader, Corrupt> {
        let wrong = |field: Field| Err(MANIFEST_RECORD_TABLE.corrupt(field, at.0));
        if payload.len() < RECORD_HEADER_BYTES || M_MAGIC.array(payload) != MANIFEST_RECORD_MAGIC {
            return wrong(M_MAGIC);
        }
        if u32::from(M_VERSION.u16(payload)) != FORMAT_VERSION {
            return wrong(M_VERSION);
        }
        let snapshot = Sequence(M_SNAPSHOT_SEQUENCE.u64(payload));
        let (part, last) = (M_PART.u32(payload), M_LAST.u8(payload));
        let is_snapshot = M_KIND.u8(payload) == KIND_SNAPSHOT;
        if last > u8::from(is_snapshot) {
            return wrong(M_LAST);
        }
        let kind = match M_KIND.u8(payload) {
            KIND_SNAPSHOT => ManifestKind::Snapshot { part, last: last == 1 },
            KIND_EDIT => ManifestKind::Edit { snapshot },
            _ => return wrong(M_KIND),
        };
        let header = ManifestHeader {
            kind,
            incarnation,
            sequence,
            frame_count: M_FRAME_COUNT.u32(payload),
            body_bytes: M_BODY_BYTES.u32(payload),
            body_checksum: M_BODY_CHECKSUM.u64(payload),
        };
        let frames = header.frame_count as usize;
        if frames == 0 || !frames.is_multiple_of(BLOCK_FRAMES) {
            return wrong(M_FRAME_COUNT);
        }
        if frames_of_body(header.body_bytes as usize) != frames {
            return wrong(M_BODY_BYTES);
        }
        let snapshot_fits =
            if is_snapshot { snapshot == sequence } else { snapshot < sequence && snapshot.0 > 0 };
        if !snapshot_fits {
            return wrong(M_SNAPSHOT_SEQUENCE);
        }
        if !is_snapshot && part != 0 {
            return wrong(M_PART);
        }
        if !M_RESERVED.is_zero(payload) {
            return wrong(M_RESERVED);
        }
        if !M_RESERVED_2.is_zero(payload) {
            return wrong(M_RESERVED_2);
        }
        Ok(header)
    }

    /// Replaces the content of `body_out` by the record's body, from its frames, each of which has been checked. Fails,
    /// with nothing in `body_out`, when the body's checksum or the padding is wrong; `at` is the record's place.
    pub fn body(&self, record: &[u8], at: DiskOffset, body_out: &mut Vec<u8>) -> Result<(), Corrupt> {
        assert!(record.len() as u64 == self.record_bytes(), "the frames of this record");
        if check_body(record, self.body_bytes as usize, self.body_checksum, body_out) {
            return Ok(());
        }
        Err(MANIFEST_RECORD_TABLE.corrupt(M_BODY_CHECKSUM, at.0))
    }
}

/// Completes a record of the manifest for the place `offset` of the device and returns the bytes to write, a multiple of
/// 4096 from the start of the writer's buffer.
#[must_use]
pub fn seal(
    writer: RecordWriter<'_>,
    checksum: &FrameChecksum,
    offset: DiskOffset,
    incarnation: Incarnation,
    sequence: Sequence,
    kind: ManifestKind,
) -> usize {
    let (number, part, last, snapshot) = match kind {
        ManifestKind::Snapshot { part, last } => (KIND_SNAPSHOT, part, u8::from(last), sequence),
        ManifestKind::Edit { snapshot } => {
            assert!(snapshot.0 > 0 && snapshot < sequence, "an edit follows its snapshot");
            (KIND_EDIT, 0, 0, snapshot)
        }
    };
    writer.seal_frames(checksum, offset, incarnation, sequence, |header, measure| {
        M_MAGIC.put(header, MANIFEST_RECORD_MAGIC);
        M_VERSION.put(header, (FORMAT_VERSION as u16).to_le_bytes());
        M_KIND.put(header, [number]);
        M_LAST.put(header, [last]);
        M_FRAME_COUNT.put(header, measure.frame_count.to_le_bytes());
        M_BODY_BYTES.put(header, measure.body_bytes.to_le_bytes());
        M_SNAPSHOT_SEQUENCE.put(header, snapshot.0.to_le_bytes());
        M_PART.put(header, part.to_le_bytes());
        M_BODY_CHECKSUM.put(header, measure.body_checksum.to_le_bytes());
    })
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 1] = [MANIFEST_RECORD_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal_frame::{FRAME_BYTES, FRAME_HEADER_BYTES, Frame, JournalIdentity};
    use crate::units::{ShardIndex, Uuid};
    use proptest::prelude::*;

    const HOME: JournalIdentity =
        JournalIdentity { device: Uuid([7; 16]), shard: ShardIndex(2), generation: 3 };
    const AT: DiskOffset = DiskOffset(1 << 20);

    fn sealed(kind: ManifestKind, sequence: u64, body: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xee; 64 << 10];
        let mut writer = RecordWriter::new(&mut buffer);
        assert!(writer.append(body));
        let checksum = FrameChecksum::manifest(HOME);
        let bytes = seal(writer, &checksum, AT, Incarnation(4), Sequence(sequence), kind);
        buffer.truncate(bytes);
        buffer
    }

    fn decode(record: &[u8], sequence: u64) -> Result<ManifestHeader, Corrupt> {
        let payload = &record[FRAME_HEADER_BYTES..FRAME_BYTES];
        ManifestHeader::decode(Incarnation(4), Sequence(sequence), payload, AT)
    }

    #[test]
    fn frames_of_a_manifest_are_no_frames_of_a_journal_and_the_other_way_round() {
        let record = sealed(ManifestKind::Snapshot { part: 0, last: true }, 9, b"body");
        let frame = record.first_chunk().unwrap();
        let valid = Frame::Valid { incarnation: Incarnation(4), sequence: Sequence(9) };
        assert_eq!(FrameChecksum::manifest(HOME).classify(AT, frame), valid);
        assert_eq!(FrameChecksum::new(HOME).classify(AT, frame), Frame::Bad);
        assert_eq!(FrameChecksum::manifest(HOME).classify(AT.plus(4096), frame), Frame::Bad);
        let mut of_journal = *frame;
        FrameChecksum::new(HOME).seal(AT, Incarnation(4), Sequence(9), &mut of_journal);
        assert_eq!(FrameChecksum::manifest(HOME).classify(AT, &of_journal), Frame::Bad);
    }

    #[test]
    fn each_wrong_field_is_named() {
        let record = sealed(ManifestKind::Edit { snapshot: Sequence(3) }, 9, &[5; 600]);
        assert!(decode(&record, 9).is_ok());
        for (offset, value, field) in [
            (0, b'X', "magic"),
            (4, FORMAT_VERSION as u8 + 1, "version"),
            (6, 3, "kind"),
            (7, 1, "last"),
            (8, 9, "frame_count"),
            (13, 0xff, "body_bytes"),
            (16, 9, "snapshot_sequence"),
            (16, 0, "snapshot_sequence"),
            (24, 1, "part"),
            (28, 1, "reserved"),
            (47, 1, "reserved_2"),
        ] {
            let mut record = record.clone();
            record[FRAME_HEADER_BYTES + offset] = value;
            assert_eq!(decode(&record, 9).unwrap_err().field, field, "byte {offset}");
        }
        assert_eq!(decode(&record, 3).unwrap_err().field, "snapshot_sequence");
    }

    proptest! {
        #[test]
        fn what_was_sealed_comes_back(
            body in prop::collection::vec(any::<u8>(), 0..9000), part in 0u32..9, last: bool, edit: bool,
        ) {
            let kind = if edit {
                ManifestKind::Edit { snapshot: Sequence(8) }
            } else {
                ManifestKind::Snapshot { part, last }
            };
            let mut record = sealed(kind, 9, &body);
            let header = decode(&record, 9).unwrap();
            prop_assert_eq!(header.kind, kind);
            prop_assert_eq!(header.record_bytes(), record.len() as u64);
            let mut out = vec![1, 2, 3];
            prop_assert!(header.body(&record, AT, &mut out).is_ok());
            prop_assert_eq!(&out, &body);
            // The first byte of the padding, or of the body when there is none.
            let at = FRAME_HEADER_BYTES + RECORD_HEADER_BYTES + if body.len() < 448 { body.len() } else { 0 };
            record[at] ^= 1;
            prop_assert!(header.body(&record, AT, &mut out).is_err());
            prop_assert!(out.is_empty());
        }

        #[test]
        fn any_payload_gives_a_value(payload in prop::collection::vec(any::<u8>(), 0..500), sequence: u64) {
            let _ = ManifestHeader::decode(Incarnation(1), Sequence(sequence), &payload, AT);
        }
    }
}
