//! The index of the memtable: from the hash of a key to its node, for point gets.
//!
//! Owns a fixed array of 64-byte lines, each of eight slots {tag 32 bits, node 32 bits}. Must never allocate
//! after start and never compare keys itself: the caller says whether a node is the one it looks for.
//! Invariant: a node lies in its home line or behind lines that are full, so a look-up ends at the first line
//! with an empty slot. A get touches one line here in the normal case, and one node.

use super::arena::NONE;

const SLOT_COUNT: usize = 8;
/// A slot that never held a node: no look-up goes past its line.
const EMPTY: u64 = 0;
/// A slot of a full line whose node was removed: look-ups go on, an insert takes it.
const REMOVED: u64 = 1 << 32;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; SLOT_COUNT]);

const _: () = assert!(size_of::<Line>() == 64);

/// Open addressing by lines.
pub(super) struct Index {
    lines: Vec<Line>,
    /// Slots that hold a node or are marked as removed.
    taken_count: usize,
}

fn slot(hash: u64, node: u32) -> u64 {
    // The line comes from the high bits, the tag from the low ones.
    hash << 32 | u64::from(node)
}

fn node_of(slot: u64) -> u32 {
    slot as u32
}

impl Index {
    /// Lines for `record_count_max` nodes: 1.5 slots per node, so that at the limit a line holds 5.3 of 8
    /// on average and 97 of 100 nodes are in their home line.
    pub(super) fn line_count(record_count_max: usize) -> usize {
        (record_count_max + record_count_max / 2).div_ceil(SLOT_COUNT) + 1
    }

    pub(super) fn new(record_count_max: usize) -> Index {
        let line_count = Index::line_count(record_count_max);
        let mut lines = Vec::with_capacity(line_count);
        // Before it is filled: pages that are there stay small.
        ioengine::memory::prefer_huge_pages(&mut lines);
        lines.resize(line_count, Line([EMPTY; SLOT_COUNT]));
        Index { lines, taken_count: 0 }
    }

    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.lines.len() as u128) >> 64) as usize
    }

    fn after(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    /// The node with this hash for which `is_it` holds.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = slot(hash, 0);
        let mut line = self.home(hash);
        // Bounded: a table of removed slots only would have no end otherwise.
        for _ in 0..self.lines.len() {
            let mut open = false;
            for &slot in &self.lines[line].0 {
                if slot & !u64::from(u32::MAX) == tag && node_of(slot) != NONE && is_it(node_of(slot)) {
                    return Some(node_of(slot));
                }
                open |= slot == EMPTY;
            }
            if open {
                return None;
            }
            line = self.after(line);
        }
        None
    }

    /// Add a node that is not there. There is room: the lines hold half as many again as the records allowed.
    pub(super) fn insert(&mut self, hash: u64, node: u32) {
        assert!(node != NONE, "0 is no node");
        let mut line = self.home(hash);
        for _ in 0..self.lines.len() {
            for place in &mut self.lines[line].0 {
                if node_of(*place) == NONE {
                    self.taken_count += usize::from(*place == EMPTY);
                    *place = slot(hash, node);
                    return;
                }
            }
            line = self.after(line);
        }
        unreachable!("the index has more slots than the memtable records");
    }

    /// Take out a node that is there.
    pub(super) fn remove(&mut self, hash: u64, node: u32) {
        let wanted = slot(hash, node);
        let mut line = self.home(hash);
        for _ in 0..self.lines.len() {
            let slots = &mut self.lines[line].0;
            if let Some(at) = slots.iter().position(|slot| *slot == wanted) {
                // A line with an empty slot was never passed by an insert, so this one may become empty too.
                let open = slots.contains(&EMPTY);
                slots[at] = if open { EMPTY } else { REMOVED };
                self.taken_count -= usize::from(open);
                return;
            }
            line = self.after(line);
        }
        unreachable!("every node of a list is in the index");
    }

    /// Forget every node.
    pub(super) fn reset(&mut self) {
        if self.taken_count > 0 {
            self.lines.fill(Line([EMPTY; SLOT_COUNT]));
            self.taken_count = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn taken_count(&self) -> usize {
        self.taken_count
    }

    /// Ask the processor for the home line of a hash.
    pub(super) fn prefetch(&self, hash: u64) {
        ioengine::memory::prefetch(&self.lines, self.home(hash));
    }

    /// The first node in the home line whose tag fits: a guess for a prefetch.
    pub(super) fn guess(&self, hash: u64) -> Option<u32> {
        let tag = slot(hash, 0);
        let slots = &self.lines[self.home(hash)].0;
        slots
            .iter()
            .find(|slot| **slot & !u64::from(u32::MAX) == tag && node_of(**slot) != NONE)
            .map(|slot| node_of(*slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_line_ends_a_look_up_only_when_none_passed_it() {
        // One home line, eleven nodes: three overflow. Taking out the first eight must not hide the rest.
        let mut index = Index::new(64);
        (1..=11).for_each(|node| index.insert(5, node));
        (1..=8).for_each(|node| index.remove(5, node));
        for node in 9..=11 {
            assert_eq!(index.find(5, |n| n == node), Some(node));
        }
        assert_eq!(index.find(5, |n| n == 3), None);
        // A removed slot is taken again, nearer home than the overflow.
        index.insert(5, 20);
        assert_eq!(index.guess(5), Some(20));
        assert_eq!(index.find(5, |n| n == 11), Some(11));
    }

    #[test]
    fn a_table_without_one_empty_slot_still_ends_a_look_up() {
        let mut index = Index::new(1);
        let slot_count = index.lines.len() as u32 * SLOT_COUNT as u32;
        (1..=slot_count).for_each(|node| index.insert(7, node));
        assert_eq!(index.find(7, |_| false), None);
        (1..=slot_count).for_each(|node| index.remove(7, node));
        assert_eq!(index.find(7, |_| true), None);
        index.insert(7, 1);
        assert_eq!(index.find(7, |_| true), Some(1));
        index.reset();
        assert_eq!(index.find(7, |_| true), None);
        assert_eq!(index.taken_count, 0);
    }
}
