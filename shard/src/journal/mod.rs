//! The journal of a shard: the only synchronous write. One record per turn holds what all tablets of the core have
//! to say; one record is in flight at a time, and the next is written only after it is durable.
//!
//! What must be durable before which message leaves: the record with a client's operation before that client's `Ok`.
//! Owns the ring's positions. Must never write anything after a failure: what the device holds then is not known. Must
//! never write into a segment that a replay still needs.
//!
//! ```text
//! | trimmed  : start     |           | end       |
//! | free     :   records | records   | records   :  free, from the next segment on, up to that of `start`
//! ```

mod check;
mod recover;
mod survey;
#[cfg(test)]
mod tests;
mod zone;

pub use check::{CheckStep, JournalCheck};
pub use recover::{Gap, Record, Replayed, Tail, replay};
pub use zone::{JournalZone, identity};

use ioengine::{Buf, Disk, DiskError};
use layout::journal_record::{
    FRAME_BYTES, FrameChecksum, RecordFields, RecordKind, RecordWriter, frames_of_body,
};
use layout::units::{BLOCK_BYTES, Incarnation, Sequence};
use std::cell::Cell;

/// Last free segments of the ring, which only deletes may use, so that a full shard can be freed.
const DELETE_RESERVE_SEGMENTS: u64 = 2;
/// The very last free segments, which only the engine's own records may use: a full journal can still be opened.
const OWN_RESERVE_SEGMENTS: u64 = 1;

/// Who wants room in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Puts and compare-and-sets.
    Write,
    /// Deletes: they go on when the disk is full.
    Delete,
    /// Open and mark records.
    Own,
}

/// Where a replay begins: behind the record named. Everything up to it is held elsewhere, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalStart {
    /// Place in the ring behind that record, bytes from the start of the zone.
    pub at: u64,
    /// Its incarnation; 0 when there is none.
    pub incarnation: Incarnation,
    /// Its number; 0 when there is none.
    pub sequence: Sequence,
}

impl JournalStart {
    /// Of a journal of which nothing was ever trimmed: the start of the zone, before the first record.
    pub const FIRST: JournalStart =
        JournalStart { at: 0, incarnation: Incarnation(0), sequence: Sequence(0) };
}

/// Writing end of a journal.
pub struct Journal {
    disk: Disk,
    zone: JournalZone,
    checksum: FrameChecksum,
    incarnation: Incarnation,
    /// Number of the record before `start`.
    trimmed: Cell<Sequence>,
    /// Position that replay would begin at.
    start: Cell<u64>,
    /// Position behind the last record.
    end: Cell<u64>,
    last: Cell<(Incarnation, Sequence)>,
    /// Of the memtable that entries go to now.
    memtable_number: Cell<u32>,
    record_count: Cell<u64>,
    record_bytes: Cell<u64>,
}

impl Journal {
    /// Goes on behind what a replay found. Behind a damaged tail only where whoever lost something by it gets it from elsewhere: the
    /// journal of a node in a group.
    #[must_use]
    pub fn new(disk: Disk, zone: JournalZone, incarnation: Incarnation, replayed: &Replayed) -> Journal {
        assert!(incarnation > replayed.incarnation_max, "every start takes a new incarnation");
        let is_damaged = matches!(replayed.tail, Tail::Damaged { .. });
        let (end, last) = (replayed.start.at + replayed.used_bytes, replayed.last);
        let (end, last) = if is_damaged { beyond(&zone, replayed, end, incarnation) } else { (end, last) };
        Journal {
            disk,
            zone,
            checksum: FrameChecksum::new(zone.identity),
            incarnation,
            trimmed: Cell::new(replayed.start.sequence),
            start: Cell::new(replayed.start.at),
            end: Cell::new(end),
            last: Cell::new(last),
            memtable_number: Cell::new(replayed.memtable_number.unwrap_or(0)),
            record_count: Cell::new(0),
            record_bytes: Cell::new(0),
        }
    }

