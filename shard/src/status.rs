//! What a node says of itself: the counters of its cores, as JSON.

use crate::core::Shard;
use crate::counters::Counters;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Status<'a> {
    node: u32,
    cluster: String,
    incarnation: u32,
    map_epoch: u32,
    version: &'static str,
    host: &'static str,
    cores: &'a [Arc<Counters>],
}

/// The status of the node as one core sees it; the figures of other cores are at most a moment old.
pub(crate) fn text(shard: &Shard) -> String {
    shard.publish_counters();
    let status = Status {
        node: shard.facts.node,
        cluster: shard.facts.cluster.to_string(),
        incarnation: shard.facts.incarnation.0,
        map_epoch: shard.facts.map_epoch,
        version: env!("CARGO_PKG_VERSION"),
        host: shard.io.host_name(),
        cores: &shard.facts.counters,
    };
    serde_json::to_string(&status).expect("numbers and plain strings become JSON")
}
