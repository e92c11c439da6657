//! Which group owns a bucket: the map of 131,072 buckets to 1..=1000 groups.
//!
//! What holds for every count of groups (decided by the exhaustive test, `tests/bucket_map.rs`):
//!
//! - groups differ by at most one bucket, so the busiest holds less than 1 % more than the idlest (131 and 132 at 1000);
//! - each of the 64 tablets of each group holds floor or ceil of 2048 / groups buckets;
//! - growing by a group moves only buckets that go to the new group, and just as many as it then holds;
//! - the map of G groups is the same on every machine: no clock, no random number, no order of insertion.
//!
//! It is built by growing from one group, one step per group: `balance` says how many buckets each cell (group, tablet)
//! keeps, and the cells give them up from the head of their lists. All memory is taken at the first step. Never guess an
//! owner elsewhere: a node that computes another map serves buckets which it does not own.

use layout::units::{BUCKET_COUNT, BucketIndex, TABLET_COUNT, TabletIndex};

use super::balance::{COLUMNS, choose_extras};

/// The most groups a map can have.
pub const GROUP_COUNT_MAX: u16 = 1000;
/// Buckets of one tablet over all groups.
const BUCKETS_PER_TABLET: u32 = BUCKET_COUNT / TABLET_COUNT as u32;

const _: () = assert!(TABLET_COUNT == COLUMNS);
const _: () =
    assert!(BUCKETS_PER_TABLET > 2 * GROUP_COUNT_MAX as u32, "each tablet of each group holds a bucket");

/// End of a list of buckets.
const NONE: u32 = u32::MAX;

/// The owner group of each bucket for one count of groups, and what is needed to grow by one.
#[derive(Clone)]
pub struct BucketMap {
    owners: Box<[u16]>,
    /// The next bucket of the same cell, by bucket.
    next: Box<[u32]>,
    /// The first bucket of a cell, by group * 64 + tablet.
    heads: Vec<u32>,
    /// Buckets of a cell, by group * 64 + tablet.
    counts: Vec<u16>,
    /// By group: the tablets in which it holds floor + 1 buckets, floor = 2048 / groups.
    extras: Vec<u64>,
    groups: u16,
}

/// The count of groups is not 1..=1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a map has 1 to {GROUP_COUNT_MAX} groups, not {0}")]
pub struct GroupCountWrong(pub u32);

impl BucketMap {
    /// The map of `groups` groups.
    ///
    /// # Errors
    /// When `groups` is not 1..=1000.
    pub fn new(groups: u16) -> Result<BucketMap, GroupCountWrong> {
        if groups == 0 || groups > GROUP_COUNT_MAX {
            return Err(GroupCountWrong(u32::from(groups)));
        }
        let mut map = BucketMap {
            owners: vec![0; BUCKET_COUNT as usize].into_boxed_slice(),
            next: vec![NONE; BUCKET_COUNT as usize].into_boxed_slice(),
            heads: vec![NONE; TABLET_COUNT],
            counts: vec![BUCKETS_PER_TABLET as u16; TABLET_COUNT],
            extras: vec![0],
            groups: 1,
        };
        for bucket in (0..BUCKET_COUNT as usize).rev() {
            let cell = bucket % TABLET_COUNT;
            map.next[bucket] = map.heads[cell];
            map.heads[cell] = bucket as u32;
        }
        while map.groups < groups {
            map.grow(|_, _| {})?;
        }
        Ok(map)
    }

    /// How many groups the map has.
    pub fn group_count(&self) -> u16 {
        self.groups
    }

    /// The group that owns the bucket (0-based).
    #[inline]
    pub fn group_of(&self, bucket: BucketIndex) -> u16 {
        self.owners[bucket.get() as usize]
    }

    /// How many buckets of `tablet` the group owns.
    pub fn bucket_count(&self, group: u16, tablet: TabletIndex) -> u16 {
        self.counts[group as usize * TABLET_COUNT + tablet.index()]
    }

    /// Adds one group. Calls `moved(bucket, from)` for each bucket that goes to it, in order of group, then tablet.
    ///
    /// # Errors
    /// When the map has 1000 groups; it is then unchanged.
    pub fn grow(&mut self, mut moved: impl FnMut(BucketIndex, u16)) -> Result<(), GroupCountWrong> {
        if self.groups == GROUP_COUNT_MAX {
            return Err(GroupCountWrong(u32::from(GROUP_COUNT_MAX) + 1));
        }
        let rows = u32::from(self.groups) + 1;
        let floor = BUCKETS_PER_TABLET / rows;
        let column = BUCKETS_PER_TABLET - floor * rows;
        let floor_falls = floor < BUCKETS_PER_TABLET / u32::from(self.groups);
        // Where a group could end with floor + 1: where it has that now. When the floor falls that is everywhere, and
        // for the new group too.
        let mut may = self.extras.clone();
        if floor_falls {
            may.fill(u64::MAX);
        }
        may.push(u64::MAX);
        let mut kept = Vec::with_capacity(rows as usize);
        choose_extras(&may, column, &mut kept)
            .expect("there is an answer for each count up to 1000: the exhaustive test built them all");

        let new = self.groups;
        self.heads.resize(rows as usize * TABLET_COUNT, NONE);
        self.counts.resize(rows as usize * TABLET_COUNT, 0);
        for group in 0..new {
            let keeps = kept[group as usize];
            let mut gives = if floor_falls { u64::MAX } else { may[group as usize] & !keeps };
            while gives != 0 {
                let tablet = gives.trailing_zeros() as usize;
                gives &= gives - 1;
                let cell = group as usize * TABLET_COUNT + tablet;
                let keep = floor + (keeps >> tablet & 1) as u32;
                while u32::from(self.counts[cell]) > keep {
                    self.give(cell, new as usize * TABLET_COUNT + tablet, new, |bucket| moved(bucket, group));
                }
            }
        }
        self.extras = kept;
        self.groups += 1;
        Ok(())
    }

    /// Moves the first bucket of cell `from` to the front of cell `to`, which is of group `new`.
    fn give(&mut self, from: usize, to: usize, new: u16, moved: impl FnOnce(BucketIndex)) {
        let bucket = self.heads[from];
        assert!(bucket != NONE, "a cell gives only what it counts");
        self.heads[from] = self.next[bucket as usize];
        self.next[bucket as usize] = self.heads[to];
        self.heads[to] = bucket;
        self.counts[from] -= 1;
        self.counts[to] += 1;
        self.owners[bucket as usize] = new;
        moved(BucketIndex::new(bucket).expect("lists hold only buckets"));
    }
}

impl std::fmt::Debug for BucketMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BucketMap({} groups)", self.groups)
    }
}
