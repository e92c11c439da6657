//! The value rings of a core in shared memory: the file's header, its chains, and the slots that find entries.
//!
//! Owns the header's bytes, the geometry, the slot's packing, and the arithmetic of positions. Must never touch shared memory
//! itself. Invariant: a header that decodes describes a file of exactly its size; a slot says where an entry may stand, only
//! the entry itself says that it does.
//!
//! ```text
//! | header 128 | head of chain 0 .. 255, 8 each | zeros to 4096 | slots of chain 0 | .. | ring of chain 0 | ring of chain 1 | ..
//! ```
//! A position counts the bytes ever given out by a chain, so it only rises; position p stands at byte p mod (bytes of the
//! ring), and is gone once the head has passed p + bytes of the ring.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::checksum::Crc;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::key::Key;
use crate::units::{STREAM_BYTES_MAX, Uuid};
use crate::value_entry::UNIT_BYTES;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"TCLVRING";
/// Version of the bytes of value rings; a file of another one is emptied, so it is apart from that of disks.
pub const RING_VERSION: u32 = 1;
/// Bytes before the slots.
pub const RING_HEADER_BYTES: usize = 4096;
/// Chains of a file at most.
pub const CHAIN_COUNT_MAX: usize = 256;
/// Slots of a line: one cache line, all that is looked at for a key.
pub const LINE_SLOTS: usize = 8;
/// Ring bytes of a chain at least and at most.
pub const CHAIN_BYTES_MIN: u64 = 4096;
/// 2^32 units.
pub const CHAIN_BYTES_MAX: u64 = (UNIT_BYTES as u64) << 32;
/// A head above this is damaged: no chain gives out so many bytes.
pub const HEAD_MAX: u64 = 1 << 62;

const HEADS_BYTES: usize = CHAIN_COUNT_MAX * 8;

byte_table! {
    /// Byte table of the header.
    RING_HEADER_TABLE = "value ring file", RING_HEADER_BYTES;
    R_MAGIC = "magic", 0, 8;
    R_RING_VERSION = "ring_version", 8, 4;
    R_CORE = "core", 12, 2;
    R_CHAIN_COUNT = "chain_count", 14, 2;
    R_CLUSTER = "cluster", 16, 16;
    R_NODE = "node", 32, 4;
    R_RESERVED = "reserved", 36, 4;
    R_CHAIN_BYTES = "chain_bytes", 40, 8;
    R_LINE_COUNT = "line_count", 48, 8;
    R_SALT = "salt", 56, 8;
    R_RESERVED_2 = "reserved_2", 64, 60;
    R_CHECKSUM = "checksum", 124, 4;
    R_HEADS = "heads", 128, HEADS_BYTES;
    R_PADDING = "padding", 128 + HEADS_BYTES, 1920;
}

/// Sizes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingGeometry {
    /// Chains, 1..=256.
    pub chain_count: u16,
    /// Bytes of each chain's ring, a multiple of 4096.
    pub chain_bytes: u64,
    /// Lines of eight slots of each chain, 1..2^32.
    pub line_count: u64,
}

