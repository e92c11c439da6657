//! The memtable of a shard: the newest version of each record written since the last flush, in memory laid out at
//! start.
//!
//! Owns the records of the shard's tablets: an arena of nodes, an index from key hash to node for point gets, and
//! one ordered list per tablet for ranges. Must never allocate after start, grow, or hold two versions of a key.
//! Invariant: a write that was admitted can be applied, and so can the same write when a restart replays it.
//!
//! ```text
//!  hash ──► index line (64 bytes: eight {tag, node}) ──► node: header, key, value        (a get: two misses)
//!                                                          ▲ │ links
//!  tablet ► head of its skip list ─────────────────────────┘ ▼ next, previous
//! ```

mod arena;
mod index;
mod list;
mod range;
#[cfg(test)]
mod tests;

use std::ops::Bound;

use layout::key::Key;
use layout::log_entry::{Entry as LogEntry, Operation, Write};
use layout::units::{BucketIndex, STREAM_BYTES_MAX, TABLET_COUNT, TabletIndex, VALUE_BYTES_MAX, Version};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use arena::{Arena, LEVEL_COUNT, UNIT_BYTES, node_units};
use index::Index;
use list::Lists;

pub use layout::table_block::Record;
pub use range::{Direction, Entry, Look, Range, StreamRange, Streams};

/// Sizes of a memtable, fixed at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemtableConfig {
    /// Bytes of the arena that holds nodes; 4 KiB ..= 32 GiB. The index comes on top, see
    /// [`MemtableConfig::footprint_bytes`].
    pub bytes: usize,
    /// Records at most, tombstones included; sizes the index.
    pub record_count_max: usize,
    /// Random, not known to clients: keeps them from choosing keys that collide. Not persistent.
    pub seed: u64,
}

impl MemtableConfig {
    /// Memory that a memtable of this config takes at start, bytes.
    #[must_use]
    pub fn footprint_bytes(&self) -> usize {
        self.bytes
            + Index::line_count(self.record_count_max) * 64
            + Lists::hint_count(self.record_count_max) * 4
    }
}

/// The memtable has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memtable is full: {limit}")]
pub struct Full {
    /// Name of the limit, as in the config.
    pub limit: &'static str,
}

/// Limit of the arena's bytes.
pub const LIMIT_BYTES: &str = "memtable_bytes";
/// Limit of the number of records.
pub const LIMIT_RECORDS: &str = "memtable_records";

/// Room that writes may need at most: what is asked for before they go to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charge {
    bytes: usize,
    record_count: usize,
}

impl Charge {
    /// No write.
    pub const NONE: Charge = Charge { bytes: 0, record_count: 0 };

    /// One write of a value (0 bytes for a delete), as if the key were new and its node as tall as can be.
    #[must_use]
    pub const fn write(stream_bytes: usize, value_bytes: usize) -> Charge {
        Charge { bytes: node_units(LEVEL_COUNT, stream_bytes, value_bytes) * UNIT_BYTES, record_count: 1 }
    }

    /// What a write that was logged takes at most.
    pub(crate) fn of(write: &Write<'_>) -> Charge {
        Charge::write(write.key.stream.len(), write.value().map_or(0, <[u8]>::len))
    }

    /// What the operations of an entry take at most, those that can be understood.
    pub(crate) fn of_entry(entry: &LogEntry<'_>) -> Charge {
        entry.operations().filter_map(Result::ok).fold(Charge::NONE, |sum, operation| match operation {
            Operation::Write(write) => sum.plus(Charge::of(&write)),
            Operation::Tick
            | Operation::Verify
            | Operation::Seal(_)
            | Operation::Sealed(_)
            | Operation::Sink(_) => sum,
        })
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Charge) -> Charge {
        Charge { bytes: self.bytes + other.bytes, record_count: self.record_count + other.record_count }
    }
}

/// How full a memtable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemtableUse {
    /// Bytes of the arena given out, garbage included.
    pub used_bytes: usize,
    /// Bytes that no record uses any more; they come back when the memtable is empty.
    pub garbage_bytes: usize,
    /// Bytes admitted and not yet released.
    pub admitted_bytes: usize,
    /// Records, tombstones included.
    pub record_count: usize,
}

/// Records of one shard, in memory.
pub struct Memtable {
    arena: Arena,
    index: Index,
    lists: Lists,
    record_count_max: usize,
    record_counts: [usize; TABLET_COUNT],
    record_count: usize,
    admitted: Charge,
    seed: u64,
    /// Tests keep only these bits of a hash, to make collisions.
    #[cfg(test)]
    hash_mask: u64,
}

