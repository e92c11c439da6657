//! A disk of the cold tier: what it says of itself, and where everything on it lies.
//!
//! Three copies of a superblock, at both ends and in the middle; a table of files and the kept places at the front; files of one size at
//! computed places. Owns those bytes and places. Must never hold what changes with each write. Invariant: what `decode`
//! returns describes places inside the device that do not overlap.
//!
//! ```text
//! | copy 0 .. 64 KiB | file table: 8 KiB each | kept places, 64 KiB | files 0 .. h-1 | copy 1 .. 64 KiB | files h .. n-1 | .. | copy 2 |
//! ```

use std::fmt;

use thiserror::Error;

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::cold_kept::{KEPT_PAGE_BYTES, KEPT_PAGE_COUNT};
use crate::field::{Corrupt, Table, byte_table, is_zero};
use crate::units::{BLOCK_BYTES, DiskOffset, Uuid};
use crate::zone::is_block_size;

/// Bytes of one copy.
pub const COLD_SUPERBLOCK_BYTES: usize = 4096;
/// Copies on a device.
pub const COLD_COPY_COUNT: usize = 3;
/// First bytes of a copy.
pub const COLD_MAGIC: [u8; 8] = *b"TCLCOLDS";
/// Bytes of a file's entry in the file table: two slots.
pub const FILE_ENTRY_BYTES: u64 = 8192;
/// Bytes kept free around the copies at the front and in the middle.
const COPY_AREA_BYTES: u64 = 64 << 10;
/// Size of a file unless somebody wants another.
pub const FILE_BYTES_DEFAULT: u64 = 256 << 20;
/// Smallest and largest size of a file: its places are numbers of 32 bits.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

byte_table! {
    /// Byte table of a copy.
    COLD_SUPERBLOCK_TABLE = "cold superblock", COLD_SUPERBLOCK_BYTES;
    F_MAGIC = "magic", 0, 8;
    F_FORMAT_VERSION = "format_version", 8, 4;
    F_COPY_INDEX = "copy_index", 12, 4;
    F_OWN_OFFSET = "own_offset", 16, 8;
    F_SEQUENCE = "sequence", 24, 8;
    F_DEVICE = "device", 32, 16;
    F_CLUSTER = "cluster", 48, 16;
    F_NODE = "node", 64, 4;
    F_GROUP = "group", 68, 2;
    F_DISK = "disk", 70, 2;
    F_STATE = "state", 72, 4;
    F_BLOCK_BYTES = "block_bytes", 76, 4;
    F_DEVICE_BYTES = "device_bytes", 80, 8;
    F_FILE_BYTES = "file_bytes", 88, 8;
    F_FILE_COUNT = "file_count", 96, 4;
    F_PADDING = "padding", 100, 3992;
    F_CHECKSUM = "checksum", 4092, 4;
}

const _: () = assert!(COLD_SUPERBLOCK_BYTES == BLOCK_BYTES, "a copy is one aligned write");
/// Bytes of the kept places: two copies of each page.
const KEPT_BYTES: u64 = 2 * KEPT_PAGE_COUNT as u64 * KEPT_PAGE_BYTES as u64;

/// Whether a disk holds what its place in the group says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColdState {
    /// All that was ever written to its place, but for what decays.
    Whole,
    /// It took the place of another disk, and what that held is being copied to it.
    Filling,
}

impl ColdState {
    fn to_number(self) -> u32 {
        match self {
            ColdState::Whole => 1,
            ColdState::Filling => 2,
        }
    }

    fn from_number(number: u32) -> Option<ColdState> {
        [ColdState::Whole, ColdState::Filling].into_iter().find(|state| state.to_number() == number)
    }
}

/// How a cold disk is cut; fixed at format, and the same on the three disks of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdGeometry {
    /// Size of the device when formatted.
    pub device_bytes: u64,
    /// Size of a file, a multiple of 4096 from 64 KiB to 1 GiB.
    pub file_bytes: u64,
    /// Files, at least one.
    pub file_count: u32,
}

/// Why a device cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ColdPlanError {
    /// The size of files is none that there is.
    #[error("files of {file_bytes} bytes: the size is a multiple of 4096 from 64 KiB to 1 GiB")]
    FileSize {
        /// Size asked for.
        file_bytes: u64,
    },
    /// Not one file fits.
    #[error(
        "{device_bytes} bytes have no room for a file of {file_bytes} bytes beside superblocks and file table: take a larger disk or \
         smaller files"
    )]
    TooSmall {
        /// Size of the device.
        device_bytes: u64,
        /// Size of a file.
        file_bytes: u64,
    },
}

