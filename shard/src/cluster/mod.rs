//! The group that a node belongs to, and the links to its other nodes.
//!
//! Owns who is in the group, which nodes hold which tablet, and how messages of tablets get from one node to another. Must never
//! look into a message, and never wait for a peer: what cannot be sent is dropped and counted, the log sends it again.
//! Invariant: a message that is passed on came from a node that the map gives a replica of its tablet.
//!
//! ```text
//!  core of A ──link: one connection per core and peer──► some core of B ──ring, if need be──► core of B with the tablet
//! ```

mod birth;
mod disks;
mod frames;
mod inbound;
mod links;
mod maps;
#[cfg(test)]
mod tests;

pub(crate) use birth::birth;
pub(crate) use disks::Disks;
pub(crate) use inbound::{deliver, greet, walk};
pub(crate) use links::{Calls, Links, run};
pub(crate) use maps::{Maps, hear as hear_map, tell_all};
#[cfg(test)]
pub(crate) use tests::started;

use layout::units::{TABLET_COUNT, TabletIndex, Uuid};
use net::route::{ClusterMap, REPLICAS_MAX};
use std::net::SocketAddr;

/// A few nodes.
#[derive(Clone, Copy, Default)]
struct Few {
    ids: [u32; REPLICAS_MAX],
    count: u8,
}

impl Few {
    fn of(ids: &[u32]) -> Few {
        let mut few = Few { count: ids.len() as u8, ..Few::default() };
        few.ids[..ids.len()].copy_from_slice(ids);
        few
    }

    fn ids(&self) -> &[u32] {
        &self.ids[..usize::from(self.count)]
    }
}

/// Another node of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) node: u32,
    pub(crate) address: SocketAddr,
    pub(crate) shard_count: u16,
}

/// Who holds what: the same at all nodes of a map's epoch.
pub(crate) struct Group {
    #[allow(dead_code, reason = "for the log")]
    own: u32,
    /// `None` for a node that is its own group.
    map: Option<ClusterMap>,
    /// Replicas of each tablet, ascending.
    replicas: Vec<Few>,
    /// The same as clients try them.
    orders: Vec<Few>,
    peers: Vec<Peer>,
    /// Tablets that this node holds, one bit each.
    held: u64,
    /// Nodes that an operator has given up for this life.
    given_up: Vec<u32>,
}

impl Group {
    /// A node that is its own group.
    pub(crate) fn alone(own: u32) -> Group {
        let all = vec![Few::of(&[own]); TABLET_COUNT];
        Group {
            own,
            map: None,
            replicas: all.clone(),
            orders: all,
            peers: Vec::new(),
            held: u64::MAX,
            given_up: Vec::new(),
        }
    }

    /// The group of node `own`, whose disk belongs to `cluster` and is cut for `shard_count`.
    ///
    /// # Errors
    /// What in the map does not fit, and what to do.
    pub(crate) fn of(map: ClusterMap, own: u32, cluster: Uuid, shard_count: u16) -> Result<Group, String> {
        map.validate().map_err(|wrong| wrong.to_string())?;
        if map.cluster != cluster {
            return Err(format!(
                "the disk belongs to cluster {cluster} and the cluster map is of {}: name the cluster of the disk",
                map.cluster
            ));
        }
        let Some(node) = map.node(own) else {
            return Err(format!("the disk belongs to node {own}, which is not in the cluster map: add it"));
        };
        if node.shard_count != shard_count {
            return Err(format!(
                "the disk of node {own} is cut for {shard_count} shards and the cluster map says {}: mend the map",
                node.shard_count
            ));
        }
        let [group] = &map.groups[..] else {
            return Err(format!("the cluster map has {} groups: this version serves one", map.groups.len()));
        };
        let order = map.replica_order(0).map_err(|wrong| wrong.to_string())?;
        let (mut replicas, mut orders) = (Vec::new(), Vec::new());
        for tablet in TabletIndex::all() {
            let mut ids: Vec<u32> =
                order.of(tablet).iter().map(|position| group.members[usize::from(*position)]).collect();
            orders.push(Few::of(&ids));
            ids.sort_unstable();
            replicas.push(Few::of(&ids));
        }
        let mut peers: Vec<Peer> = group
            .members
            .iter()
            .filter(|member| **member != own)
            .map(|member| {
                let node = map.node(*member).expect("members of a valid map are nodes");
                Peer { node: node.id, address: node.address, shard_count: node.shard_count }
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node);
        let held = |tablet: &TabletIndex| replicas[tablet.index()].ids().contains(&own);
        let held = TabletIndex::all().filter(held).fold(0, |held, tablet| held | 1 << tablet.index());
        Ok(Group { own, map: Some(map), replicas, orders, peers, held, given_up: Vec::new() })
    }

    /// With nodes that an operator has given up: where this one has to remember what it promised, their word is not waited for.
    ///
    /// # Errors
    /// One of them is no other node of the group.
    pub(crate) fn without(mut self, nodes: &[u32]) -> Result<Group, String> {
        if let Some(node) = nodes.iter().find(|node| !self.peers.iter().any(|peer| peer.node == **node)) {
            let others: Vec<String> = self.peers.iter().map(|peer| peer.node.to_string()).collect();
            return Err(format!(
                "node {node} cannot be given up: it is not one of the other nodes of the group ({})",
                others.join(", ")
            ));
        }
        self.given_up = nodes.to_vec();
        self.given_up.sort_unstable();
        self.given_up.dedup();
        Ok(self)
    }

    /// Which replicas of a tablet are given up: bits, by place.
    pub(crate) fn given_up(&self, tablet: TabletIndex) -> u8 {
        let places = (0u8..).zip(self.replicas(tablet));
        places.filter(|(_, node)| self.given_up.contains(node)).fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Whether all other replicas of a tablet are given up.
    pub(crate) fn is_left_alone(&self, tablet: TabletIndex) -> bool {
        let others = self.replicas(tablet).len().saturating_sub(1);
        !self.given_up.is_empty() && self.given_up(tablet).count_ones() as usize == others
    }

    /// Other nodes whose word can be waited for.
    pub(crate) fn peers_left(&self) -> usize {
        self.peers.len() - self.given_up.len()
    }

    /// The map; `None` for a node that is its own group.
    pub(crate) fn map(&self) -> Option<&ClusterMap> {
        self.map.as_ref()
    }

    /// True when there is no other node.
    pub(crate) fn is_alone(&self) -> bool {
        self.peers.is_empty()
    }

    /// The other nodes, ascending.
    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// Nodes that hold the tablet, ascending: a node's place in this list is its number in the tablet's log.
    pub(crate) fn replicas(&self, tablet: TabletIndex) -> &[u32] {
        self.replicas[tablet.index()].ids()
    }

    /// Nodes that hold the tablet, first choice of clients first.
    #[allow(dead_code, reason = "for whoever proposes by it")]
    pub(crate) fn order(&self, tablet: TabletIndex) -> &[u32] {
        self.orders[tablet.index()].ids()
    }

    /// True when this node holds the tablet.
    #[inline]
    pub(crate) fn holds(&self, tablet: TabletIndex) -> bool {
        self.held & 1 << tablet.index() != 0
    }

    /// The place of this node among the tablet's replicas; `None` when it holds none.
    #[allow(dead_code, reason = "for the log")]
    pub(crate) fn place(&self, tablet: TabletIndex) -> Option<u8> {
        let place = self.replicas(tablet).iter().position(|node| *node == self.own)?;
        Some(u8::try_from(place).expect("replicas are few"))
    }
}