impl RingGeometry {
    /// Whether such a file can be.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (1..=CHAIN_COUNT_MAX).contains(&usize::from(self.chain_count))
            && (CHAIN_BYTES_MIN..=CHAIN_BYTES_MAX).contains(&self.chain_bytes)
            && self.chain_bytes.is_multiple_of(CHAIN_BYTES_MIN)
            && (1..1 << 32).contains(&self.line_count)
    }

    /// Bytes of the whole file; of a valid geometry.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.ring_offset(self.chain_count)
    }

    /// Byte of the file where a chain's line of slots starts.
    #[must_use]
    pub fn line_offset(&self, chain: u16, line: u64) -> u64 {
        let lines = u64::from(chain) * self.line_count + line;
        RING_HEADER_BYTES as u64 + lines * (LINE_SLOTS * 8) as u64
    }

    /// Byte of the file where a chain's ring starts.
    #[must_use]
    pub fn ring_offset(&self, chain: u16) -> u64 {
        self.line_offset(self.chain_count, 0) + u64::from(chain) * self.chain_bytes
    }

    /// Byte of the file where a chain's head stands.
    #[must_use]
    pub fn head_offset(chain: u16) -> u64 {
        (R_HEADS.offset + usize::from(chain) * 8) as u64
    }

    /// Where a key belongs: from xxh3-128, seeded with the salt, over space (2 bytes), time (8), stream, little-endian.
    #[must_use]
    pub fn spot(&self, salt: u64, key: &Key<'_>) -> Spot {
        const FIXED: usize = 2 + 8;
        let mut input = [0u8; FIXED + STREAM_BYTES_MAX];
        let bytes = FIXED + key.stream.len();
        assert!(bytes <= input.len(), "a stream has at most {STREAM_BYTES_MAX} bytes");
        input[..2].copy_from_slice(&key.space.0.to_le_bytes());
        input[2..FIXED].copy_from_slice(&key.time.to_le_bytes());
        input[FIXED..bytes].copy_from_slice(key.stream);
        let hash = xxh3_128_with_seed(&input[..bytes], salt);
        let (high, low) = ((hash >> 64) as u64, hash as u64);
        let chain = ((high >> 32) * u64::from(self.chain_count)) >> 32;
        let line = ((high & 0xffff_ffff) * self.line_count) >> 32;
        Spot { chain: chain as u16, line, tag: (low & TAG_MAX) as u32 }
    }
}

/// Chain, line and tag of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// Its chain.
    pub chain: u16,
    /// The line of slots of that chain.
    pub line: u64,
    /// 30 bits that its slot has.
    pub tag: u32,
}

const TAG_MAX: u64 = (1 << 30) - 1;
const USED: u64 = 1 << 63;
const TOUCHED: u64 = 1 << 62;

/// A slot as it stands in its word: bit 63 used, bit 62 touched since it was written, bits 32..62 tag, bits 0..32 the
/// place in the ring in units of 16 bytes. 0 is an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u64);

impl Slot {
    /// No entry.
    pub const EMPTY: Slot = Slot(0);

    /// The slot of an entry that starts at this byte of the ring.
    #[must_use]
    pub fn new(tag: u32, offset: u64) -> Slot {
        let unit = offset / UNIT_BYTES as u64;
        assert!(u64::from(tag) <= TAG_MAX && unit < 1 << 32, "a tag has 30 bits and a place 32");
        Slot(USED | u64::from(tag) << 32 | unit)
    }

    /// Whether it may be of a key with this tag.
    #[must_use]
    pub fn is_of(self, tag: u32) -> bool {
        self.0 & USED != 0 && (self.0 >> 32) & TAG_MAX == u64::from(tag)
    }

    /// Whether it names an entry at all.
    #[must_use]
    pub fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    /// Byte of the ring where the entry starts.
    #[must_use]
    pub fn offset(self) -> u64 {
        (self.0 & 0xffff_ffff) * UNIT_BYTES as u64
    }

    /// Whether the entry was read since it was written.
    #[must_use]
    pub fn is_touched(self) -> bool {
        self.0 & TOUCHED != 0
    }

    /// The same, read.
    #[must_use]
    pub fn touched(self) -> Slot {
        Slot(self.0 | TOUCHED)
    }
}

