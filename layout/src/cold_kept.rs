//! The places that a cold disk keeps for who sinks to them: reserved, or sealed a short while ago.
//!
//! A few pages, each in two copies that are written one after the other, so that what a sinker was told survives a crash and the loss of
//! either copy. Owns their bytes and which copy counts. Must never say less than somebody was told: both copies are durable before an
//! answer leaves. Invariant: a page that decodes stands in its place, on its device.

use crate::FORMAT_VERSION;
use crate::checksum::Crc;
use crate::field::{Corrupt, Table, byte_table, is_zero};
use crate::units::{BLOCK_BYTES, BucketIndex, DiskOffset, Uuid};

/// Bytes of a page.
pub const KEPT_PAGE_BYTES: usize = 4096;
/// Pages of a disk.
pub const KEPT_PAGE_COUNT: u32 = 8;
/// Places of a page.
pub const KEPT_PAGE_PLACES: usize = 71;
/// Places of a disk, at most.
pub const KEPT_COUNT_MAX: usize = KEPT_PAGE_COUNT as usize * KEPT_PAGE_PLACES;
/// First bytes of a page.
pub const KEPT_MAGIC: [u8; 8] = *b"TCLCKEPT";

const PLACE_BYTES: usize = 56;

byte_table! {
    /// Byte table of a page of kept places.
    KEPT_PAGE_TABLE = "cold kept places", KEPT_PAGE_BYTES;
    F_MAGIC = "magic", 0, 8;
    F_FORMAT_VERSION = "format_version", 8, 4;
    F_PAGE = "page", 12, 4;
    F_OWN_OFFSET = "own_offset", 16, 8;
    F_SEQUENCE = "sequence", 24, 8;
    F_DEVICE = "device", 32, 16;
    F_COUNT = "count", 48, 4;
    F_RESERVED = "reserved", 52, 12;
    F_PLACES = "places", 64, KEPT_PAGE_PLACES * PLACE_BYTES;
    F_PADDING = "padding", 4040, 52;
    F_CHECKSUM = "checksum", 4092, 4;
}

byte_table! {
    /// Byte table of a kept place.
    KEPT_PLACE_TABLE = "cold kept place", PLACE_BYTES;
    K_BUCKET = "bucket", 0, 4;
    K_TABLET_GROUP = "tablet_group", 4, 2;
    K_STATE = "state", 6, 1;
    K_RESERVED = "reserved", 7, 1;
    K_WINDOW_FROM = "window_from", 8, 8;
    K_WINDOW_DAYS = "window_days", 16, 4;
    K_WINDOW_GENERATION = "window_generation", 20, 4;
    K_FILE = "file", 24, 4;
    K_FILE_GENERATION = "file_generation", 28, 4;
    K_OFFSET = "offset", 32, 4;
    K_CONTENT_BYTES = "content_bytes", 36, 4;
    K_NUMBER = "number", 40, 4;
    K_SECTION_COUNT = "section_count", 44, 4;
    K_ORDER = "order", 48, 8;
}

const _: () = assert!(KEPT_PAGE_BYTES == BLOCK_BYTES, "a page is one aligned write");

/// Whom a place is kept for: the sections of one sealed window from a bucket on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptFor {
    /// Store group of the tablet; its number in the group follows from the bucket.
    pub tablet_group: u16,
    /// Bucket of the first section.
    pub bucket: BucketIndex,
    /// First time of the window, microseconds.
    pub window_from: u64,
    /// Length of the window, days.
    pub window_days: u32,
    /// How often the window was sealed.
    pub window_generation: u32,
}

/// A place that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptPlace {
    /// For whom.
    pub whom: KeptFor,
    /// File of the disk.
    pub file: u32,
    /// Generation of that file.
    pub file_generation: u32,
    /// Byte of the file where it begins, a multiple of 4096.
    pub offset: u32,
    /// Bytes of its sections, before padding.
    pub content_bytes: u32,
    /// Number of its first section in the file.
    pub number: u32,
    /// Sections, at least one.
    pub section_count: u32,
    /// What stands there was flushed, read back and found whole; else it is being written.
    pub is_sealed: bool,
    /// Places are kept in this order; of sealed ones the lowest leaves first.
    pub order: u64,
}

impl KeptPlace {
    fn encode(&self, out: &mut [u8]) {
        K_BUCKET.put(out, self.whom.bucket.get().to_le_bytes());
        K_TABLET_GROUP.put(out, self.whom.tablet_group.to_le_bytes());
        K_STATE.put(out, [1 + u8::from(self.is_sealed)]);
        K_WINDOW_FROM.put(out, self.whom.window_from.to_le_bytes());
        K_WINDOW_DAYS.put(out, self.whom.window_days.to_le_bytes());
        K_WINDOW_GENERATION.put(out, self.whom.window_generation.to_le_bytes());
        K_FILE.put(out, self.file.to_le_bytes());
        K_FILE_GENERATION.put(out, self.file_generation.to_le_bytes());
        K_OFFSET.put(out, self.offset.to_le_bytes());
        K_CONTENT_BYTES.put(out, self.content_bytes.to_le_bytes());
        K_NUMBER.put(out, self.number.to_le_bytes());
        K_SECTION_COUNT.put(out, self.section_count.to_le_bytes());
        K_ORDER.put(out, self.order.to_le_bytes());
    }