    /// The device under it.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Last durable record.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last.get().1
    }

    /// Bytes of the ring, and how many of them hold records or were skipped.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.zone.bytes(), self.end.get() - self.start.get())
    }

    /// Where a replay would begin that needs nothing of what was written so far. Valid between two records, when all
    /// that was written is applied.
    #[must_use]
    pub fn position(&self) -> JournalStart {
        let (incarnation, sequence) = self.last.get();
        JournalStart { at: self.end.get() % self.zone.bytes(), incarnation, sequence }
    }

    /// Between two records: entries go to a fresh memtable from now on, and a replay does the same at this place. Returns
    /// where a replay would begin that needs nothing of the memtable before: as [`Journal::position`].
    ///
    /// Failing history otherwise: a memtable is frozen and cannot be flushed, the other fills up, and after a crash a
    /// replay that packs the first one fuller begins the second one later. A key that was written large and then
    /// small, in place, is now first written small and then again larger, at a new place: the second one overflows.
    pub fn begin_memtable(&self) -> JournalStart {
        self.memtable_number.set(self.memtable_number.get().wrapping_add(1));
        self.position()
    }

    /// Free everything before `start`, an earlier [`Journal::position`]: whole segments of it can be written again.
    ///
    /// The caller has made `start` durable as the place where replay begins. Failing history otherwise: the ring
    /// writes over the segment where the manifest still says that replay begins, power is cut, and the replay finds
    /// a later record there: all that is in memory only is lost.
    pub fn trim(&self, start: JournalStart) {
        assert!(
            self.trimmed.get() <= start.sequence && start.sequence <= self.last(),
            "trimmed up to a record of this journal that is not yet trimmed"
        );
        let bytes = self.zone.bytes();
        let to = if start.sequence == self.last() {
            self.end.get()
        } else {
            // Less than one lap ahead: a ring filled to its last byte ends where it starts, and that is the case above.
            self.start.get() + (start.at + bytes - self.start.get() % bytes) % bytes
        };
        assert!(to <= self.end.get() && to % bytes == start.at, "a position of this journal: {start:?}");
        self.start.set(to);
        self.trimmed.set(start.sequence);
    }

    /// Position that replay would begin at: only grows.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start.get()
    }

    /// Half of what writes may use, the segment that replay begins in and the reserves apart, is used.
    #[must_use]
    pub fn wants_trim(&self) -> bool {
        let (bytes, used) = self.bytes();
        used > (bytes - (DELETE_RESERVE_SEGMENTS + 1) * self.zone.segment_bytes) / 2
    }

    /// Records and bytes written since the start.
    #[must_use]
    pub fn written(&self) -> (u64, u64) {
        (self.record_count.get(), self.record_bytes.get())
    }

    /// True if a record with a body of `ahead` bytes, when that is not 0, and then one of `body_bytes` still fit
    /// for `claim`. Exact, with the parts of segments that these records would skip. The segment that replay begins
    /// in is not free, also not its part before that place: so the reserves are whole segments, and take whole records.
    #[must_use]
    pub fn has_room(&self, claim: Claim, ahead: usize, body_bytes: usize) -> bool {
        let reserve = match claim {
            Claim::Write => DELETE_RESERVE_SEGMENTS,
            Claim::Delete => OWN_RESERVE_SEGMENTS,
            Claim::Own => 0,
        };
        let limit = (self.limit()).saturating_sub(reserve * self.zone.segment_bytes);
        let mut end = self.end.get();
        for body_bytes in [ahead, body_bytes].into_iter().filter(|&bytes| bytes > 0) {
            // More than a record holds goes into several: what the logs of a group have to say at once.
            let mut left = record_bytes(body_bytes);
            while left > 0 {
                let bytes = left.min(self.zone.segment_bytes);
                end = self.zone.place(end, bytes) + bytes;
                left -= bytes;
            }
        }
        end <= limit
    }

    /// Position that no record may pass: one lap behind the segment that replay begins in.
    fn limit(&self) -> u64 {
        let start = self.start.get();
        start - start % self.zone.segment_bytes + self.zone.bytes()
    }

    /// Write one record and make it durable. `fill` appends its body; the caller has made sure by
    /// [`Journal::has_room`] that it fits. The buffer comes back.
    ///
    /// # Errors
    /// After any error the record may be there or not, and a `Full` one must be written again, the same bytes at the
    /// same place ([`Journal::write_again`]); after any other the disk has ended.
    pub async fn write(
        &self,
        mut buffer: Buf,
        kind: RecordKind,
        fill: impl FnOnce(&mut RecordWriter<'_>),
    ) -> (Result<(), DiskError>, Buf, Pending) {
        let room = buffer.len().min(self.zone.record_bytes_max as usize);
        let mut writer = RecordWriter::new(&mut buffer[..room]);
        fill(&mut writer);
        let bytes = writer.record_bytes() as u64;
        let at = self.zone.place(self.end.get(), bytes);
        assert!(at + bytes <= self.limit(), "the caller asked for room");
        let (previous_incarnation, previous_sequence) = self.last.get();
        let sequence = previous_sequence.next();
        let fields = RecordFields {
            kind,
            incarnation: self.incarnation,
            sequence,
            previous_incarnation,
            previous_sequence,
            flushed_sequence: previous_sequence,
            memtable_number: self.memtable_number.get(),
        };
        let sealed = writer.seal_with(&self.checksum, self.zone.offset(at), fields) as u64;
        assert_eq!(sealed, bytes, "a record is as long as announced");
        let pending = Pending { at, bytes, sequence };
        let (result, buffer) = self.write_again(buffer, &pending).await;
        (result, buffer, pending)
    }

    /// Write a sealed record (again). The same bytes go to the same place, so repeating is harmless.
    ///
    /// # Errors
    /// As [`Journal::write`].
    pub async fn write_again(&self, buffer: Buf, pending: &Pending) -> (Result<(), DiskError>, Buf) {
        let offset = self.zone.offset(pending.at).0;
        let (result, buffer) = self.disk.write_durable(buffer, offset, pending.bytes as usize).await;
        if result.is_ok() {
            self.last.set((self.incarnation, pending.sequence));
            self.end.set(pending.at + pending.bytes);
            self.record_count.set(self.record_count.get() + 1);
            self.record_bytes.set(self.record_bytes.get() + pending.bytes);
        }
        (result, buffer)
    }
}

