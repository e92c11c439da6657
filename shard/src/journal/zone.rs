//! Where a shard's journal lies and how positions in it advance. Pure: the writer and recovery both ask here, so
//! that recovery looks exactly where the writer would have written.
//!
//! A position counts bytes and only grows: one lap of the ring behind another is `bytes()` further, and only
//! [`JournalZone::offset`] turns it into a place. What is stored of a position is its place in the ring.

use layout::journal_record::JournalIdentity;
use layout::units::{BLOCK_BYTES, DiskOffset, ShardIndex, Uuid};
use layout::zone::Range;

/// What the frames of a journal are bound to.
#[must_use]
pub fn identity(device: Uuid, shard: ShardIndex, generation: u32) -> JournalIdentity {
    // The planted bug: frames of any device and any format are believed.
    if ioengine::canary("skip_identity_check") {
        return JournalIdentity { device: Uuid::default(), shard, generation: 0 };
    }
    JournalIdentity { device, shard, generation }
}

/// The journal zone of one shard: a ring of fixed segments.
#[derive(Clone, Copy, Debug)]
pub struct JournalZone {
    /// What its frames are bound to.
    pub identity: JournalIdentity,
    /// Place on the device.
    pub range: Range,
    /// Bytes of a segment. The zone holds a whole number of them.
    pub segment_bytes: u64,
    /// Largest record, in bytes: at most a segment.
    pub record_bytes_max: u64,
}

impl JournalZone {
    /// Bytes in whole segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.bytes / self.segment_bytes * self.segment_bytes
    }

    /// Device offset of position `at`, whichever lap it is of.
    #[must_use]
    pub fn offset(&self, at: u64) -> DiskOffset {
        self.range.offset.plus(at % self.bytes())
    }

    /// Bytes left in the segment of `at`; a segment's start belongs to it, so this is never 0.
    #[must_use]
    pub fn left_in_segment(&self, at: u64) -> u64 {
        self.segment_bytes - at % self.segment_bytes
    }

    /// Start of the segment behind that of `at`: behind the last one comes the first.
    #[must_use]
    pub fn next_segment(&self, at: u64) -> u64 {
        at + self.left_in_segment(at)
    }

    /// Where a record of `record_bytes` goes when the last one ended at `at`.
    #[must_use]
    pub fn place(&self, at: u64, record_bytes: u64) -> u64 {
        assert!(record_bytes <= self.segment_bytes && record_bytes.is_multiple_of(BLOCK_BYTES as u64));
        if record_bytes <= self.left_in_segment(at) { at } else { self.next_segment(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> JournalZone {
        JournalZone {
            identity: JournalIdentity { device: Uuid([1; 16]), shard: ShardIndex(0), generation: 1 },
            range: Range { offset: DiskOffset(1 << 20), bytes: 4 * 65536 + 4096 },
            segment_bytes: 65536,
            record_bytes_max: 65536,
        }
    }

    #[test]
    fn a_record_never_spans_segments() {
        let zone = zone();
        assert_eq!(zone.bytes(), 4 * 65536, "the part of a segment at the end is not used");
        assert_eq!(zone.place(0, 65536), 0);
        assert_eq!(zone.place(4096, 65536 - 4096), 4096);
        assert_eq!(zone.place(4096, 65536), 65536);
        assert_eq!(zone.place(65536, 4096), 65536, "a segment's start belongs to it");
    }

    #[test]
    fn behind_the_last_segment_comes_the_first() {
        let zone = zone();
        assert_eq!(zone.place(3 * 65536 + 4096, 65536), 4 * 65536);
        assert_eq!(zone.offset(4 * 65536), zone.offset(0));
        assert_eq!(zone.offset(7 * 65536 + 4096), zone.offset(3 * 65536 + 4096));
        assert_eq!(zone.left_in_segment(4 * 65536), 65536);
    }
}