/// The position that stands at byte `offset` of a ring whose head is `head`: the newest one below the head. `None` while
/// nothing was ever written there.
#[must_use]
pub fn position_at(head: u64, chain_bytes: u64, offset: u64) -> Option<u64> {
    let lap = head - head % chain_bytes;
    if offset >= chain_bytes {
        return None;
    }
    if lap + offset < head {
        Some(lap + offset)
    } else {
        lap.checked_sub(chain_bytes).map(|lap| lap + offset)
    }
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingHeader {
    /// The cluster whose records they are: versions of another one say nothing.
    pub cluster: Uuid,
    /// The cache node.
    pub node: u32,
    /// Its core.
    pub core: u16,
    /// Sizes.
    pub geometry: RingGeometry,
    /// Random, drawn when the file was emptied last: seeds the hash of keys and the checksums of entries.
    pub salt: u64,
    /// Where each chain goes on; zero behind the last chain.
    pub heads: [u64; CHAIN_COUNT_MAX],
}

impl RingHeader {
    /// Writes the header over all of `bytes`. A geometry that cannot be is our own bug.
    pub fn encode(&self, bytes: &mut [u8; RING_HEADER_BYTES]) {
        assert!(self.geometry.is_valid(), "the geometry was checked");
        bytes.fill(0);
        R_MAGIC.put(bytes, MAGIC);
        R_RING_VERSION.put(bytes, RING_VERSION.to_le_bytes());
        R_CORE.put(bytes, self.core.to_le_bytes());
        R_CHAIN_COUNT.put(bytes, self.geometry.chain_count.to_le_bytes());
        R_CLUSTER.put(bytes, self.cluster.0);
        R_NODE.put(bytes, self.node.to_le_bytes());
        R_CHAIN_BYTES.put(bytes, self.geometry.chain_bytes.to_le_bytes());
        R_LINE_COUNT.put(bytes, self.geometry.line_count.to_le_bytes());
        R_SALT.put(bytes, self.salt.to_le_bytes());
        let checksum = checksum(bytes);
        R_CHECKSUM.put(bytes, checksum.to_le_bytes());
        let heads = &mut bytes[R_HEADS.offset..R_HEADS.offset + HEADS_BYTES];
        for (head, place) in self.heads.iter().zip(heads.as_chunks_mut::<8>().0) {
            *place = head.to_le_bytes();
        }
    }

    /// Reads the header at the start of a file. The heads are outside the checksum (they change all the time): any values
    /// are possible there.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn decode(bytes: &[u8; RING_HEADER_BYTES]) -> Result<RingHeader, Corrupt> {
        if let Some(field) = wrong_fields(bytes).next() {
            return Err(RING_HEADER_TABLE.corrupt(field, 0));
        }
        let mut heads = [0; CHAIN_COUNT_MAX];
        for (head, place) in heads.iter_mut().zip(R_HEADS.slice(bytes).as_chunks::<8>().0) {
            *head = u64::from_le_bytes(*place);
        }
        Ok(RingHeader {
            cluster: Uuid(R_CLUSTER.array(bytes)),
            node: R_NODE.u32(bytes),
            core: R_CORE.u16(bytes),
            geometry: geometry(bytes),
            salt: R_SALT.u64(bytes),
            heads,
        })
    }
}

fn geometry(bytes: &[u8; RING_HEADER_BYTES]) -> RingGeometry {
    RingGeometry {
        chain_count: R_CHAIN_COUNT.u16(bytes),
        chain_bytes: R_CHAIN_BYTES.u64(bytes),
        line_count: R_LINE_COUNT.u64(bytes),
    }
}

/// The fields of a header that cannot be what they are.
pub(crate) fn wrong_fields(bytes: &[u8; RING_HEADER_BYTES]) -> impl Iterator<Item = Field> {
    let wrong: [(Field, bool); 7] = [
        (R_MAGIC, R_MAGIC.array(bytes) != MAGIC),
        (R_RING_VERSION, R_RING_VERSION.u32(bytes) != RING_VERSION),
        (R_CHECKSUM, R_CHECKSUM.u32(bytes) != checksum(bytes)),
        (R_CHAIN_COUNT, !geometry(bytes).is_valid()),
        (R_RESERVED, !R_RESERVED.is_zero(bytes)),
        (R_RESERVED_2, !R_RESERVED_2.is_zero(bytes)),
        (R_PADDING, !R_PADDING.is_zero(bytes)),
    ];
    wrong.into_iter().filter_map(|(field, wrong)| wrong.then_some(field))
}

/// CRC-32 over all bytes before the checksum.
fn checksum(bytes: &[u8; RING_HEADER_BYTES]) -> u32 {
    Crc::with(&bytes[..R_CHECKSUM.offset]).finish()
}

