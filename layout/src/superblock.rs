//! The superblock: what a device is, how it is cut, and which start of the process owns it.
//!
//! Four copies of 4096 bytes at device offsets 0, 4096, 8192, 12288. Owns their bytes; which copy
//! to believe and in which order to replace them is in [`crate::superblock_copies`]. Must never
//! hold what changes faster than a start of the process. Invariant: what `decode` returns describes
//! a device that can be used as it stands: zones inside it, without overlap, counts in their limits.

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::field::{Corrupt, Field, Table, byte_table, is_zero};
pub use crate::superblock_copies::{
    ChooseError, Copies, CopyState, UpdatePlan, choose, incarnation_next, sequence_next,
};
use crate::superblock_peers::{self, LIVES_BYTES, Lives, Origin, PEER_TABLE, PEERS_BYTES, PeerDisks};
use crate::superblock_reads::{self, READS_BYTES, StoredReads};
use crate::units::{BLOCK_BYTES, DiskOffset, Incarnation, SHARD_COUNT_MAX, Uuid};
use crate::zone::{self, Range, ShardZones, TableGeometry};

/// Bytes of one copy.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Copies on a device.
pub const COPY_COUNT: usize = 4;
/// First bytes of a copy.
pub const MAGIC: [u8; 8] = *b"TCLSUPER";

const ZONE_BYTES: usize = 32;
const ZONES_BYTES: usize = SHARD_COUNT_MAX * ZONE_BYTES;

byte_table! {
    /// Byte table of a copy.
    SUPERBLOCK_TABLE = "superblock", SUPERBLOCK_BYTES;
    F_MAGIC = "magic", 0, 8;
    F_FORMAT_VERSION = "format_version", 8, 4;
    F_COPY_INDEX = "copy_index", 12, 4;
    F_OWN_OFFSET = "own_offset", 16, 8;
    F_SEQUENCE = "sequence", 24, 8;
    F_DEVICE = "device", 32, 16;
    F_CLUSTER = "cluster", 48, 16;
    F_NODE = "node", 64, 4;
    F_ROLE = "role", 68, 2;
    F_SHARD_COUNT = "shard_count", 70, 2;
    F_GENERATION = "generation", 72, 4;
    F_INCARNATION = "incarnation", 76, 4;
    F_BLOCK_BYTES = "block_bytes", 80, 4;
    F_ORIGIN = "origin", 84, 4;
    F_DEVICE_BYTES = "device_bytes", 88, 8;
    F_SEGMENT_BYTES = "segment_bytes", 96, 8;
    F_EXTENT_BYTES = "extent_bytes", 104, 4;
    F_MANIFEST_HALF_BYTES = "manifest_half_bytes", 108, 4;
    F_BIRTH = "birth", 112, 4;
    F_SERVED = "served", 116, 4;
    F_RESERVED = "reserved", 120, 8;
    F_ZONES = "zones", 128, ZONES_BYTES;
    F_LIVES = "lives", 128 + ZONES_BYTES, LIVES_BYTES;
    F_PEERS = "peers", 2304, PEERS_BYTES;
    F_READS = "reads", 2560, READS_BYTES;
    F_PADDING = "padding", 2560 + READS_BYTES, 236;
    F_CHECKSUM = "checksum", 4092, 4;
}

byte_table! {
    /// Byte table of one element of `zones`.
    ZONE_TABLE = "shard zones", ZONE_BYTES;
    Z_JOURNAL_OFFSET = "journal_offset", 0, 8;
    Z_JOURNAL_BYTES = "journal_bytes", 8, 8;
    Z_TABLES_OFFSET = "tables_offset", 16, 8;
    Z_TABLES_BYTES = "tables_bytes", 24, 8;
}

const _: () = assert!(SUPERBLOCK_BYTES == BLOCK_BYTES, "a copy is one aligned write");
const _: () = assert!((SUPERBLOCK_BYTES * COPY_COUNT) as u64 <= zone::HEADER_AREA_BYTES);

/// What a device is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Journals and tables of the store tier.
    Store,
    /// Sections of the cold tier.
    Cold,
}

impl Role {
    fn to_number(self) -> u16 {
        match self {
            Role::Store => 1,
            Role::Cold => 2,
        }
    }

