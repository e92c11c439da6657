//! The section `[cluster]`: which nodes form the group, the same at all of them.
//!
//! Owns its text, what cannot be, and the map that is made of it. Must never guess a node: who is not named is not there.
//! Invariant: two nodes with the same section make the same map of it.

use std::net::SocketAddr;

use layout::superblock::Superblock;
use layout::units::SHARD_COUNT_MAX;
use net::route::{ClusterMap, Group, Node, Roles};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A node as the config names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    /// Its number: `disk format --node`.
    id: u32,
    /// Where it serves clients and the other nodes.
    address: SocketAddr,
    /// What fails together.
    zone: u16,
    /// Shards of its disk; none = as many as the disk of the node that reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<u16>,
}

/// The section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// All nodes, this one too; none = a node that is its own group.
    pub(crate) nodes: Vec<Member>,
    /// Cache nodes before the group; their shards are their cores.
    pub(crate) caches: Vec<Member>,
    /// Replicas of each tablet.
    pub(crate) replicas: u8,
    /// Version of the map.
    pub(crate) epoch: u32,
    /// Gets of records younger than this go to a cache, µs, until somebody says otherwise.
    pub(crate) recent_us: u64,
    /// Share of the streams whose gets do, of 10,000.
    pub(crate) cache_share: u16,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            nodes: Vec::new(),
            caches: Vec::new(),
            replicas: 3,
            epoch: 1,
            recent_us: 0,
            cache_share: 10_000,
        }
    }
}

#[derive(Deserialize)]
struct List {
    nodes: Vec<Member>,
}

/// How the list is written.
const FORM: &str = "write [{ id = 1, address = \"10.0.0.1:7420\", zone = 1 }, ...]";

/// Reads the list of nodes, as TOML has it; empty = none.
///
/// # Errors
/// What is wrong, and how it is written.
pub(crate) fn nodes(text: &str) -> Result<Vec<Member>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    match toml::from_str::<List>(&format!("nodes = {text}")) {
        Ok(list) => Ok(list.nodes),
        Err(error) => Err(format!("{}: {FORM}", error.message())),
    }
}

/// The list as it is read back; nothing for none.
pub(crate) fn nodes_text(nodes: &[Member]) -> String {
    let each = nodes.iter().map(|node| {
        let shards = node.shards.map_or_else(String::new, |shards| format!(", shards = {shards}"));
        format!("{{ id = {}, address = \"{}\", zone = {}{shards} }}", node.id, node.address, node.zone)
    });
    let each: Vec<String> = each.collect();
    if each.is_empty() { String::new() } else { format!("[{}]", each.join(", ")) }
}

/// A member with the shards of who reads the section.
pub(crate) fn member(id: u32, address: SocketAddr, zone: u16) -> Member {
    Member { id, address, zone, shards: None }
}