/// The byte tables of this file, for the comparison with FORMAT_RING.md.
pub const TABLES: [Table; 1] = [RING_HEADER_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Space;

    const GEOMETRY: RingGeometry = RingGeometry { chain_count: 3, chain_bytes: 8192, line_count: 5 };

    fn example() -> RingHeader {
        let mut heads = [0; CHAIN_COUNT_MAX];
        heads[2] = 4112;
        RingHeader { cluster: Uuid([7; 16]), node: 9, core: 1, geometry: GEOMETRY, salt: 0x1234, heads }
    }

    #[test]
    fn header_round_trips_and_every_flipped_bit_of_the_identity_is_seen() {
        let mut bytes = [0xee; RING_HEADER_BYTES];
        example().encode(&mut bytes);
        assert_eq!(RingHeader::decode(&bytes), Ok(example()));
        for bit in 0..128 * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(RingHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let at = RingGeometry::head_offset(2) as usize;
        assert_eq!(bytes[at..at + 8], 4112u64.to_le_bytes());
    }

    #[test]
    fn lines_and_rings_follow_each_other() {
        assert_eq!(GEOMETRY.line_offset(0, 0), 4096);
        assert_eq!(GEOMETRY.line_offset(0, 5), GEOMETRY.line_offset(1, 0));
        assert_eq!(GEOMETRY.ring_offset(0), 4096 + 3 * 5 * 64);
        assert_eq!(GEOMETRY.file_bytes(), GEOMETRY.ring_offset(0) + 3 * 8192);
        for wrong in [
            RingGeometry { chain_count: 0, ..GEOMETRY },
            RingGeometry { chain_count: 257, ..GEOMETRY },
            RingGeometry { chain_bytes: 8000, ..GEOMETRY },
            RingGeometry { chain_bytes: CHAIN_BYTES_MAX + 4096, ..GEOMETRY },
            RingGeometry { line_count: 0, ..GEOMETRY },
            RingGeometry { line_count: 1 << 32, ..GEOMETRY },
        ] {
            assert!(!wrong.is_valid(), "{wrong:?}");
        }
    }

    #[test]
    fn the_position_of_a_byte_is_the_newest_below_the_head() {
        assert_eq!(position_at(0, 4096, 0), None);
        assert_eq!(position_at(16, 4096, 0), Some(0));
        assert_eq!(position_at(16, 4096, 16), None);
        assert_eq!(position_at(4096, 4096, 0), Some(0));
        assert_eq!(position_at(4112, 4096, 0), Some(4096));
        assert_eq!(position_at(4112, 4096, 16), Some(16));
        assert_eq!(position_at(4112, 4096, 4096), None);
    }

    #[test]
    fn slots_keep_tag_place_and_touch() {
        let slot = Slot::new(TAG_MAX as u32, CHAIN_BYTES_MAX - 16);
        assert!(slot.is_of(TAG_MAX as u32) && !slot.is_of(1) && slot.is_used() && !slot.is_touched());
        assert_eq!(slot.offset(), CHAIN_BYTES_MAX - 16);
        assert!(slot.touched().is_touched() && slot.touched().is_of(TAG_MAX as u32));
        assert!(!Slot::EMPTY.is_used() && !Slot::EMPTY.is_of(0));
    }

    #[test]
    fn keys_spread_over_chains_and_lines_and_depend_on_the_salt() {
        let geometry = RingGeometry { chain_count: 10, chain_bytes: 4096, line_count: 10 };
        let key = |time| Key { space: Space(1), stream: b"ab", time };
        assert_ne!(geometry.spot(1, &key(7)), geometry.spot(2, &key(7)));
        let mut counts = [0u32; 100];
        for time in 0..100_000 {
            let spot = geometry.spot(1, &key(time));
            counts[usize::from(spot.chain) * 10 + spot.line as usize] += 1;
        }
        assert!(counts.iter().all(|count| (810..1190).contains(count)), "{counts:?}");
    }
}
