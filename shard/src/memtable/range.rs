//! Ranges of the memtable: records of a tablet in key order, from a place, forward or backward.
//!
//! Owns the cursor. Must never write. Invariant: a range yields every record between its start and the end of the
//! tablet exactly once; whoever stops goes on later from the last key it saw, excluded.

use std::ops::{Bound, RangeInclusive};

use layout::key::{Key, tablet_of};
use layout::units::{BucketIndex, Space, TabletIndex};

use super::arena::NONE;
use super::list::Place;
use super::{Memtable, Record};

/// Which way a range goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To larger keys, later times.
    Forward,
    /// To smaller keys, earlier times.
    Backward,
}

/// A record in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Bucket of the key.
    pub bucket: BucketIndex,
    /// The key, borrowed from the memtable.
    pub key: Key<'a>,
    /// The record, be it a tombstone or expired.
    pub record: Record<'a>,
}

/// The records of one stream between two times, and which way they are wanted.
#[derive(Debug, Clone)]
pub struct StreamRange<'a> {
    /// Bucket of the stream.
    pub bucket: BucketIndex,
    /// Space of the stream.
    pub space: Space,
    /// The stream.
    pub stream: &'a [u8],
    /// First and last time.
    pub times: RangeInclusive<u64>,
    /// Which way.
    pub direction: Direction,
}

/// Records of one tablet, one after the other.
#[derive(Clone)]
pub struct Range<'a> {
    memtable: &'a Memtable,
    tablet: TabletIndex,
    direction: Direction,
    /// What comes next.
    node: u32,
}

impl Memtable {
    /// The records of a tablet from a key on, in order (bucket, space, stream, time). `from` is where it starts:
    /// the smallest key of a forward range, the largest of a backward one.
    #[must_use]
    pub fn range(
        &self,
        tablet: TabletIndex,
        from: Bound<(BucketIndex, Key<'_>)>,
        direction: Direction,
    ) -> Range<'_> {
        let node = match direction {
            Direction::Forward => {
                let before = match from {
                    Bound::Unbounded => NONE,
                    Bound::Included((bucket, key)) => {
                        self.lists.last_before(&self.arena, tablet, Place::Before(bucket, key))
                    }
                    Bound::Excluded((bucket, key)) => {
                        self.lists.last_before(&self.arena, tablet, Place::After(bucket, key))
                    }
                };
                self.lists.after(&self.arena, tablet, before)
            }
            Direction::Backward => {
                let place = match from {
                    Bound::Unbounded => Place::End,
                    Bound::Included((bucket, key)) => Place::After(bucket, key),
                    Bound::Excluded((bucket, key)) => Place::Before(bucket, key),
                };
                self.lists.last_before(&self.arena, tablet, place)
            }
        };
        Range { memtable: self, tablet, direction, node }
    }

    /// The records of one stream between two times, in order of time.
    pub fn stream_range<'a>(&'a self, range: StreamRange<'a>) -> impl Iterator<Item = Entry<'a>> {
        let StreamRange { bucket, space, stream, times, direction } = range;
        let time = match direction {
            Direction::Forward => *times.start(),
            Direction::Backward => *times.end(),
        };
        self.range(tablet_of(bucket), Bound::Included((bucket, Key { space, stream, time })), direction)
            .take_while(move |entry| entry.key.space == space && entry.key.stream == stream)
            .take_while(move |entry| times.contains(&entry.key.time))
    }

    /// The first record of the first stream behind this one: with it a tablet's streams can be listed.
    #[must_use]
    pub fn stream_after(
        &self,
        tablet: TabletIndex,
        bucket: BucketIndex,
        space: Space,
        stream: &[u8],
    ) -> Option<Entry<'_>> {
        let last = Key { space, stream, time: u64::MAX };
        self.range(tablet, Bound::Excluded((bucket, last)), Direction::Forward).next()
    }
}

/// What one look at a tablet's streams has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look<'a> {
    /// A stream that was asked for.
    Stream(Space, &'a [u8]),
    /// None: the next one that was asked for is further on.
    Passed,
}

/// The streams of a tablet in order, one look at a time. Each look is one search, whatever it finds; of one space there
/// are at most two per bucket with records, and one per stream found.
pub struct Streams<'a> {
    memtable: &'a Memtable,
    tablet: TabletIndex,
    space: Option<Space>,
    next: Option<Entry<'a>>,
}

impl Memtable {
    /// The streams of a tablet behind `after`; only those of `space` if it is given.
    #[must_use]
    pub fn streams(
        &self,
        tablet: TabletIndex,
        after: Option<(BucketIndex, Space, &[u8])>,
        space: Option<Space>,
    ) -> Streams<'_> {
        let next = match after {
            None => self.range(tablet, Bound::Unbounded, Direction::Forward).next(),
            Some((bucket, space, stream)) => self.stream_after(tablet, bucket, space, stream),
        };
        Streams { memtable: self, tablet, space, next }
    }

    /// The first record at or behind the first possible stream of a space in a bucket.
    fn space_from(&self, tablet: TabletIndex, bucket: BucketIndex, space: Space) -> Option<Entry<'_>> {
        let first = Key { space, stream: b"", time: 0 };
        self.range(tablet, Bound::Included((bucket, first)), Direction::Forward).next()
    }
}

impl<'a> Iterator for Streams<'a> {
    type Item = Look<'a>;

    fn next(&mut self) -> Option<Look<'a>> {
        let entry = self.next?;
        let Key { space, stream, .. } = entry.key;
        let wanted = self.space.unwrap_or(space);
        if space == wanted {
            self.next = self.memtable.stream_after(self.tablet, entry.bucket, space, stream);
            return Some(Look::Stream(space, stream));
        }
        // Before the wanted space of this bucket, or behind it: on to that of this one or of the next.
        let bucket =
            if space < wanted { Some(entry.bucket) } else { BucketIndex::new(entry.bucket.get() + 1) };
        self.next = bucket.and_then(|bucket| self.memtable.space_from(self.tablet, bucket, wanted));
        Some(Look::Passed)
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let node = self.node;
        if node == NONE {
            return None;
        }
        let Memtable { arena, lists, .. } = self.memtable;
        self.node = match self.direction {
            Direction::Forward => lists.after(arena, self.tablet, node),
            Direction::Backward => arena.previous(node),
        };
        if self.node != NONE {
            arena.prefetch(self.node);
        }
        let header = arena.header(node);
        let bucket = BucketIndex::new(header.bucket()).expect("a node keeps 17 bits, the count of buckets");
        Some(Entry { bucket, key: arena.key(node, &header), record: arena.record(&header) })
    }
}
