//! The file of a shard's version cache in shared memory: its header, and where a key's row is.
//!
//! Owns the header's bytes and the hash of keys. Must never be trusted across a boot or after a
//! start that did not attach it. Invariant: a header that decodes belongs to exactly one shard of
//! one format of one device; who attaches compares boot id and incarnation before he believes cells.
//!
//! ```text
//! | identity 128 | tablet 0 .. 63, 16 each | zeros to 4096 | row 0 | row 1 | ..   64 bytes each
//! ```
//! Incarnation and checksum share one aligned word, so that a start renews both by one store and a
//! kill in between cannot spoil the header. The words of a tablet change by one store each.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::field::{Corrupt, Field, Table, byte_table};
use crate::key::Key;
use crate::units::{Incarnation, STREAM_BYTES_MAX, ShardIndex, TABLET_COUNT, TabletIndex, Uuid};
use crate::version_cell::{ROW_BYTES, Tag};

/// Bytes before the first row.
pub const HEADER_BYTES: usize = 4096;
/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"TCLVERSN";

const TABLET_BYTES: usize = 16;
const TABLETS_BYTES: usize = TABLET_COUNT * TABLET_BYTES;

byte_table! {
    /// Byte table of the header.
    HEADER_TABLE = "version file", HEADER_BYTES;
    H_MAGIC = "magic", 0, 8;
    H_FORMAT_VERSION = "format_version", 8, 4;
    H_SHARD = "shard", 12, 2;
    H_RESERVED = "reserved", 14, 2;
    H_DEVICE = "device", 16, 16;
    H_BOOT = "boot", 32, 16;
    H_ROW_COUNT = "row_count", 48, 8;
    H_GENERATION = "generation", 56, 4;
    H_RESERVED_2 = "reserved_2", 60, 60;
    H_INCARNATION = "incarnation", 120, 4;
    H_CHECKSUM = "checksum", 124, 4;
    H_TABLETS = "tablets", 128, TABLETS_BYTES;
    H_PADDING = "padding", 128 + TABLETS_BYTES, 2944;
}

byte_table! {
    /// Byte table of one element of `tablets`.
    TABLET_TABLE = "version tablet", TABLET_BYTES;
    T_COHERENT_INDEX = "coherent_index", 0, 8;
    T_GENERATION = "generation", 8, 8;
}

const _: () = assert!(H_INCARNATION.offset.is_multiple_of(8), "incarnation and checksum are one word");
const _: () = assert!(H_TABLETS.offset.is_multiple_of(8), "the words of a tablet are aligned");

/// What the file says of one tablet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TabletState {
    /// Log index up to which the cells say what was applied; 0 = nothing.
    pub coherent_index: u64,
    /// Goes into the hash of every key: raised, it empties the tablet's cells.
    pub generation: u64,
}

impl TabletState {
    /// Byte of the file where a tablet's coherent index stands, an aligned word.
    #[must_use]
    pub fn coherent_index_offset(tablet: TabletIndex) -> usize {
        H_TABLETS.offset + tablet.index() * TABLET_BYTES + T_COHERENT_INDEX.offset
    }

    /// Byte of the file where a tablet's generation stands, an aligned word.
    #[must_use]
    pub fn generation_offset(tablet: TabletIndex) -> usize {
        H_TABLETS.offset + tablet.index() * TABLET_BYTES + T_GENERATION.offset
    }
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Device whose journal feeds the cells.
    pub device: Uuid,
    /// Shard it belongs to.
    pub shard: ShardIndex,
    /// Generation of the device's format.
    pub generation: u32,
    /// Boot of the machine during which the file was made.
    pub boot: Uuid,
    /// Last start that attached the file. If it is not the last start of the device, changes were
    /// applied without the file and its cells are stale: start empty.
    pub incarnation: Incarnation,
    /// Rows, at least 1.
    pub row_count: u64,
    /// State of each tablet.
    pub tablets: [TabletState; TABLET_COUNT],
}

impl Header {
    /// Byte of the file where incarnation and checksum stand, one aligned word.
    pub const INCARNATION_OFFSET: usize = H_INCARNATION.offset;

