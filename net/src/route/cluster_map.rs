//! The cluster map: which nodes there are and which groups they form; small, versioned by its epoch.
//!
//! Owns its bytes in the Map reply and its validity. Must never be used unvalidated: `decode` refuses what `validate`
//! refuses. Invariant: in a valid map every member of a group is a known store node, in one group only, and every group
//! has a shape that [`ReplicaOrder`] knows.

use std::net::SocketAddr;

use layout::superblock_reads::{CACHE_COUNT_MAX, REVISION_MAX, SHARE_WHOLE};
use layout::units::{SHARD_COUNT_MAX, Uuid};
use thiserror::Error;

use super::bucket_map::GROUP_COUNT_MAX;
use super::replica_order::{MACHINES_MAX, ReplicaOrder};
use crate::field::{Field, Read, Sink, Table, Write, ip_bytes, ip_of, wire_table};

wire_table! {
    map = "cluster map", 40;
    EPOCH = "epoch", 0, 4;
    GROUP_COUNT = "group_count", 4, 2;
    NODE_COUNT = "node_count", 6, 2;
    CLUSTER = "cluster", 8, 16;
    RECENT_US = "recent_us", 24, 8;
    CACHE_SHARE = "cache_share", 32, 2;
    RESERVED = "reserved", 34, 2;
    REVISION = "revision", 36, 4;
}
wire_table! {
    node = "node", 32;
    ID = "id", 0, 4;
    ADDRESS = "address", 4, 16;
    PORT = "port", 20, 2;
    ZONE = "zone", 22, 2;
    SHARD_COUNT = "shard_count", 24, 2;
    ROLES = "roles", 26, 1;
    RESERVED = "reserved", 27, 5;
}
wire_table! {
    group = "group", 4;
    REPLICAS = "replicas", 0, 1;
    MEMBER_COUNT = "member_count", 1, 1;
    RESERVED = "reserved", 2, 2;
}

/// The tables of this file for the test that reads the document.
pub(crate) fn tables() -> [&'static Table; 3] {
    [&map::TABLE, &node::TABLE, &group::TABLE]
}

/// What a node does, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Roles(pub u8);

impl Roles {
    /// Memory tier.
    pub const CACHE: Roles = Roles(1 << 0);
    /// Tier of truth.
    pub const STORE: Roles = Roles(1 << 1);
    /// Cold disks.
    pub const COLD: Roles = Roles(1 << 2);
    /// Containers.
    pub const CONTAINER: Roles = Roles(1 << 3);
    /// Placement.
    pub const MASTER: Roles = Roles(1 << 4);

    /// True when all bits of `other` are set.
    pub const fn has(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its number, unique in the cluster, not 0.
    pub id: u32,
    /// Where it serves clients.
    pub address: SocketAddr,
    /// Its zone.
    pub zone: u16,
    /// What it does.
    pub roles: Roles,
    /// Shards it was formatted for: tablet t is on shard t % shard_count.
    pub shard_count: u16,
}

/// One group of store nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Replicas of each tablet.
    pub replicas: u8,
    /// Ids of the machines; [`ReplicaOrder`] gives positions in this list.
    pub members: Vec<u32>,
}

/// The cluster map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMap {
    /// Version of the map, from 1.
    pub epoch: u32,
    /// The cluster.
    pub cluster: Uuid,
    /// How often what it says of reads has been said anew; part of the epoch. 0 = it is what the settings of its nodes say.
    pub revision: u32,
    /// Gets of records younger than this may go to a cache node, µs; 0 = none do.
    pub recent_us: u64,
    /// Share of the streams whose young records are asked of a cache node, of 10,000.
    pub cache_share: u16,
    /// All nodes, by ascending id.
    pub nodes: Vec<Node>,
    /// The store groups, by group index.
    pub groups: Vec<Group>,
}

/// A map that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cluster map is wrong: {what}, {of} {index}")]
pub struct MapWrong {
    /// The rule that is broken.
    pub what: &'static str,
    /// "map", "node" or "group".
    pub of: &'static str,
    /// Position of the node or group in its list.
    pub index: usize,
}

fn wrong(what: &'static str, of: &'static str, index: usize) -> MapWrong {
    MapWrong { what, of, index }
}

impl ClusterMap {
    /// The map of one store node that is its own group.
    pub fn single(cluster: Uuid, node: u32, address: SocketAddr, shard_count: u16) -> ClusterMap {
        ClusterMap {
            epoch: 1,
            cluster,
            revision: 0,
            recent_us: 0,
            cache_share: 0,
            nodes: vec![Node { id: node, address, zone: 0, roles: Roles::STORE, shard_count }],
            groups: vec![Group { replicas: 1, members: vec![node] }],
        }
    }

