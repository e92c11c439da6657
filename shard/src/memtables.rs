//! The two memtables of a shard: one is written, the other is full and on its way to the device, or empty and waits.
//!
//! Owns which is which. Both have one seed, so that a hash serves both. Must never drop a record that no table holds:
//! only [`Memtables::thaw`] empties one, and whoever calls it has made its records durable elsewhere. Invariant: for a
//! key that is in both, the active one has the newer version.

use crate::memtable::{Direction, Entry, Look, Memtable, MemtableConfig, MemtableUse, Record, StreamRange};
use layout::key::{Key, bucket_of};
use layout::units::{BucketIndex, Space, TabletIndex};
use std::cmp::Ordering;

/// A pair of memtables.
pub(crate) struct Memtables {
    /// Takes writes.
    pub(crate) active: Memtable,
    frozen: Option<Memtable>,
    spare: Option<Memtable>,
}

impl Memtables {
    /// Lay out two memtables of this config each.
    pub(crate) fn new(config: MemtableConfig) -> Memtables {
        Memtables { active: Memtable::new(config), frozen: None, spare: Some(Memtable::new(config)) }
    }

    /// Hash of a key in both.
    pub(crate) fn key_hash(&self, key: Key<'_>) -> u64 {
        self.active.key_hash(key)
    }

    /// The newest record of a key that is in memory, be it a tombstone or expired.
    #[inline]
    pub(crate) fn get(&self, hash: u64, key: Key<'_>) -> Option<Record<'_>> {
        let active = self.active.get(hash, key);
        if active.is_some() {
            return active;
        }
        self.frozen.as_ref().and_then(|frozen| frozen.get(hash, key))
    }

    /// The one that is full, if there is one.
    pub(crate) fn frozen(&self) -> Option<&Memtable> {
        self.frozen.as_ref()
    }

    /// Can the active one be frozen now?
    pub(crate) fn can_freeze(&self) -> bool {
        self.spare.is_some()
    }

    /// The active one is full: go on in the other. What was admitted and is not applied yet moves along.
    pub(crate) fn freeze(&mut self) {
        let mut fresh = self.spare.take().expect("the caller has asked whether one is spare");
        fresh.take_admitted(&mut self.active);
        self.frozen = Some(std::mem::replace(&mut self.active, fresh));
    }

    /// A replay finds more than the active one holds before the frozen one is flushed: go on in one twice as large, for this life.
    pub(crate) fn grow(&mut self) {
        self.active = self.active.grown();
    }

    /// The frozen one's records are durable in tables, and can be found there: empty it.
    pub(crate) fn thaw(&mut self) {
        let mut frozen = self.frozen.take().expect("the caller has flushed it");
        frozen.clear();
        self.spare = Some(frozen);
    }

    /// How full both are together.
    pub(crate) fn usage(&self) -> MemtableUse {
        let (active, frozen) =
            (self.active.usage(), self.frozen.as_ref().map(Memtable::usage).unwrap_or_default());
        MemtableUse {
            used_bytes: active.used_bytes + frozen.used_bytes,
            garbage_bytes: active.garbage_bytes + frozen.garbage_bytes,
            admitted_bytes: active.admitted_bytes,
            record_count: active.record_count + frozen.record_count,
        }
    }

    /// As [`Memtable::stream_range`], newest version of each record.
    pub(crate) fn stream_range<'a>(&'a self, range: StreamRange<'a>) -> impl Iterator<Item = Entry<'a>> {
        let direction = range.direction;
        let frozen = self.frozen.as_ref().map(|frozen| frozen.stream_range(range.clone()));
        merged(self.active.stream_range(range), frozen.into_iter().flatten(), direction)
    }

    /// The streams of a tablet behind `after`, as [`Memtable::streams`]; one that both have comes once.
    pub(crate) fn streams(
        &self,
        tablet: TabletIndex,
        after: Option<(BucketIndex, Space, &[u8])>,
        space: Option<Space>,
    ) -> impl Iterator<Item = Look<'_>> {
        let mut active = self.active.streams(tablet, after, space).peekable();
        let mut frozen = self
            .frozen
            .as_ref()
            .map(|frozen| frozen.streams(tablet, after, space))
            .into_iter()
            .flatten()
            .peekable();
        std::iter::from_fn(move || {
            let (Some(a), Some(b)) = (active.peek(), frozen.peek()) else {
                return active.next().or_else(|| frozen.next());
            };
            let (Look::Stream(a_space, a_stream), Look::Stream(b_space, b_stream)) = (a, b) else {
                return if *a == Look::Passed { active.next() } else { frozen.next() };
            };
            let place = |space: Space, stream| (bucket_of(space, stream), space);
            let order = (place(*a_space, a_stream), *a_stream).cmp(&(place(*b_space, b_stream), *b_stream));
            match order {
                Ordering::Less => active.next(),
                Ordering::Greater => frozen.next(),
                Ordering::Equal => {
                    frozen.next();
                    active.next()
                }
            }
        })
    }
}

