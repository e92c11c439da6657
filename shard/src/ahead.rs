//! Looking ahead in what has arrived: the gets of one receive are walked through each step together. First the index
//! lines of all their keys are asked for; then, a few gets before each is answered, its node, or where no memtable seems to
//! have it the place of its block in the block cache, and a little later what a search of that block reads. So the misses of a
//! batch overlap. What is seen here is not checked and only steers the processor's cache; what was found out about tables is
//! used again, if they are still the same.

use crate::core::Shard;
use crate::lsm::Aim;
use layout::key::{Key, bucket_of, tablet_of};
use layout::units::TabletIndex;
use net::request::Get;

/// Gets looked ahead at: enough to hide a memory access behind the others, few enough to stay in the first cache.
const AHEAD_COUNT: usize = 32;
/// How many gets before its own the node of a get, or the place of its block, is asked for. All at once would be more
/// lines than a core fetches at a time (10 to 16), and it would wait for them; spread out, they come while others are answered.
const NODE_AHEAD_COUNT: usize = 4;
/// How many gets before its own the entry in the block is asked for: its place has come by then.
const ENTRY_AHEAD_COUNT: usize = 2;

/// What was found out about a get of a tablet of this core.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// The memtable's hash of its key.
    pub(crate) hash: u64,
    pub(crate) tablet: TabletIndex,
    /// Where its tables have it, if that was found out.
    pub(crate) aim: Option<Aim>,
}

#[derive(Clone, Copy)]
struct Waiting<'i> {
    /// Where its frame begins.
    at: usize,
    key: Key<'i>,
    seen: Seen,
}

/// What was seen of the gets ahead.
pub(crate) struct Ahead<'i> {
    gets: [Option<Waiting<'i>>; AHEAD_COUNT],
    count: usize,
    next: usize,
    /// Up to where was looked.
    until: usize,
}

impl<'i> Ahead<'i> {
    pub(crate) fn new() -> Ahead<'i> {
        Ahead { gets: [None; AHEAD_COUNT], count: 0, next: 0, until: 0 }
    }

    /// The request at `at` comes next: look ahead if that is due. What was seen of it, if it is a get of this core.
    #[inline]
    pub(crate) fn seen(&mut self, shard: &Shard, input: &'i [u8], at: usize) -> Option<Seen> {
        if at >= self.until {
            self.look(shard, input, at);
        }
        let waiting = (*self.gets[..self.count].get(self.next)?)?;
        if waiting.at != at {
            return None;
        }
        self.aim(shard, self.next + NODE_AHEAD_COUNT);
        self.approach(shard, self.next + ENTRY_AHEAD_COUNT);
        self.next += 1;
        Some(waiting.seen)
    }

    fn look(&mut self, shard: &Shard, input: &'i [u8], from: usize) {
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
                    let seen = Seen { hash, tablet, aim: None };
                    self.gets[self.count] = Some(Waiting { at, key, seen });
                    self.count += 1;
                }
            }
            at += frame_bytes;
        }
        self.until = at.max(from + 1);
        drop(state);
        if self.count > 1 {
            (0..NODE_AHEAD_COUNT).for_each(|number| self.aim(shard, number));
            (0..ENTRY_AHEAD_COUNT).for_each(|number| self.approach(shard, number));
        }
    }

    /// First step towards a get whose index line is there.
    #[inline]
    fn aim(&mut self, shard: &Shard, number: usize) {
        let Some(Some(waiting)) = self.gets[..self.count].get_mut(number) else { return };
        let state = shard.state.borrow();
        // The reads of a group wait for a majority first: what is found out now helps none of them.
        if shard.logs.is_none() && state.memtables.active.seems_absent(waiting.seen.hash) {
            waiting.seen.aim = state.tables.aim(waiting.seen.tablet, waiting.key);
        } else {
            state.memtables.active.prefetch_node(waiting.seen.hash);
        }
    }

    /// Second step, for one that tables have.
    #[inline]
    fn approach(&self, shard: &Shard, number: usize) {
        if let Some(Some(Waiting { key, seen: Seen { tablet, aim: Some(aim), .. }, .. })) =
            self.gets[..self.count].get(number)
        {
            shard.state.borrow().tables.approach(*tablet, *key, aim);
        }
    }
}