    fn from_number(number: u16) -> Option<Role> {
        match number {
            1 => Some(Role::Store),
            2 => Some(Role::Cold),
            _ => None,
        }
    }
}

/// Everything a device says about itself. Two copies are identical when these are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Number of this state, from 1; each update takes one above every valid copy.
    pub sequence: u64,
    /// Identity of the device, given by format.
    pub device: Uuid,
    /// Cluster it belongs to.
    pub cluster: Uuid,
    /// Node it belongs to.
    pub node: u32,
    /// What it is used for.
    pub role: Role,
    /// How often the device was formatted; journal frames of another generation are never accepted.
    pub generation: u32,
    /// Last start that owned the device; 0 = none yet. Raised and flushed before anything else.
    pub incarnation: Incarnation,
    /// How it came to its node.
    pub origin: Origin,
    /// Last start that wrote to the journal of every shard, in a group; 0 = none.
    pub served: Incarnation,
    /// Names of its last starts.
    pub lives: Lives,
    /// The disks that the other nodes of the group were last met with.
    pub peers: PeerDisks,
    /// Where reads go, as an operator has last said it.
    pub reads: StoredReads,
    /// Logical block of the device, bytes: 512..=4096.
    pub block_bytes: u32,
    /// Size of the device when formatted.
    pub device_bytes: u64,
    /// Size of a journal segment.
    pub segment_bytes: u64,
    /// How each shard's table zone is cut; fixed at format.
    pub tables: TableGeometry,
    /// Shards the device is cut for, 1..=64; fixed at format.
    pub shard_count: u16,
    /// Zones of each shard; those from `shard_count` on are all zero.
    pub zones: [ShardZones; SHARD_COUNT_MAX],
}

/// Device offset of a copy, index 0..4.
#[must_use]
pub fn copy_offset(copy_index: usize) -> DiskOffset {
    assert!(copy_index < COPY_COUNT, "a device has {COPY_COUNT} superblock copies");
    DiskOffset((copy_index * SUPERBLOCK_BYTES) as u64)
}

impl Superblock {
    /// The zones of the shards that exist.
    #[must_use]
    pub fn shard_zones(&self) -> &[ShardZones] {
        &self.zones[..usize::from(self.shard_count)]
    }

    /// Puts the zones of a plan (1..=64 of them), their count and how their table zones are cut into place. At
    /// format only: what a superblock says is never computed again.
    pub fn set_zones(&mut self, zones: &[ShardZones]) {
        assert!((1..=SHARD_COUNT_MAX).contains(&zones.len()), "a plan has 1..=64 shards");
        self.zones = [ShardZones::default(); SHARD_COUNT_MAX];
        self.zones[..zones.len()].copy_from_slice(zones);
        self.shard_count = zones.len() as u16;
        let smallest = zones.iter().map(|zones| zones.tables.bytes).min().expect("a plan has a shard");
        self.tables = TableGeometry::for_zone(smallest);
    }

