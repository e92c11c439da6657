//! The ordered lists of the memtable: one skip list per tablet over nodes of the arena.
//!
//! Owns the heads and tails of 64 lists, and the heights of nodes. Must never own a record. Invariant: level 0
//! of a list holds every node of its tablet once, in order (bucket, space, stream, time), linked both ways; level
//! n + 1 holds a part of level n.
//!
//! Heights come from a ruler: of each 4 nodes in a row, whoever makes them, one has more than one level, of each 16
//! one more than two, of each 64 one more than three, and so on. Which of them it is, is scrambled by a seed, so that
//! a client cannot bring all tall nodes to one place; yet the bytes of all towers together hardly depend on the seed.
//! So a replay of the same writes needs the room they had the first time, to within [`TOWER_SLACK_BYTES`].
//!
//! Records come mostly at the end of their stream. So a table of hints, by hash of the stream, names the node last
//! inserted there, and the place of the next one is looked for around it: a few nodes instead of a search from the
//! head, which reads about 25. A hint may be of another stream or far away; then the search from the head decides.

use std::cmp::Ordering;

use layout::key::Key;
use layout::units::{BucketIndex, TABLET_COUNT, TabletIndex};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::arena::{Arena, LEVEL_COUNT, NONE, UNIT_BYTES, tower_units};

/// Two replays of the same writes differ by at most this in the bytes of their towers: by one node at each level.
pub(super) const TOWER_SLACK_BYTES: usize = tower_units(LEVEL_COUNT) * UNIT_BYTES;

/// Nodes looked at around a hint at most: beyond, the search from the head is as good.
const HINT_STEP_COUNT: usize = 12;
/// Tallest node linked by a hint: its left neighbour at level 1 is four nodes away on average, at level 2 sixteen.
const HINT_HEIGHT_MAX: usize = 2;

/// A place in the order of a tablet: before or after a key, or after everything.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Before(BucketIndex, Key<'a>),
    After(BucketIndex, Key<'a>),
    End,
}

/// Heads, tails and heights.
pub(super) struct Lists {
    heads: Vec<[u32; LEVEL_COUNT]>,
    tails: [u32; TABLET_COUNT],
    /// Levels in use, at least 1.
    level_counts: [usize; TABLET_COUNT],
    node_count: u64,
    seed: u64,
    /// The node last inserted of the streams that share a slot.
    hints: Vec<u32>,
}

/// Order of a node against a key.
fn compare(arena: &Arena, node: u32, bucket: BucketIndex, key: Key<'_>) -> Ordering {
    let header = arena.header(node);
    header.bucket().cmp(&bucket.get()).then_with(|| arena.key(node, &header).compare_in_bucket(&key))
}

impl Place<'_> {
    /// The node comes before this place.
    fn is_behind(&self, arena: &Arena, node: u32) -> bool {
        match *self {
            Place::Before(bucket, key) => compare(arena, node, bucket, key) == Ordering::Less,
            Place::After(bucket, key) => compare(arena, node, bucket, key) != Ordering::Greater,
            Place::End => true,
        }
    }
}

impl Lists {
    /// Hints for this many records: one for eight.
    pub(super) fn hint_count(record_count_max: usize) -> usize {
        (record_count_max / 8).next_power_of_two()
    }

    pub(super) fn new(record_count_max: usize, seed: u64) -> Lists {
        Lists {
            heads: vec![[NONE; LEVEL_COUNT]; TABLET_COUNT],
            tails: [NONE; TABLET_COUNT],
            level_counts: [1; TABLET_COUNT],
            node_count: 0,
            seed,
            hints: vec![NONE; Lists::hint_count(record_count_max)],
        }
    }

    /// Height of the next node.
    pub(super) fn height(&self) -> usize {
        let block = self.node_count >> 8;
        // One multiplication spreads the seed over the block's number; its top byte is the scramble.
        let scramble = (self.seed ^ block).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        let ruler = self.node_count ^ scramble;
        (1 + ruler.trailing_zeros() as usize / 2).min(LEVEL_COUNT)
    }

    fn next(&self, arena: &Arena, tablet: TabletIndex, node: u32, level: usize) -> u32 {
        if node == NONE { self.heads[tablet.index()][level] } else { arena.next(node, level) }
    }

    /// For each level the last node before the place; `NONE` is the head. Levels not in use stay at the head.
    fn search(&self, arena: &Arena, tablet: TabletIndex, place: Place<'_>) -> [u32; LEVEL_COUNT] {
        let mut before = [NONE; LEVEL_COUNT];
        let mut node = NONE;
        // A node found to lie behind the place at one level is often the next one at the level below: not read twice.
        let mut beyond = NONE;
        for level in (0..self.level_counts[tablet.index()]).rev() {
            loop {
                let next = self.next(arena, tablet, node, level);
                if next == NONE || next == beyond {
                    break;
                }
                if !place.is_behind(arena, next) {
                    beyond = next;
                    break;
                }
                node = next;
            }
            before[level] = node;
        }
        before
    }

    /// The last node before the place, or `NONE`.
    pub(super) fn last_before(&self, arena: &Arena, tablet: TabletIndex, place: Place<'_>) -> u32 {
        match place {
            Place::End => self.tails[tablet.index()],
            _ => self.search(arena, tablet, place)[0],
        }
    }

    /// The node after this one, the first for `NONE`.
    pub(super) fn after(&self, arena: &Arena, tablet: TabletIndex, node: u32) -> u32 {
        self.next(arena, tablet, node, 0)
    }

    /// The slot of a stream's hint.
    pub(super) fn hint_slot(&self, stream: &[u8]) -> usize {
        xxh3_64_with_seed(stream, self.seed) as usize & (self.hints.len() - 1)
    }

