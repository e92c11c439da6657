//! The keys that a tablet has written lately: by this list a compare-and-set is decided when it is applied, the
//! same at every replica, without reading a disk.
//!
//! Owns a ring of {key hash, log index} of fixed capacity, and an index over it. Must never allocate after start,
//! or let an answer depend on anything but the calls of [`RecentKeys::note`]: the list is part of the tablet's
//! replicated state (its index is not). Invariant: the list holds every write above its floor.
//!
//! An entry says: the proposer saw version v of this key when it had applied r. If the key was not written in
//! (r, now], v is still its version, wherever that lies. If it was, or if the list does not reach back to r, the
//! compare-and-set fails with `VersionMismatch`: a false alarm costs a retry, never a wrong write. The same
//! holds for two keys with one 128-bit hash.

use layout::units::LogIndex;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::kept::Kept;
use crate::positions::Positions;

/// Was a key written since?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was not.
    No,
    /// It was.
    Yes,
    /// The list does not reach back that far.
    Unknown,
}

/// One write. The hash in two halves: as one number it would be padded from 24 to 32 bytes.
#[derive(Debug, Clone, Copy)]
struct Write {
    key_hash: [u64; 2],
    log_index: LogIndex,
}

impl Write {
    fn facts(self) -> (u128, LogIndex) {
        (u128::from(self.key_hash[0]) | u128::from(self.key_hash[1]) << 64, self.log_index)
    }

    fn hash(&self) -> u128 {
        let mut bytes = [0u8; 24];
        bytes[..8].copy_from_slice(&self.key_hash[0].to_le_bytes());
        bytes[8..16].copy_from_slice(&self.key_hash[1].to_le_bytes());
        bytes[16..].copy_from_slice(&self.log_index.0.to_le_bytes());
        xxh3_128(&bytes)
    }
}

/// Keys written lately, of one tablet.
pub struct RecentKeys {
    ring: Vec<Write>,
    /// Position of the oldest.
    first: usize,
    count: usize,
    /// Every write at an index above this is in the list.
    floor: LogIndex,
    newest: LogIndex,
    /// Sum of the hashes of the writes in the list.
    sum: u128,
    /// The newest write of each key.
    index: Positions,
    seed: u64,
    /// The list as it was when it was to be written down.
    kept: Option<Kept<Write>>,
}

impl RecentKeys {
    /// An empty list that knows of all writes above `floor`: the only moment that allocates. `capacity` (1..=2^30)
    /// is the same at every replica; `seed` is random and this process's own.
    #[must_use]
    pub fn new(capacity: usize, floor: LogIndex, seed: u64) -> RecentKeys {
        let nothing = Write { key_hash: [0; 2], log_index: LogIndex(0) };
        RecentKeys {
            ring: vec![nothing; capacity],
            first: 0,
            count: 0,
            floor,
            newest: floor,
            sum: 0,
            index: Positions::new(capacity),
            seed,
            kept: None,
        }
    }

    /// Let a list that has seen no write know of all writes above `floor`, and of none below.
    pub(crate) fn begin_at(&mut self, floor: LogIndex) {
        assert!(self.count == 0 && self.newest == self.floor, "only a list without writes begins elsewhere");
        (self.floor, self.newest) = (floor, floor);
    }

    /// Memory that a list of this capacity takes at start, bytes.
    #[must_use]
    pub fn footprint_bytes(capacity: usize) -> usize {
        capacity * size_of::<Write>() + Positions::footprint_bytes(capacity)
    }

    fn slot_hash(&self, key_hash: [u64; 2]) -> u64 {
        // Clients can choose keys whose hashes agree in some bits, but not what these become under the seed.
        let product =
            u128::from(key_hash[0] ^ self.seed) * u128::from(key_hash[1] ^ self.seed.rotate_left(32) | 1);
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn find(&self, key_hash: [u64; 2]) -> Option<usize> {
        self.index.find(self.slot_hash(key_hash), |position| self.ring[position].key_hash == key_hash)
    }

    /// Was the key written at an index above `since`? `key_hash` is a 128-bit hash without seed, the same at every
    /// replica.
    #[must_use]
    pub fn written_since(&self, key_hash: u128, since: LogIndex) -> Answer {
        match self.find(halves(key_hash)) {
            Some(position) if self.ring[position].log_index > since => Answer::Yes,
            _ if since >= self.floor => Answer::No,
            _ => Answer::Unknown,
        }
    }

    /// The entry at this index wrote the key. Called in applied order.
    pub fn note(&mut self, key_hash: u128, log_index: LogIndex) {
        assert!(log_index >= self.newest, "entries are applied in order");
        self.newest = log_index;
        let key_hash = halves(key_hash);
        let hash = self.slot_hash(key_hash);
        if let Some(position) = self.find(key_hash) {
            if self.ring[position].log_index == log_index {
                return;
            }
            self.index.remove(hash, position);
        }
        if self.count == self.ring.len() {
            self.forget_oldest();
        }
        let write = Write { key_hash, log_index };
        let position = (self.first + self.count) % self.ring.len();
        if let Some(kept) = &mut self.kept {
            kept.save(&self.ring, position);
        }
        self.ring[position] = write;
        self.count += 1;
        self.sum = self.sum.wrapping_add(write.hash());
        self.index.insert(hash, position);
    }

    fn forget_oldest(&mut self) {
        let oldest = self.ring[self.first];
        // Only the newest write of a key is in the index: for an older one there is nothing to remove.
        if self.find(oldest.key_hash) == Some(self.first) {
            self.index.remove(self.slot_hash(oldest.key_hash), self.first);
        }
        self.sum = self.sum.wrapping_sub(oldest.hash());
        self.floor = oldest.log_index;
        self.first = (self.first + 1) % self.ring.len();
        self.count -= 1;
    }

    /// Every write at an index above this is in the list.
    #[must_use]
    pub fn floor(&self) -> LogIndex {
        self.floor
    }

    /// The writes in the list, in the order they were applied: key hash and log index.
    pub fn entries(&self) -> impl Iterator<Item = (u128, LogIndex)> {
        (0..self.count).map(|age_rank| self.ring[(self.first + age_rank) % self.ring.len()].facts())
    }

    /// Keep the list as it is now, until [`RecentKeys::let_go`]. The writes in it, and the index of the last, or the floor.
    pub(crate) fn keep(&mut self) -> (usize, LogIndex) {
        self.kept = Some(Kept::new(self.first, self.count));
        let last = self.count.checked_sub(1).map(|rank| self.ring[(self.first + rank) % self.ring.len()]);
        (self.count, last.map_or(self.floor, |last| last.log_index))
    }

    /// A write that was kept, by its rank in the order they were applied.
    pub(crate) fn kept(&self, rank: usize) -> (u128, LogIndex) {
        self.kept.as_ref().expect("the list was kept").get(&self.ring, rank).facts()
    }

    /// What was kept is written down.
    pub(crate) fn let_go(&mut self) {
        self.kept = None;
    }

    /// A number that two replicas have in common when they have applied the same.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let mut hasher = Xxh3Default::new();
        hasher.update(&self.sum.to_le_bytes());
        hasher.update(&(self.count as u64).to_le_bytes());
        hasher.update(&self.floor.0.to_le_bytes());
        hasher.digest128()
    }
}