impl Cluster {
    /// What cannot be, whoever reads it; all of it.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let all: Vec<&Member> = self.nodes.iter().chain(&self.caches).collect();
        for (place, node) in all.iter().enumerate() {
            let before = &all[..place];
            if node.id == 0 {
                wrong.push("nodes are numbered from 1".to_owned());
            }
            if before.iter().any(|other| other.id == node.id) {
                wrong.push(format!("node {} is there twice: give each its own id", node.id));
            }
            if let Some(other) = before.iter().find(|other| other.address == node.address) {
                let address = node.address;
                wrong.push(format!("nodes {} and {} have the same address {address}", other.id, node.id));
            }
            if node.address.ip().is_unspecified() || node.address.port() == 0 {
                let address = node.address;
                wrong.push(format!("node {}: {address} is no address that others can connect to", node.id));
            }
            if node.shards.is_some_and(|shards| !(1..=SHARD_COUNT_MAX).contains(&usize::from(shards))) {
                wrong.push(format!("node {}: a disk has 1 to {SHARD_COUNT_MAX} shards", node.id));
            }
        }
        let (count, replicas) = (self.nodes.len(), self.replicas);
        let shape = matches!((count, replicas), (0, _) | (1, 1) | (3 | 5 | 6, 3) | (5 | 6, 5));
        if !shape {
            wrong.push(format!(
                "{replicas} replicas on {count} nodes: have 3 on 3, 5 or 6 nodes, 5 on 5 or 6, or 1 on 1"
            ));
        }
        if self.nodes.is_empty() && !self.caches.is_empty() {
            wrong.push("caches stand before a group: name its nodes".to_owned());
        }
        if self.epoch == 0 {
            wrong.push("epoch is counted from 1".to_owned());
        }
        wrong
    }

    /// Where the nodes of the group serve.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// The map, for the node whose disk has this superblock; `None`: it is its own group.
    ///
    /// # Errors
    /// The node of the disk is not among the nodes.
    pub(crate) fn map(&self, superblock: &Superblock) -> Result<Option<ClusterMap>, Failure> {
        if self.nodes.is_empty() {
            return Ok(None);
        }
        let own = superblock.node;
        if !self.nodes.iter().any(|node| node.id == own) {
            let ids: Vec<String> = self.nodes.iter().map(|node| node.id.to_string()).collect();
            return Err(Failure::wrong_use(
                format!("cluster.nodes has the nodes {}, and the disk belongs to node {own}", ids.join(", ")),
                format!("add node {own} to [cluster] at all nodes, or name the disk of one of them"),
            ));
        }
        let mut nodes: Vec<Node> = self
            .nodes
            .iter()
            .map(|node| Node {
                id: node.id,
                address: node.address,
                zone: node.zone,
                roles: Roles::STORE,
                shard_count: node.shards.unwrap_or(superblock.shard_count),
            })
            .collect();
        nodes.sort_unstable_by_key(|node| node.id);
        let members = nodes.iter().map(|node| node.id).collect();
        nodes.extend(self.caches.iter().map(|cache| Node {
            id: cache.id,
            address: cache.address,
            zone: cache.zone,
            roles: Roles::CACHE,
            shard_count: cache.shards.unwrap_or(1),
        }));
        nodes.sort_unstable_by_key(|node| node.id);
        let map = ClusterMap {
            epoch: self.epoch,
            cluster: superblock.cluster,
            revision: 0,
            recent_us: self.recent_us,
            cache_share: self.cache_share,
            nodes,
            groups: vec![Group { replicas: self.replicas, members }],
        };
        match map.validate() {
            Ok(()) => Ok(Some(map)),
            Err(wrong) => {
                Err(Failure::wrong_use(wrong.to_string(), "mend [cluster]; all nodes have the same"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str, replicas: u8) -> String {
        Cluster { nodes: nodes(text).unwrap(), replicas, ..Cluster::default() }.wrong().join("\n")
    }

    #[test]
    fn a_list_is_read_back_as_it_was_written() {
        let text = "[{ id = 2, address = \"10.0.0.2:7420\", zone = 1 }, { zone = 9, id = 1, address = \"[::1]:1\", shards = 4 }]";
        let list = nodes(text).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(nodes(&nodes_text(&list)), Ok(list));
        assert_eq!((nodes(""), nodes_text(&[])), (Ok(Vec::new()), String::new()));
        for bad in [
            "[{ id = 1 }]",
            "7",
            "[{ id = 1, address = \"here\", zone = 1 }]",
            "[",
            "[{ id = 1, address = \"1.1.1.1:1\", zone = 1, x = 2 }]",
        ] {
            assert!(nodes(bad).unwrap_err().contains("write [{ id"), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let node =
            |id: u32, last: u8| format!("{{ id = {id}, address = \"10.0.0.{last}:7420\", zone = {id} }}");
        let list = |nodes: &[(u32, u8)]| {
            format!("[{}]", nodes.iter().map(|(id, last)| node(*id, *last)).collect::<Vec<_>>().join(","))
        };
        assert_eq!(wrong(&list(&[(1, 1), (2, 2), (3, 3)]), 3), "");
        assert_eq!(wrong(&list(&[(1, 1)]), 1), "");
        assert!(wrong(&list(&[(1, 1), (1, 2), (3, 3)]), 3).contains("node 1 is there twice"));
        assert!(wrong(&list(&[(1, 1), (2, 1), (3, 3)]), 3).contains("nodes 1 and 2 have the same address"));
        assert!(wrong(&list(&[(1, 1), (2, 2)]), 3).contains("3 replicas on 2 nodes"));
        assert!(wrong(&list(&[(0, 1), (2, 2), (3, 3)]), 3).contains("numbered from 1"));
        assert!(wrong("[{ id = 1, address = \"0.0.0.0:1\", zone = 1 }]", 1).contains("connect to"));
        assert!(
            wrong("[{ id = 1, address = \"1.1.1.1:1\", zone = 1, shards = 65 }]", 1).contains("64 shards")
        );
        let caches = nodes(&list(&[(1, 9)])).unwrap();
        let with = |text: &str| Cluster {
            nodes: nodes(text).unwrap(),
            caches: caches.clone(),
            ..Cluster::default()
        };
        assert!(with(&list(&[(1, 1), (2, 2), (3, 3)])).wrong().join("").contains("node 1 is there twice"));
        assert_eq!(with(&list(&[(2, 1), (3, 2), (4, 3)])).wrong(), Vec::<String>::new());
        assert!(with("").wrong().join("").contains("name its nodes"));
        assert_eq!(Cluster { epoch: 0, ..Cluster::default() }.wrong(), ["epoch is counted from 1"]);
    }
}
