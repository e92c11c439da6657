//! An index from hashes to positions in a ring: what the tables of request ids and of recent keys are found by.
//!
//! Owns a fixed array of slots {part of the hash, position}. Must never be part of what is replicated: its seed is
//! the process's own, nobody iterates over it, and no answer depends on where a slot lies. Invariant: between the
//! home of an entry and the entry there is no empty slot, because a removal moves what is behind it up.

/// No position.
const EMPTY: u64 = u64::MAX;

/// Open addressing, at most half full.
pub(crate) struct Positions {
    slots: Vec<u64>,
    /// The home of a slot is this many bits of the hash, the top ones of the upper half.
    home_shift: u32,
}

impl Positions {
    /// Slots for at most `capacity` positions, 1..=2^30.
    pub(crate) fn new(capacity: usize) -> Positions {
        assert!((1..=1 << 30).contains(&capacity), "a table has 1..=2^30 entries");
        let slot_count = (capacity * 2).next_power_of_two();
        Positions { slots: vec![EMPTY; slot_count], home_shift: 64 - slot_count.trailing_zeros() }
    }

    /// Bytes of the slots for this capacity.
    pub(crate) fn footprint_bytes(capacity: usize) -> usize {
        (capacity * 2).next_power_of_two() * 8
    }

    fn home(&self, slot: u64) -> usize {
        (slot >> self.home_shift) as usize
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    fn slot(hash: u64, position: usize) -> u64 {
        // The upper half of the hash, so that a slot knows its home (at most 31 bits).
        (hash & !0xffff_ffff) | position as u64
    }

    /// Where a slot is, that holds one of these bits of hash and for whose position `is_it` holds.
    fn find_slot(&self, hash: u64, mut is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut at = self.home(hash);
        while self.slots[at] != EMPTY {
            let slot = self.slots[at];
            if slot >> 32 == hash >> 32 && is_it((slot & 0xffff_ffff) as usize) {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    /// The position with this hash for which `is_it` holds.
    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(usize) -> bool) -> Option<usize> {
        self.find_slot(hash, is_it).map(|at| (self.slots[at] & 0xffff_ffff) as usize)
    }

    /// Add a position that is not there.
    pub(crate) fn insert(&mut self, hash: u64, position: usize) {
        assert!(position * 2 < self.slots.len(), "positions are below the capacity");
        let mut at = self.home(hash);
        while self.slots[at] != EMPTY {
            at = self.after(at);
        }
        self.slots[at] = Positions::slot(hash, position);
    }

    /// Take out a position that is there.
    pub(crate) fn remove(&mut self, hash: u64, position: usize) {
        let mut hole = self.find_slot(hash, |found| found == position).expect("what was inserted is there");
        let mut at = hole;
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot == EMPTY {
                break;
            }
            // Distances around the ring: the slot may move up when its home is not between the hole and it.
            let mask = self.slots.len() - 1;
            if (at.wrapping_sub(self.home(slot)) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Inserts and removals against a map, with hashes that share homes and wrap around the end.
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((0usize..16, 0u64..6), 1..200)) {
            let mut positions = Positions::new(16);
            let mut model: BTreeMap<usize, u64> = BTreeMap::new();
            for (position, home) in steps {
                // 32 slots: homes 29, 30, 31, 0, 1, 2.
                let hash = (((home + 29) % 32) << 59) | (position as u64 % 2) << 40;
                match model.remove(&position) {
                    Some(hash) => positions.remove(hash, position),
                    None => {
                        positions.insert(hash, position);
                        model.insert(position, hash);
                    }
                }
                for position in 0..16 {
                    for home in 0..6 {
                        let hash = (((home + 29) % 32) << 59) | (position as u64 % 2) << 40;
                        let expected = (model.get(&position) == Some(&hash)).then_some(position);
                        prop_assert_eq!(positions.find(hash, |found| found == position), expected);
                    }
                }
            }
        }
    }
}
