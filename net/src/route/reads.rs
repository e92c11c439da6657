//! Where reads go: to the caches that a map names, for records that are recent enough, and a share of those; else to the store.
//!
//! Owns what of a cluster map an operator changes while everything runs, and which of two such words holds. Must never decide what is
//! true: a cache asks the store about every get, so that an old word costs a detour and no more. Invariant: nodes that have told each
//! other all they know have the same, and who has its epoch has it.
//!
//! ```text
//! epoch of a map = epoch of the settings of its nodes + revision of its reads
//! ```

use std::net::{IpAddr, SocketAddr};

use layout::key::hash_of;
use layout::superblock_reads::{CACHE_COUNT_MAX, CachePlace, REVISION_MAX, SHARE_WHOLE, StoredReads};
use layout::units::Space;

use super::cluster_map::{ClusterMap, MapWrong, Node, Roles};

/// What a map says of reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reads {
    /// How often it was said anew; 0 = it is what the settings of the nodes say.
    pub revision: u32,
    /// Gets of records younger than this may go to a cache, µs; 0 = none do, all = [`u64::MAX`].
    pub recent_us: u64,
    /// Share of the streams whose recent records are asked of a cache, of 10,000.
    pub cache_share: u16,
    /// The caches, by ascending id.
    pub caches: Vec<Node>,
}

impl Reads {
    /// Which of two words holds: the one with the higher revision. Of two with the same revision, said at two nodes at once, the
    /// greater one, and with a revision of its own, so that whoever has heard the other hears of it.
    #[must_use]
    pub fn join(&self, other: &Reads) -> Reads {
        if other.revision != self.revision {
            return if other.revision > self.revision { other.clone() } else { self.clone() };
        }
        if other <= self {
            return self.clone();
        }
        ioengine::sometimes!("where reads go was said at two nodes at once");
        Reads { revision: (self.revision + 1).min(REVISION_MAX), ..other.clone() }
    }

    /// As it stands in a superblock.
    ///
    /// # Panics
    /// When there are more caches than a valid map has.
    #[must_use]
    pub fn to_stored(&self) -> StoredReads {
        let mut stored = StoredReads {
            revision: self.revision,
            recent_us: self.recent_us,
            cache_share: self.cache_share,
            ..StoredReads::default()
        };
        assert!(self.caches.len() <= CACHE_COUNT_MAX, "a valid map has no more caches");
        for (cache, place) in self.caches.iter().zip(&mut stored.caches) {
            let address = match cache.address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let Node { id, zone, shard_count, .. } = *cache;
            *place = CachePlace { node: id, address, port: cache.address.port(), zone, shard_count };
        }
        stored
    }

    /// Back from it.
    #[must_use]
    pub fn from_stored(stored: &StoredReads) -> Reads {
        let cache = |place: &CachePlace| Node {
            id: place.node,
            address: SocketAddr::new(IpAddr::V6(place.address).to_canonical(), place.port),
            zone: place.zone,
            roles: Roles::CACHE,
            shard_count: place.shard_count,
        };
        let StoredReads { revision, recent_us, cache_share, .. } = *stored;
        Reads { revision, recent_us, cache_share, caches: stored.caches().map(cache).collect() }
    }
}

impl ClusterMap {
    /// What it says of reads.
    #[must_use]
    pub fn reads(&self) -> Reads {
        let ClusterMap { revision, recent_us, cache_share, .. } = *self;
        Reads { revision, recent_us, cache_share, caches: self.caches().copied().collect() }
    }

