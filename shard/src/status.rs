//! What a node says of itself: the counters of its cores, as JSON.

use crate::core::Shard;
use crate::counters::Counters;
use crate::sink_settings::SinkSettings;
use net::route::{ClusterMap, Node, Roles};
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
    /// The nodes of the group, this one too; none for a node that is its own group.
    nodes: Vec<Member>,
    /// Replicas of each tablet.
    replicas: u8,
    /// Its cold group; left out where nothing is sunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    sink: Option<Sink>,
    cores: &'a [Arc<Counters>],
}

#[derive(Serialize)]
struct Sink {
    nodes: [String; 3],
    group: u16,
    disk_count: u16,
    /// Age at which a sealed window is sunk, microseconds.
    after_us: u64,
}

impl Sink {
    fn of(settings: &SinkSettings) -> Sink {
        let SinkSettings { nodes, group, disk_count, after } = *settings;
        let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        Sink { nodes: nodes.map(|node| node.to_string()), group, disk_count, after_us }
    }
}

#[derive(Serialize)]
struct Member {
    id: u32,
    address: String,
    zone: u16,
}

/// The status of the node as one core sees it; the figures of other cores are at most a moment old.
pub(crate) fn text(shard: &Shard) -> String {
    shard.publish_counters();
    let map = shard.facts.group.map();
    let member = |node: &Node| Member { id: node.id, address: node.address.to_string(), zone: node.zone };
    let nodes =
        |map: &ClusterMap| map.nodes.iter().filter(|node| node.roles.has(Roles::STORE)).map(member).collect();
    let status = Status {
        node: shard.facts.node,
        cluster: shard.facts.cluster.to_string(),
        incarnation: shard.facts.incarnation.0,
        map_epoch: shard.facts.map_epoch(),
        version: env!("CARGO_PKG_VERSION"),
        host: shard.io.host_name(),
        nodes: map.map_or_else(Vec::new, nodes),
        replicas: map.and_then(|map| map.groups.first()).map_or(1, |group| group.replicas),
        sink: shard.sink.as_ref().map(Sink::of),
        cores: &shard.facts.counters,
    };
    serde_json::to_string(&status).expect("numbers and plain strings become JSON")
}