    /// Writes copy `copy_index` of this superblock over all of `block`.
    ///
    /// A superblock that its own decoder would refuse is our own bug.
    pub fn encode(&self, copy_index: usize, block: &mut [u8; SUPERBLOCK_BYTES]) {
        let own_offset = copy_offset(copy_index);
        block.fill(0);
        F_MAGIC.put(block, MAGIC);
        F_FORMAT_VERSION.put(block, FORMAT_VERSION.to_le_bytes());
        F_COPY_INDEX.put(block, (copy_index as u32).to_le_bytes());
        F_OWN_OFFSET.put(block, own_offset.0.to_le_bytes());
        F_SEQUENCE.put(block, self.sequence.to_le_bytes());
        F_DEVICE.put(block, self.device.0);
        F_CLUSTER.put(block, self.cluster.0);
        F_NODE.put(block, self.node.to_le_bytes());
        F_ROLE.put(block, self.role.to_number().to_le_bytes());
        F_SHARD_COUNT.put(block, self.shard_count.to_le_bytes());
        F_GENERATION.put(block, self.generation.to_le_bytes());
        F_INCARNATION.put(block, self.incarnation.0.to_le_bytes());
        let (origin, birth) = self.origin.to_numbers();
        F_ORIGIN.put(block, origin.to_le_bytes());
        F_BIRTH.put(block, birth.to_le_bytes());
        F_SERVED.put(block, self.served.0.to_le_bytes());
        F_LIVES.put(block, self.lives.to_bytes());
        let peers = &mut block[F_PEERS.offset..F_PEERS.offset + F_PEERS.bytes];
        superblock_peers::encode_peers(&self.peers, peers);
        self.reads.encode(&mut block[F_READS.offset..F_READS.offset + F_READS.bytes]);
        F_BLOCK_BYTES.put(block, self.block_bytes.to_le_bytes());
        F_DEVICE_BYTES.put(block, self.device_bytes.to_le_bytes());
        F_SEGMENT_BYTES.put(block, self.segment_bytes.to_le_bytes());
        F_EXTENT_BYTES.put(block, self.tables.extent_bytes.to_le_bytes());
        F_MANIFEST_HALF_BYTES.put(block, self.tables.manifest_half_bytes.to_le_bytes());
        let table = &mut block[F_ZONES.offset..F_ZONES.offset + F_ZONES.bytes];
        for (zones, bytes) in self.zones.iter().zip(table.as_chunks_mut::<ZONE_BYTES>().0) {
            encode_zones(zones, bytes);
        }
        let checksum = checksum(block);
        F_CHECKSUM.put(block, checksum.to_le_bytes());
        let again = Superblock::decode(block, own_offset);
        assert!(again.as_ref() == Ok(self), "a superblock we write can be read again: {again:?}");
    }

    /// Reads the copy that was found at `expected` on the device.
    ///
    /// Order of checks: magic, checksum, format version (so that a wrong one is no rot: magic, format_version and checksum keep
    /// their places and their function in every version), own place (`own_offset`, `copy_index`: a
    /// good copy that a misdirected write put elsewhere), then each field.
    pub fn decode(block: &[u8; SUPERBLOCK_BYTES], expected: DiskOffset) -> Result<Superblock, Corrupt> {
        let superblock = Superblock::parse(block);
        match superblock.wrong_fields(block, expected).next() {
            Some(field) => Err(SUPERBLOCK_TABLE.corrupt(field, expected.0)),
            None => Ok(superblock),
        }
    }

    /// The values as they stand, right or wrong; an unknown role reads as store, an unknown origin as founder.
    pub(crate) fn parse(block: &[u8; SUPERBLOCK_BYTES]) -> Superblock {
        let mut superblock = Superblock {
            sequence: F_SEQUENCE.u64(block),
            device: Uuid(F_DEVICE.array(block)),
            cluster: Uuid(F_CLUSTER.array(block)),
            node: F_NODE.u32(block),
            role: Role::from_number(F_ROLE.u16(block)).unwrap_or(Role::Store),
            generation: F_GENERATION.u32(block),
            incarnation: Incarnation(F_INCARNATION.u32(block)),
            origin: origin(block).unwrap_or(Origin::Founder),
            served: Incarnation(F_SERVED.u32(block)),
            lives: Lives::from_bytes(&F_LIVES.array(block)),
            peers: superblock_peers::decode_peers(F_PEERS.slice(block)),
            reads: StoredReads::decode(F_READS.slice(block)),
            block_bytes: F_BLOCK_BYTES.u32(block),
            device_bytes: F_DEVICE_BYTES.u64(block),
            segment_bytes: F_SEGMENT_BYTES.u64(block),
            tables: TableGeometry {
                extent_bytes: F_EXTENT_BYTES.u32(block),
                manifest_half_bytes: F_MANIFEST_HALF_BYTES.u32(block),
            },
            shard_count: F_SHARD_COUNT.u16(block),
            zones: [ShardZones::default(); SHARD_COUNT_MAX],
        };
        for (zones, bytes) in superblock.zones.iter_mut().zip(F_ZONES.slice(block).as_chunks().0) {
            *zones = decode_zones(bytes);
        }
        superblock
    }

