//! What a cache node says of itself: the counters of its cores, as JSON.

use super::core::Cache;
use super::counters::CacheCounters;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Status<'a> {
    node: u32,
    cluster: String,
    role: &'static str,
    map_epoch: u32,
    version: &'static str,
    host: &'static str,
    cache_cores: &'a [Arc<CacheCounters>],
}

/// The status of the node as one core sees it; the figures of other cores are at most a moment old.
pub(super) fn text(cache: &Cache) -> String {
    cache.counters.publish(cache);
    let status = Status {
        node: cache.facts.node,
        cluster: cache.facts.cluster.to_string(),
        role: "cache",
        map_epoch: cache.client.epoch(),
        version: env!("CARGO_PKG_VERSION"),
        host: cache.io.host_name(),
        cache_cores: &cache.facts.counters,
    };
    serde_json::to_string(&status).expect("numbers and plain strings become JSON")
}
