//! Reading a journal zone that may be torn or damaged: which frames stand at a place, and what they say about the
//! record that should begin there. Reads only. Never judges what a gap means for a tablet.

use super::zone::JournalZone;
use ioengine::{Buf, Disk};
use layout::journal_record::{
    FRAME_BYTES, FRAME_PAYLOAD_BYTES, Frame, FrameChecksum, RecordHeader, RecordKind, read_record,
};
use layout::units::{BLOCK_BYTES, DiskOffset, Incarnation, Sequence};

/// How often a block that cannot be read is asked for again before it counts as unreadable.
const READ_ATTEMPTS: u32 = 3;

/// A frame as recovery sorts it while it expects one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Of the record expected, or of a void one with its number.
    New,
    /// Valid, of an earlier record, also of an earlier lap, or never written.
    ///
    /// Why what an earlier lap left is always below what is expected, N+1: numbers only grow along the journal, and the
    /// one number used twice is that of the single record in flight when a process ended. It is N+1 itself until an
    /// `open` record takes it, and lies where N+1 would lie; from then on it is below what is expected. So a frame
    /// left over is never of a later record, whatever its lap and incarnation.
    Past,
    /// Valid, of a later record.
    Future,
    /// Fails its checksum, or the device cannot read it.
    Bad,
}

/// What stands where a record is expected.
#[derive(Debug)]
pub(super) enum Found {
    /// A complete record; its body is in [`Survey::body`].
    Record(RecordHeader),
    /// No record was begun here, or one that was never finished: nothing here was ever acknowledged.
    Nothing {
        /// Frames of the unfinished record that did arrive.
        frame_count: u32,
    },
    /// A record, or what was one, that cannot be read. It may have been acknowledged.
    Damaged {
        /// Device offset of the first bad frame.
        at: DiskOffset,
    },
    /// A record that cannot be read whole, but whose first frame says that it carried no entries.
    DamagedMark {
        /// Its bytes, as its first frame says.
        bytes: u64,
    },
}

/// A record's first frame found while looking ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ahead {
    pub(super) sequence: Sequence,
    pub(super) incarnation: Incarnation,
    /// Position, at most one lap behind the start.
    pub(super) at: u64,
}

/// Everything later than the expected record, in the whole ring.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// First frames of later records, in order of sequence.
    pub(super) records: Vec<Ahead>,
    /// Highest valid sequence seen anywhere, also where no record can be read.
    pub(super) sequence_max: Sequence,
}

/// Reader over one journal zone with a window of its bytes in memory.
pub(super) struct Survey<'a> {
    disk: &'a Disk,
    zone: &'a JournalZone,
    checksum: FrameChecksum,
    window: Window,
    /// One block, for reading around sectors that cannot be read.
    block: Option<Buf>,
    pub(super) body: Vec<u8>,
}

struct Window {
    buffer: Option<Buf>,
    /// Position of the buffer's first byte.
    start: u64,
    bytes: u64,
    /// Blocks of 4096 in the window that the device could not read.
    unreadable: Vec<bool>,
}

