//! What waits to be sent on one connection: replies are encoded straight into a buffer of the arena, which is sent
//! whole when the one before it has gone. Room for the small replies of everything in flight is always kept, so that
//! an answer that comes later finds its place. Bounded: what does not fit waits, or is answered `Busy`.

use crate::reply::SMALL_REPLY_BYTES;
use ioengine::{Buf, Io};

/// First size of a buffer: an idle connection that asked once costs this.
const FIRST_BYTES: usize = 4096;
/// With this much waiting, the far end has to read before more is put behind it: a client that asks and does not read
/// holds this and one answer, however large its answers are.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// Bytes to send, filled by the core and emptied by the connection's writer.
pub(crate) struct Outbox {
    filling: Option<Buf>,
    bytes: usize,
    /// Comes into use when `filling` is handed to the writer.
    spare: Option<Buf>,
    /// Requests to be answered later; each has room for a small reply.
    pub(crate) in_flight: u32,
    bytes_max: usize,
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize) -> Outbox {
        Outbox { filling: None, bytes: 0, spare: None, in_flight: 0, bytes_max }
    }

    fn reserved(&self) -> usize {
        self.in_flight as usize * SMALL_REPLY_BYTES
    }

    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Make room for `bytes` beside what is reserved; false when the bound or the arena says no.
    pub(crate) fn make_room(&mut self, io: &Io, bytes: usize) -> bool {
        let want = self.bytes + self.reserved() + bytes;
        if self.filling.as_ref().is_some_and(|buffer| buffer.len() >= want) {
            return true;
        }
        if want > self.bytes_max || self.bytes > WAITING_BYTES_MAX {
            return false;
        }
        // The last quarter of the arena is for small buffers: so that many slow readers do not silence the others.
        let (all, taken) = io.arena_bytes();
        if want > FIRST_BYTES && taken + want > all / 4 * 3 {
            ioengine::sometimes!("the arena is kept for small answers");
            return false;
        }
        let Some(mut larger) = io.buffer(want.max(FIRST_BYTES)) else { return false };
        if let Some(buffer) = self.filling.take() {
            larger[..self.bytes].copy_from_slice(&buffer[..self.bytes]);
        }
        self.filling = Some(larger);
        true
    }

    /// Keep room for one more small reply that comes later.
    pub(crate) fn reserve(&mut self, io: &Io) -> bool {
        let fits = self.make_room(io, SMALL_REPLY_BYTES);
        if fits {
            self.in_flight += 1;
        }
        fits
    }

    /// The room now, for writing a frame into; [`Outbox::advance`] says how long it became.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let reserved = self.reserved();
        match &mut self.filling {
            None => &mut [],
            Some(buffer) => {
                let end = buffer.len() - reserved;
                &mut buffer[self.bytes..end.max(self.bytes)]
            }
        }
    }

    /// `bytes` were written into [`Outbox::room`].
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.bytes += bytes;
        debug_assert!(
            self.filling.as_ref().is_some_and(|buffer| self.bytes <= buffer.len()),
            "room was asked for"
        );
    }

    /// A reply that was reserved comes: its room becomes usable.
    pub(crate) fn release(&mut self) {
        assert!(self.in_flight > 0, "a late answer was reserved");
        self.in_flight -= 1;
    }

    /// Hand over what waits, for sending. `None` when there is nothing, or no second buffer to go on with.
    pub(crate) fn take(&mut self, io: &Io) -> Option<(Buf, usize)> {
        if self.bytes == 0 {
            return None;
        }
        let reserved = self.reserved();
        if reserved > 0 {
            // Answers may come while this is sent: they need a place of their own.
            if self.spare.as_ref().is_none_or(|spare| spare.len() < reserved) {
                self.spare = Some(io.buffer(reserved.max(FIRST_BYTES))?);
            }
        }
        let buffer = self.filling.take().expect("bytes stand in a buffer");
        self.filling = self.spare.take();
        Some((buffer, std::mem::take(&mut self.bytes)))
    }

    /// A sent buffer comes back. Kept if it is small; a large one goes back to the arena.
    pub(crate) fn give_back(&mut self, buffer: Buf) {
        if buffer.len() > 16 * FIRST_BYTES {
            return;
        }
        if self.filling.is_none() {
            self.filling = Some(buffer);
        } else if self.spare.is_none() {
            self.spare = Some(buffer);
        }
    }

    /// Nothing waits and nothing is in flight: give the buffers back to the arena.
    pub(crate) fn rest(&mut self) {
        if self.bytes == 0 && self.in_flight == 0 {
            self.filling = None;
            self.spare = None;
        }
    }
}
