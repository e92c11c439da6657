//! Looking ahead in what has arrived: the gets of one receive are walked through each step together. First the index
//! lines of all their keys are asked for, then their nodes, and only then is the first one answered; so the misses of a
//! batch overlap. What is seen here is not checked and only steers the processor's cache.

use crate::core::Shard;
use layout::key::{bucket_of, tablet_of};
use net::request::Get;

/// Gets looked ahead at: enough to hide a memory access behind the others, few enough to stay in the first cache.
const AHEAD_COUNT: usize = 32;

/// Hashes of the gets ahead, by where their frames begin.
pub(crate) struct Ahead {
    gets: [(usize, u64); AHEAD_COUNT],
    count: usize,
    next: usize,
    /// Up to where was looked.
    until: usize,
}

impl Ahead {
    pub(crate) fn new() -> Ahead {
        Ahead { gets: [(0, 0); AHEAD_COUNT], count: 0, next: 0, until: 0 }
    }

    /// The request at `at` comes next: look ahead if that is due. The hash of its key, if it was seen to be a get.
    #[inline]
    pub(crate) fn hash(&mut self, shard: &Shard, input: &[u8], at: usize) -> Option<u64> {
        if at >= self.until {
            self.look(shard, input, at);
        }
        let (seen_at, hash) = *self.gets[..self.count].get(self.next)?;
        if seen_at != at {
            return None;
        }
        self.next += 1;
        Some(hash)
    }

    fn look(&mut self, shard: &Shard, input: &[u8], from: usize) {
        let state = shard.state.borrow();
        let memtable = &state.memtable;
        (self.count, self.next) = (0, 0);
        let mut at = from;
        while self.count < AHEAD_COUNT
            && let Some((key, frame_bytes)) = Get::peek(&input[at..])
        {
            if let Some(key) = key
                && shard.owns(tablet_of(bucket_of(key.space, key.stream)))
            {
                let hash = memtable.key_hash(key);
                memtable.prefetch_line(hash);
                self.gets[self.count] = (at, hash);
                self.count += 1;
            }
            at += frame_bytes;
        }
        self.until = at.max(from + 1);
        if self.count > 1 {
            for &(_, hash) in &self.gets[..self.count] {
                memtable.prefetch_node(hash);
            }
        }
    }
}