impl<'a> Survey<'a> {
    /// `buffer` holds at least one whole record, `block` one block.
    pub(super) fn new(disk: &'a Disk, zone: &'a JournalZone, buffer: Buf, block: Buf) -> Survey<'a> {
        assert!(buffer.len() as u64 >= zone.record_bytes_max, "a whole record fits the window");
        let checksum = FrameChecksum::new(zone.identity);
        let window = Window { buffer: Some(buffer), start: 0, bytes: 0, unreadable: Vec::new() };
        Survey { disk, zone, checksum, window, block: Some(block), body: Vec::new() }
    }

    /// Make `[at, at + bytes)` of the zone readable from the window, and what follows as far as the window goes.
    async fn load(&mut self, at: u64, bytes: u64) {
        self.load_at_most(at, bytes, u64::MAX).await;
    }

    /// The same, with at most `limit` bytes read.
    async fn load_at_most(&mut self, at: u64, bytes: u64, limit: u64) {
        let window = &mut self.window;
        if at >= window.start && at + bytes <= window.start + window.bytes {
            return;
        }
        let buffer = window.buffer.take().expect("the window holds its buffer between loads");
        let want = (buffer.len() as u64).min(limit).min(self.zone.bytes() - at % self.zone.bytes());
        assert!(bytes <= want, "{bytes} bytes at {at} lie in the zone and fit the window");
        window.start = at;
        window.bytes = want;
        window.unreadable.clear();
        window.unreadable.resize((want / BLOCK_BYTES as u64) as usize, false);
        let (result, mut buffer) = self.disk.read(buffer, self.zone.offset(at).0, want as usize).await;
        if result.is_err() {
            ioengine::sometimes!("journal read block by block");
            buffer = self.load_blocks(buffer, at, want).await;
        }
        self.window.buffer = Some(buffer);
    }

    /// The slow way, when a large read failed: block by block, so that one bad sector costs one block.
    async fn load_blocks(&mut self, mut whole: Buf, at: u64, want: u64) -> Buf {
        let mut block = self.block.take().expect("the block is back between loads");
        for index in 0..(want / BLOCK_BYTES as u64) as usize {
            let offset = self.zone.offset(at + (index * BLOCK_BYTES) as u64).0;
            for attempt in 1..=READ_ATTEMPTS {
                let (result, back) = self.disk.read(block, offset, BLOCK_BYTES).await;
                block = back;
                match result {
                    Ok(()) => {
                        whole[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES]
                            .copy_from_slice(&block[..BLOCK_BYTES]);
                        break;
                    }
                    Err(error) if attempt == READ_ATTEMPTS => {
                        tracing::error!(%error, "a block of the journal cannot be read");
                        self.window.unreadable[index] = true;
                    }
                    Err(_) => {}
                }
            }
        }
        self.block = Some(block);
        whole
    }

    fn bytes(&self, at: u64, bytes: u64) -> &[u8] {
        let from = (at - self.window.start) as usize;
        &self.window.buffer.as_ref().expect("loaded")[from..from + bytes as usize]
    }

    fn unreadable(&self, at: u64) -> bool {
        self.window.unreadable[((at - self.window.start) / BLOCK_BYTES as u64) as usize]
    }

    /// The frame at `at`, which is loaded.
    fn frame(&self, at: u64) -> Frame {
        if self.unreadable(at) {
            return Frame::Bad;
        }
        let bytes = self.bytes(at, FRAME_BYTES as u64);
        self.checksum.classify(self.zone.offset(at), bytes.try_into().expect("a frame's bytes"))
    }

    fn class(&self, at: u64, expected: Sequence) -> Class {
        match self.frame(at) {
            Frame::Zero => Class::Past,
            Frame::Bad => Class::Bad,
            Frame::Valid { sequence, .. } => match sequence.cmp(&expected) {
                std::cmp::Ordering::Less => Class::Past,
                std::cmp::Ordering::Equal => Class::New,
                std::cmp::Ordering::Greater => Class::Future,
            },
        }
    }

    /// Header of the record whose frame 0 stands at `at`, if one does. `at` is loaded.
    fn header(&self, at: u64) -> Option<RecordHeader> {
        let Frame::Valid { incarnation, sequence } = self.frame(at) else { return None };
        let payload = &self.bytes(at, FRAME_BYTES as u64)[FRAME_BYTES - FRAME_PAYLOAD_BYTES..];
        let header = RecordHeader::decode(incarnation, sequence, payload, self.zone.offset(at)).ok()?;
        let fits = self.zone.left_in_segment(at).min(self.zone.record_bytes_max);
        (header.record_bytes() <= fits).then_some(header)
    }

    /// Look for record `expected`, of incarnation `least` or later, at position `at`.
    pub(super) async fn find(&mut self, at: u64, expected: Sequence, least: Incarnation) -> Found {
        let left = self.zone.left_in_segment(at).min(self.zone.record_bytes_max);
        self.load(at, BLOCK_BYTES as u64).await;
        let header = self
            .header(at)
            .filter(|header| header.fields.sequence == expected && header.fields.incarnation >= least);
        let Some(header) = header else {
            self.load(at, left).await;
            return self.judge_headless(at, left, expected);
        };
        let extent = header.record_bytes();
        self.load(at, extent).await;
        let any_bad =
            (0..extent).step_by(FRAME_BYTES).find(|&frame| self.class(at + frame, expected) == Class::Bad);
        if let Some(frame) = any_bad {
            // The first frame is whole, so its word about the kind can be believed: nobody lost an entry here.
            return match header.fields.kind {
                RecordKind::Entries | RecordKind::Items => {
                    Found::Damaged { at: self.zone.offset(at + frame) }
                }
                RecordKind::Open | RecordKind::Mark => Found::DamagedMark { bytes: extent },
            };
        }
        let mut body = std::mem::take(&mut self.body);
        let read = read_record(self.zone.identity, self.zone.offset(at), self.bytes(at, extent), &mut body);
        self.body = body;
        match read {
            Ok(header) => Found::Record(header),
            Err(corrupt) => {
                let whole =
                    (0..extent).step_by(FRAME_BYTES).all(|frame| self.frame(at + frame) == self.frame(at));
                if whole {
                    // Every sector arrived and the record still does not check: not a tear.
                    tracing::error!(%corrupt, "a journal record is whole and wrong");
                    return Found::Damaged { at: self.zone.offset(at) };
                }
                let frame_count = self.count_new(at, extent, expected);
                Found::Nothing { frame_count }
            }
        }
    }

    fn count_new(&self, at: u64, bytes: u64, expected: Sequence) -> u32 {
        let new =
            (0..bytes).step_by(FRAME_BYTES).filter(|frame| self.class(at + frame, expected) == Class::New);
        u32::try_from(new.count()).expect("frames of a record are few")
    }

    /// No readable first frame: how far the record reached shows only in what arrived of it. `left` bytes are loaded.
    fn judge_headless(&self, at: u64, left: u64, expected: Sequence) -> Found {
        let frames = (0..left).step_by(FRAME_BYTES);
        let bad = |frame: &u64| self.class(at + frame, expected) == Class::Bad;
        let last_new = frames.clone().filter(|frame| self.class(at + frame, expected) == Class::New).last();
        let damaged = match last_new {
            // Bad frames among those of a record: it was here and is damaged.
            Some(last) => frames.clone().take_while(|&frame| frame <= last).find(bad),
            // No trace of the record, and the block where it would begin is wholly bad: it may have been here.
            // A few bad frames among old ones are rot where nothing lives.
            None => {
                let mut block = frames.clone().take_while(|&frame| frame < BLOCK_BYTES as u64);
                block.all(|frame| bad(&frame)).then_some(0)
            }
        };
        match damaged {
            Some(frame) => Found::Damaged { at: self.zone.offset(at + frame) },
            None => Found::Nothing { frame_count: self.count_new(at, left, expected) },
        }
    }

    /// Highest valid sequence in the block at `at`, which is loaded; 0 when none.
    fn block_sequence_max(&self, at: u64) -> Sequence {
        let frames = (0..BLOCK_BYTES as u64).step_by(FRAME_BYTES);
        let sequences = frames.map(|frame| match self.frame(at + frame) {
            Frame::Valid { sequence, .. } => sequence,
            Frame::Zero | Frame::Bad => Sequence(0),
        });
        sequences.max().expect("a block has frames")
    }

    /// The highest sequence where the journal would have gone on behind `end`: in the rest of its segment, in the whole
    /// next one, and in the first block of every other segment.
    ///
    /// Why this is enough to prove that nothing later was written. The record expected begins at `end` or at the start of
    /// the next segment, and lies in one of these two segments whole, as no record spans segments. The one after it
    /// begins in them too, or at the start of the segment behind: records follow each other, and a segment is left
    /// only for the start of the next. So of the first later record either all is read here, or its first block. The
    /// same holds for each further segment that was written to: it begins with a record. Sizes of records do not
    /// matter, so neither does a limit that was larger in an earlier start.
    ///
    /// What it gives up against reading the whole ring: damage that covers the expected record and, besides, every
    /// later record of these two segments and the first block of every later segment that was written to.
    pub(super) async fn look_behind(&mut self, end: u64) -> Sequence {
        let segment = self.zone.segment_bytes;
        let next = self.zone.next_segment(end);
        let mut highest = Sequence(0);
        for at in (end..next + segment).step_by(BLOCK_BYTES) {
            let until = if at < next { next } else { next + segment };
            self.load_at_most(at, BLOCK_BYTES as u64, until - at).await;
            highest = highest.max(self.block_sequence_max(at));
        }
        // The segment of `end` itself is the last one of this lap: what it holds before `end` is not later than `end`.
        let others = self.zone.bytes() / segment - 2;
        for at in (1..=others).map(|other| next + other * segment) {
            self.load_at_most(at, BLOCK_BYTES as u64, BLOCK_BYTES as u64).await;
            highest = highest.max(self.block_sequence_max(at));
        }
        highest
    }

    /// Look at every block of the ring, from position `start` on, for records later than `expected`.
    pub(super) async fn look_everywhere(&mut self, start: u64, expected: Sequence) -> Horizon {
        let mut horizon = Horizon::default();
        for at in (start..start + self.zone.bytes()).step_by(BLOCK_BYTES) {
            self.load(at, BLOCK_BYTES as u64).await;
            horizon.sequence_max = horizon.sequence_max.max(self.block_sequence_max(at));
            if let Some(header) = self.header(at).filter(|header| header.fields.sequence > expected) {
                let RecordHeader { fields, .. } = header;
                horizon.records.push(Ahead {
                    sequence: fields.sequence,
                    incarnation: fields.incarnation,
                    at,
                });
            }
        }
        horizon.records.sort_unstable();
        horizon
    }
}
