//! What waits to be sent to one peer: messages, written straight into frames in one buffer of the arena. Must never grow
//! beyond its bound: what does not fit is not taken. Nor more than the link carries in a tenth of a second: on a slow link the log would
//! get answers so old that it has asked again long ago, and send more of them. Invariant: every frame before the open one is sealed.
//!
//! ```text
//! | frame, sealed | frame, sealed | header (later) · message · message … room
//!                                 ^ open_at                         ^ bytes
//! ```

use ioengine::{Buf, Io};
use layout::units::TabletIndex;
use net::frame::HEADER_BYTES;
use net::peer::{MESSAGE_HEAD_BYTES, message_head, seal_batch};
use std::time::Duration;

/// First size of a buffer, and the largest that an idle link keeps.
const FIRST_BYTES: usize = 4096;

/// How old what waits may become, as far as the last sends tell.
const AGE_MAX: Duration = Duration::from_millis(100);
/// What may always wait: a message to each of a few tablets.
const WINDOW_MIN: usize = 4096;

/// Frames to one peer.
pub(super) struct Frames {
    filling: Option<Buf>,
    bytes: usize,
    open_at: usize,
    /// Longest body of a frame, as agreed.
    frame_bytes: usize,
    bytes_max: usize,
    /// Bytes that the link carries in [`AGE_MAX`], at most `bytes_max`.
    window: usize,
    map_epoch: u32,
}

impl Frames {
    /// Frames with bodies of at most `frame_bytes`; one, and nearly as much again, may wait.
    pub(super) fn new(frame_bytes: usize, map_epoch: u32) -> Frames {
        let bytes_max = (frame_bytes + HEADER_BYTES).next_power_of_two();
        Frames { filling: None, bytes: 0, open_at: 0, frame_bytes, bytes_max, window: bytes_max, map_epoch }
    }

    /// Nothing waits any more, and frames have this bound from now on.
    pub(super) fn begin(&mut self, frame_bytes: usize) {
        *self = Frames { bytes_max: self.bytes_max, ..Frames::new(frame_bytes, self.map_epoch) };
    }

    /// So little waits that as much as a frame may follow without being late.
    pub(super) fn waits_for_little(&self) -> bool {
        self.bytes <= self.frame_bytes / 8 && self.bytes <= self.window
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Add a message. False, and nothing added, when it is longer than a frame or there is no room.
    pub(super) fn push(&mut self, io: &Io, tablet: TabletIndex, kind: u8, parts: &[&[u8]]) -> bool {
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let message = MESSAGE_HEAD_BYTES + payload;
        if message > self.frame_bytes {
            ioengine::sometimes!("a message is longer than a frame");
            return false;
        }
        // What counts is what stands before it: else a long message would never find its turn among many short ones.
        if self.bytes > self.window {
            ioengine::sometimes!("a slow link takes no more");
            return false;
        }
        let is_open = self.open_at < self.bytes;
        let fits = is_open && self.bytes + message <= self.open_at + HEADER_BYTES + self.frame_bytes;
        if !self.make_room(io, message + if fits { 0 } else { HEADER_BYTES }) {
            ioengine::sometimes!("a link has no room");
            return false;
        }
        if !fits {
            self.close(0);
            self.bytes += HEADER_BYTES;
        }
        let length = u32::try_from(payload).expect("a frame fits u32");
        let head = message_head(tablet, kind, length);
        let buffer = self.filling.as_mut().expect("room was made");
        for part in std::iter::once(&head[..]).chain(parts.iter().copied()) {
            buffer[self.bytes..self.bytes + part.len()].copy_from_slice(part);
            self.bytes += part.len();
        }
        true
    }

    fn make_room(&mut self, io: &Io, bytes: usize) -> bool {
        let want = self.bytes + bytes;
        let have = self.filling.as_ref().map_or(0, |buffer| buffer.len());
        if have >= want {
            return true;
        }
        // The last quarter of the arena is for small buffers, as with connections.
        let (all, taken) = io.arena_bytes();
        let size = want.max(2 * have).max(FIRST_BYTES).min(self.bytes_max);
        if want > self.bytes_max || (size > FIRST_BYTES && taken + size > all / 4 * 3) {
            return false;
        }
        let Some(mut larger) = io.buffer(size) else { return false };
        if let Some(buffer) = self.filling.take() {
            larger[..self.bytes].copy_from_slice(&buffer[..self.bytes]);
        }
        self.filling = Some(larger);
        true
    }

    /// Seal the open frame, if there is one.
    fn close(&mut self, number: u64) {
        if let Some(buffer) = self.filling.as_mut().filter(|_| self.open_at < self.bytes) {
            seal_batch(&mut buffer[self.open_at..self.bytes], number, self.map_epoch);
        }
        self.open_at = self.bytes;
    }

    /// Hand over what waits. With a number other than 0 the last frame asks for an answer, an empty one if nothing waits.
    /// `None` when there is nothing to send, or no buffer for the question.
    pub(super) fn take(&mut self, io: &Io, number: u64) -> Option<(Buf, usize)> {
        if number != 0 && self.bytes == 0 {
            if !self.make_room(io, HEADER_BYTES) {
                return None;
            }
            self.bytes = HEADER_BYTES;
        }
        self.close(number);
        self.open_at = 0;
        let bytes = std::mem::take(&mut self.bytes);
        (bytes > 0).then(|| (self.filling.take().expect("bytes stand in a buffer"), bytes))
    }

    /// `bytes` were sent, which took so long.
    pub(super) fn sent(&mut self, bytes: usize, took: Duration) {
        if took > AGE_MAX {
            let carried = bytes as u128 * AGE_MAX.as_nanos() / took.as_nanos();
            self.window = (carried as usize).max(WINDOW_MIN);
        } else if took < AGE_MAX / 2 {
            self.window = (2 * self.window).min(self.bytes_max);
        }
    }

    /// A sent buffer comes back. Kept if it is small; a large one goes back to the arena.
    pub(super) fn give_back(&mut self, buffer: Buf) {
        if self.filling.is_none() && buffer.len() <= 16 * FIRST_BYTES {
            self.filling = Some(buffer);
        }
    }
}
