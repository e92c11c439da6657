//! An entry of a cold disk's file table: how much of a file is written, and which of its sections are free.
//!
//! Two slots of 4096 bytes, written in turn: one is whole whatever a crash does to the other. Owns their bytes and which
//! of the two counts. Must never say that more is written than is durable: the sections come first. Invariant: a generation
//! of a file only grows, in `head` and in what is free; emptied, it begins with the next.

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::field::{Corrupt, Table, byte_table, is_zero};
use crate::units::{DiskOffset, Uuid};

/// Bytes of a slot.
pub const FILE_SLOT_BYTES: usize = 4096;
/// First bytes of a slot.
pub const FILE_SLOT_MAGIC: [u8; 8] = *b"TCLCFILE";
const FREED_BYTES: usize = 4028;
/// Sections of a file: as many as a slot has bits for.
pub const FILE_SECTION_COUNT_MAX: u32 = FREED_BYTES as u32 * 8;

byte_table! {
    /// Byte table of a slot.
    FILE_SLOT_TABLE = "cold file", FILE_SLOT_BYTES;
    F_MAGIC = "magic", 0, 8;
    F_FORMAT_VERSION = "format_version", 8, 4;
    F_FILE = "file", 12, 4;
    F_OWN_OFFSET = "own_offset", 16, 8;
    F_SEQUENCE = "sequence", 24, 8;
    F_DEVICE = "device", 32, 16;
    F_GENERATION = "generation", 48, 4;
    F_HEAD = "head", 52, 4;
    F_SECTION_COUNT = "section_count", 56, 4;
    F_FREED_COUNT = "freed_count", 60, 4;
    F_FREED = "freed", 64, FREED_BYTES;
    F_CHECKSUM = "checksum", 4092, 4;
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdFile {
    /// Number of this state, from 1; 0 of a file that was never written to. Its lowest bit says the slot.
    pub sequence: u64,
    /// How often the file was begun, from 1; 0 = never.
    pub generation: u32,
    /// Bytes of the file up to which it is written.
    pub head: u32,
    /// Sections in it, at most [`FILE_SECTION_COUNT_MAX`].
    pub section_count: u32,
    freed_count: u32,
    freed: Box<[u8]>,
}

impl Default for ColdFile {
    fn default() -> ColdFile {
        ColdFile {
            sequence: 0,
            generation: 0,
            head: 0,
            section_count: 0,
            freed_count: 0,
            freed: vec![0; FREED_BYTES].into(),
        }
    }
}

impl ColdFile {
    /// The slot that this state stands in; the next one goes to the other.
    #[must_use]
    pub fn slot(&self) -> usize {
        (self.sequence & 1) as usize
    }

    /// Is this section free?
    #[must_use]
    pub fn is_freed(&self, number: u32) -> bool {
        self.freed[number as usize / 8] & 1 << (number % 8) != 0
    }

    /// Sections that are free.
    #[must_use]
    pub fn freed_count(&self) -> u32 {
        self.freed_count
    }

    /// This section is free; false when it was before. A number from `section_count` on is our own bug.
    pub fn free(&mut self, number: u32) -> bool {
        assert!(number < self.section_count, "section {number} of {}", self.section_count);
        let is_new = !self.is_freed(number);
        self.freed[number as usize / 8] |= 1 << (number % 8);
        self.freed_count += u32::from(is_new);
        is_new
    }

    /// Bit n mod 8 of byte n / 8: section n is free. Zeros at the end are left out.
    #[must_use]
    pub fn freed_bytes(&self) -> &[u8] {
        let end = self.freed.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &self.freed[..end]
    }

    /// Does nothing in it count any more?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.freed_count == self.section_count
    }

    /// Begins it anew, with nothing in it, as this generation; one that is not above its own is our own bug.
    pub fn begin(&mut self, generation: u32) {
        assert!(generation > self.generation, "generations of a file only grow");
        *self = ColdFile { sequence: self.sequence, generation, ..ColdFile::default() };
    }

    /// Writes the slot that this state stands in, over all of `block`, which will stand at `own_offset` of `device`.
    pub fn encode(&self, device: Uuid, file: u32, own_offset: DiskOffset, block: &mut [u8; FILE_SLOT_BYTES]) {
        F_MAGIC.put(block, FILE_SLOT_MAGIC);
        F_FORMAT_VERSION.put(block, FORMAT_VERSION.to_le_bytes());
        F_FILE.put(block, file.to_le_bytes());
        F_OWN_OFFSET.put(block, own_offset.0.to_le_bytes());
        F_SEQUENCE.put(block, self.sequence.to_le_bytes());
        F_DEVICE.put(block, device.0);
        F_GENERATION.put(block, self.generation.to_le_bytes());
        F_HEAD.put(block, self.head.to_le_bytes());
        F_SECTION_COUNT.put(block, self.section_count.to_le_bytes());
        F_FREED_COUNT.put(block, self.freed_count.to_le_bytes());
        block[F_FREED.offset..F_FREED.offset + FREED_BYTES].copy_from_slice(&self.freed);
        let checksum = checksum(block);
        F_CHECKSUM.put(block, checksum.to_le_bytes());
    }

    /// Reads the slot that was found at `expected` of `device`, as that of `file`, whose bytes are `file_bytes`. `None` when nothing
    /// was ever written there.
    ///
    /// # Errors
    /// [`Corrupt`] with the first field that is wrong.
    pub fn decode(
        block: &[u8; FILE_SLOT_BYTES],
        (device, file, file_bytes): (Uuid, u32, u64),
        expected: DiskOffset,
    ) -> Result<Option<ColdFile>, Corrupt> {
        if is_zero(block) {
            return Ok(None);
        }
        let freed: Box<[u8]> = F_FREED.slice(block).into();
        let found = ColdFile {
            sequence: F_SEQUENCE.u64(block),
            generation: F_GENERATION.u32(block),
            head: F_HEAD.u32(block),
            section_count: F_SECTION_COUNT.u32(block),
            freed_count: F_FREED_COUNT.u32(block),
            freed,
        };
        let count = found.section_count as usize;
        let is_free = |number: usize| found.freed[number / 8] & 1 << (number % 8) != 0;
        let ones: u32 = found.freed.iter().map(|byte| byte.count_ones()).sum();
        let behind = (count.min(FREED_BYTES * 8)..(count.next_multiple_of(8)).min(FREED_BYTES * 8))
            .any(is_free)
            || !is_zero(&found.freed[count.div_ceil(8).min(FREED_BYTES)..]);
        let right = [
            (F_MAGIC, F_MAGIC.array(block) == FILE_SLOT_MAGIC),
            (F_CHECKSUM, F_CHECKSUM.u32(block) == checksum(block)),
            (F_FORMAT_VERSION, F_FORMAT_VERSION.u32(block) == FORMAT_VERSION),
            (F_DEVICE, F_DEVICE.array(block) == device.0),
            (F_OWN_OFFSET, F_OWN_OFFSET.u64(block) == expected.0),
            (F_FILE, F_FILE.u32(block) == file),
            (F_SEQUENCE, found.sequence > 0),
            (F_GENERATION, found.generation > 0),
            (F_HEAD, u64::from(found.head) <= file_bytes),
            (F_SECTION_COUNT, found.section_count <= FILE_SECTION_COUNT_MAX),
            (F_FREED_COUNT, found.freed_count == ones),
            (F_FREED, !behind),
        ];
        match right.into_iter().find(|(_, right)| !right) {
            Some((field, _)) => Err(FILE_SLOT_TABLE.corrupt(field, expected.0)),
            None => Ok(Some(found)),
        }
    }
}

