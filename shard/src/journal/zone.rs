//! Where a shard's journal lies and how positions in it advance. Pure: the writer and recovery both ask here, so
//! that recovery looks exactly where the writer would have written.

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

    /// Device offset of position `at` (bytes from the start of the zone).
    #[must_use]
    pub fn offset(&self, at: u64) -> DiskOffset {
        self.range.offset.plus(at)
    }

    /// Bytes left in the segment of `at`; 0 at the end of the zone.
    #[must_use]
    pub fn left_in_segment(&self, at: u64) -> u64 {
        if at >= self.bytes() {
            return 0;
        }
        self.segment_bytes - at % self.segment_bytes
    }

    /// Start of the segment behind that of `at`; `None` at the end of the zone. `at` may stand at a segment's
    /// start, which then counts as the segment that begins there.
    #[must_use]
    pub fn next_segment(&self, at: u64) -> Option<u64> {
        let next = (at / self.segment_bytes + 1) * self.segment_bytes;
        (next < self.bytes()).then_some(next)
    }

    /// Where a record of `record_bytes` goes when the last one ended at `at`; `None` when the zone is full.
    #[must_use]
    pub fn place(&self, at: u64, record_bytes: u64) -> Option<u64> {
        assert!(record_bytes <= self.record_bytes_max && record_bytes.is_multiple_of(BLOCK_BYTES as u64));
        if record_bytes <= self.left_in_segment(at) {
            return Some(at);
        }
        if at >= self.bytes() {
            return None;
        }
        self.next_segment(at)
    }

    /// Bytes that can still be written behind `at` whatever the sizes of the records: what is left in this segment
    /// may be skipped.
    #[must_use]
    pub fn room(&self, at: u64) -> u64 {
        self.bytes().saturating_sub(at)
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
        assert_eq!(zone.place(0, 65536), Some(0));
        assert_eq!(zone.place(4096, 65536 - 4096), Some(4096));
        assert_eq!(zone.place(4096, 65536), Some(65536));
        assert_eq!(zone.place(65536, 4096), Some(65536), "a segment's start belongs to it");
        assert_eq!(zone.place(3 * 65536 + 4096, 65536), None, "full");
        assert_eq!(zone.place(4 * 65536, 4096), None, "full to the last block");
    }
}