/// Where a journal goes on whose end cannot be read, and the number before that of the record there: in the next segment, with numbers above
/// those of all that may have been lost, so that each later replay meets a gap. What was lost is named nowhere: the caller
/// says so in what it writes.
fn beyond(
    zone: &JournalZone,
    replayed: &Replayed,
    end: u64,
    incarnation: Incarnation,
) -> (u64, (Incarnation, Sequence)) {
    ioengine::sometimes!("a journal goes on beyond its damaged end");
    // If nothing at all can be read, the record before is taken for one of the start before.
    let (before, last) = replayed.last;
    let before = if before == Incarnation(0) { Incarnation(incarnation.0 - 1) } else { before };
    assert!(before > Incarnation(0), "the first start finds nothing to go on beyond");
    // A lap holds no more records than blocks.
    let number = last.max(replayed.sequence_max).0 + zone.bytes() / BLOCK_BYTES as u64;
    (zone.next_segment(end), (before, Sequence(number)))
}

/// A sealed record on its way to the device.
#[derive(Debug)]
pub struct Pending {
    at: u64,
    bytes: u64,
    sequence: Sequence,
}

/// Bytes on the device of a record with a body of `body_bytes`.
#[must_use]
pub fn record_bytes(body_bytes: usize) -> u64 {
    let bytes = (frames_of_body(body_bytes) * FRAME_BYTES) as u64;
    assert!(bytes.is_multiple_of(BLOCK_BYTES as u64), "records are whole blocks");
    bytes
}
