//! Replay of a journal: every record that can be read, in order, and what is missing.
//!
//! The rule it must never break: only what was not yet flushed may be torn. A record that is not there while a later
//! one is, or whose frames fail their checksums, is damage, and whoever may have lost an entry in it must know.
//! Failing history that the look ahead guards against: record 7 is lost by the device, records 8 and 9 are there;
//! taking 7's place for a torn tail would drop acknowledged 8 and 9, and later overwrite them.

use super::JournalStart;
use super::survey::{Found, Horizon, Survey};
use super::zone::JournalZone;
use ioengine::{Buf, Disk, DiskError};
use layout::journal_record::{RecordHeader, RecordKind};
use layout::units::{BLOCK_BYTES, DiskOffset, Incarnation, Sequence};

/// A run of records that cannot be read, between two that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Last record before it; 0 when there is none.
    pub after: Sequence,
    /// First record behind it.
    pub before: Sequence,
}

/// How the journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Behind the last record nothing was begun.
    Clean,
    /// Behind the last record stands one that was never finished, hence never acknowledged.
    Torn {
        /// Its sectors that did arrive.
        frame_count: u32,
    },
    /// Behind the last record stands one that cannot be read and may have been acknowledged.
    Damaged {
        /// Device offset of the first bad sector, or of where the record should begin.
        at: DiskOffset,
    },
}

/// Result of a replay.
#[derive(Debug)]
pub struct Replayed {
    /// Where it began.
    pub start: JournalStart,
    /// Bytes of the ring from there to behind the last record, those that were skipped included.
    pub used_bytes: u64,
    /// The last record; that of the start when none follows it.
    pub last: (Incarnation, Sequence),
    /// Highest sequence seen anywhere that was looked at.
    pub sequence_max: Sequence,
    /// Highest incarnation of any record that was read, or of the start.
    pub incarnation_max: Incarnation,
    /// Records that were read.
    pub record_count: u64,
    /// What the last record says of its memtable.
    pub memtable_number: Option<u32>,
    /// What is missing in the middle, in order.
    pub gaps: Vec<Gap>,
    /// How it ends.
    pub tail: Tail,
}

impl Replayed {
    /// Of a replay that was not made.
    #[must_use]
    pub fn nothing(start: JournalStart) -> Replayed {
        Replayed {
            start,
            used_bytes: 0,
            last: (start.incarnation, start.sequence),
            sequence_max: start.sequence,
            incarnation_max: start.incarnation,
            record_count: 0,
            memtable_number: None,
            gaps: Vec::new(),
            tail: Tail::Clean,
        }
    }
}

/// One record, handed to the caller in order.
pub struct Record<'a> {
    /// Its header.
    pub header: &'a RecordHeader,
    /// Its body.
    pub body: &'a [u8],
    /// Records before this one are missing.
    pub after_gap: bool,
    /// Where a replay would begin with this record.
    pub before: JournalStart,
}

struct Replay<'a> {
    zone: &'a JournalZone,
    survey: Survey<'a>,
    state: Replayed,
    /// Position behind the last record.
    end: u64,
    /// Filled when the journal is damaged: one look at the whole ring is enough.
    horizon: Option<Horizon>,
}