    /// Its nodes that are caches and nothing else.
    pub fn caches(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.roles == Roles::CACHE)
    }

    /// Epoch of the settings of its nodes.
    #[must_use]
    pub fn settings_epoch(&self) -> u32 {
        self.epoch - self.revision
    }

    /// The same map with other reads.
    ///
    /// # Errors
    /// The rule that it would break: a cache with the number of another node, too many of them, a share above the whole.
    pub fn with_reads(&self, reads: &Reads) -> Result<ClusterMap, MapWrong> {
        let others = self.nodes.iter().filter(|node| node.roles != Roles::CACHE);
        let mut nodes: Vec<Node> = others.chain(&reads.caches).copied().collect();
        nodes.sort_unstable_by_key(|node| node.id);
        let map = ClusterMap {
            epoch: self.settings_epoch().saturating_add(reads.revision),
            revision: reads.revision,
            recent_us: reads.recent_us,
            cache_share: reads.cache_share,
            nodes,
            ..self.clone()
        };
        map.validate()?;
        Ok(map)
    }

    /// Whether the other map is this one but for what it says of reads.
    #[must_use]
    pub fn differs_in_reads_only(&self, other: &ClusterMap) -> bool {
        let others = |map: &ClusterMap| -> Vec<Node> {
            map.nodes.iter().filter(|node| node.roles != Roles::CACHE).copied().collect()
        };
        self.cluster == other.cluster
            && self.settings_epoch() == other.settings_epoch()
            && self.groups == other.groups
            && others(self) == others(other)
    }

    /// Whether a get of this key goes to a cache, at this time of the client's clock, µs. The share is one of streams, by the low half
    /// of the hash whose high bits are the bucket: a larger share has all streams of a smaller one.
    #[must_use]
    pub fn is_for_cache(&self, space: Space, stream: &[u8], time: u64, now_us: u64) -> bool {
        if self.recent_us == 0 || self.cache_share == 0 || time < now_us.saturating_sub(self.recent_us) {
            return false;
        }
        let low = hash_of(space, stream) & u64::from(u32::MAX);
        (low * u64::from(SHARE_WHOLE)) >> 32 < u64::from(self.cache_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::units::Uuid;
    use proptest::prelude::*;

    fn cache(id: u32) -> Node {
        let address = SocketAddr::from(([10, 0, 0, id as u8], 7420));
        Node { id, address, zone: 1, roles: Roles::CACHE, shard_count: 2 }
    }

    fn map() -> ClusterMap {
        ClusterMap::single(Uuid([1; 16]), 1, SocketAddr::from(([10, 0, 0, 1], 7420)), 2)
    }

    fn said(revision: u32, caches: &[u32]) -> Reads {
        let caches = caches.iter().map(|id| cache(*id)).collect();
        Reads { revision, recent_us: 1000, cache_share: 5_000, caches }
    }

    #[test]
    fn a_map_takes_reads_and_keeps_the_rest() {
        let taken = map().with_reads(&said(7, &[2, 9])).unwrap();
        assert_eq!((taken.epoch, taken.settings_epoch(), taken.reads()), (8, 1, said(7, &[2, 9])));
        assert!(map().differs_in_reads_only(&taken));
        let other = taken.with_reads(&said(8, &[])).unwrap();
        assert_eq!((other.nodes.len(), other.epoch), (1, 9));
        assert!(map().with_reads(&said(1, &[1])).is_err(), "a number of the store");
        let stranger = ClusterMap { cluster: Uuid([2; 16]), ..map() };
        assert!(!stranger.differs_in_reads_only(&taken));
    }

    #[test]
    fn reads_survive_a_superblock() {
        for reads in [said(3, &[7, 8]), said(0, &[])] {
            assert_eq!(Reads::from_stored(&reads.to_stored()), reads);
        }
    }

    #[test]
    fn recent_streams_of_the_share_go_to_a_cache_and_stay_there_when_it_grows() {
        let with = |share| map().with_reads(&Reads { cache_share: share, ..said(1, &[2]) }).unwrap();
        let streams: Vec<String> = (0..2000).map(|number| format!("stream-{number}")).collect();
        let taken = |share: u16| -> Vec<&String> {
            let map = with(share);
            let goes = |stream: &&String| map.is_for_cache(Space(0), stream.as_bytes(), 9_500, 10_000);
            streams.iter().filter(goes).collect()
        };
        let (half, most) = (taken(5_000), taken(9_000));
        assert!((900..1100).contains(&half.len()), "{}", half.len());
        assert!(half.iter().all(|stream| most.contains(stream)));
        assert_eq!((taken(0).len(), taken(10_000).len()), (0, 2000));
        let all = with(10_000);
        assert!(
            all.is_for_cache(Space(0), b"a", 9_000, 10_000)
                && all.is_for_cache(Space(0), b"a", 20_000, 10_000)
        );
        assert!(!all.is_for_cache(Space(0), b"a", 8_999, 10_000));
        let every = all.with_reads(&Reads { recent_us: u64::MAX, ..all.reads() }).unwrap();
        assert!(every.is_for_cache(Space(0), b"a", 0, 10_000));
    }

    proptest! {
        /// However nodes are told, in whatever order and how often: in the end all have the same, nobody who has another word has its
        /// revision, and nothing that was heard is undone.
        #[test]
        fn nodes_agree(
            first in proptest::collection::vec((0u32..3, 2u32..5), 3),
            tells in proptest::collection::vec((0usize..3, 0usize..3), 0..40),
        ) {
            let mut nodes: Vec<Reads> = first.iter().map(|(revision, id)| said(*revision, &[*id])).collect();
            let mut ever: Vec<Reads> = nodes.clone();
            let all = (0..4).flat_map(|_| [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)]);
            for (from, to) in tells.into_iter().chain(all) {
                let joined = nodes[to].join(&nodes[from]);
                prop_assert!(joined.revision >= nodes[to].revision && joined.revision >= nodes[from].revision);
                nodes[to] = joined.clone();
                ever.push(joined);
            }
            prop_assert!(nodes.iter().all(|reads| *reads == nodes[0]), "{nodes:?}");
            let others = ever.iter().filter(|reads| **reads != nodes[0]);
            prop_assert!(others.clone().all(|reads| reads.revision < nodes[0].revision), "{ever:?}");
        }
    }
}
