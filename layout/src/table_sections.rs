//! The sections of a sealed table: all records of a bucket, where they begin, how many they are, and a digest of them.
//!
//! A section is what later moves to another disk as one piece: the digest says whether a copy of it is the same. Owns the
//! list's bytes, the digest, and the way through the records of one section. Must never depend on how records lie in
//! blocks: the same records have the same digest wherever they stand. Invariant: an open list was read once from end to end.
//!
//! ```text
//! | header 8 | entry | entry | ..                     one per bucket that has records, buckets ascending
//! entry: | bucket - that before | block - that before | place in it | records | bytes | digest 16 |
//! ```

use xxhash_rust::xxh3::Xxh3Default;

use crate::field::{Corrupt, Table, byte_table};
use crate::table_block::{Block, BlockEntry};
use crate::table_cursor::Cursor;
use crate::units::{BucketIndex, Version};
use crate::varint;

const SECTIONS_HEADER_BYTES: usize = 8;
const DIGEST_BYTES: usize = 16;
const RECORD_HEADER_BYTES: usize = 24;
const FLAG_TOMBSTONE: u16 = 1;
/// Bytes of an encoded key that are its bucket.
const BUCKET_BYTES: usize = 3;

byte_table! {
    /// Byte table of the start of a list of sections.
    SECTIONS_TABLE = "table sections", SECTIONS_HEADER_BYTES;
    S_SECTION_COUNT = "section_count", 0, 4;
    S_RESERVED = "reserved", 4, 4;
}

byte_table! {
    /// Byte table of what stands before key and value of each record in what a digest covers; never stored.
    SECTION_RECORD_TABLE = "section record", RECORD_HEADER_BYTES;
    R_KEY_BYTES = "key_bytes", 0, 2;
    R_FLAGS = "flags", 2, 2;
    R_VALUE_BYTES = "value_bytes", 4, 4;
    R_VERSION = "version", 8, 8;
    R_EXPIRY = "expiry", 16, 8;
}

/// All records of one bucket in one sealed table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Whose records they are.
    pub bucket: BucketIndex,
    /// Number of the block that has the first one.
    pub block: u32,
    /// Number of the first one in that block.
    pub place: u32,
    /// Records, at least one.
    pub record_count: u64,
    /// Bytes that the digest covers: 24, key and value of each record.
    pub raw_bytes: u64,
    /// xxh3-128 of the records in order.
    pub digest: u128,
}

/// What the records of a section add up to.
#[derive(Clone, Default)]
pub struct SectionSum {
    hash: Xxh3Default,
    record_count: u64,
    raw_bytes: u64,
}

impl SectionSum {
    /// Of no records.
    #[must_use]
    pub fn new() -> SectionSum {
        SectionSum::default()
    }

    /// Adds the next record.
    pub fn add(&mut self, key: &[u8], version: Version, expiry_us: u64, value: Option<&[u8]>) {
        let mut header = [0; RECORD_HEADER_BYTES];
        let bytes = value.unwrap_or_default();
        R_KEY_BYTES.put(&mut header, (key.len() as u16).to_le_bytes());
        R_FLAGS.put(&mut header, if value.is_none() { FLAG_TOMBSTONE } else { 0 }.to_le_bytes());
        R_VALUE_BYTES.put(&mut header, (bytes.len() as u32).to_le_bytes());
        R_VERSION.put(&mut header, version.0.to_le_bytes());
        R_EXPIRY.put(&mut header, expiry_us.to_le_bytes());
        [&header[..], key, bytes].into_iter().for_each(|piece| self.hash.update(piece));
        self.record_count += 1;
        self.raw_bytes += (RECORD_HEADER_BYTES + key.len() + bytes.len()) as u64;
    }

    /// Count, bytes and digest of the records so far.
    #[must_use]
    pub fn finish(&self) -> (u64, u64, u128) {
        (self.record_count, self.raw_bytes, self.hash.digest128())
    }
}

