//! One chain of value rings: where its ring lies, how far it has come, and what goes next.
//!
//! Owns the head and the tail. Must never let the head pass what was not stepped over. Invariant: head and tail are multiples
//! of a unit, and tail <= head <= tail + bytes of the ring.
//!
//! ```text
//! ring:  | newest .. | free | oldest .. |
//!                    ^ head ^ tail, one lap behind
//! ```

use super::rings::WORD_BYTES;
use ioengine::Region;
use layout::value_entry::UNIT_BYTES;
use layout::value_ring::RingGeometry;

pub(super) struct Chain {
    head: u64,
    /// Position of the oldest byte that was not stepped over.
    tail: u64,
    bytes: u64,
    /// Word of the region where the ring starts, and the one that keeps the head.
    ring_word: usize,
    head_word: usize,
}

impl Chain {
    /// As an earlier process left it. The tail may lie within an entry: it is stepped over unit by unit.
    pub(super) fn new(geometry: &RingGeometry, chain: u16, head: u64) -> Chain {
        Chain {
            head,
            tail: head.saturating_sub(geometry.chain_bytes),
            bytes: geometry.chain_bytes,
            ring_word: geometry.ring_offset(chain) as usize / WORD_BYTES,
            head_word: RingGeometry::head_offset(chain) as usize / WORD_BYTES,
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Word of the region at a byte of the ring.
    pub(super) fn word(&self, offset: u64) -> usize {
        assert!(offset < self.bytes, "a byte of the ring");
        self.ring_word + offset as usize / WORD_BYTES
    }

    /// Where the end of the ring is too short for an entry: its byte, and how many bytes are left.
    pub(super) fn gap_before(&self, bytes: usize) -> Option<(u64, usize)> {
        let offset = self.head % self.bytes;
        let left = self.bytes - offset;
        (left < bytes as u64).then_some((offset, left as usize))
    }

    /// The position that has to go before an entry of so many bytes has room; `None` when it has.
    pub(super) fn next_to_go(&self, bytes: usize) -> Option<u64> {
        let gap = self.gap_before(bytes).map_or(0, |(_, left)| left);
        let end = self.head + (gap + bytes) as u64;
        (end > self.tail + self.bytes).then_some(self.tail)
    }

    /// Step over an entry at the tail.
    pub(super) fn step(&mut self, bytes: usize) {
        self.tail = (self.tail + bytes as u64).min(self.head);
    }

    /// Step over what is no entry: the rest of one whose begin is gone, or what a kill left.
    pub(super) fn step_unit(&mut self) {
        self.step(UNIT_BYTES);
    }

    /// Give out so many bytes at the head, for which there is room.
    pub(super) fn advance(&mut self, region: &Region, bytes: usize) {
        self.head += bytes as u64;
        assert!(self.head <= self.tail + self.bytes, "what goes was stepped over");
        region.store(self.head_word, self.head);
    }
}