impl ColdGeometry {
    /// As many files as the device has room for, and at most `file_count_max`: disks of one number have equally many.
    ///
    /// # Errors
    /// [`ColdPlanError`].
    pub fn plan(
        device_bytes: u64,
        file_bytes: u64,
        file_count_max: u32,
    ) -> Result<ColdGeometry, ColdPlanError> {
        if !is_file_size(file_bytes) {
            return Err(ColdPlanError::FileSize { file_bytes });
        }
        let most = device_bytes / (file_bytes + FILE_ENTRY_BYTES);
        let most = most.min(u64::from(file_count_max)) as u32;
        let cut = |file_count| ColdGeometry { device_bytes, file_bytes, file_count };
        // What stands around the files takes less than a few of them.
        let found = (1..=most).rev().map(cut).find(ColdGeometry::fits);
        found.ok_or(ColdPlanError::TooSmall { device_bytes, file_bytes })
    }

    /// Do all places lie inside the device, apart from each other?
    fn fits(&self) -> bool {
        let last = device_end(self.device_bytes).checked_sub(COLD_SUPERBLOCK_BYTES as u64);
        let files = u64::from(self.file_count).checked_mul(self.file_bytes);
        let end = files.and_then(|bytes| bytes.checked_add(self.files_at() + COPY_AREA_BYTES));
        is_file_size(self.file_bytes)
            && self.file_count > 0
            && end.zip(last).is_some_and(|(end, last)| end <= last)
    }

    fn kept_at(&self) -> u64 {
        let table = u64::from(self.file_count) * FILE_ENTRY_BYTES;
        COPY_AREA_BYTES + table.next_multiple_of(COPY_AREA_BYTES)
    }

    fn files_at(&self) -> u64 {
        self.kept_at() + KEPT_BYTES.next_multiple_of(COPY_AREA_BYTES)
    }

    /// Files before the copy in the middle.
    fn front_count(&self) -> u32 {
        self.file_count.div_ceil(2)
    }

    fn middle_at(&self) -> u64 {
        self.files_at() + u64::from(self.front_count()) * self.file_bytes
    }

    /// Device offset of a superblock copy, index 0..3.
    #[must_use]
    pub fn copy_offset(&self, copy_index: usize) -> DiskOffset {
        assert!(copy_index < COLD_COPY_COUNT, "a cold disk has {COLD_COPY_COUNT} superblock copies");
        match copy_index {
            0 => DiskOffset(0),
            1 => DiskOffset(self.middle_at()),
            _ => last_copy_offset(self.device_bytes).expect("a plan has room for its copies"),
        }
    }

    /// Device offset of a slot (0 or 1) of a file's entry in the file table.
    #[must_use]
    pub fn slot_offset(&self, file: u32, slot: usize) -> DiskOffset {
        assert!(file < self.file_count && slot < 2, "a file of the disk, and one of its two slots");
        let within = slot as u64 * (FILE_ENTRY_BYTES / 2);
        DiskOffset(COPY_AREA_BYTES + u64::from(file) * FILE_ENTRY_BYTES + within)
    }

    /// Device offset of a file's first byte.
    #[must_use]
    pub fn file_offset(&self, file: u32) -> DiskOffset {
        assert!(file < self.file_count, "a file of the disk");
        let middle = if file < self.front_count() { 0 } else { COPY_AREA_BYTES };
        DiskOffset(self.files_at() + middle + u64::from(file) * self.file_bytes)
    }

    /// Device offset of a copy (0 or 1) of a page of kept places: all first copies stand before all second ones.
    #[must_use]
    pub fn kept_offset(&self, page: u32, copy: usize) -> DiskOffset {
        assert!(page < KEPT_PAGE_COUNT && copy < 2, "a page of the kept places, and one of its two copies");
        let number = copy as u64 * u64::from(KEPT_PAGE_COUNT) + u64::from(page);
        DiskOffset(self.kept_at() + number * KEPT_PAGE_BYTES as u64)
    }