/// The bucket that an encoded key begins with; `None` when the key is too short or its bucket is none.
#[must_use]
pub fn bucket_of_key(key: &[u8]) -> Option<BucketIndex> {
    let [b0, b1, b2] = *key.first_chunk::<BUCKET_BYTES>()?;
    BucketIndex::new(u32::from_be_bytes([0, b0, b1, b2]))
}

/// Makes a list of sections, record by record.
#[derive(Default)]
pub(crate) struct SectionsBuilder {
    entries: Vec<u8>,
    section_count: u32,
    /// The section that has not ended: bucket, block, place.
    open: Option<(BucketIndex, u32, u32)>,
    sum: SectionSum,
    /// Bucket and block of the section before.
    last: (u32, u32),
}

impl SectionsBuilder {
    /// The next record, in this place of this block.
    pub(crate) fn push(
        &mut self,
        (block, place): (u32, u32),
        key: &[u8],
        (version, expiry_us, value): (Version, u64, Option<&[u8]>),
    ) {
        let bucket = bucket_of_key(key).expect("the keys of a table are encoded");
        if self.open.is_none_or(|(open, ..)| open != bucket) {
            self.end();
            self.open = Some((bucket, block, place));
        }
        self.sum.add(key, version, expiry_us, value);
    }

    fn end(&mut self) {
        let Some((bucket, block, place)) = self.open.take() else { return };
        let (record_count, raw_bytes, digest) = std::mem::take(&mut self.sum).finish();
        let (bucket_before, block_before) = self.last;
        let numbers = [
            u64::from(bucket.get() - bucket_before),
            u64::from(block - block_before),
            u64::from(place),
            record_count,
            raw_bytes,
        ];
        numbers.into_iter().for_each(|number| varint::put(&mut self.entries, number));
        self.entries.extend_from_slice(&digest.to_le_bytes());
        self.last = (bucket.get(), block);
        self.section_count += 1;
    }

    /// Memory that it takes, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity()
    }

    /// The list's bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end();
        let mut header = [0; SECTIONS_HEADER_BYTES];
        S_SECTION_COUNT.put(&mut header, self.section_count.to_le_bytes());
        [&header[..], &self.entries].concat()
    }
}

/// An open list of sections: read when it is asked for, not kept beside index and filter.
#[derive(Debug, Clone)]
pub struct Sections {
    bytes: Box<[u8]>,
    section_count: u32,
}

/// The section at `at`, that before it being of `last`: bucket, block. The place behind it, too.
fn take(bytes: &[u8], at: usize, last: (u32, u32)) -> Option<(Section, usize)> {
    let mut numbers = [0; 5];
    let mut at = at;
    for number in &mut numbers {
        (*number, at) = varint::take(bytes, at)?;
    }
    let [bucket, block, place, record_count, raw_bytes] = numbers;
    let next = at + DIGEST_BYTES;
    let digest = u128::from_le_bytes(bytes.get(at..next)?.try_into().ok()?);
    let bucket = BucketIndex::new(u32::try_from(u64::from(last.0).checked_add(bucket)?).ok()?)?;
    let block = u32::try_from(u64::from(last.1).checked_add(block)?).ok()?;
    let place = u32::try_from(place).ok()?;
    Some((Section { bucket, block, place, record_count, raw_bytes, digest }, next))
}