fn halves(key_hash: u128) -> [u64; 2] {
    [key_hash as u64, (key_hash >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn knows_what_was_written_since_and_how_far_back_it_reaches() {
        let mut recent = RecentKeys::new(2, LogIndex(0), 1);
        assert_eq!(recent.written_since(7, LogIndex(0)), Answer::No);
        recent.note(7, LogIndex(1));
        assert_eq!(recent.written_since(7, LogIndex(0)), Answer::Yes);
        assert_eq!(recent.written_since(7, LogIndex(1)), Answer::No, "since means after");
        recent.note(8, LogIndex(2));
        recent.note(9, LogIndex(2));
        assert_eq!(recent.floor(), LogIndex(1));
        assert_eq!(recent.written_since(7, LogIndex(0)), Answer::Unknown);
        assert_eq!(recent.written_since(7, LogIndex(1)), Answer::No);
        assert_eq!(recent.written_since(8, LogIndex(0)), Answer::Yes, "what is in the list is known");
    }

    #[test]
    fn a_list_that_starts_later_knows_nothing_of_before() {
        let recent = RecentKeys::new(2, LogIndex(50), 1);
        assert_eq!(recent.written_since(7, LogIndex(49)), Answer::Unknown);
        assert_eq!(recent.written_since(7, LogIndex(50)), Answer::No);
    }

    #[test]
    fn a_key_written_again_in_one_entry_takes_one_place() {
        let mut recent = RecentKeys::new(2, LogIndex(0), 1);
        recent.note(7, LogIndex(1));
        (0..5).for_each(|_| recent.note(8, LogIndex(2)));
        assert_eq!(recent.entries().collect::<Vec<_>>(), [(7, LogIndex(1)), (8, LogIndex(2))]);
    }

    proptest! {
        /// Against the list of all writes ever: never `No` for a key that was written, never `Yes` for one that
        /// was not, and `Unknown` only below the floor, which is the index of the last write forgotten.
        #[test]
        fn answers_like_the_whole_history(
            writes in prop::collection::vec((0u64..12, 0u64..2), 1..200),
            capacity in 1usize..20,
            questions in prop::collection::vec((0u64..14, 0u64..100), 30),
        ) {
            // Keys that agree in one half of their hash.
            let key_hash = |key: u64| u128::from(key / 4) << 64 | u128::from(key % 4);
            let mut one = RecentKeys::new(capacity, LogIndex(0), 1);
            let mut two = RecentKeys::new(capacity, LogIndex(0), 99);
            let mut history: Vec<(u128, LogIndex)> = Vec::new();
            let mut index = 1;
            for (key, step) in writes {
                index += step;
                let write = (key_hash(key), LogIndex(index));
                one.note(write.0, write.1);
                two.note(write.0, write.1);
                // A second write in one entry takes no second place, unless the first has left already.
                let kept = &history[history.len().saturating_sub(capacity)..];
                if !kept.contains(&write) {
                    history.push(write);
                }
            }
            let kept = &history[history.len().saturating_sub(capacity)..];
            prop_assert_eq!(one.entries().collect::<Vec<_>>(), kept);
            let floor = history.len().checked_sub(capacity + 1).map_or(LogIndex(0), |last| history[last].1);
            prop_assert_eq!(one.floor(), floor);
            prop_assert_eq!(one.digest(), two.digest());
            for (key, since) in questions {
                let (key, since) = (key_hash(key), LogIndex(since));
                let answer = one.written_since(key, since);
                prop_assert_eq!(answer, two.written_since(key, since));
                let written = |list: &[(u128, LogIndex)]| list.iter().any(|(k, at)| *k == key && *at > since);
                match answer {
                    Answer::No => prop_assert!(!written(&history)),
                    Answer::Yes => prop_assert!(written(&history)),
                    Answer::Unknown => prop_assert!(since < floor && !written(kept)),
                }
            }
        }
    }
}