impl Memtable {
    /// Lay out an empty memtable: the only moment that allocates.
    #[must_use]
    pub fn new(config: MemtableConfig) -> Memtable {
        assert!(config.bytes >= 4096, "an arena has at least 4 KiB");
        assert!(config.record_count_max > 0, "a memtable holds at least one record");
        Memtable {
            arena: Arena::new(config.bytes),
            index: Index::new(config.record_count_max),
            lists: Lists::new(config.record_count_max, config.seed),
            record_count_max: config.record_count_max,
            record_counts: [0; TABLET_COUNT],
            record_count: 0,
            admitted: Charge::NONE,
            seed: config.seed,
            #[cfg(test)]
            hash_mask: u64::MAX,
        }
    }

    /// Hash of a key in this memtable: seeded, so not the same in another one.
    #[must_use]
    pub fn key_hash(&self, key: Key<'_>) -> u64 {
        let mut input = [0u8; 2 + 8 + STREAM_BYTES_MAX];
        let bytes = 10 + key.stream.len();
        input[..2].copy_from_slice(&key.space.0.to_le_bytes());
        input[2..10].copy_from_slice(&key.time.to_le_bytes());
        input[10..bytes].copy_from_slice(key.stream);
        let hash = xxh3_64_with_seed(&input[..bytes], self.seed);
        #[cfg(test)]
        let hash = hash & self.hash_mask;
        hash
    }