    /// Where the kept places begin, and their bytes.
    #[must_use]
    pub fn kept(&self) -> (DiskOffset, u64) {
        (DiskOffset(self.kept_at()), KEPT_BYTES)
    }

    /// Where the file table begins, and its bytes.
    #[must_use]
    pub fn file_table(&self) -> (DiskOffset, u64) {
        (DiskOffset(COPY_AREA_BYTES), u64::from(self.file_count) * FILE_ENTRY_BYTES)
    }
}

/// Where the last copy of a device of this size stands, for who knows nothing of it; `None` when it is too small.
#[must_use]
pub fn last_copy_offset(device_bytes: u64) -> Option<DiskOffset> {
    let last = device_end(device_bytes).checked_sub(COLD_SUPERBLOCK_BYTES as u64)?;
    (last >= COPY_AREA_BYTES).then_some(DiskOffset(last))
}

fn device_end(device_bytes: u64) -> u64 {
    device_bytes - device_bytes % BLOCK_BYTES as u64
}

fn is_file_size(file_bytes: u64) -> bool {
    FILE_BYTES.contains(&file_bytes) && file_bytes.is_multiple_of(BLOCK_BYTES as u64)
}

/// Everything a cold disk says about itself. Two copies are identical when these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdSuperblock {
    /// Number of this state, from 1.
    pub sequence: u64,
    /// Identity of the device, given by format.
    pub device: Uuid,
    /// Cluster it belongs to.
    pub cluster: Uuid,
    /// Node it belongs to, from 1.
    pub node: u32,
    /// Cold group of that node.
    pub group: u16,
    /// Its number: disks of one number on the machines of a group hold the same.
    pub disk: u16,
    /// Whether it holds all that it should.
    pub state: ColdState,
    /// Logical block of the device, bytes: 512..=4096.
    pub block_bytes: u32,
    /// How it is cut.
    pub geometry: ColdGeometry,
}

impl ColdSuperblock {
    /// Writes copy `copy_index` over all of `block`.
    ///
    /// A superblock that its own decoder would refuse is our own bug.
    pub fn encode(&self, copy_index: usize, block: &mut [u8; COLD_SUPERBLOCK_BYTES]) {
        let own_offset = self.geometry.copy_offset(copy_index);
        block.fill(0);
        F_MAGIC.put(block, COLD_MAGIC);
        F_FORMAT_VERSION.put(block, FORMAT_VERSION.to_le_bytes());
        F_COPY_INDEX.put(block, (copy_index as u32).to_le_bytes());
        F_OWN_OFFSET.put(block, own_offset.0.to_le_bytes());
        F_SEQUENCE.put(block, self.sequence.to_le_bytes());
        F_DEVICE.put(block, self.device.0);
        F_CLUSTER.put(block, self.cluster.0);
        F_NODE.put(block, self.node.to_le_bytes());
        F_GROUP.put(block, self.group.to_le_bytes());
        F_DISK.put(block, self.disk.to_le_bytes());
        F_STATE.put(block, self.state.to_number().to_le_bytes());
        F_BLOCK_BYTES.put(block, self.block_bytes.to_le_bytes());
        F_DEVICE_BYTES.put(block, self.geometry.device_bytes.to_le_bytes());
        F_FILE_BYTES.put(block, self.geometry.file_bytes.to_le_bytes());
        F_FILE_COUNT.put(block, self.geometry.file_count.to_le_bytes());
        let checksum = checksum(block);
        F_CHECKSUM.put(block, checksum.to_le_bytes());
        let again = ColdSuperblock::decode(block, own_offset);
        assert!(again == Ok(*self), "a superblock we write can be read again: {again:?}");
    }