    /// The fields that are wrong in `block`, which parsed to this, in the order of the checks.
    pub(crate) fn wrong_fields(
        &self,
        block: &[u8; SUPERBLOCK_BYTES],
        expected: DiskOffset,
    ) -> impl Iterator<Item = Field> + use<> {
        let copy_index = u64::from(F_COPY_INDEX.u32(block));
        let shards = usize::from(self.shard_count);
        let known_shards = (1..=SHARD_COUNT_MAX).contains(&shards);
        let (used, unused) = self.zones.split_at(shards.min(SHARD_COUNT_MAX));
        let zones_fit = unused.iter().all(|zones| *zones == ShardZones::default())
            && zone::first_wrong(used, self.device_bytes, self.segment_bytes).is_none();
        let right = [
            (F_MAGIC, F_MAGIC.array(block) == MAGIC),
            (F_CHECKSUM, F_CHECKSUM.u32(block) == checksum(block)),
            (F_FORMAT_VERSION, F_FORMAT_VERSION.u32(block) == FORMAT_VERSION),
            (F_OWN_OFFSET, F_OWN_OFFSET.u64(block) == expected.0),
            (
                F_COPY_INDEX,
                copy_index < COPY_COUNT as u64 && copy_index * SUPERBLOCK_BYTES as u64 == expected.0,
            ),
            (F_ROLE, Role::from_number(F_ROLE.u16(block)).is_some()),
            (F_SEQUENCE, self.sequence > 0),
            (F_DEVICE, !is_zero(&self.device.0)),
            (F_SHARD_COUNT, known_shards),
            (F_GENERATION, self.generation > 0),
            (F_ORIGIN, origin(block).is_some()),
            (F_SERVED, self.served <= self.incarnation),
            (F_PEERS, superblock_peers::are_right(&self.peers)),
            (F_READS, self.reads.are_right(F_READS.slice(block))),
            (F_BLOCK_BYTES, zone::is_block_size(self.block_bytes)),
            (F_SEGMENT_BYTES, zone::is_segment_size(self.segment_bytes)),
            (F_EXTENT_BYTES, zone::is_extent_size(self.tables.extent_bytes)),
            (
                F_MANIFEST_HALF_BYTES,
                zone::is_manifest_half_size(self.tables.manifest_half_bytes)
                    && used.iter().all(|zones| self.tables.fits(zones.tables.bytes)),
            ),
            (F_ZONES, zones_fit),
            (F_RESERVED, F_RESERVED.is_zero(block)),
            (F_PADDING, F_PADDING.is_zero(block)),
        ];
        right.into_iter().filter_map(|(field, right)| (!right).then_some(field))
    }
}

fn origin(block: &[u8; SUPERBLOCK_BYTES]) -> Option<Origin> {
    Origin::from_numbers(F_ORIGIN.u32(block), F_BIRTH.u32(block))
}

fn encode_zones(zones: &ShardZones, bytes: &mut [u8; ZONE_BYTES]) {
    Z_JOURNAL_OFFSET.put(bytes, zones.journal.offset.0.to_le_bytes());
    Z_JOURNAL_BYTES.put(bytes, zones.journal.bytes.to_le_bytes());
    Z_TABLES_OFFSET.put(bytes, zones.tables.offset.0.to_le_bytes());
    Z_TABLES_BYTES.put(bytes, zones.tables.bytes.to_le_bytes());
}

fn decode_zones(bytes: &[u8; ZONE_BYTES]) -> ShardZones {
    ShardZones {
        journal: Range { offset: DiskOffset(Z_JOURNAL_OFFSET.u64(bytes)), bytes: Z_JOURNAL_BYTES.u64(bytes) },
        tables: Range { offset: DiskOffset(Z_TABLES_OFFSET.u64(bytes)), bytes: Z_TABLES_BYTES.u64(bytes) },
    }
}

