//! Looking ahead in what has arrived: the gets of one receive are walked through each step together. First the index
//! lines of all their keys are asked for, then, a few gets before each is answered, its node; so the misses of a batch
//! overlap. What is seen here is not checked and only steers the processor's cache.

use crate::core::Shard;
use layout::key::{bucket_of, tablet_of};
use layout::units::TabletIndex;
use net::request::Get;

/// Gets looked ahead at: enough to hide a memory access behind the others, few enough to stay in the first cache.
const AHEAD_COUNT: usize = 32;
/// How many gets before its own the node of a get is asked for. All at once would be more lines than a core fetches
/// at a time (10 to 16), and it would wait for them; spread out, they come while others are answered.
const NODE_AHEAD_COUNT: usize = 4;

/// What was found out about a get of a tablet of this core.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// The memtable's hash of its key.
    pub(crate) hash: u64,
    pub(crate) tablet: TabletIndex,
}

/// What was seen of the gets ahead, by where their frames begin.
pub(crate) struct Ahead {
    gets: [(usize, Seen); AHEAD_COUNT],
    count: usize,
    next: usize,
    /// Up to where was looked.
    until: usize,
}

impl Ahead {
    pub(crate) fn new() -> Ahead {
        let nothing = Seen { hash: 0, tablet: TabletIndex::default() };
        Ahead { gets: [(0, nothing); AHEAD_COUNT], count: 0, next: 0, until: 0 }
    }

    /// The request at `at` comes next: look ahead if that is due. What was seen of it, if it is a get of this core.
    #[inline]
    pub(crate) fn seen(&mut self, shard: &Shard, input: &[u8], at: usize) -> Option<Seen> {
        if at >= self.until {
            self.look(shard, input, at);
        }
        let (seen_at, seen) = *self.gets[..self.count].get(self.next)?;
        if seen_at != at {
            return None;
        }
        if let Some((_, later)) = self.gets[..self.count].get(self.next + NODE_AHEAD_COUNT) {
            shard.state.borrow().memtables.active.prefetch_node(later.hash);
        }
        self.next += 1;
        Some(seen)
    }

    fn look(&mut self, shard: &Shard, input: &[u8], from: usize) {
        let state = shard.state.borrow();
        let memtable = &state.memtables.active;
        (self.count, self.next) = (0, 0);
        let mut at = from;
        while self.count < AHEAD_COUNT
            && let Some((key, frame_bytes)) = Get::peek(&input[at..])
        {
            if let Some(key) = key {
                let tablet = tablet_of(bucket_of(key.space, key.stream));
                if shard.owns(tablet) && shard.facts.group.holds(tablet) {
                    let hash = memtable.key_hash(key);
                    memtable.prefetch_line(hash);
                    self.gets[self.count] = (at, Seen { hash, tablet });
                    self.count += 1;
                }
            }
            at += frame_bytes;
        }
        self.until = at.max(from + 1);
        if self.count > 1 {
            for (_, seen) in self.gets[..self.count].iter().take(NODE_AHEAD_COUNT) {
                memtable.prefetch_node(seen.hash);
            }
        }
    }
}