    /// Reads the copy that was found at `expected` on the device.
    ///
    /// # Errors
    /// [`Corrupt`] with the first field that is wrong: magic, checksum, format version, own place, then the rest.
    pub fn decode(
        block: &[u8; COLD_SUPERBLOCK_BYTES],
        expected: DiskOffset,
    ) -> Result<ColdSuperblock, Corrupt> {
        let state = ColdState::from_number(F_STATE.u32(block));
        let superblock = ColdSuperblock {
            sequence: F_SEQUENCE.u64(block),
            device: Uuid(F_DEVICE.array(block)),
            cluster: Uuid(F_CLUSTER.array(block)),
            node: F_NODE.u32(block),
            group: F_GROUP.u16(block),
            disk: F_DISK.u16(block),
            state: state.unwrap_or(ColdState::Filling),
            block_bytes: F_BLOCK_BYTES.u32(block),
            geometry: ColdGeometry {
                device_bytes: F_DEVICE_BYTES.u64(block),
                file_bytes: F_FILE_BYTES.u64(block),
                file_count: F_FILE_COUNT.u32(block),
            },
        };
        let (copy_index, geometry) = (F_COPY_INDEX.u32(block) as usize, superblock.geometry);
        let fits = geometry.fits();
        let is_its_place =
            !fits || (copy_index < COLD_COPY_COUNT && geometry.copy_offset(copy_index) == expected);
        let right = [
            (F_MAGIC, F_MAGIC.array(block) == COLD_MAGIC),
            (F_CHECKSUM, F_CHECKSUM.u32(block) == checksum(block)),
            (F_FORMAT_VERSION, F_FORMAT_VERSION.u32(block) == FORMAT_VERSION),
            (F_OWN_OFFSET, F_OWN_OFFSET.u64(block) == expected.0),
            (F_COPY_INDEX, is_its_place),
            (F_SEQUENCE, superblock.sequence > 0),
            (F_DEVICE, !is_zero(&superblock.device.0)),
            (F_NODE, superblock.node > 0),
            (F_STATE, state.is_some()),
            (F_BLOCK_BYTES, is_block_size(superblock.block_bytes)),
            (F_FILE_BYTES, is_file_size(geometry.file_bytes)),
            (F_FILE_COUNT, fits),
            (F_PADDING, F_PADDING.is_zero(block)),
        ];
        match right.into_iter().find(|(_, right)| !right) {
            Some((field, _)) => Err(COLD_SUPERBLOCK_TABLE.corrupt(field, expected.0)),
            None => Ok(superblock),
        }
    }
}

/// What a device said at a place of a copy.
pub type ColdCopy = Result<ColdSuperblock, Corrupt>;

/// No copy can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ColdChooseError {
    /// None is valid.
    #[error(
        "none of the superblock copies that were found is valid ({copies}): this is no cold disk of ours, or it is damaged"
    )]
    None {
        /// What each was.
        copies: Reasons,
    },
    /// Valid ones are of different disks.
    #[error(
        "its superblock copies are of the disks {first} and {second}: an earlier disk's copy was not wiped, or two disks were mixed; \
         see them with `thermocline inspect`"
    )]
    Mixed {
        /// Of one copy.
        first: Uuid,
        /// Of another.
        second: Uuid,
    },
}

