//! What an operator has said of where reads go, as a node remembers it: how recent a record has to be for a cache, which share of those
//! gets, and which caches there are.
//!
//! Owns the bytes of that field of the superblock. Must never judge what it means: `net/src/route/reads.rs` does. Invariant: with
//! revision 0 nothing was said, and all else is zero.

use std::net::Ipv6Addr;

use crate::field::{Table, byte_table, is_zero};

/// Caches that a node remembers, and so a cluster map has.
pub const CACHE_COUNT_MAX: usize = 40;
/// A whole share.
pub const SHARE_WHOLE: u16 = 10_000;
/// No revision is higher: far beyond what anybody says, and low enough to be added to an epoch.
pub const REVISION_MAX: u32 = 1 << 30;

const HEAD_BYTES: usize = 16;
const CACHE_BYTES: usize = 32;
pub(crate) const READS_BYTES: usize = HEAD_BYTES + CACHE_COUNT_MAX * CACHE_BYTES;

byte_table! {
    /// Byte table of `reads` before its caches.
    READS_TABLE = "reads", HEAD_BYTES;
    R_REVISION = "revision", 0, 4;
    R_CACHE_SHARE = "cache_share", 4, 2;
    R_CACHE_COUNT = "cache_count", 6, 2;
    R_RECENT_US = "recent_us", 8, 8;
}

byte_table! {
    /// Byte table of one of its caches.
    CACHE_TABLE = "cache place", CACHE_BYTES;
    C_NODE = "node", 0, 4;
    C_ADDRESS = "address", 4, 16;
    C_PORT = "port", 20, 2;
    C_ZONE = "zone", 22, 2;
    C_SHARD_COUNT = "shard_count", 24, 2;
    C_RESERVED = "reserved", 26, 6;
}

pub(crate) const TABLES: [Table; 2] = [READS_TABLE, CACHE_TABLE];

/// A cache node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePlace {
    /// Its number; 0 = nobody.
    pub node: u32,
    /// Where it serves; IPv4 addresses are mapped.
    pub address: Ipv6Addr,
    /// Its port there.
    pub port: u16,
    /// Its zone.
    pub zone: u16,
    /// Its cores.
    pub shard_count: u16,
}

impl CachePlace {
    /// Nobody.
    pub const NONE: CachePlace =
        CachePlace { node: 0, address: Ipv6Addr::UNSPECIFIED, port: 0, zone: 0, shard_count: 0 };

    fn encode(&self, bytes: &mut [u8; CACHE_BYTES]) {
        C_NODE.put(bytes, self.node.to_le_bytes());
        C_ADDRESS.put(bytes, self.address.octets());
        C_PORT.put(bytes, self.port.to_le_bytes());
        C_ZONE.put(bytes, self.zone.to_le_bytes());
        C_SHARD_COUNT.put(bytes, self.shard_count.to_le_bytes());
    }

    fn decode(bytes: &[u8; CACHE_BYTES]) -> CachePlace {
        CachePlace {
            node: C_NODE.u32(bytes),
            address: Ipv6Addr::from(C_ADDRESS.array::<16>(bytes)),
            port: C_PORT.u16(bytes),
            zone: C_ZONE.u16(bytes),
            shard_count: C_SHARD_COUNT.u16(bytes),
        }
    }
}

/// Where reads go, as it stands in a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReads {
    /// How often it was said anew; 0 = never.
    pub revision: u32,
    /// Gets of records younger than this may go to a cache, µs; 0 = none do.
    pub recent_us: u64,
    /// Share of those gets, of 10,000.
    pub cache_share: u16,
    /// The caches, by ascending number, then nobody.
    pub caches: [CachePlace; CACHE_COUNT_MAX],
}

impl Default for StoredReads {
    fn default() -> StoredReads {
        let caches = [CachePlace::NONE; CACHE_COUNT_MAX];
        StoredReads { revision: 0, recent_us: 0, cache_share: 0, caches }
    }
}

impl StoredReads {
    /// The caches that there are.
    pub fn caches(&self) -> impl Iterator<Item = &CachePlace> {
        self.caches.iter().take_while(|cache| cache.node > 0)
    }

    pub(crate) fn encode(&self, bytes: &mut [u8]) {
        let (head, places) = bytes.split_at_mut(HEAD_BYTES);
        R_REVISION.put(head, self.revision.to_le_bytes());
        R_CACHE_SHARE.put(head, self.cache_share.to_le_bytes());
        R_CACHE_COUNT.put(head, (self.caches().count() as u16).to_le_bytes());
        R_RECENT_US.put(head, self.recent_us.to_le_bytes());
        for (cache, place) in self.caches().zip(places.as_chunks_mut().0) {
            cache.encode(place);
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> StoredReads {
        let (head, places) = bytes.split_at(HEAD_BYTES);
        let mut reads = StoredReads {
            revision: R_REVISION.u32(head),
            recent_us: R_RECENT_US.u64(head),
            cache_share: R_CACHE_SHARE.u16(head),
            ..StoredReads::default()
        };
        let count = usize::from(R_CACHE_COUNT.u16(head)).min(CACHE_COUNT_MAX);
        for (cache, place) in reads.caches.iter_mut().zip(places.as_chunks().0).take(count) {
            *cache = CachePlace::decode(place);
        }
        reads
    }

    /// Whether the bytes that parsed to this may stand in a superblock.
    pub(crate) fn are_right(&self, bytes: &[u8]) -> bool {
        let (head, places) = bytes.split_at(HEAD_BYTES);
        let count = usize::from(R_CACHE_COUNT.u16(head));
        let mut last = 0;
        let ascend = self.caches().all(|cache| {
            let good = cache.node > last && cache.port > 0 && cache.shard_count > 0;
            last = cache.node;
            good
        });
        let used = count * CACHE_BYTES;
        let reserved = |place: &[u8; CACHE_BYTES]| C_RESERVED.is_zero(place);
        count == self.caches().count()
            && ascend
            && is_zero(&places[used..])
            && places.as_chunks().0.iter().all(reserved)
            && self.revision <= REVISION_MAX
            && self.cache_share <= SHARE_WHOLE
            && (self.revision > 0 || is_zero(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> StoredReads {
        let mut reads = StoredReads {
            revision: 3,
            recent_us: 86_400_000_000,
            cache_share: 2_500,
            ..StoredReads::default()
        };
        for (cache, node) in reads.caches.iter_mut().zip([7, 101]) {
            let address = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
            *cache = CachePlace { node, address, port: 7423, zone: 2, shard_count: 4 };
        }
        reads
    }

    fn bytes_of(reads: &StoredReads) -> [u8; READS_BYTES] {
        let mut bytes = [0; READS_BYTES];
        reads.encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_was_said_is_read_back() {
        for reads in [said(), StoredReads::default()] {
            let bytes = bytes_of(&reads);
            assert_eq!(StoredReads::decode(&bytes), reads);
            assert!(reads.are_right(&bytes));
        }
        assert!(is_zero(&bytes_of(&StoredReads::default())));
    }

    #[test]
    fn what_cannot_be_is_seen() {
        let good = bytes_of(&said());
        // No revision, half a number of caches, too many, a share above the whole, an order, a port, reserved bytes, what is unused.
        for (at, value) in
            [(0, 0), (6, 1), (6, 3), (7, 1), (5, 0xff), (16, 200), (36, 0), (42, 1), (READS_BYTES - 1, 1)]
        {
            let mut bytes = good;
            bytes[at] = value;
            if at == 36 {
                bytes[37] = 0;
            }
            assert!(!StoredReads::decode(&bytes).are_right(&bytes), "byte {at} is {value}");
        }
    }
}