    /// `None` when it cannot be.
    fn decode(bytes: &[u8]) -> Option<KeptPlace> {
        let state: [u8; 1] = K_STATE.array(bytes);
        let found = KeptPlace {
            whom: KeptFor {
                tablet_group: K_TABLET_GROUP.u16(bytes),
                bucket: BucketIndex::new(K_BUCKET.u32(bytes))?,
                window_from: K_WINDOW_FROM.u64(bytes),
                window_days: K_WINDOW_DAYS.u32(bytes),
                window_generation: K_WINDOW_GENERATION.u32(bytes),
            },
            file: K_FILE.u32(bytes),
            file_generation: K_FILE_GENERATION.u32(bytes),
            offset: K_OFFSET.u32(bytes),
            content_bytes: K_CONTENT_BYTES.u32(bytes),
            number: K_NUMBER.u32(bytes),
            section_count: K_SECTION_COUNT.u32(bytes),
            is_sealed: state == [2],
            order: K_ORDER.u64(bytes),
        };
        let is_right = (state == [1] || state == [2])
            && K_RESERVED.is_zero(bytes)
            && found.file_generation > 0
            && found.offset.is_multiple_of(BLOCK_BYTES as u32)
            && found.content_bytes > 0
            && found.section_count > 0;
        is_right.then_some(found)
    }
}

/// A page: at most [`KEPT_PAGE_PLACES`] places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptPage {
    /// Number of this state, from 1; 0 of a page that was never written.
    pub sequence: u64,
    /// Its places.
    pub places: Vec<KeptPlace>,
}

impl KeptPage {
    /// Writes a copy over all of `block`, which will stand at `own_offset` of `device`. More places than fit are our own bug.
    pub fn encode(&self, device: Uuid, page: u32, own_offset: DiskOffset, block: &mut [u8; KEPT_PAGE_BYTES]) {
        assert!(self.places.len() <= KEPT_PAGE_PLACES, "a page has {KEPT_PAGE_PLACES} places");
        block.fill(0);
        F_MAGIC.put(block, KEPT_MAGIC);
        F_FORMAT_VERSION.put(block, FORMAT_VERSION.to_le_bytes());
        F_PAGE.put(block, page.to_le_bytes());
        F_OWN_OFFSET.put(block, own_offset.0.to_le_bytes());
        F_SEQUENCE.put(block, self.sequence.to_le_bytes());
        F_DEVICE.put(block, device.0);
        F_COUNT.put(block, (self.places.len() as u32).to_le_bytes());
        let room = &mut block[F_PLACES.offset..F_PADDING.offset];
        for (place, out) in self.places.iter().zip(room.chunks_exact_mut(PLACE_BYTES)) {
            place.encode(out);
        }
        let checksum = checksum(block);
        F_CHECKSUM.put(block, checksum.to_le_bytes());
    }

    /// Reads the copy that was found at `expected` of `device`. `None` when nothing was ever written there.
    ///
    /// # Errors
    /// [`Corrupt`] with the first field that is wrong.
    pub fn decode(
        block: &[u8; KEPT_PAGE_BYTES],
        (device, page): (Uuid, u32),
        expected: DiskOffset,
    ) -> Result<Option<KeptPage>, Corrupt> {
        if is_zero(block) {
            return Ok(None);
        }
        let count = F_COUNT.u32(block) as usize;
        let room = &block[F_PLACES.offset..F_PADDING.offset];
        let (held, rest) = room.split_at(count.min(KEPT_PAGE_PLACES) * PLACE_BYTES);
        let places: Option<Vec<KeptPlace>> = held.chunks_exact(PLACE_BYTES).map(KeptPlace::decode).collect();
        let right = [
            (F_MAGIC, F_MAGIC.array(block) == KEPT_MAGIC),
            (F_CHECKSUM, F_CHECKSUM.u32(block) == checksum(block)),
            (F_FORMAT_VERSION, F_FORMAT_VERSION.u32(block) == FORMAT_VERSION),
            (F_DEVICE, F_DEVICE.array(block) == device.0),
            (F_OWN_OFFSET, F_OWN_OFFSET.u64(block) == expected.0),
            (F_PAGE, F_PAGE.u32(block) == page),
            (F_SEQUENCE, F_SEQUENCE.u64(block) > 0),
            (F_COUNT, count <= KEPT_PAGE_PLACES),
            (F_RESERVED, F_RESERVED.is_zero(block)),
            (F_PLACES, is_zero(rest)),
            (F_PADDING, F_PADDING.is_zero(block)),
        ];
        if let Some((field, _)) = right.into_iter().find(|(_, right)| !right) {
            return Err(KEPT_PAGE_TABLE.corrupt(field, expected.0));
        }
        let places = places.ok_or(KEPT_PAGE_TABLE.corrupt(F_PLACES, expected.0))?;
        Ok(Some(KeptPage { sequence: F_SEQUENCE.u64(block), places }))
    }
}