    /// Writes the header over all of `bytes`. Without rows it is our own bug.
    pub fn encode(&self, bytes: &mut [u8; HEADER_BYTES]) {
        assert!(self.row_count > 0 && file_bytes(self.row_count).is_some(), "a file has rows, and a size");
        bytes.fill(0);
        H_MAGIC.put(bytes, MAGIC);
        H_FORMAT_VERSION.put(bytes, FORMAT_VERSION.to_le_bytes());
        H_SHARD.put(bytes, self.shard.0.to_le_bytes());
        H_DEVICE.put(bytes, self.device.0);
        H_BOOT.put(bytes, self.boot.0);
        H_ROW_COUNT.put(bytes, self.row_count.to_le_bytes());
        H_GENERATION.put(bytes, self.generation.to_le_bytes());
        H_INCARNATION.put(bytes, self.incarnation.0.to_le_bytes());
        let checksum = checksum(bytes);
        H_CHECKSUM.put(bytes, checksum.to_le_bytes());
        let tablets = &mut bytes[H_TABLETS.offset..H_TABLETS.offset + TABLETS_BYTES];
        for (state, place) in self.tablets.iter().zip(tablets.as_chunks_mut::<TABLET_BYTES>().0) {
            T_COHERENT_INDEX.put(place, state.coherent_index.to_le_bytes());
            T_GENERATION.put(place, state.generation.to_le_bytes());
        }
    }

    /// The word at [`Header::INCARNATION_OFFSET`] of this header, for the one store of a new start.
    #[must_use]
    pub fn incarnation_word(&self) -> u64 {
        let mut bytes = [0; HEADER_BYTES];
        self.encode(&mut bytes);
        let [incarnation, checksum] = [H_INCARNATION.u32(&bytes), H_CHECKSUM.u32(&bytes)].map(u64::from);
        checksum << 32 | incarnation
    }

    /// Reads the header at the start of a file. The tablets' words are outside the checksum (they
    /// change all the time); any values are possible there.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Corrupt> {
        if let Some(field) = wrong_fields(bytes).next() {
            return Err(HEADER_TABLE.corrupt(field, 0));
        }
        Ok(Header {
            device: Uuid(H_DEVICE.array(bytes)),
            shard: ShardIndex(H_SHARD.u16(bytes)),
            generation: H_GENERATION.u32(bytes),
            boot: Uuid(H_BOOT.array(bytes)),
            incarnation: Incarnation(H_INCARNATION.u32(bytes)),
            row_count: H_ROW_COUNT.u64(bytes),
            tablets: tablet_states(bytes),
        })
    }
}

/// Where the tablets' words start.
pub(crate) const TABLETS_OFFSET: usize = H_TABLETS.offset;

/// The tablets' words; any values are possible.
pub(crate) fn tablet_states(bytes: &[u8; HEADER_BYTES]) -> [TabletState; TABLET_COUNT] {
    let mut tablets = [TabletState::default(); TABLET_COUNT];
    for (state, place) in tablets.iter_mut().zip(H_TABLETS.slice(bytes).as_chunks::<TABLET_BYTES>().0) {
        state.coherent_index = T_COHERENT_INDEX.u64(place);
        state.generation = T_GENERATION.u64(place);
    }
    tablets
}

/// The fields that are wrong, in the order in which the decoder names them.
pub(crate) fn wrong_fields(bytes: &[u8; HEADER_BYTES]) -> impl Iterator<Item = Field> + use<> {
    let row_count = H_ROW_COUNT.u64(bytes);
    let wrong = [
        (H_MAGIC, H_MAGIC.array(bytes) != MAGIC),
        (H_FORMAT_VERSION, H_FORMAT_VERSION.u32(bytes) != FORMAT_VERSION),
        (H_CHECKSUM, H_CHECKSUM.u32(bytes) != checksum(bytes)),
        (H_ROW_COUNT, row_count == 0 || file_bytes(row_count).is_none()),
        (H_RESERVED, !H_RESERVED.is_zero(bytes)),
        (H_RESERVED_2, !H_RESERVED_2.is_zero(bytes)),
        (H_PADDING, !H_PADDING.is_zero(bytes)),
    ];
    wrong.into_iter().filter_map(|(field, wrong)| wrong.then_some(field))
}

/// CRC-32 over all bytes before the checksum.
fn checksum(bytes: &[u8; HEADER_BYTES]) -> u32 {
    Crc::with(&bytes[..H_CHECKSUM.offset]).finish()
}

/// Bytes of a file with so many rows; `None` when that is 2^63 or more.
#[must_use]
pub fn file_bytes(row_count: u64) -> Option<u64> {
    let bytes = row_count.checked_mul(ROW_BYTES as u64)?.checked_add(HEADER_BYTES as u64)?;
    (bytes < 1 << 63).then_some(bytes)
}

/// Byte of the file where a row starts; the row is below the file's row count.
#[must_use]
pub fn row_offset(row: u64) -> u64 {
    HEADER_BYTES as u64 + row * ROW_BYTES as u64
}