impl Sections {
    /// Reads a list from end to end: of a table of so many blocks and records.
    pub fn decode(bytes: Vec<u8>, block_count: u32, record_count: u64) -> Result<Sections, Corrupt> {
        if bytes.len() < SECTIONS_HEADER_BYTES {
            return Err(SECTIONS_TABLE.corrupt(S_SECTION_COUNT, 0));
        }
        if !S_RESERVED.is_zero(&bytes) {
            return Err(SECTIONS_TABLE.corrupt(S_RESERVED, 0));
        }
        let section_count = S_SECTION_COUNT.u32(&bytes);
        let (mut at, mut count, mut records) = (SECTIONS_HEADER_BYTES, 0u32, 0u64);
        let mut before: Option<Section> = None;
        while at < bytes.len() {
            let wrong = Corrupt { structure: SECTIONS_TABLE.structure, field: "entry", at: at as u64 };
            let last = before.map_or((0, 0), |before| (before.bucket.get(), before.block));
            let (section, next) = take(&bytes, at, last).ok_or(wrong)?;
            let follows = match before {
                None => section.block == 0 && section.place == 0,
                Some(before) if section.block == before.block => {
                    let place = u64::from(before.place).checked_add(before.record_count);
                    section.bucket > before.bucket && place == Some(u64::from(section.place))
                }
                Some(before) => section.bucket > before.bucket,
            };
            let least = section.record_count.checked_mul(RECORD_HEADER_BYTES as u64);
            let holds = section.record_count > 0 && least.is_some_and(|least| least < section.raw_bytes);
            records = records.checked_add(section.record_count).ok_or(wrong)?;
            if !follows || !holds || section.block >= block_count || records > record_count {
                return Err(wrong);
            }
            count += 1;
            before = Some(section);
            at = next;
        }
        if count == 0 || count != section_count || records != record_count {
            return Err(SECTIONS_TABLE.corrupt(S_SECTION_COUNT, 0));
        }
        Ok(Sections { bytes: bytes.into(), section_count })
    }

    /// Sections, at least one.
    #[must_use]
    pub fn section_count(&self) -> u32 {
        self.section_count
    }

    /// All of them, buckets ascending.
    pub fn iter(&self) -> impl Iterator<Item = Section> + '_ {
        let (mut at, mut last) = (SECTIONS_HEADER_BYTES, (0, 0));
        (0..self.section_count).map(move |_| {
            let (section, next) =
                take(&self.bytes, at, last).expect("every entry was read when it was opened");
            (at, last) = (next, (section.bucket.get(), section.block));
            section
        })
    }

    /// The section of a bucket; `None` when the table has no record of it. Looks at each before it: at most 2,048.
    #[must_use]
    pub fn find(&self, bucket: BucketIndex) -> Option<Section> {
        self.iter().take_while(|section| section.bucket <= bucket).find(|section| section.bucket == bucket)
    }
}

/// Takes the records of one section out of the blocks that it lies in, which the caller reads, and checks them.
pub struct SectionReader {
    section: Section,
    /// Number of the next block.
    block: u32,
    sum: SectionSum,
}

impl SectionReader {
    /// At its first record.
    #[must_use]
    pub fn new(section: Section) -> SectionReader {
        SectionReader { section, block: section.block, sum: SectionSum::new() }
    }

    /// Number of the block that is needed next; `None` when all records were taken.
    #[must_use]
    pub fn wanted(&self) -> Option<u32> {
        (self.sum.record_count < self.section.record_count).then_some(self.block)
    }

    fn wrong(&self, field: &'static str) -> Corrupt {
        Corrupt { structure: SECTIONS_TABLE.structure, field, at: u64::from(self.section.bucket.get()) }
    }

    /// Takes the section's records out of the wanted block and shows each. A block that is not wanted is our own bug.
    ///
    /// What is shown counts when [`SectionReader::finish`] has agreed. Errors of this reader have the bucket as their place.
    pub fn block(&mut self, block: &Block<'_>, mut each: impl FnMut(&BlockEntry<'_>)) -> Result<(), Corrupt> {
        let number = self.wanted().expect("blocks are brought while one is wanted");
        let first = if number == self.section.block { self.section.place as usize } else { 0 };
        if first >= block.entry_count() {
            return Err(self.wrong("place"));
        }
        let mut cursor = Cursor::new();
        let mut found = cursor.seek_number(block, first)?;
        while found && self.sum.record_count < self.section.record_count {
            let entry = cursor.entry(block)?.ok_or(self.wrong("place"))?;
            if bucket_of_key(entry.key) != Some(self.section.bucket) {
                return Err(self.wrong("bucket"));
            }
            self.sum.add(entry.key, entry.record.version, entry.record.expiry_us, entry.record.value);
            each(&entry);
            found = cursor.next(block)?;
        }
        self.block = number + 1;
        Ok(())
    }

    /// Are these the records that the section had when it was written?
    pub fn finish(self) -> Result<(), Corrupt> {
        let Section { record_count, raw_bytes, digest, .. } = self.section;
        let (count, bytes, sum) = self.sum.finish();
        match () {
            () if count != record_count => Err(self.wrong("records")),
            () if bytes != raw_bytes => Err(self.wrong("bytes")),
            () if sum != digest => Err(self.wrong("digest")),
            () => Ok(()),
        }
    }
}