/// Read the journal of `zone` from `start` on and hand every record that can be read to `apply`, in order. `buffer` holds at least
/// one whole record, `block` one block.
///
/// The device is flushed once before anything is believed: what a killed process left in the device's cache can be
/// read, and is lost by the next power cut unless it is flushed.
///
/// # Errors
/// [`DiskError`] when the flush fails. Blocks that cannot be read are damage, not errors.
pub async fn replay(
    disk: &Disk,
    zone: &JournalZone,
    start: JournalStart,
    buffer: Buf,
    block: Buf,
    mut apply: impl FnMut(Record<'_>),
) -> Result<Replayed, DiskError> {
    assert!(start.at < zone.bytes() && start.at.is_multiple_of(BLOCK_BYTES as u64), "a place in the ring");
    disk.flush().await?;
    let state = Replayed::nothing(start);
    let survey = Survey::new(disk, zone, buffer, block);
    let mut replay = Replay { zone, survey, state, end: start.at, horizon: None };
    loop {
        let (incarnation, sequence) = replay.state.last;
        let before = JournalStart { at: replay.end % zone.bytes(), incarnation, sequence };
        match replay.next().await {
            Step::Record { header, after_gap } => {
                apply(Record { header: &header, body: &replay.survey.body, after_gap, before });
            }
            Step::End(tail) => {
                replay.state.tail = tail;
                replay.state.used_bytes = replay.end - start.at;
                return Ok(replay.state);
            }
        }
    }
}

enum Step {
    Record { header: RecordHeader, after_gap: bool },
    End(Tail),
}

impl Replay<'_> {
    async fn next(&mut self) -> Step {
        let expected = self.state.last.1.next();
        let tail = match self.find_at_both(expected).await {
            Ok((header, at)) => return self.take(header, at, false),
            Err(tail) => tail,
        };
        // Nothing readable follows directly. It is the end only if nothing later exists anywhere.
        if self.horizon.is_none() {
            let behind = self.survey.look_behind(self.end).await;
            self.state.sequence_max = self.state.sequence_max.max(behind);
            if behind > expected {
                // Damage, whatever comes next: now every block counts, to lose no more records than are lost.
                self.horizon = Some(self.survey.look_everywhere(self.state.start.at, expected).await);
            }
        }
        let everywhere = self.horizon.as_ref();
        let highest = everywhere.map_or(Sequence(0), |horizon| horizon.sequence_max);
        self.state.sequence_max = self.state.sequence_max.max(highest);
        let records = everywhere.into_iter().flat_map(|horizon| &horizon.records);
        let later: Vec<_> = records.copied().filter(|ahead| ahead.sequence > expected).collect();
        let more = self.state.sequence_max > expected;
        if ioengine::canary("damage_as_torn_tail") {
            return Step::End(Tail::Clean);
        }
        for ahead in later {
            if let Found::Record(header) = self.survey.find(ahead.at, ahead.sequence, ahead.incarnation).await
            {
                ioengine::sometimes!("journal gap in the middle");
                self.state.gaps.push(Gap { after: self.state.last.1, before: ahead.sequence });
                return self.take(header, ahead.at, true);
            }
        }
        if more {
            // Sectors of later records exist, none of them whole: what was there is damaged up to the end.
            ioengine::sometimes!("journal tail damaged beyond one record");
            return Step::End(Tail::Damaged { at: self.zone.offset(self.end) });
        }
        match tail {
            Tail::Clean => {}
            Tail::Torn { .. } => ioengine::sometimes!("journal tail torn"),
            Tail::Damaged { .. } => ioengine::sometimes!("journal tail damaged"),
        }
        Step::End(tail)
    }

    /// The damaged mark itself cost nobody an entry. The record behind it may have: is there damage where that would
    /// stand? Failing history: one rotten stretch covers the end of a mark and all records behind it; taking the mark
    /// for the end drops them, and nobody is told.
    async fn damage_behind(&mut self, behind: u64, expected: Sequence) -> Option<DiskOffset> {
        let last_incarnation = self.state.last.0;
        let same = (!behind.is_multiple_of(self.zone.segment_bytes)).then_some(behind);
        for at in [same, Some(self.zone.next_segment(behind - 1))].into_iter().flatten() {
            if let Found::Damaged { at } = self.survey.find(at, expected, last_incarnation).await {
                ioengine::sometimes!("damage goes on behind a damaged mark");
                return Some(at);
            }
        }
        None
    }

    /// Look where the writer would have put record `expected`: behind the last one, or at the start of the next
    /// segment if it was too long for what is left.
    async fn find_at_both(&mut self, expected: Sequence) -> Result<(RecordHeader, u64), Tail> {
        let here = self.end;
        let (last_incarnation, last_sequence) = self.state.last;
        let mut tail = Tail::Clean;
        let left = self.zone.left_in_segment(here);
        // At a segment's start no record is too long for what is left.
        let next = (left < self.zone.segment_bytes).then(|| self.zone.next_segment(here));
        for at in [Some(here), next].into_iter().flatten() {
            match self.survey.find(at, expected, last_incarnation).await {
                Found::Record(header) => {
                    let placed_as_written = at == here || header.record_bytes() > left;
                    let fields = header.fields;
                    let follows = if fields.incarnation == last_incarnation {
                        fields.kind != RecordKind::Open
                    } else {
                        fields.kind == RecordKind::Open
                            && (fields.previous_incarnation, fields.previous_sequence)
                                == (last_incarnation, last_sequence)
                    };
                    if placed_as_written && follows {
                        return Ok((header, at));
                    }
                    // A void record of an incarnation that was cut off here.
                    ioengine::sometimes!("journal void record");
                }
                Found::Nothing { frame_count: 0 } => {}
                Found::DamagedMark { bytes } => {
                    ioengine::sometimes!("journal ends in a damaged mark");
                    let behind = self.damage_behind(at + bytes, expected.next()).await;
                    if let Some(damaged) = behind {
                        tail = Tail::Damaged { at: damaged };
                    } else if tail == Tail::Clean {
                        tail = Tail::Torn { frame_count: 1 };
                    }
                }
                Found::Nothing { frame_count } => {
                    if tail == Tail::Clean {
                        tail = Tail::Torn { frame_count };
                    }
                }
                // At the next segment's start only a record too long for the rest of this one can stand; a bad
                // block there is believed all the same: safe, at the price of a false alarm.
                Found::Damaged { at } => {
                    if !matches!(tail, Tail::Damaged { .. }) {
                        tail = Tail::Damaged { at };
                    }
                }
            }
        }
        Err(tail)
    }

    fn take(&mut self, header: RecordHeader, at: u64, after_gap: bool) -> Step {
        let fields = header.fields;
        let state = &mut self.state;
        self.end = at + header.record_bytes();
        state.last = (fields.incarnation, fields.sequence);
        state.sequence_max = state.sequence_max.max(fields.sequence);
        state.incarnation_max = state.incarnation_max.max(fields.incarnation);
        state.record_count += 1;
        state.memtable_number = Some(fields.memtable_number);
        Step::Record { header, after_gap }
    }
}