/// Row and tag of a key: from xxh3-128 of tablet (1 byte), generation of the tablet (8), space (2),
/// time (8), stream, little-endian, with the generation as its seed.
///
/// Generations start at a random number, which clients do not know. As input alone it would not
/// help: with a known seed one can write a stream in which some bytes never reach the hash, so two
/// keys that share row and tag, and ask for the version of one by the name of the other.
///
/// The row comes from the high half h: (h x row count) / 2^64; the tag from the low 63 bits of the
/// low half, with 0 read as 1. `row_count` is at least 1.
#[must_use]
pub fn row_and_tag(tablet: TabletIndex, generation: u64, key: &Key<'_>, row_count: u64) -> (u64, Tag) {
    assert!(row_count > 0, "a file has rows");
    const FIXED: usize = 1 + 8 + 2 + 8;
    let mut input = [0u8; FIXED + STREAM_BYTES_MAX];
    let bytes = FIXED + key.stream.len();
    assert!(bytes <= input.len(), "a stream has at most {STREAM_BYTES_MAX} bytes");
    input[0] = tablet.get();
    input[1..9].copy_from_slice(&generation.to_le_bytes());
    input[9..11].copy_from_slice(&key.space.0.to_le_bytes());
    input[11..FIXED].copy_from_slice(&key.time.to_le_bytes());
    input[FIXED..bytes].copy_from_slice(key.stream);
    let hash = xxh3_128_with_seed(&input[..bytes], generation);
    let (high, low) = ((hash >> 64) as u64, hash as u64);
    let row = (u128::from(high) * u128::from(row_count)) >> 64;
    (row as u64, Tag::from_hash(low))
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub const TABLES: [Table; 2] = [HEADER_TABLE, TABLET_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Space;

    fn example() -> Header {
        let mut header = Header {
            device: Uuid([1; 16]),
            shard: ShardIndex(3),
            generation: 2,
            boot: Uuid([9; 16]),
            incarnation: Incarnation(5),
            row_count: 1000,
            tablets: [TabletState::default(); TABLET_COUNT],
        };
        header.tablets[63] = TabletState { coherent_index: 77, generation: 4 };
        header
    }

    #[test]
    fn header_round_trips_and_every_flipped_bit_of_the_identity_is_seen() {
        let mut bytes = [0xee; HEADER_BYTES];
        example().encode(&mut bytes);
        assert_eq!(Header::decode(&bytes), Ok(example()));
        for bit in 0..128 * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn one_store_renews_the_incarnation() {
        let mut bytes = [0; HEADER_BYTES];
        example().encode(&mut bytes);
        let next = Header { incarnation: Incarnation(6), ..example() };
        let word = next.incarnation_word().to_le_bytes();
        bytes[Header::INCARNATION_OFFSET..Header::INCARNATION_OFFSET + 8].copy_from_slice(&word);
        assert_eq!(Header::decode(&bytes), Ok(next));
    }

    #[test]
    fn words_of_a_tablet_are_where_the_offsets_say() {
        let mut bytes = [0; HEADER_BYTES];
        example().encode(&mut bytes);
        let tablet = TabletIndex::new(63).expect("below 64");
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        assert_eq!(word(TabletState::coherent_index_offset(tablet)), 77);
        assert_eq!(word(TabletState::generation_offset(tablet)), 4);
    }

    #[test]
    fn rows_and_tags_depend_on_every_part_of_the_key_and_spread() {
        let tablet = |n: u8| TabletIndex::new(n).expect("below 64");
        let key = Key { space: Space(1), stream: b"ab", time: 7 };
        let base = row_and_tag(tablet(1), 1, &key, u64::MAX);
        assert_eq!(base, row_and_tag(tablet(1), 1, &key, u64::MAX));
        for other in [
            row_and_tag(tablet(2), 1, &key, u64::MAX),
            row_and_tag(tablet(1), 2, &key, u64::MAX),
            row_and_tag(tablet(1), 1, &Key { space: Space(2), ..key }, u64::MAX),
            row_and_tag(tablet(1), 1, &Key { stream: b"ac", ..key }, u64::MAX),
            row_and_tag(tablet(1), 1, &Key { time: 8, ..key }, u64::MAX),
        ] {
            assert!(other.0 != base.0 && other.1 != base.1);
        }
        let mut counts = [0u32; 100];
        for time in 0..100_000 {
            let (row, _) = row_and_tag(tablet(1), 1, &Key { time, ..key }, 100);
            counts[row as usize] += 1;
        }
        // Mean 1000, deviation 31: six deviations either way.
        assert!(counts.iter().all(|count| (810..1190).contains(count)), "{counts:?}");
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        assert_eq!(file_bytes(1), Some(4160));
        assert_eq!(file_bytes(u64::MAX), None);
        assert_eq!(file_bytes(1 << 57), None);
        let mut bytes = [0; HEADER_BYTES];
        example().encode(&mut bytes);
        H_ROW_COUNT.put(&mut bytes, u64::MAX.to_le_bytes());
        let sum = checksum(&bytes);
        H_CHECKSUM.put(&mut bytes, sum.to_le_bytes());
        assert_eq!(Header::decode(&bytes).expect_err("too many rows").field, "row_count");
    }
}
