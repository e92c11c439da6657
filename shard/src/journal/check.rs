//! Whether the records in use still stand on the device as they were written, while the journal goes on.
//!
//! Reads only what is durable and not trimmed, frame by frame, in order. Judges no tail: what is behind the last durable
//! record is the writer's. Invariant: a record that is trimmed while it is looked at is not called damaged.

use super::{Journal, JournalZone};
use ioengine::{Buf, DiskError};
use layout::journal_record::{FRAME_BYTES, FRAME_PAYLOAD_BYTES, Frame, RecordHeader};
use layout::units::{DiskOffset, Incarnation, Sequence};

/// Goes over the records from the start to where the end was when it began.
pub struct JournalCheck {
    /// Position of the next frame.
    at: u64,
    /// Record that stands there, or begins there.
    sequence: Sequence,
    incarnation: Incarnation,
    /// Frames of it that are left; 0 when it begins there.
    frames_left: u32,
    /// Behind the last record that is looked at.
    end: u64,
}

/// What a step found.
#[derive(Debug)]
pub enum CheckStep {
    /// So many bytes were read and are as they were written, or are not in use any more.
    Whole {
        /// Bytes read.
        bytes: u64,
    },
    /// A record that was durable is not there.
    Damaged {
        /// Device offset of the first frame that is wrong.
        at: DiskOffset,
        /// Position of that frame; the damage is gone once the journal is trimmed beyond it.
        position: u64,
    },
    /// The device refuses to read it.
    Unreadable {
        /// What it said.
        error: DiskError,
        /// Position where the read began.
        position: u64,
    },
    /// All of it was looked at.
    Done,
}

impl JournalCheck {
    /// From the journal's start.
    #[must_use]
    pub fn new(journal: &Journal) -> JournalCheck {
        let mut check = JournalCheck {
            at: 0,
            sequence: Sequence(0),
            incarnation: Incarnation(0),
            frames_left: 0,
            end: journal.end.get(),
        };
        check.begin(journal);
        check
    }

    fn begin(&mut self, journal: &Journal) {
        self.at = journal.start.get();
        self.sequence = journal.trimmed.get().next();
        self.incarnation = Incarnation(0);
        self.frames_left = 0;
    }

    /// Read the next frames, at most as many as the buffer holds.
    pub async fn step(&mut self, journal: &Journal, buffer: Buf) -> (CheckStep, Buf) {
        if self.at < journal.start.get() {
            self.begin(journal);
        }
        if self.at >= self.end {
            return (CheckStep::Done, buffer);
        }
        let zone = &journal.zone;
        let bytes = (buffer.len() as u64).min(zone.left_in_segment(self.at)).min(self.end - self.at);
        let (result, buffer) = journal.disk.read(buffer, zone.offset(self.at).0, bytes as usize).await;
        if self.at < journal.start.get() {
            // Trimmed meanwhile, and maybe written again.
            return (CheckStep::Whole { bytes }, buffer);
        }
        if let Err(error) = result {
            return (CheckStep::Unreadable { error, position: self.at }, buffer);
        }
        let step = match self.walk(journal, &buffer[..bytes as usize]) {
            Ok(()) => CheckStep::Whole { bytes },
            Err(position) => CheckStep::Damaged { at: zone.offset(position), position },
        };
        (step, buffer)
    }

    /// Go over frames from `self.at` on. The position of one that is not what it should be is an error.
    fn walk(&mut self, journal: &Journal, bytes: &[u8]) -> Result<(), u64> {
        let zone = &journal.zone;
        for frame in bytes.as_chunks::<FRAME_BYTES>().0 {
            let sorted = journal.checksum.classify(zone.offset(self.at), frame);
            let is_it = |sequence, incarnation| match self.frames_left {
                0 => sequence == self.sequence && incarnation >= self.incarnation,
                _ => sequence == self.sequence && incarnation == self.incarnation,
            };
            match sorted {
                Frame::Valid { incarnation, sequence } if is_it(sequence, incarnation) => {
                    if self.frames_left == 0 {
                        self.frames_left = first_frame(zone, self.at, incarnation, sequence, frame)?;
                        self.incarnation = incarnation;
                    }
                    self.frames_left -= 1;
                    if self.frames_left == 0 {
                        self.sequence = self.sequence.next();
                    }
                    self.at += FRAME_BYTES as u64;
                }
                // The record was too long for the rest of this segment; if it was not, it is missed in the next one.
                _ if self.frames_left == 0 && !self.at.is_multiple_of(zone.segment_bytes) => {
                    self.at = zone.next_segment(self.at);
                    return Ok(());
                }
                _ => return Err(self.at),
            }
        }
        Ok(())
    }
}

/// Frames of the record that begins with this frame.
fn first_frame(
    zone: &JournalZone,
    at: u64,
    incarnation: Incarnation,
    sequence: Sequence,
    frame: &[u8; FRAME_BYTES],
) -> Result<u32, u64> {
    let payload = &frame[FRAME_BYTES - FRAME_PAYLOAD_BYTES..];
    let header = RecordHeader::decode(incarnation, sequence, payload, zone.offset(at)).map_err(|_| at)?;
    Ok(header.frame_count)
}