/// What two copies of a page say together: the newer one, and whether both are what they should be. An error when neither is.
///
/// A copy that is refused was being written, and nobody was told what it says; or it has decayed, and the other one says the same.
///
/// # Errors
/// [`Corrupt`] of both copies: what was kept here is not known.
pub fn choose_kept(copies: [Result<Option<KeptPage>, Corrupt>; 2]) -> Result<(KeptPage, bool), [Corrupt; 2]> {
    match copies {
        [Err(first), Err(second)] => Err([first, second]),
        [first, second] => {
            let are_equal = first == second;
            let newest = [first, second].into_iter().flatten().flatten().max_by_key(|page| page.sequence);
            Ok((newest.unwrap_or_default(), are_equal))
        }
    }
}

/// CRC-32 over all bytes before the checksum. Device and own place are among them.
fn checksum(block: &[u8; KEPT_PAGE_BYTES]) -> u32 {
    Crc::with(&block[..F_CHECKSUM.offset]).finish()
}

/// The byte tables of this file, for the comparison with FORMAT_COLD.md.
pub(crate) const TABLES: [Table; 2] = [KEPT_PAGE_TABLE, KEPT_PLACE_TABLE];

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Uuid = Uuid([7; 16]);
    const AT: DiskOffset = DiskOffset(1 << 20);

    fn place(number: u32) -> KeptPlace {
        KeptPlace {
            whom: KeptFor {
                tablet_group: 3,
                bucket: BucketIndex::new(70_001 + number).expect("a bucket"),
                window_from: 86_400_000_000 * u64::from(number),
                window_days: 4,
                window_generation: 2,
            },
            file: number / 3,
            file_generation: 1 + number,
            offset: 4096 * number,
            content_bytes: 5_000 + number,
            number,
            section_count: 1 + number % 4,
            is_sealed: number % 2 == 1,
            order: 1_000 + u64::from(number),
        }
    }

    fn page(count: usize) -> KeptPage {
        KeptPage { sequence: 9, places: (0..count as u32).map(place).collect() }
    }

    #[test]
    fn a_page_says_what_was_written_and_only_in_its_place() {
        for count in [0, 1, 5, KEPT_PAGE_PLACES] {
            let page = page(count);
            let mut block = [0xff; KEPT_PAGE_BYTES];
            page.encode(DEVICE, 5, AT, &mut block);
            assert_eq!(KeptPage::decode(&block, (DEVICE, 5), AT), Ok(Some(page)));
            for (device, number, at) in
                [(Uuid([8; 16]), 5, AT.0), (DEVICE, 6, AT.0), (DEVICE, 5, AT.0 + 4096)]
            {
                assert!(KeptPage::decode(&block, (device, number), DiskOffset(at)).is_err());
            }
        }
        assert_eq!(KeptPage::decode(&[0; KEPT_PAGE_BYTES], (DEVICE, 5), AT), Ok(None));
        let mut block = [0; KEPT_PAGE_BYTES];
        page(3).encode(DEVICE, 5, AT, &mut block);
        for bit in 0..KEPT_PAGE_BYTES * 8 {
            let mut wrong = block;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(KeptPage::decode(&wrong, (DEVICE, 5), AT).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_is_refused_although_its_checksum_is_right() {
        for wrong in [
            KeptPlace { offset: 4_097, ..place(1) },
            KeptPlace { content_bytes: 0, ..place(1) },
            KeptPlace { section_count: 0, ..place(1) },
            KeptPlace { file_generation: 0, ..place(1) },
        ] {
            let mut block = [0; KEPT_PAGE_BYTES];
            KeptPage { sequence: 1, places: vec![place(0), wrong] }.encode(DEVICE, 5, AT, &mut block);
            assert!(KeptPage::decode(&block, (DEVICE, 5), AT).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn either_copy_is_enough_and_the_newer_one_counts() {
        let (old, new) = (page(2), KeptPage { sequence: 10, ..page(3) });
        let corrupt = KEPT_PAGE_TABLE.corrupt(F_CHECKSUM, 0);
        assert_eq!(choose_kept([Ok(Some(new.clone())), Ok(Some(old.clone()))]), Ok((new.clone(), false)));
        assert_eq!(choose_kept([Ok(Some(new.clone())), Ok(Some(new.clone()))]), Ok((new.clone(), true)));
        assert_eq!(choose_kept([Err(corrupt), Ok(Some(new.clone()))]), Ok((new, false)));
        assert_eq!(choose_kept([Ok(None), Ok(None)]), Ok((KeptPage::default(), true)));
        assert_eq!(choose_kept([Err(corrupt), Ok(None)]), Ok((KeptPage::default(), false)));
        assert_eq!(choose_kept([Err(corrupt), Err(corrupt)]), Err([corrupt; 2]));
    }
}