    /// The node with this id.
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|index| &self.nodes[index])
    }

    /// The replica orders of a group of a valid map.
    ///
    /// # Errors
    /// The rule that the group breaks; never for a map that is valid.
    pub fn replica_order(&self, index: usize) -> Result<ReplicaOrder, MapWrong> {
        let group = self.groups.get(index).ok_or(wrong("there is no such group", "group", index))?;
        let mut zones = Vec::with_capacity(MACHINES_MAX);
        for member in &group.members {
            zones.push(self.node(*member).ok_or(wrong("a member is not a node", "group", index))?.zone);
        }
        ReplicaOrder::new(&zones, usize::from(group.replicas))
            .map_err(|_| wrong("it has not 1, 3, 5 or 6 members with 1, 3 or 5 replicas", "group", index))
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// The first rule that is broken, and where.
    pub fn validate(&self) -> Result<(), MapWrong> {
        if self.epoch == 0 {
            return Err(wrong("the epoch is 0", "map", 0));
        }
        if self.cluster == Uuid::default() {
            return Err(wrong("the cluster is all zero", "map", 0));
        }
        if self.revision >= self.epoch || self.revision > REVISION_MAX {
            return Err(wrong("the revision is not below the epoch", "map", 0));
        }
        if self.caches().count() > CACHE_COUNT_MAX {
            return Err(wrong("it has more than 40 caches", "map", 0));
        }
        if self.cache_share > SHARE_WHOLE {
            return Err(wrong("the share of the cache is over 10,000 of 10,000", "map", 0));
        }
        if self.groups.is_empty() || self.groups.len() > usize::from(GROUP_COUNT_MAX) {
            return Err(wrong("it has not 1 to 1000 groups", "map", 0));
        }
        let mut last = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            if node.id <= last {
                return Err(wrong("ids are not ascending from 1", "node", index));
            }
            last = node.id;
            if node.address.port() == 0 || node.address.ip().is_unspecified() {
                return Err(wrong("its address cannot be connected to", "node", index));
            }
            let known =
                Roles::CACHE.0 | Roles::STORE.0 | Roles::COLD.0 | Roles::CONTAINER.0 | Roles::MASTER.0;
            if node.roles.0 == 0 || node.roles.0 & !known != 0 {
                return Err(wrong("it has no role, or one that is not known", "node", index));
            }
            if node.shard_count == 0 || usize::from(node.shard_count) > SHARD_COUNT_MAX {
                return Err(wrong("it has not 1 to 64 shards", "node", index));
            }
        }
        let mut members: Vec<u32> = Vec::with_capacity(self.nodes.len());
        for (index, group) in self.groups.iter().enumerate() {
            self.replica_order(index)?;
            for member in &group.members {
                let store = self.node(*member).is_some_and(|node| node.roles.has(Roles::STORE));
                if !store {
                    return Err(wrong("a member is not a store node", "group", index));
                }
                members.push(*member);
            }
        }
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            let of_member = |group: &Group| group.members.contains(&pair[0]);
            let index = self.groups.iter().rposition(of_member).expect("the member came from a group");
            return Err(wrong("a member is in it twice or in another group too", "group", index));
        }
        Ok(())
    }

    /// Bytes that [`ClusterMap::encode`] appends.
    pub fn encoded_bytes(&self) -> usize {
        let members: usize = self.groups.iter().map(|group| group.members.len()).sum();
        map::BYTES + self.nodes.len() * node::BYTES + self.groups.len() * group::BYTES + members * 4
    }

    /// Appends the map's bytes.
    ///
    /// # Panics
    /// When the map is not valid: it is checked before it is handed out.
    pub fn encode(&self, out: &mut impl Sink) {
        assert_eq!(self.validate(), Ok(()), "only a valid map is handed out");
        out.put(
            &[0; map::BYTES]
                .set(map::EPOCH, self.epoch.to_le_bytes())
                .set(map::GROUP_COUNT, (self.groups.len() as u16).to_le_bytes())
                .set(map::NODE_COUNT, (self.nodes.len() as u16).to_le_bytes())
                .set(map::CLUSTER, self.cluster.0)
                .set(map::RECENT_US, self.recent_us.to_le_bytes())
                .set(map::CACHE_SHARE, self.cache_share.to_le_bytes())
                .set(map::REVISION, self.revision.to_le_bytes()),
        );
        for machine in &self.nodes {
            out.put(
                &[0; node::BYTES]
                    .set(node::ID, machine.id.to_le_bytes())
                    .set(node::ADDRESS, ip_bytes(machine.address.ip()))
                    .set(node::PORT, machine.address.port().to_le_bytes())
                    .set(node::ZONE, machine.zone.to_le_bytes())
                    .set(node::SHARD_COUNT, machine.shard_count.to_le_bytes())
                    .set(node::ROLES, [machine.roles.0]),
            );
        }
        for members in &self.groups {
            out.put(
                &[0; group::BYTES]
                    .set(group::REPLICAS, [members.replicas])
                    .set(group::MEMBER_COUNT, [members.members.len() as u8]),
            );
            for member in &members.members {
                out.put(&member.to_le_bytes());
            }
        }
    }

    /// Decodes and validates a map.
    ///
    /// # Errors
    /// What is wrong with the bytes or with the map they say.
    pub fn decode(bytes: &[u8]) -> Result<ClusterMap, MapWrong> {
        let (fixed, mut rest) =
            bytes.split_first_chunk::<{ map::BYTES }>().ok_or(wrong("the bytes end too early", "map", 0))?;
        reserved(fixed, map::RESERVED, "map", 0)?;
        let (group_count, node_count) = (fixed.u16(map::GROUP_COUNT), fixed.u16(map::NODE_COUNT));
        let mut nodes = Vec::new();
        for index in 0..usize::from(node_count) {
            let (fixed, after) = rest.split_first_chunk::<{ node::BYTES }>().ok_or(wrong(
                "the bytes end too early",
                "node",
                index,
            ))?;
            reserved(fixed, node::RESERVED, "node", index)?;
            let ip = ip_of(fixed.bytes(node::ADDRESS));
            nodes.push(Node {
                id: fixed.u32(node::ID),
                address: SocketAddr::new(ip, fixed.u16(node::PORT)),
                zone: fixed.u16(node::ZONE),
                roles: Roles(fixed.u8(node::ROLES)),
                shard_count: fixed.u16(node::SHARD_COUNT),
            });
            rest = after;
        }
        let mut groups = Vec::new();
        for index in 0..usize::from(group_count) {
            let early = wrong("the bytes end too early", "group", index);
            let (fixed, after) = rest.split_first_chunk::<{ group::BYTES }>().ok_or(early)?;
            reserved(fixed, group::RESERVED, "group", index)?;
            let (ids, after) =
                after.split_at_checked(usize::from(fixed.u8(group::MEMBER_COUNT)) * 4).ok_or(early)?;
            let (ids, _) = ids.as_chunks::<4>();
            let members = ids.iter().map(|id| u32::from_le_bytes(*id)).collect();
            groups.push(Group { replicas: fixed.u8(group::REPLICAS), members });
            rest = after;
        }
        if !rest.is_empty() {
            return Err(wrong("bytes follow its end", "map", 0));
        }
        let map = ClusterMap {
            epoch: fixed.u32(map::EPOCH),
            cluster: Uuid(fixed.bytes(map::CLUSTER)),
            revision: fixed.u32(map::REVISION),
            recent_us: fixed.u64(map::RECENT_US),
            cache_share: fixed.u16(map::CACHE_SHARE),
            nodes,
            groups,
        };
        map.validate()?;
        Ok(map)
    }
}