/// What the two slots of a file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slots {
    /// This is the state.
    Known(ColdFile),
    /// One slot is refused: torn by a crash before anybody was told of it, or decayed. The file holds at least this; who wants to know
    /// looks for sections behind its head.
    AtLeast(ColdFile, Corrupt),
    /// Neither says anything: who wants to know walks the file.
    Lost([Corrupt; 2]),
}

/// What two slots say together.
#[must_use]
pub fn choose_slot(slots: [Result<Option<ColdFile>, Corrupt>; 2]) -> Slots {
    match slots {
        [Ok(first), Ok(second)] => {
            let newest = first.into_iter().chain(second).max_by_key(|file| file.sequence);
            Slots::Known(newest.unwrap_or_default())
        }
        [Ok(file), Err(corrupt)] | [Err(corrupt), Ok(file)] => {
            Slots::AtLeast(file.unwrap_or_default(), corrupt)
        }
        [Err(first), Err(second)] => Slots::Lost([first, second]),
    }
}

/// CRC-32 over all bytes before the checksum. Device and own place are among them.
fn checksum(block: &[u8; FILE_SLOT_BYTES]) -> u32 {
    Crc::with(&block[..F_CHECKSUM.offset]).finish()
}

/// The byte tables of this file, for the comparison with FORMAT_COLD.md.
pub(crate) const TABLES: [Table; 1] = [FILE_SLOT_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Uuid = Uuid([7; 16]);
    const AT: DiskOffset = DiskOffset(1 << 20);

    fn example(sequence: u64) -> ColdFile {
        let mut file = ColdFile { sequence, head: 40_000, section_count: 21, ..ColdFile::default() };
        file.generation = 3;
        for number in [0, 7, 8, 20] {
            assert!(file.free(number) && !file.free(number));
        }
        assert_eq!(file.freed_bytes(), [0x81, 0x01, 0x10]);
        file
    }

    fn encoded(file: &ColdFile) -> [u8; FILE_SLOT_BYTES] {
        let mut block = [0xff; FILE_SLOT_BYTES];
        file.encode(DEVICE, 5, AT, &mut block);
        block
    }

    #[test]
    fn a_slot_says_what_was_written_and_only_in_its_place() {
        let file = example(4);
        let block = encoded(&file);
        assert_eq!(ColdFile::decode(&block, (DEVICE, 5, 65_536), AT), Ok(Some(file.clone())));
        let elsewhere =
            [(DEVICE, 6, 65_536, AT.0), (Uuid([8; 16]), 5, 65_536, AT.0), (DEVICE, 5, 65_536, AT.0 + 4096)];
        for (device, number, bytes, at) in elsewhere {
            assert!(ColdFile::decode(&block, (device, number, bytes), DiskOffset(at)).is_err());
        }
        assert!(ColdFile::decode(&block, (DEVICE, 5, 36_864), AT).is_err(), "the file has no such head");
        assert_eq!(ColdFile::decode(&[0; FILE_SLOT_BYTES], (DEVICE, 5, 65_536), AT), Ok(None));
        for bit in 0..FILE_SLOT_BYTES * 8 {
            let mut wrong = block;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(ColdFile::decode(&wrong, (DEVICE, 5, 65_536), AT).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn free_sections_count_once_and_a_new_generation_has_none() {
        let mut file = example(4);
        assert_eq!((file.freed_count(), file.is_empty()), (4, false));
        for number in 0..file.section_count {
            file.free(number);
        }
        assert!(file.is_empty());
        file.begin(4);
        assert_eq!((file.generation, file.head, file.section_count, file.sequence), (4, 0, 0, 4));
        assert!(!file.is_freed(7) && file.is_empty());
    }

    #[test]
    fn a_refused_slot_may_have_been_the_newer() {
        let (old, new) = (example(4), example(5));
        let corrupt = FILE_SLOT_TABLE.corrupt(F_CHECKSUM, 0);
        assert_eq!(choose_slot([Ok(Some(old.clone())), Ok(Some(new.clone()))]), Slots::Known(new));
        assert_eq!(choose_slot([Ok(None), Ok(None)]), Slots::Known(ColdFile::default()));
        assert_eq!(choose_slot([Err(corrupt), Ok(Some(old.clone()))]), Slots::AtLeast(old, corrupt));
        assert_eq!(choose_slot([Err(corrupt), Err(corrupt)]), Slots::Lost([corrupt; 2]));
    }
}