/// The byte tables of this file, for the comparison with FORMAT.md.
pub(crate) const TABLES: [Table; 2] = [SECTIONS_TABLE, SECTION_RECORD_TABLE];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_block::BlockBuilder;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// By bucket and number: version, expiry, value.
    type Model = BTreeMap<(u32, u32), (u64, u64, Option<Vec<u8>>)>;

    fn key(bucket: u32, number: u32) -> Vec<u8> {
        [&bucket.to_be_bytes()[1..], b"some stream", &number.to_be_bytes()].concat()
    }

    /// The list, and the blocks, a record after another until one has `block_count` of them.
    fn build(model: &Model, records_per_block: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut sections, mut block) = (SectionsBuilder::default(), BlockBuilder::new());
        let mut blocks = Vec::new();
        for ((bucket, number), (version, expiry, value)) in model {
            if block.entry_count() == records_per_block {
                blocks.push(block.finish().to_vec());
                block.clear();
            }
            let (key, version) = (key(*bucket, *number), Version(*version));
            let place = (blocks.len() as u32, block.entry_count() as u32);
            sections.push(place, &key, (version, *expiry, value.as_deref()));
            block.push(&key, version, *expiry, value.as_deref());
        }
        blocks.push(block.finish().to_vec());
        (sections.finish(), blocks)
    }

    /// The keys of a section, if all of it is right.
    fn read(section: Section, blocks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Corrupt> {
        let mut reader = SectionReader::new(section);
        let mut keys = Vec::new();
        while let Some(number) = reader.wanted() {
            let raw = blocks.get(number as usize).ok_or(reader.wrong("block"))?;
            reader.block(&Block::parse(raw)?, |entry| keys.push(entry.key.to_vec()))?;
        }
        reader.finish().map(|()| keys)
    }

    fn models() -> impl Strategy<Value = Model> {
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
        let kept = (any::<u64>(), 0u64..3, value)
            .prop_map(|(version, expiry, value)| (version, if value.is_some() { expiry } else { 0 }, value));
        let bucket = prop_oneof![0u32..4, Just(700), Just(131_071)];
        prop::collection::btree_map((bucket, 0u32..40), kept, 1..120)
    }

    proptest! {
        #[test]
        fn sections_are_those_of_a_map(model in models(), size in 1usize..30, other in 1usize..30) {
            let (bytes, blocks) = build(&model, size);
            let count = blocks.len() as u32;
            let sections = Sections::decode(bytes, count, model.len() as u64).expect("what was built");
            let mut by_bucket: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
            for (bucket, number) in model.keys() {
                by_bucket.entry(*bucket).or_default().push(key(*bucket, *number));
            }
            let buckets: Vec<u32> = sections.iter().map(|section| section.bucket.get()).collect();
            prop_assert!(buckets.iter().eq(by_bucket.keys()));
            prop_assert_eq!(sections.section_count() as usize, buckets.len());
            for (bucket, keys) in &by_bucket {
                let bucket = BucketIndex::new(*bucket).expect("below 2^17");
                let section = sections.find(bucket).expect("it has records");
                prop_assert_eq!(section.record_count as usize, keys.len());
                prop_assert_eq!(&read(section, &blocks).expect("what was built"), keys);
            }
            let absent = BucketIndex::new(5).expect("below 2^17");
            prop_assert_eq!(sections.find(absent), None);
            // Cut otherwise, the same records have the same digests.
            let (bytes, blocks) = build(&model, other);
            let again = Sections::decode(bytes, blocks.len() as u32, model.len() as u64).expect("what was built");
            let digests = |sections: &Sections| -> Vec<_> {
                sections.iter().map(|section| (section.record_count, section.raw_bytes, section.digest)).collect()
            };
            prop_assert_eq!(digests(&sections), digests(&again));
        }

        #[test]
        fn another_record_is_seen(model in models(), chosen in any::<prop::sample::Index>(), what in 0u32..4) {
            let (bytes, _) = build(&model, 7);
            let count = model.len() as u64;
            let sections = Sections::decode(bytes, 1 << 20, count).expect("what was built");
            let mut other = model.clone();
            let at = *model.keys().nth(chosen.index(model.len())).expect("one of them");
            let kept = other.get_mut(&at).expect("one of them");
            match what {
                0 => kept.0 ^= 1,
                1 if kept.2.is_some() => kept.1 += 1,
                _ => kept.2 = if kept.2.is_some() { None } else { Some(Vec::new()) },
            }
            if kept.2.is_none() {
                kept.1 = 0;
            }
            let (_, blocks) = build(&other, 7);
            let bucket = BucketIndex::new(at.0).expect("below 2^17");
            let section = sections.find(bucket).expect("it has records");
            prop_assert!(matches!(read(section, &blocks).expect_err("others").field, "digest" | "bytes"));
        }

        #[test]
        fn any_bytes_give_sections_or_corrupt(
            model in models(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (mut bytes, blocks) = build(&model, 9);
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(sections) = Sections::decode(bytes, blocks.len() as u32, model.len() as u64) {
                for section in sections.iter() {
                    let _ = read(section, &blocks);
                }
            }
        }
    }

    #[test]
    fn lists_that_do_not_add_up_are_refused() {
        let kept = (7, 0, Some(vec![1, 2, 3]));
        let model: Model = (0..9).map(|number| ((number / 3, number), kept.clone())).collect();
        let (bytes, blocks) = build(&model, 4);
        let field = |bytes: &[u8], blocks, records| {
            Sections::decode(bytes.to_vec(), blocks, records).map_err(|corrupt| corrupt.field).err()
        };
        assert_eq!(field(&bytes, 3, 9), None);
        assert_eq!(field(&bytes, 1, 9), Some("entry"), "a section behind the last block");
        assert_eq!(field(&bytes, 3, 8), Some("entry"));
        assert_eq!(field(&bytes, 3, 10), Some("section_count"));
        assert_eq!(field(&bytes[..bytes.len() - 1], 3, 9), Some("entry"));
        assert_eq!(field(&bytes[..8], 3, 0), Some("section_count"));
        let mut other = bytes.clone();
        other[0] += 1;
        assert_eq!(field(&other, 3, 9), Some("section_count"));
        other[4] = 1;
        assert_eq!(field(&other, 3, 9), Some("reserved"));
        // The second section: bucket 1, block 0, place 3.
        let second = 8 + 6 + 16;
        assert_eq!(bytes[second..second + 4], [1, 0, 3, 3]);
        for (at, byte) in [(0, 0), (1, 3), (2, 2), (3, 0), (4, 1)] {
            let mut other = bytes.clone();
            other[second + at] = byte;
            assert_eq!(field(&other, 3, 9), Some("entry"), "byte {at} of an entry");
        }
        let sections = Sections::decode(bytes, 3, 9).expect("what was built");
        let mut second = sections.iter().nth(1).expect("three sections");
        second.place = 0;
        assert_eq!(read(second, &blocks).expect_err("another place").field, "bucket");
        second.place = 4;
        assert_eq!(read(second, &blocks).expect_err("no place").field, "place");
    }
}