fn reserved<const N: usize>(
    fixed: &[u8; N],
    field: Field,
    of: &'static str,
    index: usize,
) -> Result<(), MapWrong> {
    if fixed.is_zero(field) { Ok(()) } else { Err(wrong("a reserved field is not zero", of, index)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_zones() -> ClusterMap {
        let node = |id: u32| Node {
            id,
            address: SocketAddr::from(([10, 0, 0, id as u8], 7420)),
            zone: (id % 3) as u16,
            roles: Roles::STORE,
            shard_count: 4,
        };
        let mut nodes: Vec<Node> = (1..=4).map(node).collect();
        nodes[3].roles = Roles::CACHE;
        nodes[3].address = "[2001:db8::1]:7420".parse().unwrap();
        ClusterMap {
            epoch: 9,
            cluster: Uuid([1; 16]),
            revision: 4,
            recent_us: 86_400_000_000,
            cache_share: 5_000,
            nodes,
            groups: vec![Group { replicas: 3, members: vec![1, 2, 3] }],
        }
    }

    #[test]
    fn maps_round_trip_and_no_cut_is_a_map() {
        let single = ClusterMap::single(Uuid([2; 16]), 7, SocketAddr::from(([127, 0, 0, 1], 7420)), 2);
        for map in [three_zones(), single] {
            let mut bytes = Vec::new();
            map.encode(&mut bytes);
            assert_eq!(bytes.len(), map.encoded_bytes());
            assert_eq!(ClusterMap::decode(&bytes), Ok(map));
            for cut in 0..bytes.len() {
                assert!(ClusterMap::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            bytes.push(0);
            assert!(ClusterMap::decode(&bytes).is_err());
        }
    }

    #[test]
    fn each_rule_is_checked() {
        type Break = fn(&mut ClusterMap);
        let cases: [(Break, &str); 14] = [
            (|map| map.epoch = 0, "epoch"),
            (|map| map.cluster = Uuid::default(), "all zero"),
            (|map| map.revision = 9, "revision"),
            (|map| map.cache_share = 10_001, "share"),
            (|map| map.groups.clear(), "groups"),
            (|map| map.nodes[0].id = 2, "ascending"),
            (|map| map.nodes[0].id = 0, "ascending"),
            (|map| map.nodes[0].address.set_port(0), "connected"),
            (|map| map.nodes[0].roles = Roles(0), "role"),
            (|map| map.nodes[0].shard_count = 65, "shards"),
            (|map| map.groups[0].members[0] = 4, "store node"),
            (|map| map.groups[0].members[0] = 5, "not a node"),
            (|map| map.groups[0].replicas = 5, "members"),
            (|map| map.groups.push(Group { replicas: 1, members: vec![1] }), "another group"),
        ];
        for (break_it, said) in cases {
            let mut map = three_zones();
            break_it(&mut map);
            let error = map.validate().expect_err(said);
            assert!(error.what.contains(said), "{error}");
        }
    }
}
