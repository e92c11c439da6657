//! What is counted on a core of a cache node.

use super::core::Cache;
use crate::counters::Counter;
use crate::hot::Board;
use serde::Serialize;

/// Counters of one core. Names end in their unit; those without one are counts.
#[derive(Debug, Default, Serialize)]
pub struct CacheCounters {
    /// Gets that came, keys of multi-gets each.
    pub gets: Counter,
    /// Which keys these are of, for who asks with Hot.
    #[serde(skip)]
    pub(super) hot: Board,
    /// Gets of which was looked at whose key it is.
    pub hot_sampled: Counter,
    /// Of these, in the last five seconds that are over, those of the key most asked for, parts per million.
    pub hot_first_ppm: Counter,
    /// Of the gets, those that shared a question or waited for the next about the same key.
    pub shared: Counter,
    /// Gets refused for want of room.
    pub busy: Counter,
    /// Answers of the store, by key: what is held is the newest.
    pub not_modified: Counter,
    /// The store had another version, or nothing was held.
    pub newer: Counter,
    /// There is no record.
    pub absent: Counter,
    /// Keys asked about twice, because what was held went meanwhile.
    pub asked_again: Counter,
    /// Batches sent to nodes of the store.
    pub batches: Counter,
    /// Keys in them.
    pub batched_keys: Counter,
    /// Batches of which not all keys were answered.
    pub failed_batches: Counter,
    /// Connections refused for want of room.
    pub connections_refused: Counter,
    /// Connections now.
    pub connections: Counter,
    /// Gets that wait now.
    pub waiting: Counter,
    /// Entries put into value rings.
    pub ring_puts: Counter,
    /// Entries written again because they were read.
    pub ring_second_chances: Counter,
    /// Entries overwritten although they were read.
    pub ring_lost: Counter,
    /// Entries found damaged or torn.
    pub ring_damaged: Counter,
    /// Entries too large for a ring.
    pub ring_refused: Counter,
    /// Bytes that the rings have given out, ever: more than their size means that they are full.
    pub ring_given_bytes: Counter,
    /// 1 when the rings of the last process were found.
    pub rings_kept: Counter,
    /// Epoch of the cluster map that the core knows.
    pub map_epoch: Counter,
}

impl CacheCounters {
    /// Take over what others count.
    pub(super) fn publish(&self, cache: &Cache) {
        let rings = cache.rings.borrow();
        let counted = rings.counters();
        self.ring_puts.set(counted.put_count);
        self.ring_second_chances.set(counted.second_chance_count);
        self.ring_lost.set(counted.lost_count);
        self.ring_damaged.set(counted.damaged_count);
        self.ring_refused.set(counted.refused_count);
        self.ring_given_bytes.set(rings.given_bytes());
        cache.hot.turn(cache.io.now(), &self.hot);
        self.hot_sampled.set(cache.hot.sampled());
        self.hot_first_ppm.set(self.hot.first_ppm());
        self.connections.set(cache.connections.count() as u64);
        self.map_epoch.set(u64::from(cache.client.epoch()));
        self.waiting.set(cache.fetches.borrow().waiting() as u64);
    }
}