/// Two ranges of one direction as one. Of a key that both have, the first's entry counts.
fn merged<'a>(
    newer: impl Iterator<Item = Entry<'a>>,
    older: impl Iterator<Item = Entry<'a>>,
    direction: Direction,
) -> impl Iterator<Item = Entry<'a>> {
    let (mut newer, mut older) = (newer.peekable(), older.peekable());
    std::iter::from_fn(move || {
        let (Some(a), Some(b)) = (newer.peek(), older.peek()) else {
            return newer.next().or_else(|| older.next());
        };
        let order = order(a).cmp(&order(b));
        let order = if direction == Direction::Forward { order } else { order.reverse() };
        match order {
            Ordering::Less => newer.next(),
            Ordering::Greater => older.next(),
            Ordering::Equal => {
                older.next();
                newer.next()
            }
        }
    })
}

fn order<'a>(entry: &Entry<'a>) -> (BucketIndex, Space, &'a [u8], u64) {
    (entry.bucket, entry.key.space, entry.key.stream, entry.key.time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::units::Version;
    use std::collections::BTreeMap;

    fn put(memtables: &mut Memtables, time: u64, version: u64) {
        let key = Key { space: Space(0), stream: b"s", time };
        let hash = memtables.key_hash(key);
        let value = version.to_le_bytes();
        memtables
            .active
            .put(key.tablet(), key.bucket(), hash, key, Version(version), 0, Some(&value))
            .unwrap();
    }

    fn all(memtables: &Memtables, direction: Direction) -> Vec<(u64, u64)> {
        let (space, stream) = (Space(0), &b"s"[..]);
        let bucket = bucket_of(space, stream);
        memtables
            .stream_range(StreamRange { bucket, space, stream, times: 0..=u64::MAX, direction })
            .map(|entry| (entry.key.time, entry.record.version.0))
            .collect()
    }

    #[test]
    fn the_newer_version_of_both_is_seen_and_nothing_twice() {
        let config = MemtableConfig { bytes: 1 << 16, record_count_max: 100, seed: 1 };
        let mut memtables = Memtables::new(config);
        let mut model = BTreeMap::new();
        let mut write = |memtables: &mut Memtables, time: u64, version: u64| {
            put(memtables, time, version);
            model.insert(time, version);
        };
        for (version, time) in (1..).zip([5, 1, 9, 3, 7]) {
            write(&mut memtables, time, version);
        }
        memtables.freeze();
        assert!(!memtables.can_freeze());
        for (version, time) in (10..).zip([2, 3, 9, 11, 0]) {
            write(&mut memtables, time, version);
        }
        let forward: Vec<_> = model.into_iter().collect();
        assert_eq!(all(&memtables, Direction::Forward), forward);
        assert_eq!(all(&memtables, Direction::Backward), forward.iter().rev().copied().collect::<Vec<_>>());
        for (time, version) in forward {
            let key = Key { space: Space(0), stream: b"s", time };
            assert_eq!(memtables.get(memtables.key_hash(key), key).unwrap().version, Version(version));
        }
        memtables.thaw();
        assert_eq!(all(&memtables, Direction::Forward).len(), 5);
        assert!(memtables.can_freeze());
        memtables.freeze();
        assert_eq!(memtables.active.usage().record_count, 0, "an emptied one is empty");
        assert_eq!(all(&memtables, Direction::Forward).len(), 5);
    }
}