    /// Bring the index line of a key near. First of two steps of a batch; see [`Memtable::prefetch_node`].
    pub fn prefetch_line(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Bring the node of a key near, when its line is there: after [`Memtable::prefetch_line`] of the whole batch.
    pub fn prefetch_node(&self, hash: u64) {
        if let Some(node) = self.index.guess(hash) {
            self.arena.prefetch(node);
        }
    }

    /// Is there no node whose tag fits in the key's line? Then the key is most likely not here: a hint, never an answer.
    pub fn seems_absent(&self, hash: u64) -> bool {
        self.index.guess(hash).is_none()
    }

    fn find(&self, hash: u64, key: Key<'_>) -> Option<u32> {
        self.index.find(hash, |node| self.arena.key(node, &self.arena.header(node)) == key)
    }

    /// The newest record of a key, be it a tombstone or expired. `hash` is its [`Memtable::key_hash`].
    #[must_use]
    pub fn get(&self, hash: u64, key: Key<'_>) -> Option<Record<'_>> {
        let mut found = None;
        self.index.find(hash, |node| {
            // All lines of a small record at once, not header, then key, then value.
            self.arena.prefetch(node);
            let header = self.arena.header(node);
            let is_it = self.arena.key(node, &header) == key;
            if is_it {
                found = Some(self.arena.record(&header));
            }
            is_it
        });
        found
    }

    /// Is there room for this charge beside what is admitted already? If not, the limit that is met.
    pub fn room_for(&self, charge: Charge) -> Result<(), Full> {
        // The slack stays back for a replay, whose towers may be that much larger.
        let free = (self.arena.free_units() * UNIT_BYTES).saturating_sub(list::TOWER_SLACK_BYTES);
        if self.admitted.bytes + charge.bytes > free {
            return Err(Full { limit: LIMIT_BYTES });
        }
        if self.record_count + self.admitted.record_count + charge.record_count > self.record_count_max {
            return Err(Full { limit: LIMIT_RECORDS });
        }
        Ok(())
    }

    /// Reserve room before the writes go to the journal: afterwards their [`Memtable::put`] cannot fail. The same
    /// charge is given back with [`Memtable::release`] once they are applied, or when they will never be.
    pub fn admit(&mut self, charge: Charge) -> Result<(), Full> {
        self.room_for(charge)?;
        self.admitted = self.admitted.plus(charge);
        Ok(())
    }

    /// Reserve room at a start for what was admitted in an earlier life and is still not applied. It fits if the slack is used, too:
    /// then it was kept back. (Failing history: a node is killed with its memtable full; the same records take a few bytes more in a
    /// replay; the entry that was open finds no room, and the node never starts again.)
    pub(crate) fn admit_again(&mut self, charge: Charge) -> Result<(), Full> {
        self.room_to_replay(self.admitted.plus(charge))?;
        self.admitted = self.admitted.plus(charge);
        Ok(())
    }

    /// Give an admitted charge back.
    pub fn release(&mut self, charge: Charge) {
        assert!(
            charge.bytes <= self.admitted.bytes && charge.record_count <= self.admitted.record_count,
            "only what was admitted is released"
        );
        self.admitted.bytes -= charge.bytes;
        self.admitted.record_count -= charge.record_count;
    }

    /// Take over what was admitted to `other` and is not applied yet. This one is empty and as large, so it has the room.
    pub(crate) fn take_admitted(&mut self, other: &mut Memtable) {
        assert!(self.record_count == 0, "only an empty memtable takes over");
        self.admitted = self.admitted.plus(std::mem::take(&mut other.admitted));
    }

    /// Would this charge fit if the slack were used too? For a replay, which admits nothing.
    pub(crate) fn room_to_replay(&self, charge: Charge) -> Result<(), Full> {
        if charge.bytes > self.arena.free_units() * UNIT_BYTES {
            return Err(Full { limit: LIMIT_BYTES });
        }
        if self.record_count + charge.record_count > self.record_count_max {
            return Err(Full { limit: LIMIT_RECORDS });
        }
        Ok(())
    }

    /// The same records in a memtable with room for twice as much.
    pub(crate) fn grown(&self) -> Memtable {
        let bytes = 2 * (self.arena.used_bytes() + self.arena.free_units() * UNIT_BYTES);
        let config = MemtableConfig { bytes, record_count_max: 2 * self.record_count_max, seed: self.seed };
        let mut grown = Memtable { admitted: self.admitted, ..Memtable::new(config) };
        for tablet in TabletIndex::all() {
            for Entry { bucket, key, record } in self.range(tablet, Bound::Unbounded, Direction::Forward) {
                let (hash, Record { version, expiry_us, value }) = (self.key_hash(key), record);
                let put = grown.put(tablet, bucket, hash, key, version, expiry_us, value);
                put.expect("half of the room is enough");
            }
        }
        grown
    }

    /// Forget all records of all tablets.
    pub(crate) fn clear(&mut self) {
        for tablet in TabletIndex::all() {
            if self.record_counts[tablet.index()] > 0 {
                self.lists.clear_heads(tablet);
            }
        }
        self.lists.clear_hints();
        self.record_counts = [0; TABLET_COUNT];
        self.record_count = 0;
        self.arena.reset();
        self.index.reset();
    }

    /// Apply a write. Only the newest version of a key is kept: one that is not newer than what is there changes
    /// nothing, because a replay may repeat. `Full` only without admission (a replay into a smaller memtable).
    ///
    /// The new value goes where the old one was when it fits, else to a new place, leaving garbage.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a record is, and where it belongs, which the caller knows"
    )]
    pub fn put(
        &mut self,
        tablet: TabletIndex,
        bucket: BucketIndex,
        hash: u64,
        key: Key<'_>,
        version: Version,
        expiry_us: u64,
        value: Option<&[u8]>,
    ) -> Result<(), Full> {
        assert!((1..=STREAM_BYTES_MAX).contains(&key.stream.len()), "the door has checked the stream");
        assert!(value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX), "the door has checked the value");
        assert!(!version.is_absent(), "a write has a version");
        debug_assert_eq!(hash, self.key_hash(key), "the hash is the key's");
        let record = Record { version, expiry_us, value };
        let hint_slot = self.lists.hint_slot(key.stream);
        self.lists.prefetch(hint_slot);
        if let Some(node) = self.find(hash, key) {
            if self.arena.header(node).version >= version || self.arena.replace(node, record) {
                return Ok(());
            }
            return Err(Full { limit: LIMIT_BYTES });
        }
        if self.record_count == self.record_count_max {
            return Err(Full { limit: LIMIT_RECORDS });
        }
        let height = self.lists.height();
        let node = self.arena.node(height, bucket, key, record).ok_or(Full { limit: LIMIT_BYTES })?;
        self.lists.insert(&mut self.arena, tablet, node, bucket, key, hint_slot);
        self.index.insert(hash, node);
        self.record_count += 1;
        self.record_counts[tablet.index()] += 1;
        Ok(())
    }

    /// Forget all records of a tablet. Their space is garbage until the memtable is empty, then all comes back.
    pub fn clear_tablet(&mut self, tablet: TabletIndex) {
        let mut node = self.lists.after(&self.arena, tablet, arena::NONE);
        while node != arena::NONE {
            let key = self.arena.key(node, &self.arena.header(node));
            let hash = self.key_hash(key);
            self.index.remove(hash, node);
            self.arena.discard(node);
            node = self.arena.next(node, 0);
        }
        self.lists.clear(tablet);
        self.record_count -= self.record_counts[tablet.index()];
        self.record_counts[tablet.index()] = 0;
        if self.record_count == 0 {
            self.arena.reset();
            self.index.reset();
        }
    }

    /// Records of a tablet, tombstones included.
    #[must_use]
    pub fn record_count(&self, tablet: TabletIndex) -> usize {
        self.record_counts[tablet.index()]
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> MemtableUse {
        MemtableUse {
            used_bytes: self.arena.used_bytes(),
            garbage_bytes: self.arena.garbage_bytes(),
            admitted_bytes: self.admitted.bytes,
            record_count: self.record_count,
        }
    }
}
