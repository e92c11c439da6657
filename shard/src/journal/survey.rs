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
    /// Valid, of an earlier record, or never written.
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
    DamagedMark,
}

/// A record's first frame found while looking ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ahead {
    pub(super) sequence: Sequence,
    pub(super) incarnation: Incarnation,
    /// Position in the zone.
    pub(super) at: u64,
}

/// Everything behind the expected record in the whole ring.
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
    /// Position in the zone of the buffer's first byte.
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

    /// Make `[at, at + bytes)` of the zone readable from the window.
    async fn load(&mut self, at: u64, bytes: u64) {
        let window = &mut self.window;
        if at >= window.start && at + bytes <= window.start + window.bytes {
            return;
        }
        let buffer = window.buffer.take().expect("the window holds its buffer between loads");
        let want = (buffer.len() as u64).min(self.zone.bytes() - at);
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
        if left < BLOCK_BYTES as u64 {
            return Found::Nothing { frame_count: 0 };
        }
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
                RecordKind::Entries => Found::Damaged { at: self.zone.offset(at + frame) },
                RecordKind::Open | RecordKind::Mark => Found::DamagedMark,
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

    /// Look at every block of the ring for records later than `expected`.
    pub(super) async fn look_ahead(&mut self, expected: Sequence) -> Horizon {
        let mut horizon = Horizon::default();
        let mut at = 0;
        while at < self.zone.bytes() {
            self.load(at, BLOCK_BYTES as u64).await;
            for frame in (0..BLOCK_BYTES as u64).step_by(FRAME_BYTES) {
                if let Frame::Valid { sequence, .. } = self.frame(at + frame) {
                    horizon.sequence_max = horizon.sequence_max.max(sequence);
                }
            }
            if let Some(header) = self.header(at).filter(|header| header.fields.sequence > expected) {
                let RecordHeader { fields, .. } = header;
                horizon.records.push(Ahead {
                    sequence: fields.sequence,
                    incarnation: fields.incarnation,
                    at,
                });
            }
            at += BLOCK_BYTES as u64;
        }
        horizon.records.sort_unstable();
        horizon
    }
}