/// Why copies were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reasons(pub Vec<Corrupt>);

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, reason) in self.0.iter().enumerate() {
            write!(f, "{}{reason}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// The state in force: that of the valid copy with the highest sequence.
///
/// One copy is enough, though a newer one may have decayed: a state is followed by another once, when a disk that was being
/// filled is whole, and one that is taken for unfilled is only filled again.
///
/// # Errors
/// [`ColdChooseError`].
pub fn choose_cold(copies: &[ColdCopy]) -> Result<ColdSuperblock, ColdChooseError> {
    let valid = || copies.iter().flatten();
    let Some(newest) = valid().max_by_key(|copy| copy.sequence) else {
        let reasons = copies.iter().filter_map(|copy| copy.err()).collect();
        return Err(ColdChooseError::None { copies: Reasons(reasons) });
    };
    let is_other = |copy: &&ColdSuperblock| {
        copy.device != newest.device || (copy.sequence == newest.sequence && *copy != newest)
    };
    match valid().find(is_other) {
        Some(other) => Err(ColdChooseError::Mixed { first: newest.device, second: other.device }),
        None => Ok(*newest),
    }
}

/// CRC-32 over all bytes before the checksum. Device and own place are among them.
fn checksum(block: &[u8; COLD_SUPERBLOCK_BYTES]) -> u32 {
    Crc::with(&block[..F_CHECKSUM.offset]).finish()
}

/// The byte tables of this file, for the comparison with FORMAT_COLD.md.
pub(crate) const TABLES: [Table; 1] = [COLD_SUPERBLOCK_TABLE];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> ColdSuperblock {
        ColdSuperblock {
            sequence: 1,
            device: Uuid([0xd1; 16]),
            cluster: Uuid([0xc1; 16]),
            node: 4,
            group: 2,
            disk: 7,
            state: ColdState::Whole,
            block_bytes: 4096,
            geometry: ColdGeometry::plan(64 << 20, 1 << 20, u32::MAX).expect("it has room"),
        }
    }

    fn encoded(superblock: &ColdSuperblock, copy: usize) -> Box<[u8; COLD_SUPERBLOCK_BYTES]> {
        let mut block = Box::new([0xff; COLD_SUPERBLOCK_BYTES]);
        superblock.encode(copy, &mut block);
        block
    }

    #[test]
    fn places_lie_inside_the_device_and_apart() {
        for device_bytes in [1 << 20, (1 << 20) + 513, 7 << 20, (64 << 20) - 4096, 3 << 30, 16 << 40] {
            for file_bytes in [64 << 10, 1 << 20, (1 << 20) + 4096, 256 << 20] {
                let Ok(geometry) = ColdGeometry::plan(device_bytes, file_bytes, 70_000) else {
                    assert!(device_bytes < 2 * (file_bytes + (384 << 10)), "{device_bytes} {file_bytes}");
                    continue;
                };
                let count = geometry.file_count;
                let mut places: Vec<(u64, u64)> =
                    (0..COLD_COPY_COUNT).map(|copy| (geometry.copy_offset(copy).0, 4096)).collect();
                places.push((geometry.file_table().0.0, geometry.file_table().1));
                places.push((geometry.kept().0.0, geometry.kept().1));
                let last_kept = geometry.kept_offset(KEPT_PAGE_COUNT - 1, 1).0 + KEPT_PAGE_BYTES as u64;
                assert_eq!(last_kept, geometry.kept().0.0 + geometry.kept().1);
                let some = [0, 1, count / 2, count.div_ceil(2), count - 1].map(|file| file.min(count - 1));
                let files: std::collections::BTreeSet<u32> = some.into();
                places.extend(files.iter().map(|&file| (geometry.file_offset(file).0, file_bytes)));
                places.sort_unstable();
                for pair in places.windows(2) {
                    assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{geometry:?}: {pair:?}");
                }
                let last = places[places.len() - 1];
                assert!(last.0 + last.1 <= device_bytes && places.iter().all(|place| place.0 % 4096 == 0));
                let slots = geometry.slot_offset(count - 1, 1).0 + FILE_ENTRY_BYTES / 2;
                assert!(slots <= geometry.file_offset(0).0);
                let more = ColdGeometry { file_count: count + 1, ..geometry };
                assert!(count == 70_000 || !more.fits(), "there is no room for another file: {geometry:?}");
            }
        }
    }

    #[test]
    fn a_copy_is_refused_where_it_does_not_stand() {
        let superblock = example();
        for copy in 0..COLD_COPY_COUNT {
            let block = encoded(&superblock, copy);
            for place in 0..COLD_COPY_COUNT {
                let expected = superblock.geometry.copy_offset(place);
                let found = ColdSuperblock::decode(&block, expected);
                assert_eq!(found.is_ok(), place == copy, "{found:?}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let superblock = example();
        let block = encoded(&superblock, 1);
        let place = superblock.geometry.copy_offset(1);
        for bit in 0..COLD_SUPERBLOCK_BYTES * 8 {
            let mut wrong = block.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(ColdSuperblock::decode(&wrong, place).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_newest_copy_counts_and_strangers_are_named() {
        let (old, new) = (
            ColdSuperblock { state: ColdState::Filling, ..example() },
            ColdSuperblock { sequence: 2, ..example() },
        );
        let refused = Err(COLD_SUPERBLOCK_TABLE.corrupt(F_MAGIC, 0));
        assert_eq!(choose_cold(&[Ok(old), Ok(new), refused]), Ok(new));
        assert_eq!(choose_cold(&[refused, Ok(old), refused]), Ok(old));
        assert!(matches!(choose_cold(&[refused; 3]), Err(ColdChooseError::None { .. })));
        let other = ColdSuperblock { device: Uuid([9; 16]), ..old };
        assert!(matches!(choose_cold(&[Ok(new), Ok(other), refused]), Err(ColdChooseError::Mixed { .. })));
        let split = ColdSuperblock { node: 5, ..new };
        assert!(matches!(choose_cold(&[Ok(new), Ok(split)]), Err(ColdChooseError::Mixed { .. })));
    }
}