    /// Bring a hint near.
    pub(super) fn prefetch(&self, hint_slot: usize) {
        ioengine::memory::prefetch(&self.hints, hint_slot);
    }

    /// Like [`Lists::search`] for the levels of a low node, from a hint; `None` when it does not help.
    fn search_near(
        &self,
        arena: &Arena,
        hint: u32,
        height: usize,
        bucket: BucketIndex,
        key: Key<'_>,
    ) -> Option<[u32; LEVEL_COUNT]> {
        // A bucket belongs to one tablet: a node of this bucket is in the right list.
        if hint == NONE || height > HINT_HEIGHT_MAX || arena.header(hint).bucket() != bucket.get() {
            return None;
        }
        let is_before = |node| compare(arena, node, bucket, key) == Ordering::Less;
        let mut steps = 0..HINT_STEP_COUNT;
        let mut left = hint;
        if is_before(left) {
            loop {
                let next = arena.next(left, 0);
                if next == NONE || !is_before(next) {
                    break;
                }
                left = next;
                steps.next()?;
            }
        } else {
            while left != NONE && !is_before(left) {
                left = arena.previous(left);
                steps.next()?;
            }
        }
        let mut before = [NONE; LEVEL_COUNT];
        before[0] = left;
        if height > 1 {
            while left != NONE && arena.header(left).height() < 2 {
                left = arena.previous(left);
                steps.next()?;
            }
            before[1] = left;
        }
        Some(before)
    }

    /// Link a new node, made with the [`Lists::height`] of now, whose key is not in the list.
    pub(super) fn insert(
        &mut self,
        arena: &mut Arena,
        tablet: TabletIndex,
        node: u32,
        bucket: BucketIndex,
        key: Key<'_>,
        hint_slot: usize,
    ) {
        let height = self.height();
        self.node_count += 1;
        let before = self
            .search_near(arena, self.hints[hint_slot], height, bucket, key)
            .unwrap_or_else(|| self.search(arena, tablet, Place::Before(bucket, key)));
        self.hints[hint_slot] = node;
        let levels = &mut self.level_counts[tablet.index()];
        *levels = (*levels).max(height);
        for (level, &left) in before.iter().enumerate().take(height) {
            let right = self.next(arena, tablet, left, level);
            arena.set_next(node, level, right);
            match left {
                NONE => self.heads[tablet.index()][level] = node,
                _ => arena.set_next(left, level, node),
            }
            if level == 0 {
                arena.set_previous(node, left);
                match right {
                    NONE => self.tails[tablet.index()] = node,
                    _ => arena.set_previous(right, node),
                }
            }
        }
    }

    /// Forget the nodes of a tablet.
    pub(super) fn clear(&mut self, tablet: TabletIndex) {
        self.clear_heads(tablet);
        // Some name nodes that are in no list any more.
        self.clear_hints();
    }

    /// Empty the list of a tablet; the hints still name its nodes.
    pub(super) fn clear_heads(&mut self, tablet: TabletIndex) {
        self.heads[tablet.index()] = [NONE; LEVEL_COUNT];
        self.tails[tablet.index()] = NONE;
        self.level_counts[tablet.index()] = 1;
    }

    /// Forget all hints.
    pub(super) fn clear_hints(&mut self) {
        self.hints.fill(NONE);
    }
}

#[cfg(test)]
impl Lists {
    /// Panics when the links of a tablet break the invariant. Gives the count of nodes of each level.
    pub(super) fn check(&self, arena: &Arena, tablet: TabletIndex) -> [usize; LEVEL_COUNT] {
        let mut above: Option<Vec<u32>> = None;
        std::array::from_fn(|level| {
            let mut nodes = Vec::new();
            let mut node = self.next(arena, tablet, NONE, level);
            while node != NONE {
                assert!(arena.header(node).height() > level && level < self.level_counts[tablet.index()]);
                nodes.push(node);
                node = arena.next(node, level);
            }
            // Every node of the level below that is tall enough, in the same order.
            if let Some(below) = &above {
                let expected = below.iter().filter(|node| arena.header(**node).height() > level);
                assert!(nodes.iter().eq(expected), "level {level}");
            } else {
                let mut before = NONE;
                for &node in &nodes {
                    assert_eq!(arena.previous(node), before);
                    let header = arena.header(node);
                    let bucket = BucketIndex::new(header.bucket()).expect("17 bits");
                    assert!(
                        before == NONE || compare(arena, before, bucket, arena.key(node, &header)).is_lt()
                    );
                    before = node;
                }
                assert_eq!(self.tails[tablet.index()], before);
            }
            let count = nodes.len();
            above = Some(nodes);
            count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tower_bytes(seed: u64, count: usize) -> usize {
        let mut lists = Lists::new(1, seed);
        let mut bytes = 0;
        for _ in 0..count {
            bytes += tower_units(lists.height()) * UNIT_BYTES;
            lists.node_count += 1;
        }
        bytes
    }

    #[test]
    fn heights_are_a_quarter_each_and_do_not_depend_on_the_seed_in_sum() {
        for count in [1, 3, 18, 255, 256, 257, 1000, 1029, 65_536, 65_540, 100_003] {
            let all: Vec<usize> = (0..40).map(|seed| tower_bytes(seed << 7, count)).collect();
            let (least, most) = (all.iter().min().expect("forty"), all.iter().max().expect("forty"));
            assert!(most - least <= TOWER_SLACK_BYTES, "{count}: {all:?}");
        }
        let mut lists = Lists::new(1, 3);
        let mut counts = [0; LEVEL_COUNT + 1];
        for _ in 0..256 {
            counts[lists.height()] += 1;
            lists.node_count += 1;
        }
        assert_eq!(counts[1..5], [192, 48, 12, 3]);
    }
}