/// CRC-32 over all bytes before the checksum. Device and own place are among them, so the content
/// is its own identity.
fn checksum(block: &[u8; SUPERBLOCK_BYTES]) -> u32 {
    Crc::with(&block[..F_CHECKSUM.offset]).finish()
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 5] = {
    let [reads, cache] = superblock_reads::TABLES;
    [SUPERBLOCK_TABLE, ZONE_TABLE, PEER_TABLE, reads, cache]
};

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(sequence: u64) -> Superblock {
        let mut superblock = Superblock {
            sequence,
            device: Uuid([0xd1; 16]),
            cluster: Uuid([0xc1; 16]),
            node: 7,
            role: Role::Store,
            generation: 1,
            incarnation: Incarnation(sequence as u32),
            origin: Origin::Founder,
            served: Incarnation(0),
            lives: Lives::default(),
            peers: PeerDisks::default(),
            reads: StoredReads::default(),
            block_bytes: 512,
            device_bytes: 1 << 32,
            segment_bytes: 1 << 20,
            tables: TableGeometry::default(),
            shard_count: 0,
            zones: [ShardZones::default(); SHARD_COUNT_MAX],
        };
        superblock.set_zones(&zone::plan(1 << 32, 512, 64, None, 1 << 20).expect("4 GiB hold 64 shards"));
        superblock
    }

    fn encoded(superblock: &Superblock, copy_index: usize) -> [u8; SUPERBLOCK_BYTES] {
        let mut block = [0xee; SUPERBLOCK_BYTES];
        superblock.encode(copy_index, &mut block);
        block
    }

    #[test]
    fn each_copy_round_trips_with_the_most_shards() {
        for copy_index in 0..COPY_COUNT {
            let block = encoded(&example(3), copy_index);
            assert_eq!(Superblock::decode(&block, copy_offset(copy_index)), Ok(example(3)));
        }
    }

    #[test]
    fn a_copy_found_in_another_place_is_told_apart_from_rot() {
        let block = encoded(&example(3), 1);
        let corrupt = Superblock::decode(&block, copy_offset(2)).expect_err("a misdirected copy");
        assert_eq!((corrupt.field, corrupt.at), ("own_offset", 8192 + 16));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = encoded(&example(3), 0);
        for byte in 0..SUPERBLOCK_BYTES {
            let mut block = good;
            block[byte] ^= 1 << (byte % 8);
            let corrupt = Superblock::decode(&block, copy_offset(0)).expect_err("a flipped bit");
            assert_eq!(corrupt.structure, "superblock", "byte {byte}");
        }
    }

    /// Wrong fields under a right checksum: each is named.
    #[test]
    fn impossible_values_are_named_by_field() {
        let cases: [(Field, u8); 18] = [
            (F_MAGIC, 1),
            (F_FORMAT_VERSION, 1),
            (F_COPY_INDEX, 3),
            (F_SEQUENCE, 0),
            (F_DEVICE, 0),
            (F_ROLE, 9),
            (F_SHARD_COUNT, 65),
            (F_GENERATION, 0),
            (F_BLOCK_BYTES, 3),
            (F_SEGMENT_BYTES, 1),
            (F_EXTENT_BYTES, 16),
            (F_MANIFEST_HALF_BYTES, 0),
            (F_ORIGIN, 3),
            (F_SERVED, 4),
            (F_PEERS, 1),
            (F_READS, 1),
            (F_RESERVED, 1),
            (F_PADDING, 1),
        ];
        for (field, value) in cases {
            let mut block = encoded(&example(3), 0);
            block[field.offset..field.offset + field.bytes].fill(0);
            // Where reads go may be a revision and nothing else.
            let place = if field == F_READS { field.bytes - 1 } else { 0 };
            block[field.offset + place] = value;
            let sum = checksum(&block);
            F_CHECKSUM.put(&mut block, sum.to_le_bytes());
            let corrupt = Superblock::decode(&block, copy_offset(0)).expect_err(field.name);
            assert_eq!((corrupt.field, corrupt.at), (field.name, field.offset as u64));
        }
    }

    #[test]
    fn zones_outside_the_device_are_refused() {
        let mut block = encoded(&example(3), 0);
        F_DEVICE_BYTES.put(&mut block, (1u64 << 31).to_le_bytes());
        let sum = checksum(&block);
        F_CHECKSUM.put(&mut block, sum.to_le_bytes());
        assert_eq!(Superblock::decode(&block, copy_offset(0)).expect_err("zones").field, "zones");
    }

    #[test]
    #[should_panic(expected = "can be read again")]
    fn an_impossible_superblock_is_our_own_bug() {
        let mut superblock = example(3);
        superblock.generation = 0;
        encoded(&superblock, 0);
    }
}
